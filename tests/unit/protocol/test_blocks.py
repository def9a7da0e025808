"""Blocks are taken as they were sent, in whatever pieces, and a byte too many or too few is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest
from taskqd.protocol.blocks import BlockReader


def feed(reader: BlockReader, sent: bytes, longest: int) -> bytes:
    """Feed what a reader wants of it, in pieces of a length at most; return what it has no use for."""
    while sent and (length := min(reader.wanted, longest)):
        reader.feed(sent[:length])
        sent = sent[length:]
    return sent


@given(
    st.lists(st.tuples(st.binary(max_size=9), st.sampled_from([b"\n", b"\r\n"])), min_size=1),
    st.integers(1, 20),
    st.binary(max_size=3),
)
def test_in_whatever_pieces_they_come_they_are_what_was_sent(
    sent: list[tuple[bytes, bytes]], longest: int, behind: bytes
) -> None:
    reader = BlockReader(tuple(len(block) for block, _ in sent), is_kept=True)
    assert feed(reader, b"".join(block + end for block, end in sent) + behind, longest) == behind
    assert reader.blocks == [block for block, _ in sent]
    assert reader.wanted == 0


def test_what_nobody_wants_is_read_past_and_not_kept() -> None:
    reader = BlockReader((3, 0, 2), is_kept=False)
    assert feed(reader, b"abc\r\n\nde\nPING\n", 2) == b"PING\n"
    assert reader.blocks == [b"", b"", b""]


def test_no_more_is_wanted_than_the_block_has_and_then_a_line_end() -> None:
    reader = BlockReader((5, 1), is_kept=True)
    wanted = []
    for piece in (b"ab", b"cde", b"\r", b"\n", b"f", b"\n"):
        wanted.append(reader.wanted)
        reader.feed(piece)
    assert wanted == [5, 3, 1, 1, 1, 1]
    assert reader.wanted == 0


@pytest.mark.parametrize("end", [b"d", b"\r\r", b"\rd", b"\x00", b" \n"])
def test_a_block_without_its_line_end_is_refused(end: bytes) -> None:
    with pytest.raises(BadRequest, match="expected CRLF after the 3 bytes of a block"):
        feed(BlockReader((3,), is_kept=True), b"abc" + end, 20)
