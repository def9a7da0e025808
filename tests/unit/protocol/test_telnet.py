"""Telnet sequences between lines, each whole and cut at every byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.protocol import telnet

MAX_LENGTH = 1024
"""A subnegotiation without an end is cut off after this many bytes."""

SEQUENCES = [
    (b"\xff\xf4", b""),  # IP, interrupt process
    (b"\xff\xf3", b""),  # BRK
    (b"\xff\xf2", b""),  # DM, data mark
    (b"\xff\xf1", b""),  # NOP
    (b"\xff\xf9", b""),  # GA
    (b"\xff\xf6", b"[yes]\r\n"),  # AYT, are you there
    (b"\xff\xff", b""),  # a 0xFF as data
    (b"\xff\xf0", b""),  # SE without an SB
    (b"\xff\x00", b""),  # no command at all
    (b"\xff\xfd\x01", b"\xff\xfc\x01"),  # DO ECHO: WONT
    (b"\xff\xfd\x03", b"\xff\xfc\x03"),  # DO SUPPRESS-GO-AHEAD: WONT
    (b"\xff\xfd\xff", b"\xff\xfc\xff"),
    (b"\xff\xfb\x18", b"\xff\xfe\x18"),  # WILL TERMINAL-TYPE: DONT
    (b"\xff\xfb\x06", b"\xff\xfe\x06"),
    (b"\xff\xfe\x01", b""),  # DONT and WONT need no answer
    (b"\xff\xfc\x01", b""),
    (b"\xff\xfd\x06", b"\xff\xfb\x06"),  # DO TIMING-MARK: WILL
    (b"\xff\xfa\xff\xf0", b""),
    (b"\xff\xfa\x18\x00xterm\xff\xf0", b""),
    (b"\xff\xfa\x1f\xff\xff\xf0\x00\xff\xf0", b""),  # a doubled 0xFF before 0xF0 is data
    (b"\xff\xfa\xff\xff\xff\xf0", b""),
    (b"\xff\xfa\n\xff\xf4\r\n\xff\xf0", b""),
    (b"\xff\xfa" + b"x" * (MAX_LENGTH - 4) + b"\xff\xf0", b""),
    (b"\xff\xfa" + b"x" * (MAX_LENGTH - 2), b""),
]


@pytest.mark.parametrize("data, answer", SEQUENCES)
def test_sequence_is_parsed_whole_and_answered_according_to_the_rfc(data: bytes, answer: bytes) -> None:
    assert telnet.parse_sequence(data, 0) == (len(data), answer)
    assert telnet.parse_sequence(b"PING\n" + data + b"\xff\xf0\xff\xf0PING\n", 5) == (5 + len(data), answer)


@pytest.mark.parametrize("data", [data for data, _ in SEQUENCES])
def test_incomplete_sequence_is_not_parsed(data: bytes) -> None:
    for end in range(1, len(data)):
        assert telnet.parse_sequence(data[:end], 0) is None
        assert telnet.parse_sequence(b"\n" + data[:end], 1) is None


def test_subnegotiation_without_an_end_is_cut_off_at_the_same_byte_however_it_arrives() -> None:
    endless = b"\xff\xfa" + b"x" * 3000 + b"\xff\xf0"
    for end in range(MAX_LENGTH, len(endless) + 1):
        assert telnet.parse_sequence(endless[:end], 0) == (MAX_LENGTH, b"")


@given(
    st.lists(st.sampled_from([b"\xff", b"\xfa", b"\xf0", b"\xfd", b"\x06", b"x" * 300, b"\n"])).map(b"".join)
)
def test_further_bytes_never_change_a_parsed_sequence(tail: bytes) -> None:
    data = b"\xff" + tail
    whole = telnet.parse_sequence(data, 0)
    for end in range(1, len(data) + 1):
        sequence = telnet.parse_sequence(data[:end], 0)
        assert sequence is None or sequence == whole
    assert whole is None or 2 <= whole.end <= len(data)


@given(st.binary())
def test_parser_accepts_any_bytes(tail: bytes) -> None:
    sequence = telnet.parse_sequence(b"\xff" + tail, 0)
    assert sequence is None or len(sequence.answer) in (0, 3, len(telnet.AYT_ANSWER))
