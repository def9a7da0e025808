"""The notes of a runner: the ends that it could tell no daemon. Their format, and how they are read.

A line has the CRC-32 of the JSON in 8 hex digits, a space, and the JSON of an Ended or of Gone. The first
line that is not complete ends the notes: what is behind it was not durable when the machine stopped.
"""

from binascii import crc32
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import DecodeError

from taskqd.execution.messages import Ended, Gone, decode_to_daemon, encode

_CHECKSUM_LENGTH = 8


class Notes(NamedTuple):
    """The content of the notes of a runner; ``is_gone`` means that it exited in order, and ran no more."""

    ends: Sequence[Ended] = ()
    is_gone: bool = False


def format_note(message: Ended | Gone) -> bytes:
    """Return a message as a line of notes."""
    line = encode(message)
    return b"%08x %b" % (crc32(line[:-1]), line)


def parse_notes(data: bytes) -> Notes:
    """Return what notes say, up to the first line that is damaged or incomplete."""
    ends: list[Ended] = []
    is_gone = False
    for line in data.split(b"\n")[:-1]:
        checksum, body = line[: _CHECKSUM_LENGTH + 1], line[_CHECKSUM_LENGTH + 1 :]
        if checksum != b"%08x " % crc32(body):
            break
        try:
            message = decode_to_daemon(body)
        except DecodeError:
            break
        if isinstance(message, Ended):
            ends.append(message)
        is_gone |= isinstance(message, Gone)
    return Notes(ends, is_gone)


def read_notes(path: str) -> Notes:
    """Return what the notes in a file say, nothing if there is no such file; raises OSError."""
    try:
        with open(path, "rb") as file:
            return parse_notes(file.read())
    except FileNotFoundError:
        return Notes()
