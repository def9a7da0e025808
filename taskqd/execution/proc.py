"""Processes as /proc shows them (proc(5)), and signals to them.

A pid alone does not identify a process for long; a pid with its start time does until the next boot. Every
process of a job carries MARK in its environment, so it can be found even if the daemon died before it
recorded the pid. The number of a session, which is the pid of its leader, is not reused while the session has
a member (docs/decisions/0031).
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

from taskqd.execution.messages import AttemptKey
from taskqd.execution.run import MARK

_STATE, _GROUP, _SESSION, _THREADS, _START_TIME = 0, 2, 3, 17, 19
"""The indexes of state, pgrp, session, num_threads and starttime in /proc/PID/stat, after the name."""
_MARK = re.compile(rb"(?:^|\0)%b=([^\0]*)" % MARK.encode())
_ATTEMPT = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})(?:\.([0-9a-f]{16}))?")
"""The part of a mark after the store's name: job, attempt, and word."""
_GONE = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)
"""The errors of reading /proc/PID of a process that has ended, or that is hidden."""
_NO_CONTINUE = (
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCONT,
)
"""The signals that are not followed by SIGCONT: it would add nothing to them, or undo them."""

_STOPPED = ("T", "t")
"""The states of a process that is stopped by a signal, or by a debugger."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Return the kernel's id of this boot; empty if it has none."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is no such process."""
    fields = _stat(str(pid))
    return int(fields[_START_TIME]) if fields else None


def is_alive(pid: int) -> bool:
    """Whether a process can still run; a zombie, for which nothing has waited yet, cannot."""
    fields = _stat(str(pid))
    return bool(fields) and _is_alive(fields)


def is_stopped(pid: int, started: int | None) -> bool:
    """Whether the process with this pid and start time is stopped: by SIGSTOP, a terminal or a debugger."""
    fields = _stat(str(pid))
    return bool(fields) and int(fields[_START_TIME]) == started and fields[_STATE].decode("ascii") in _STOPPED


class Process(NamedTuple):
    """A living process, as a scan of /proc saw it.

    ``started`` is in clock ticks since boot. ``mark`` is the value of TASKQ_RUN in its environment, empty if
    there is none or it was not read; ``uid`` is the user of a process with a mark, else -1. ``state`` is a
    letter (proc(5)).
    """

    pid: int
    started: int
    group: int
    session: int
    mark: str = ""
    uid: int = -1
    state: str = ""

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by a signal, or by a debugger."""
        return self.state in _STOPPED

    @property
    def is_uninterruptible(self) -> bool:
        """Whether it is in a system call that no signal interrupts, such as vfork(2)."""
        return self.state == "D"

    @property
    def identity(self) -> tuple[int, int]:
        """The pid and the start time: unique until the next boot."""
        return self.pid, self.started


def scan(since: int | None) -> list[Process]:
    """Return the living processes, except those of this process's own group; raises OSError.

    Marks are read of processes that started at ``since`` or later, in clock ticks since boot; of none if that
    is None. A process has no environment for a moment while it executes a program: these are read twice.
    """
    own_group, found, retries = os.getpgrp(), [], []
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _stat(name)
        if not fields or not _is_alive(fields) or int(fields[_GROUP]) == own_group:
            continue
        process = Process(
            int(name),
            int(fields[_START_TIME]),
            int(fields[_GROUP]),
            int(fields[_SESSION]),
            state=fields[_STATE].decode("ascii"),
        )
        if since is None or process.started < since:
            found.append(process)
        elif (environment := _environment(name)) or process.group == 0:  # threads of the kernel have none
            found.append(_with_mark(process, environment))
        else:
            retries.append(process)
    return found + [_with_mark(process, _environment(str(process.pid))) for process in retries]


def _is_alive(fields: list[bytes]) -> bool:
    """Whether a process can still run: no zombie, unless only its first thread has ended."""
    return fields[_STATE] not in (b"Z", b"X") or int(fields[_THREADS]) > 1


def _environment(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError as why:
        return _empty_if_gone(why)


def _with_mark(process: Process, environment: bytes) -> Process:
    mark, uid = find_mark(process.pid, environment)
    return process._replace(mark=mark, uid=uid) if mark else process


def find_mark(pid: int, environment: bytes) -> tuple[str, int]:
    """Return the mark in the environment of a process, and the user of one with a mark, else -1."""
    mark = _MARK.search(environment)
    if mark is None:
        return "", -1
    try:
        return mark[1].decode("latin-1"), os.stat(f"/proc/{pid}").st_uid
    except OSError as why:
        _empty_if_gone(why)
        return "", -1


def _empty_if_gone(why: OSError) -> bytes:
    """Return nothing for the error of a process that has ended; raise any other error again."""
    if why.errno in _GONE:
        return b""
    raise why


def make_mark(store: str, key: AttemptKey) -> str:
    """Return the mark of an attempt, the value of TASKQ_RUN in the environment of its processes."""
    return f"{store}.{key.id}.{key.attempt}.{key.word}"


def parse_mark(mark: str, store: str) -> AttemptKey | None:
    """Return the attempt that a mark names, None if it is not of this store.

    The mark of a process that a daemon before 0.7 started has no word.
    """
    name, _, rest = mark.partition(".")
    parts = _ATTEMPT.fullmatch(rest)
    if name != store or parts is None:
        return None
    return AttemptKey(int(parts[1]), int(parts[2]), parts[3] or "")


def clock_ticks() -> int:
    """Return the time since boot in clock ticks, as start times are counted (proc(5), starttime)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_PER_SECOND // 1_000_000_000


def is_id_in_use(pid: int) -> bool:
    """Whether a number is the id of a process, a process group or a session, zombies included.

    This takes one system call: the kernel refuses an unknown id as the owner of a descriptor's signals
    (fcntl(2), F_SETOWN). Kernels that check no owner (Linux before 4.11) make every id seem used.
    """
    try:
        fcntl.fcntl(_probe_descriptor(), fcntl.F_SETOWN, pid)
    except ProcessLookupError:
        return False
    except OSError:  # no descriptor is free for the probe
        return True
    return True


@cache
def _probe_descriptor() -> int:
    """Open the descriptor that gets the owners; it never sends signals, because O_ASYNC is not set."""
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
    """Signal a process group, then continue its stopped processes; return False if there is no such group."""
    with suppress(ProcessLookupError):
        os.killpg(pgid, number)
        if number not in _NO_CONTINUE:
            os.killpg(pgid, signal.SIGCONT)
        return True
    return False


def signal_process(process: Process, number: int) -> None:
    """Signal a process that a scan found, then continue it; does nothing if its pid has been reused."""
    descriptor = _open(process)
    if descriptor is None:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
            if number not in _NO_CONTINUE:
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    finally:
        os.close(descriptor)


def _open(process: Process) -> int | None:
    """Return a descriptor of a process (pidfd_open(2)), None if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if start_time(process.pid) == process.started:
        return descriptor
    os.close(descriptor)
    return None


def kill_all(found: Iterable[Process], seconds: float) -> list[Process]:
    """Kill processes, wait until they are gone, and return those that are not.

    For use before the reactor runs: it blocks for up to ``seconds`` per process. Processes that may not be
    signalled are returned.
    """
    return [process for process in found if not _kill(process, seconds)]


def _kill(process: Process, seconds: float) -> bool:
    """Kill a process and wait for its end; return whether it is gone."""
    descriptor = _open(process)
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
    """Return the fields of /proc/PID/stat after the command's name; none if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError as why:
        return _empty_if_gone(why).split()
