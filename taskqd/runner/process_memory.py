"""The memory of one process as /proc shows it (proc(5)), in bytes; None if there is no such process.

Only the kinds of memory count that the kernel cannot drop: anonymous and shared memory, not mapped files.
"""

import errno
import os
import re
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARED = re.compile(rb"^RssShmem:\s*([0-9]+) kB", re.MULTILINE)
_PARTS = re.compile(rb"^Pss_(?:Anon|Shmem):\s*([0-9]+) kB", re.MULTILINE)
_WHOLE = re.compile(rb"^Pss:\s*([0-9]+) kB", re.MULTILINE)
_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ESRCH)
_REFUSED = (errno.EACCES, errno.EPERM)
HIDDEN = b"\0"
"""The environment of a process of another user."""
NO_EXTENT = (b"0", b"0")
"""The extent of threads of the kernel and of zombies, which have no environment."""
_MAX_LINE, _MAX_FILE = 1024, 65_536
"""Bytes to read of a file that is one line, and of one with many. The size of the buffer costs time."""


class Stat(NamedTuple):
    """A process: its parent and session, and when it started, in clock ticks since boot.

    ``is_waiting`` is true if it waits in the kernel, as one that has called vfork(2) does. ``extent`` is its
    size, virtual and in memory.
    """

    parent: int
    session: int
    started: int
    is_waiting: bool
    extent: tuple[bytes, bytes]


def stat(pid: str) -> Stat | None:
    """Return what a process is."""
    fields = (_read(pid, "stat", _MAX_LINE) or b"").rpartition(b")")[2].split()
    if not fields:
        return None
    parent, session, started = int(fields[1]), int(fields[3]), int(fields[19])
    return Stat(parent, session, started, fields[0] == b"D", (fields[20], fields[21]))


def open_size(pid: str) -> int | None:
    """Return a descriptor for ``read_size``, which must be closed; raises OSError if there is none left."""
    try:
        return os.open(f"/proc/{pid}/statm", _FLAGS)
    except OSError as why:
        _check_gone(why)
        return None


def read_size(descriptor: int) -> tuple[int, int] | None:
    """Return the size of a process in memory, and its part of files and shared memory.

    The descriptor belongs to one process: it is None if that has ended, although another one has its pid.
    """
    try:
        line = os.pread(descriptor, _MAX_LINE, 0)
    except OSError as why:
        _check_gone(why)
        return None
    _, size, part, _ = line.split(b" ", 3)
    return int(size) * _PAGE, int(part) * _PAGE


def shared_memory(pid: str) -> int | None:
    """Return how much shared memory a process has mapped, without files."""
    data = _read(pid, "status", _MAX_FILE)
    if data is None:
        return None
    found = _SHARED.search(data)
    return 0 if found is None else int(found[1]) * 1024


def proportional(pid: str) -> int | None:
    """Return the share of a process in the anonymous and shared memory that it has mapped.

    Raises PermissionError for a process whose memory is hidden, such as that of a setuid program. Linux
    before 5.3 does not tell the kinds apart: mapped files count.
    """
    data = _read(pid, "smaps_rollup", _MAX_FILE)
    if data is None:
        return None
    parts = _PARTS.findall(data) or _WHOLE.findall(data)
    return sum(map(int, parts)) * 1024


def environment(pid: str) -> bytes | None:
    """Return the environment of a process: empty while it executes a program, HIDDEN if it is hidden."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return file.readall()
    except OSError as why:
        if why.errno in _REFUSED:
            return HIDDEN
        _check_gone(why)
        return None


def _read(pid: str, name: str, size: int) -> bytes | None:
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", _FLAGS)
        try:
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as why:
        _check_gone(why)
        return None


def _check_gone(why: OSError) -> None:
    """Raise an error again unless it is that of a process that has ended."""
    if why.errno not in _GONE:
        raise why
