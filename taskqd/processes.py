"""Processes as /proc shows them: which one is which, and which are ours (proc(5)).

A pid alone names nobody for long; a pid with its start time does until the next boot. Every process of a job
carries MARK in its environment, so it can be found even if the daemon died before it could note the pid.
"""

import os
import select
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress

from taskqd.launch import MARK

_STATE, _GROUP, _START_TIME = 0, 2, 19
"""The places of state, pgrp and starttime among the fields of /proc/PID/stat behind the command's name."""
_DEAD = (b"Z", b"X")


def boot_id() -> str:
    """Return the kernel's name for this boot of the machine; empty where it has none."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if there is no such process."""
    fields = _stat(str(pid))
    return int(fields[_START_TIME]) if fields else None


def marked(store: str) -> Iterator[int]:
    """Yield the pid of every process that carries the mark of this store."""
    mark = f"{MARK}={store}.".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and any(entry.startswith(mark) for entry in _environment(name)):
            yield int(name)


def _environment(pid: str) -> list[bytes]:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return file.read().split(b"\0")
    return []


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to a process group; False if there is no such group."""
    with suppress(ProcessLookupError):
        os.killpg(pgid, number)
        return True
    return False


def group_lives(pgid: int) -> bool:
    """Whether any process of the group can still run.

    One system call where there is no such group, a walk through /proc where there is: zombies, which stay
    for as long as their parent likes, do not live.
    """
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # there is one, of another user
    return any(_is_member(name, pgid) for name in os.listdir("/proc") if name.isdigit())


def _is_member(pid: str, pgid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and int(fields[_GROUP]) == pgid and fields[_STATE] not in _DEAD


def _stat(pid: str) -> list[bytes]:
    """Return the fields of /proc/PID/stat behind the command's name; none if there is no such process."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()
    return []


def kill_all(pids: Iterable[int], seconds: float) -> list[int]:
    """Kill processes and their groups, wait for them to be gone, and return those that were not in time.

    For use before the reactor runs: it blocks for up to ``seconds`` a process, mostly for none. The caller's
    own group is left alone: a daemon may have been started by a job.
    """
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not _kill_group_of(pid):
                continue
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(seconds * 1000):
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def _kill_group_of(pid: int) -> bool:
    with suppress(ProcessLookupError):
        group = os.getpgid(pid)
        return group != os.getpgrp() and signal_group(group, signal.SIGKILL)
    return False
