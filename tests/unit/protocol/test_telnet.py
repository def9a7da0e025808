"""What a telnet program sends between lines, each sequence whole and cut at every byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.protocol import telnet

LONGEST = 1024
"""A subnegotiation that has no end by then is cut off there."""

SEQUENCES = [
    (b"\xff\xf4", b""),  # IP, interrupt process
    (b"\xff\xf3", b""),  # BRK
    (b"\xff\xf2", b""),  # DM, data mark
    (b"\xff\xf1", b""),  # NOP
    (b"\xff\xf9", b""),  # GA
    (b"\xff\xf6", b"[yes]\r\n"),  # AYT, are you there
    (b"\xff\xff", b""),  # a 0xFF of its own
    (b"\xff\xf0", b""),  # SE without an SB
    (b"\xff\x00", b""),  # no command at all
    (b"\xff\xfd\x01", b"\xff\xfc\x01"),  # DO ECHO: WONT
    (b"\xff\xfd\x03", b"\xff\xfc\x03"),  # DO SUPPRESS-GO-AHEAD: WONT
    (b"\xff\xfd\xff", b"\xff\xfc\xff"),
    (b"\xff\xfb\x18", b"\xff\xfe\x18"),  # WILL TERMINAL-TYPE: DONT
    (b"\xff\xfb\x06", b"\xff\xfe\x06"),
    (b"\xff\xfe\x01", b""),  # DONT and WONT confirm what is so anyway
    (b"\xff\xfc\x01", b""),
    (b"\xff\xfd\x06", b"\xff\xfb\x06"),  # DO TIMING-MARK: WILL
    (b"\xff\xfa\xff\xf0", b""),
    (b"\xff\xfa\x18\x00xterm\xff\xf0", b""),
    (b"\xff\xfa\x1f\xff\xff\xf0\x00\xff\xf0", b""),  # a doubled 0xFF before 0xF0 is data
    (b"\xff\xfa\xff\xff\xff\xf0", b""),
    (b"\xff\xfa\n\xff\xf4\r\n\xff\xf0", b""),
    (b"\xff\xfa" + b"x" * (LONGEST - 4) + b"\xff\xf0", b""),
    (b"\xff\xfa" + b"x" * (LONGEST - 2), b""),
]


@pytest.mark.parametrize("data, answer", SEQUENCES)
def test_a_sequence_is_taken_whole_and_answered_as_the_rfc_wants(data: bytes, answer: bytes) -> None:
    assert telnet.read(data, 0) == (len(data), answer)
    assert telnet.read(b"PING\n" + data + b"\xff\xf0\xff\xf0PING\n", 5) == (5 + len(data), answer)


@pytest.mark.parametrize("data", [data for data, _ in SEQUENCES])
def test_a_sequence_that_is_not_all_there_yet_waits(data: bytes) -> None:
    for end in range(1, len(data)):
        assert telnet.read(data[:end], 0) is None
        assert telnet.read(b"\n" + data[:end], 1) is None


def test_a_subnegotiation_without_an_end_is_cut_off_the_same_way_however_it_comes() -> None:
    endless = b"\xff\xfa" + b"x" * 3000 + b"\xff\xf0"
    for end in range(LONGEST, len(endless) + 1):
        assert telnet.read(endless[:end], 0) == (LONGEST, b"")


@given(
    st.lists(st.sampled_from([b"\xff", b"\xfa", b"\xf0", b"\xfd", b"\x06", b"x" * 300, b"\n"])).map(b"".join)
)
def test_more_bytes_never_change_what_was_read(tail: bytes) -> None:
    data = b"\xff" + tail
    whole = telnet.read(data, 0)
    for end in range(1, len(data) + 1):
        sequence = telnet.read(data[:end], 0)
        assert sequence is None or sequence == whole
    assert whole is None or 2 <= whole.end <= len(data)


@given(st.binary())
def test_no_bytes_make_the_reader_fail(tail: bytes) -> None:
    sequence = telnet.read(b"\xff" + tail, 0)
    assert sequence is None or len(sequence.answer) in (0, 3, len(telnet.HERE))
