"""Processes as /proc shows them: which one is which, and which are ours (proc(5)).

A pid alone names nobody for long; a pid with its start time does until the next boot. Every process of a job
carries MARK in its environment, so it can be found even if the daemon died before it could note the pid.
"""

import os
import re
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from taskqd.launch import MARK

_STATE, _GROUP, _START_TIME = 0, 2, 19
"""The places of state, pgrp and starttime among the fields of /proc/PID/stat behind the command's name."""
_DEAD = (b"Z", b"X")

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Return the kernel's name for this boot of the machine; empty where it has none."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if there is no such process."""
    fields = _stat(str(pid))
    return int(fields[_START_TIME]) if fields else None


class Marked(NamedTuple):
    """A process that carries a store's mark: whose attempt it is of, and the process group that it is in."""

    pid: int
    group: int
    job_id: int
    attempt: int


def marked(store: str) -> Iterator[Marked]:
    """Yield every process that carries the mark of this store, as far as its environment may be read."""
    mark = re.compile(
        rb"(?:^|\0)%b=%b\.([0-9]+)\.([0-9]+)(?:\0|$)" % (MARK.encode(), re.escape(store.encode()))
    )
    for name in os.listdir("/proc"):
        found = mark.search(_environment(name)) if name.isdigit() else None
        fields = _stat(name) if found else []
        if found and fields:
            yield Marked(int(name), int(fields[_GROUP]), int(found[1]), int(found[2]))


def _environment(pid: str) -> bytes:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()
    return b""


def ticks() -> int:
    """Return the time since the boot in clock ticks, as start times are counted (proc(5), starttime)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_A_SECOND // 1_000_000_000


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
    """Kill processes and their groups, wait for them to be gone, and return those that are not.

    For use before the reactor runs: it blocks for up to ``seconds`` a process, mostly for none. The caller's
    own group is left alone, since a daemon may have been started by a job. What may not be signalled is left.
    """
    return [pid for pid in pids if not _is_ended(pid, seconds)]


def _is_ended(pid: int, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        group = os.getpgid(pid)
        if group == os.getpgrp():
            return True
        os.killpg(group, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
