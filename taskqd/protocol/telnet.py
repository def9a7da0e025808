"""What a telnet program puts between lines, and what it is answered (RFC 854, RFC 860).

Options are all refused: DO is answered WONT, WILL is answered DONT. DO TIMING-MARK is answered, because a
telnet program throws away what the server sends between an interrupt and that answer. AYT, "are you there",
is answered with something that a person can see.
"""

import re
from typing import NamedTuple

IAC = 0xFF
_DONT, _DO, _WONT, _WILL, _SB, _SE = 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF0
_AYT = 0xF6
_TIMING_MARK = 6
HERE = b"[yes]\r\n"
"""The answer to AYT; no reply begins like it."""
_LONGEST_SUBNEGOTIATION = 1024
_SUBNEGOTIATION = re.compile(rb"\xff\xfa(?:[^\xff]|\xff[^\xf0])*?\xff\xf0", re.DOTALL)


class Sequence(NamedTuple):
    """One telnet sequence: where it ends, and the bytes to answer with."""

    end: int
    answer: bytes


def read(data: bytes, start: int) -> Sequence | None:
    """Read the sequence that begins at the IAC at ``start``; None if it is not all there yet."""
    if len(data) - start < 2:
        return None
    command = data[start + 1]
    if command == _SB:
        return _subnegotiation(data, start)
    if command not in (_DO, _DONT, _WILL, _WONT):
        return Sequence(start + 2, HERE if command == _AYT else b"")
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


def _subnegotiation(data: bytes, start: int) -> Sequence | None:
    # Within it a 0xFF of its own is doubled (RFC 855), so 0xFF 0xFF 0xF0 does not end it.
    longest = start + _LONGEST_SUBNEGOTIATION
    whole = _SUBNEGOTIATION.match(data, start, longest)
    if whole:
        return Sequence(whole.end(), b"")
    return Sequence(longest, b"") if len(data) >= longest else None
