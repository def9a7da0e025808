"""A process in a new session, over Twisted's Process, which can start none and reports no resource usage.

This is the only module that uses private parts of Twisted; ``is_supported`` checks that they are as expected
(docs/decisions/0057). Not closing descriptors is correct because each one of this process is close-on-exec:
Python opens them so (PEP 446), and proc.set_close_on_exec sets the flag on inherited ones.
"""

import fcntl
import inspect
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet._baseprocess import BaseProcess
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.process import Process, ProcessReader, reapProcessHandlers
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.runner.interfaces import ISessionProtocol

READ_SIZE = 65_536
"""Bytes per read: the default capacity of a pipe. Twisted's own reader takes 8 KiB."""
LARGE_READ_SIZE = 262_144
"""Bytes per read from a pipe that was enlarged; larger reads miss the processor's cache."""
LARGE_CAPACITY = 1024**2
"""Bytes that an enlarged pipe can hold: the limit for users without privileges (pipe(7))."""
READS_BEFORE_ENLARGING = 16
"""A pipe that was full at this many reads is enlarged, so that both sides wait for each other less."""

_CLOSED = Failure(CONNECTION_DONE)

UNKNOWN_STATUS = -1
"""The status of a process that something else has reaped."""

_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_METHODS = {
    "reapProcess": ("self",),
    "processEnded": ("self", "status"),
    "childConnectionLost": ("self", "childFD", "reason"),
    "maybeCallProcessEnded": ("self",),
}
"""The methods of Twisted's Process that are replaced or called, with their parameters."""


class PipeReader(ProcessReader):
    """Our end of a pipe that a process prints into; the process may take back what it has printed.

    It is read after ``startReading``. Most processes are short: their pipes are read once, at their exit.
    """

    _full_reads = 0
    _read_size = READ_SIZE
    _is_reading = False

    def __init__(self, reactor: IReactorFDSet, process: Process, name: int, descriptor: int) -> None:
        """Initialize as Twisted's does, without reading."""
        FileDescriptor.__init__(self, reactor)
        os.set_blocking(descriptor, False)
        self.proc, self.name, self.fd = process, name, descriptor

    def startReading(self) -> None:
        FileDescriptor.startReading(self)
        self._is_reading = True

    def stopReading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            FileDescriptor.stopReading(self)

    def loseConnection(self) -> None:
        """Close the pipe at once; nothing is written to it."""
        if self.connected:
            self.connectionLost(_CLOSED)

    def connectionLost(self, reason: Failure) -> None:
        self.stopReading()
        self.connected, self.disconnected = False, True
        self.proc.childConnectionLost(self.name, reason)

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

    Its protocol is an ISessionProtocol. Its pipes are read after ``resumeProducing``. ``on_reaped`` is called
    when it has exited, before the protocol is.
    """

    proto: Any  # an ISessionProtocol until the end, then None
    on_reaped: Callable[[], None] | None = None
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        executable: bytes | str,
        args: Sequence[bytes | str],
        environment: Mapping[Any, Any],
        protocol: ISessionProtocol,
        descriptors: Mapping[int, int | str],
    ) -> None:
        """Start the process, in place of Twisted's constructor; nothing reaps it yet.

        ``descriptors`` has for each descriptor of the process one of ours, or "r" for a pipe that we read.
        """
        BaseProcess.__init__(self, protocol)
        self.pipes = {}
        readable: dict[int, int] = {}  # our ends of the pipes
        given: dict[int, int] = {}
        try:
            for number, target in descriptors.items():
                if target == "r":
                    readable[number], given[number] = os.pipe()
                else:
                    given[number] = int(target)
            if any(ours in given and ours != theirs for theirs, ours in given.items()):
                raise ValueError(f"the descriptors of a new process would replace each other: {given}")
            protocol.pipesOpened([given[number] for number in given if number > 0])
            self._spawn(executable, args, environment, given)
        except BaseException:
            for descriptor in readable.values():
                os.close(descriptor)
            raise
        finally:
            for number in readable:
                os.close(given[number])
        for number, descriptor in readable.items():
            self.pipes[number] = PipeReader(reactor, self, number, descriptor)
        try:
            protocol.makeConnection(self)
        except Exception:  # noqa: BLE001 - the process runs, and must be reaped
            self._log.failure("internal error in the protocol of process {pid}", pid=self.pid)

    def _spawn(
        self,
        executable: bytes | str,
        args: Sequence[bytes | str],
        environment: Mapping[Any, Any],
        descriptors: Mapping[int, int],
    ) -> None:
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

    def _end(self, status: int, usage: Any) -> None:
        self.proto.rusage = usage
        reapProcessHandlers.pop(self.pid or 0, None)
        if self.on_reaped is not None:
            self.on_reaped()
        Process.processEnded(self, status)


def is_supported() -> bool:
    """Whether this Twisted and this C library have what SessionProcess uses."""
    has_methods = all(hasattr(Process, name) for name in _METHODS)
    return has_methods and _has_parameters() and _can_start_sessions()


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
