"""The CPU time and the memory that an attempt has used, from what wait4(2) returns.

The CPU time is that of the attempt's first process, including nice(1) and prlimit(1) before it, and of its
descendants that were waited for, each by its parent. Not counted are processes that nothing waited for:
background processes that go on after the end, and children of a process that ignores SIGCHLD. The peak of
memory is the largest resident set of a single one of them, shared libraries included; it is not a sum. The
peak of a process smaller than this one is unknown, because the kernel counts this one's memory as the child's
until the child executes its program (docs/decisions/0057).
"""

import os
import resource
from functools import cache
from typing import Protocol

from taskqd.model.job import Usage

MARGIN = 4 * 1024**2
"""Bytes by which two readings of one peak may differ: the kernel sums its per-CPU counters now and then."""

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Rusage(Protocol):
    """The part of a resource.struct_rusage that is used."""

    @property
    def ru_utime(self) -> float: ...

    @property
    def ru_stime(self) -> float: ...

    @property
    def ru_maxrss(self) -> int: ...


def least_known_peak() -> int:
    """Return the peak of memory in bytes up to which that of a process started next will be unknown.

    Without a reset of this process's peak, that would be the most that it has ever used.
    """
    reset, sizes = _open("/proc/self/clear_refs", os.O_WRONLY), _open("/proc/self/statm", os.O_RDONLY)
    if reset is None or sizes is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MARGIN
    os.write(reset, b"5")  # proc(5): reset the peak resident set to the current one
    return int(os.pread(sizes, 200, 0).split()[1]) * _PAGE_SIZE + MARGIN


@cache
def _open(path: str, flags: int) -> int | None:
    """Open a file once; None if it cannot be."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None


def usage_of(rusage: Rusage, least_peak: int) -> Usage:
    """Return the usage of a process; its memory is 0 if the peak is not above ``least_peak``."""
    peak = rusage.ru_maxrss * 1024  # KiB: getrusage(2)
    return Usage(round(rusage.ru_utime, 6), round(rusage.ru_stime, 6), peak if peak > least_peak else 0)
