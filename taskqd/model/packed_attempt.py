"""The latest attempt of a job that has ended, as bytes: there may be a million of them.

As bytes an attempt takes 96 bytes of memory, a fifth of an Attempt with its values. Only the usual ones can
be packed: the first attempt of its job, which exited, and whose output is in the journal.
"""

import struct
from collections.abc import Iterable
from typing import Protocol

from taskqd.model.attempt import Attempt, Reason, Usage

_LAYOUT = struct.Struct("<ddddIIqiIHHBBB")
"""started_at, ended_at, usage.user, usage.system, usage.memory in units of MEMORY_UNIT, pid (0 for none);
offset, segment and length of the record (length 0 for none); stdout_bytes, stderr_bytes; exit_code, progress,
and 1 if the attempt failed. At most 63 bytes, so that the object takes 96."""
_RECORD = struct.Struct("<qiI")
_RECORD_OFFSET = 40
_TIME = struct.Struct("<d")
_TIMES = struct.Struct("<dd")
_ENDED_AT_OFFSET = 8
MEMORY_UNIT = 1024
"""Bytes; the kernel counts in them (getrusage(2))."""
PACKED_NUMBER = 1
"""The number of each packed attempt."""
_NO_RECORD = (0, 0, 0)
_REASONS = (None, Reason.EXIT)


class End(Protocol):
    """An Attempt or an Ended event: how an attempt ended."""

    @property
    def reason(self) -> Reason | None: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def progress(self) -> int: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def usage(self) -> Usage | None: ...


def pack(attempt: Attempt) -> bytes | None:
    """Return an attempt that has ended as bytes, None if it is not a usual one."""
    if (
        attempt.number != PACKED_NUMBER
        or attempt.ended_at is None
        or attempt.signal is not None
        or attempt.detail is not None
        or attempt.units
        or not (attempt.stdout_inline and attempt.stderr_inline)
        or attempt.stdout_dropped
        or attempt.stderr_dropped
    ):
        return None
    sizes = attempt.stdout_bytes, attempt.stderr_bytes
    return pack_end(attempt.started_at, attempt.ended_at, sizes, attempt, attempt.record)


def pack_end(
    started_at: float,
    ended_at: float,
    sizes: tuple[int, int],
    end: End,
    record: tuple[int, int, int] | None,
) -> bytes | None:
    """Return a first attempt with these values, the other ones being the defaults; None if it is not usual.

    ``sizes`` are those of stdout and stderr, which are in the journal.
    """
    usage, exit_code, reason = end.usage, end.exit_code, end.reason
    if usage is None or exit_code is None or reason not in _REASONS:
        return None
    if usage.memory % MEMORY_UNIT or usage.memory_used_peak:
        return None
    segment, offset, length = record or _NO_RECORD
    try:
        return _LAYOUT.pack(
            started_at,
            ended_at,
            usage.user,
            usage.system,
            usage.memory // MEMORY_UNIT,
            end.pid or 0,
            offset,
            segment,
            length,
            *sizes,
            exit_code,
            end.progress,
            reason is not None,
        )
    except struct.error:  # a number is too large
        return None


def unpack(packed: bytes) -> Attempt:
    """Return the attempt that was packed, as a new value."""
    (
        started_at,
        ended_at,
        user,
        system,
        memory,
        pid,
        offset,
        segment,
        length,
        stdout_bytes,
        stderr_bytes,
        exit_code,
        progress,
        has_failed,
    ) = _LAYOUT.unpack(packed)
    return Attempt(
        number=PACKED_NUMBER,
        started_at=started_at,
        ended_at=ended_at,
        pid=pid or None,
        reason=_REASONS[has_failed],
        exit_code=exit_code,
        progress=progress,
        usage=Usage(user, system, memory * MEMORY_UNIT),
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
        record=(segment, offset, length) if length else None,
    )


def started_at(packed: bytes) -> float:
    """Return when a packed attempt started."""
    found: float = _TIME.unpack_from(packed)[0]
    return found


def ended_at(packed: bytes) -> float:
    """Return when a packed attempt ended."""
    found: float = _TIME.unpack_from(packed, _ENDED_AT_OFFSET)[0]
    return found


def times(packed: Iterable[bytes]) -> list[tuple[float, float]]:
    """Return when packed attempts started and ended."""
    read = _TIMES.unpack_from
    return [read(each) for each in packed]


def relocated(packed: bytes, upto: int, position: tuple[int, int, int]) -> bytes:
    """Return a packed attempt with a new position of its record if the old one is up to segment ``upto``."""
    _, segment, length = _RECORD.unpack_from(packed, _RECORD_OFFSET)
    if not length or segment > upto:
        return packed
    record = _RECORD.pack(position[1], position[0], position[2])
    return packed[:_RECORD_OFFSET] + record + packed[_RECORD_OFFSET + _RECORD.size :]
