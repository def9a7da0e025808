"""A process in a new session, over Twisted's Process, which can start none and reports no resource usage.

This is the only module that uses private parts of Twisted; ``is_supported`` checks that they are as expected
(docs/decisions/0057). Not closing descriptors is correct because each one of this process is close-on-exec:
Python opens them so (PEP 446), and proc.set_close_on_exec sets the flag on inherited ones.
"""

import fcntl
import inspect
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.process import Process, ProcessReader, reapProcessHandlers
from twisted.logger import Logger

from taskqd.execution import proc

READ_SIZE = 65_536
"""Bytes per read: the default capacity of a pipe. Twisted's own reader takes 8 KiB."""
LARGE_READ_SIZE = 262_144
"""Bytes per read from a pipe that was enlarged; larger reads miss the processor's cache."""
LARGE_CAPACITY = 1024**2
"""Bytes that an enlarged pipe can hold: the limit for users without privileges (pipe(7))."""
READS_BEFORE_ENLARGING = 16
"""A pipe that was full at this many reads is enlarged, so that both sides wait for each other less."""

UNKNOWN_STATUS = -1
"""The status of a process that something else has reaped."""

_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_METHODS = {
    "_trySpawnInsteadOfFork": (
        *("self", "path", "uid", "gid", "executable", "args", "environment", "kwargs"),
    ),
    "reapProcess": ("self",),
    "processEnded": ("self", "status"),
}
"""The methods of Twisted's Process that are replaced, with their parameters."""


class ChildUsage(NamedTuple):
    """The part of a resource usage that is known of a child that was reaped by waitpid(2)."""

    ru_utime: float
    ru_stime: float
    ru_maxrss: int


class PipeReader(ProcessReader):
    """Our end of a pipe that a process prints into; the process may take back what it has printed."""

    _full_reads = 0
    _read_size = READ_SIZE

    def doRead(self) -> Any:
        """Read what a pipe can hold, and enlarge one that is full again and again."""
        try:
            data = os.read(self.fd, self._read_size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        if len(data) == READ_SIZE:
            self._full_reads += 1
            if self._full_reads == READS_BEFORE_ENLARGING:
                self._enlarge()
        self.dataReceived(data)
        return None

    def _enlarge(self) -> None:
        with suppress(OSError):  # the user's pipes have the most memory that pipe(7) permits
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, LARGE_CAPACITY)
            self._read_size = LARGE_READ_SIZE


class SessionProcess(Process):
    """A process that is the leader of a new session, with all signals at their default and none blocked.

    Its descriptors are those of ``childFDs``, and its protocol is an ISessionProtocol. ``on_reaped`` is
    called when it has exited, before the protocol is.
    """

    processReaderFactory = PipeReader
    proto: Any  # an ISessionProtocol until the end, then None
    on_reaped: Callable[[], None] | None = None
    _log = Logger()

    def __init__(self, *arguments: Any) -> None:
        """Start the process; if the reactor cannot read its pipes, it is killed and the error raised."""
        try:
            Process.__init__(self, *arguments)
        except BaseException:
            if self.pid is not None:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            raise

    def _trySpawnInsteadOfFork(
        self,
        path: object,
        uid: int | None,
        gid: int | None,
        executable: bytes,
        args: Sequence[bytes],
        environment: Mapping[bytes, bytes],
        kwargs: Mapping[str, Any],
    ) -> bool:
        descriptors: Mapping[int, int] = kwargs["fdmap"]
        if not (path is None is uid is gid):
            raise ValueError(f"a process in a session has no path, uid and gid, not {path!r}, {uid}, {gid}")
        if any(ours in descriptors and ours != theirs for theirs, ours in descriptors.items()):
            raise ValueError(f"the descriptors of a new process would replace each other: {descriptors}")
        self._usage_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.proto.pipesOpened([ours for theirs, ours in descriptors.items() if theirs > 0])
        before = proc.clock_ticks()
        self.pid = os.posix_spawn(
            executable,
            list(args),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()],
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
        self.proto.started = before if proc.clock_ticks() == before else None
        self.status = -1
        return True

    def reapProcess(self) -> None:
        """Reap the process and notify the protocol, if it has exited."""
        if self.pid is None:
            return
        try:
            pid, status, rusage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            self._log.error("process {pid} was reaped elsewhere, its exit code is lost", pid=self.pid)
            self._end(UNKNOWN_STATUS, None)
            return
        if pid:
            self._end(status, rusage)

    def processEnded(self, status: int) -> None:
        """Notify the protocol of an exit that Twisted's constructor has found.

        Twisted has reaped the process without asking for its usage. That is what the usage of all children
        has grown by, since no other child was reaped meanwhile; its memory is not, if it is small.
        """
        before, now = self._usage_before, resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = now.ru_maxrss if now.ru_maxrss > before.ru_maxrss else 0
        usage = ChildUsage(now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime, peak)
        self._end(status, usage)

    def _end(self, status: int, usage: Any) -> None:
        self.proto.rusage = usage
        reapProcessHandlers.pop(self.pid or 0, None)
        if self.on_reaped is not None:
            self.on_reaped()
        Process.processEnded(self, status)


def is_supported() -> bool:
    """Whether this Twisted and this C library have what SessionProcess uses."""
    names = (*_METHODS, "processReaderFactory")
    return all(hasattr(Process, name) for name in names) and _has_parameters() and _can_start_sessions()


def _has_parameters() -> bool:
    return all(
        tuple(inspect.signature(getattr(Process, name)).parameters) == parameters
        for name, parameters in _METHODS.items()
    )


def _can_start_sessions() -> bool:
    """Whether os.posix_spawn can; it checks that before it looks for the program."""
    try:
        os.posix_spawn("", ["none"], {}, setsid=True)
    except FileNotFoundError:
        return True
    except (NotImplementedError, AttributeError, OSError):
        pass
    return False
