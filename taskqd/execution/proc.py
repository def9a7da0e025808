"""Processes as /proc shows them: which one is which, and which are ours (proc(5)).

A pid alone names nobody for long; a pid with its start time does until the next boot. Every process of a job
carries MARK in its environment, so it can be found even if the daemon died before it could note the pid. The
number of a session, which is the pid of the process that began it, is not given to another process while
the session has a member (docs/decisions/0031).
"""

import errno
import fcntl
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from taskqd.execution.run import MARK

_STATE, _GROUP, _SESSION, _THREADS, _START_TIME = 0, 2, 3, 17, 19
"""The places of state, pgrp, session, num_threads and starttime in /proc/PID/stat, behind the name."""
_MARK = re.compile(rb"(?:^|\0)%b=([^\0]*)" % MARK.encode())
_GONE = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)
"""The errors of a look at a process that has ended, or that may not be seen."""
_NO_CONTINUE = (
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCONT,
)
"""The signals that SIGCONT does not follow: it adds nothing to them, or undoes them."""

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


def is_stopped(pid: int, started: int | None) -> bool:
    """Whether the process that started then is stopped: by SIGSTOP, by a terminal, by a debugger."""
    fields = _stat(str(pid))
    return bool(fields) and int(fields[_START_TIME]) == started and fields[_STATE] in (b"T", b"t")


class Process(NamedTuple):
    """A living process as one scan of /proc saw it.

    ``started`` is in clock ticks since boot, ``mark`` the value of TASKQ_RUN in its environment, empty where
    there is none or it was not read, ``uid`` the user whose it is, -1 where there is no mark.
    """

    pid: int
    started: int
    group: int
    session: int
    mark: str = ""
    uid: int = -1

    @property
    def name(self) -> tuple[int, int]:
        """What no other process has until the next boot."""
        return self.pid, self.started


def scan(since: int | None) -> list[Process]:
    """Return the living processes but those of this process's own group; raises OSError.

    The marks of those are read that have started ``since`` then, in clock ticks since boot; of none for None.
    What is just executing a program has no environment for a moment: it is looked at twice.
    """
    own, found, again = os.getpgrp(), [], []
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _stat(name)
        if not fields or not _lives(fields) or int(fields[_GROUP]) == own:
            continue
        one = Process(int(name), int(fields[_START_TIME]), int(fields[_GROUP]), int(fields[_SESSION]))
        if since is None or one.started < since:
            found.append(one)
        elif (environment := _environment(name)) or one.group == 0:  # the kernel's own have none
            found.append(_marked(one, environment))
        else:
            again.append(one)
    return found + [_marked(one, _environment(str(one.pid))) for one in again]


def _lives(fields: list[bytes]) -> bool:
    """Whether it can still run: zombies do not, unless only their first thread has ended."""
    return fields[_STATE] not in (b"Z", b"X") or int(fields[_THREADS]) > 1


def _environment(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError as why:
        return _nothing_of(why)


def _marked(one: Process, environment: bytes) -> Process:
    mark = _MARK.search(environment)
    if mark is None:
        return one
    try:
        uid = os.stat(f"/proc/{one.pid}").st_uid
    except OSError as why:
        _nothing_of(why)
        return one
    return one._replace(mark=mark[1].decode("latin-1"), uid=uid)


def _nothing_of(why: OSError) -> bytes:
    """Return what is read of a process that has ended; raise any other error again."""
    if why.errno in _GONE:
        return b""
    raise why


def attempt_of(mark: str, store: str) -> tuple[int, int] | None:
    """Return (job, attempt) of a mark, None if it is none of this store's."""
    name, _, rest = mark.partition(".")
    job_id, _, attempt = rest.partition(".")
    if name != store or not (job_id + attempt).isascii() or not (job_id.isdigit() and attempt.isdigit()):
        return None
    return int(job_id), int(attempt)


def ticks() -> int:
    """Return the time since the boot in clock ticks, as start times are counted (proc(5), starttime)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_A_SECOND // 1_000_000_000


def is_number_used(pid: int) -> bool:
    """Whether a number is still that of a process, a process group or a session, be they zombies.

    One system call: the kernel refuses a number that it does not know as the owner of a descriptor's signals
    (fcntl(2), F_SETOWN). A kernel that checks no owner, as Linux before 4.11, lets it always seem used.
    """
    try:
        fcntl.fcntl(_owned(), fcntl.F_SETOWN, pid)
    except ProcessLookupError:
        return False
    except OSError:  # no descriptor is left to ask by
        return True
    return True


@cache
def _owned() -> int:
    """Open, once for all, what gets the owners; as no one asked for signals of it, there are none."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def unread_bytes(pipe: int) -> int:
    """Return how many bytes are in a pipe; another reader may take them first."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))[0]
    return count


def set_close_on_exec() -> None:
    """Keep inherited descriptors from this process's children, and open 0 to 2 if they are closed.

    If 0 to 2 were closed, a pipe could get one of these numbers, and the child's end would overwrite it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
                fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
            except OSError:
                continue  # the listing's own descriptor, which is closed by now


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to a process group, and SIGCONT so that stopped ones get it; False if there is none."""
    with suppress(ProcessLookupError):
        os.killpg(pgid, number)
        if number not in _NO_CONTINUE:
            os.killpg(pgid, signal.SIGCONT)
        return True
    return False


def signal_process(one: Process, number: int) -> None:
    """Send a signal to a process that a scan found, and SIGCONT; not to another that has its number now."""
    descriptor = _open(one)
    if descriptor is None:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
            if number not in _NO_CONTINUE:
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    finally:
        os.close(descriptor)


def _open(one: Process) -> int | None:
    """Return a descriptor of a process (pidfd_open(2)), None if it is gone."""
    try:
        descriptor = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return None
    if start_time(one.pid) == one.started:
        return descriptor
    os.close(descriptor)
    return None


def kill_all(found: Iterable[Process], seconds: float) -> list[Process]:
    """Kill processes, wait for them to be gone, and return those that are not.

    For use before the reactor runs: it blocks for up to ``seconds`` a process, mostly for none. What may not
    be signalled is left.
    """
    return [one for one in found if not _is_ended(one, seconds)]


def _is_ended(one: Process, seconds: float) -> bool:
    descriptor = _open(one)
    if descriptor is None:
        return True
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(descriptor)


def _stat(pid: str) -> list[bytes]:
    """Return the fields of /proc/PID/stat behind the command's name; none if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError as why:
        return _nothing_of(why).split()
