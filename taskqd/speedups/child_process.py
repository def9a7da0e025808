"""Children of this process: reads their pipes, reaps them, and reports their exits and resource usage."""

import os
import resource
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import process
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.pipes import Pipe

READ_DELAY = 0.005
"""Start reading a child's output after it has run this long (seconds).

Shorter processes are read once, when they exit, which saves 8 % of the time of ``true`` jobs.
"""

_handlers: dict[int, Any] = getattr(process, "reapProcessHandlers", {})
"""Objects whose reapProcess Twisted calls when a child has exited."""


class SessionProtocol(Protocol):
    """A ProcessProtocol with the attributes and methods that AcceleratedReactor.spawnProcess describes."""

    pipe_owner: int | None
    started: int | None
    rusage: resource.struct_rusage | None

    def makeConnection(self, transport: "ChildProcess") -> None: ...

    def childDataReceived(self, childFD: int, data: bytes) -> None: ...

    def processExited(self, reason: Failure) -> None: ...

    def processEnded(self, reason: Failure) -> None: ...

    def processRunning(self) -> None: ...

    def processNotStarted(self, failure: Failure) -> None: ...


class ChildProcess:
    """The transport of a process's protocol; ``ends`` are our ends of the pipes of its stdout and stderr.

    It calls processExited and processEnded as Twisted's transport does, the latter when the pipes are closed,
    too. It has no more of IProcessTransport than is used: ``pid``, ``pipes``, ``pauseProducing`` and
    ``resumeProducing``. ``pid`` is None once the process is reaped.
    """

    _log = Logger()

    def __init__(
        self, reactor: IReactorFDSet, protocol: SessionProtocol, pid: int, ends: tuple[int, int]
    ) -> None:
        self.pid: int | None = pid
        self._protocol = protocol
        self._exit: Failure | None = None
        self._is_paused = False
        self.pipes = {
            stream: Pipe(reactor, stream, end, protocol.childDataReceived, self._on_closed)
            for stream, end in enumerate(ends, 1)
        }

    def start_reading(self) -> None:
        """Have the reactor read the pipes, unless reading is paused."""
        if not self._is_paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """Stop reading: the process blocks once its pipes are full."""
        self._is_paused = True
        for pipe in self.pipes.values():
            pipe.stopReading()

    def resumeProducing(self) -> None:
        """Have the reactor read the pipes."""
        self._is_paused = False
        for pipe in self.pipes.values():
            pipe.startReading()

    def reap(self) -> bool:
        """Reap the process and notify the protocol, if it has exited; return whether it had."""
        if self.pid is None:
            return False
        try:
            pid, status, rusage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return False  # something else has reaped it, so its status is lost; Twisted waits on as well
        if not pid:
            return False
        self._protocol.rusage = rusage
        self.pid = None
        exit_ = self._exit = Failure(_exit_error(status))
        self._notify(self._protocol.processExited, exit_)
        self._notify_if_ended()
        self.start_reading()  # other processes may hold the pipes; a protocol that wants no more closes them
        return True

    def _on_closed(self, stream: int) -> None:
        del self.pipes[stream]
        self._notify_if_ended()

    def _notify_if_ended(self) -> None:
        if self._exit is not None and not self.pipes:
            exit_, self._exit = self._exit, None
            self._notify(self._protocol.processEnded, exit_)

    def _notify(self, callback: Callable[[Failure], None], reason: Failure) -> None:
        try:
            callback(reason)
        except Exception:  # noqa: BLE001 - other children must still be reaped
            self._log.failure("unexpected error in the protocol of a process that has exited")


def _exit_error(status: int) -> ProcessDone | ProcessTerminated:
    """Return the error that Twisted reports for a status of wait(2)."""
    if status == 0:
        return ProcessDone(status)
    code = os.waitstatus_to_exitcode(status)
    return ProcessTerminated(None, -code, status) if code < 0 else ProcessTerminated(code, None, status)


class ChildReaper:
    """Reaps all children that are a ChildProcess; exits that are found together are one batch.

    While there are any, it is one of the handlers that Twisted calls when a child has exited.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorFDSet, clock: IReactorTime, batches: BatchScope) -> None:
        self._reactor = reactor
        self._clock = clock
        self._batches = batches
        self._by_pid: dict[int, ChildProcess] = {}
        self._unread: deque[tuple[float, ChildProcess]] = deque()
        self._timer: IDelayedCall | None = None

    def add(self, protocol: SessionProtocol, pid: int, ends: tuple[int, int]) -> ChildProcess:
        """Add a process that was just started, and connect the protocol to it."""
        child = ChildProcess(self._reactor, protocol, pid, ends)
        self._by_pid[pid] = child
        _handlers[id(self)] = self  # no pid is as large as that
        self._start_reading_later(child)
        try:
            protocol.makeConnection(child)
        except Exception:  # noqa: BLE001 - the process exists and must be reaped
            self._log.failure("unexpected error in the protocol of a process that has started")
        return child

    def reap_if_exited(self, pid: int) -> None:
        """Reap a child if it has exited."""
        if pid in self._by_pid:
            self._reap(pid)

    def reapProcess(self) -> None:
        """Reap all children that have exited; Twisted calls this at each SIGCHLD."""
        self._batches.begin()
        try:
            self._reap_all()
        finally:
            self._batches.end()

    def _reap_all(self) -> None:
        while self._by_pid:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            if exited.si_pid not in self._by_pid or not self._reap(exited.si_pid):
                self._reap_each()  # that child is reaped elsewhere, and waitid shows none behind it
                return

    def _reap_each(self) -> None:
        for pid in list(self._by_pid):
            self._reap(pid)

    def _reap(self, pid: int) -> bool:
        is_reaped = self._by_pid[pid].reap()
        if is_reaped:
            del self._by_pid[pid]
            if not self._by_pid:
                self._unregister()
        return is_reaped

    def _unregister(self) -> None:
        """Remove the handler and the timer, which are there only while there are children."""
        del _handlers[id(self)]
        self._unread.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_reading_later(self, child: ChildProcess) -> None:
        due = self._clock.seconds() + READ_DELAY
        self._unread.append((due, child))
        if self._timer is None:
            self._timer = self._clock.callLater(READ_DELAY, self._start_reading)
        elif self._timer.getTime() > due:  # the clock was set back
            self._timer.reset(READ_DELAY)

    def _start_reading(self) -> None:
        """Start reading the children that have run for the delay; all of them if the clock was set back."""
        self._timer = None
        now = self._clock.seconds()
        while self._unread and not now < self._unread[0][0] <= now + READ_DELAY:
            self._unread.popleft()[1].start_reading()
        if self._unread:
            self._timer = self._clock.callLater(self._unread[0][0] - now, self._start_reading)


def is_supported() -> bool:
    """Whether this Twisted calls reapProcess of the handlers that are registered with it."""
    probe = _Probe()
    _handlers[id(probe)] = probe
    try:
        process.reapAllProcesses()
    except Exception:  # noqa: BLE001 - an unknown Twisted may raise anything
        return False
    finally:
        del _handlers[id(probe)]
    return probe.is_called


class _Probe:
    is_called = False

    def reapProcess(self) -> None:
        self.is_called = True
