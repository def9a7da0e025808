"""Blocks arrive in pieces of any size and are read as they were sent; a missing line end is an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest
from taskqd.protocol.blocks import BlockReader


def feed(reader: BlockReader, sent: bytes, max_length: int) -> bytes:
    """Feed pieces of up to `max_length` bytes as far as the reader wants them, and return the rest."""
    while sent and (length := min(reader.wanted, max_length)):
        reader.feed(sent[:length])
        sent = sent[length:]
    return sent


@given(
    st.lists(st.tuples(st.binary(max_size=9), st.sampled_from([b"\n", b"\r\n"])), min_size=1),
    st.integers(1, 20),
    st.binary(max_size=3),
)
def test_blocks_are_read_as_they_were_sent_in_pieces_of_any_size(
    sent: list[tuple[bytes, bytes]], max_length: int, behind: bytes
) -> None:
    reader = BlockReader(tuple(len(block) for block, _ in sent), is_kept=True)
    assert feed(reader, b"".join(block + end for block, end in sent) + behind, max_length) == behind
    assert reader.blocks == [block for block, _ in sent]
    assert reader.wanted == 0


def test_blocks_of_a_refused_request_are_read_and_not_kept() -> None:
    reader = BlockReader((3, 0, 2), is_kept=False)
    assert feed(reader, b"abc\r\n\nde\nPING\n", 2) == b"PING\n"
    assert reader.blocks == [b"", b"", b""]


def test_reader_wants_the_rest_of_a_block_and_then_a_line_end() -> None:
    reader = BlockReader((5, 1), is_kept=True)
    wanted = []
    for piece in (b"ab", b"cde", b"\r", b"\n", b"f", b"\n"):
        wanted.append(reader.wanted)
        reader.feed(piece)
    assert wanted == [5, 3, 1, 1, 1, 1]
    assert reader.wanted == 0


@pytest.mark.parametrize("end", [b"d", b"\r\r", b"\rd", b"\x00", b" \n"])
def test_block_without_a_line_end_is_refused(end: bytes) -> None:
    with pytest.raises(BadRequest, match="expected CRLF after the 3 bytes of a block"):
        feed(BlockReader((3,), is_kept=True), b"abc" + end, 20)
