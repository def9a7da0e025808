"""Telnet sequences between request lines, and the answers to them (RFC 854, RFC 860).

All options are refused: DO is answered by WONT, and WILL by DONT. The exception is DO TIMING-MARK, which is
answered by WILL, because after an interrupt a telnet client discards everything that the server sends before
that answer. AYT, "are you there", is answered by a text that a person can see.
"""

import re
from typing import NamedTuple

IAC = 0xFF
_DONT, _DO, _WONT, _WILL, _SB, _SE = 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF0
_AYT = 0xF6
_TIMING_MARK = 6
AYT_ANSWER = b"[yes]\r\n"
"""The answer to AYT; no reply begins like it."""
_MAX_SUBNEGOTIATION = 1024
"""Bytes after which a subnegotiation without an end is cut off."""
_SUBNEGOTIATION = re.compile(rb"\xff\xfa(?:[^\xff]|\xff[^\xf0])*?\xff\xf0", re.DOTALL)


class Sequence(NamedTuple):
    """A telnet sequence: where it ends, and the bytes to answer with."""

    end: int
    answer: bytes


def parse_sequence(data: bytes, start: int) -> Sequence | None:
    """Parse the sequence that begins with the IAC at ``start``; None if it is incomplete."""
    if len(data) - start < 2:
        return None
    command = data[start + 1]
    if command == _SB:
        return _parse_subnegotiation(data, start)
    if command not in (_DO, _DONT, _WILL, _WONT):
        return Sequence(start + 2, AYT_ANSWER if command == _AYT else b"")
    if len(data) - start < 3:
        return None
    option = data[start + 2]
    return Sequence(start + 3, _answer(command, option))


def _answer(command: int, option: int) -> bytes:
    if command == _DO:
        return bytes((IAC, _WILL if option == _TIMING_MARK else _WONT, option))
    if command == _WILL:
        return bytes((IAC, _DONT, option))
    return b""


def _parse_subnegotiation(data: bytes, start: int) -> Sequence | None:
    # Within a subnegotiation a 0xFF is doubled (RFC 855), so 0xFF 0xFF 0xF0 does not end it.
    max_end = start + _MAX_SUBNEGOTIATION
    whole = _SUBNEGOTIATION.match(data, start, max_end)
    if whole:
        return Sequence(whole.end(), b"")
    return Sequence(max_end, b"") if len(data) >= max_end else None
