"""The CPU time and the memory that an attempt has used, from what wait4(2) returns.

The CPU time is that of the attempt's first process, including nice(1) and prlimit(1) before it, and of its
descendants that were waited for, each by its parent. Not counted are processes that nothing waited for:
background processes that go on after the end, and children of a process that ignores SIGCHLD. The peak of
memory is the largest resident set of a single one of them, shared libraries included; it is not a sum. The
peak of a process smaller than this one is unknown, because the kernel counts this one's memory as the child's
until the child executes its program (docs/decisions/0057).
"""

import math
import resource
import time
from contextlib import suppress
from typing import Protocol

from taskqd.model.job import Usage

MARGIN = 4 * 1024**2
"""Bytes by which two readings of one peak may differ: the kernel sums its per-CPU counters now and then."""

RESET_INTERVAL = 1.0
"""Seconds between two resets of this process's own peak if that does not grow: memory may have been freed."""


class Rusage(Protocol):
    """The part of a resource.struct_rusage that is used."""

    @property
    def ru_utime(self) -> float: ...

    @property
    def ru_stime(self) -> float: ...

    @property
    def ru_maxrss(self) -> int: ...


class _OwnPeak:
    """The peak of this process's memory, which is reset if it has grown, and every RESET_INTERVAL."""

    def __init__(self) -> None:
        self._reset_at = -math.inf
        self._after_reset = 0

    def read(self, now: float) -> int:
        """Return it in bytes."""
        peak = _read_own_peak()
        if peak > self._after_reset + MARGIN or now >= self._reset_at + RESET_INTERVAL:
            with suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
                file.write(b"5")  # proc(5): reset the peak resident set to the current one
            self._reset_at = now
            self._after_reset = peak = _read_own_peak()
        return peak


def _read_own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_own_peak = _OwnPeak()


def least_known_peak() -> int:
    """Return the peak of memory in bytes up to which that of a process started next will be unknown."""
    return _own_peak.read(time.monotonic()) + MARGIN


def usage_of(rusage: Rusage, least_peak: int) -> Usage:
    """Return the usage of a process; its memory is 0 if the peak is not above ``least_peak``."""
    peak = rusage.ru_maxrss * 1024  # KiB: getrusage(2)
    return Usage(round(rusage.ru_utime, 6), round(rusage.ru_stime, 6), peak if peak > least_peak else 0)
