"""The processes of this one that have not been waited for: what they print, what they used, how they ended.

What is counted of a child is what wait4(2) counts: the CPU time of the process itself, nice(1) and prlimit(1)
before it included, and of those of its descendants that were waited for, each by its parent. Not counted is
whoever was not waited for: what is left in the background, what goes on after the end, what has a parent that
ignores SIGCHLD. The peak of memory is the largest resident set that any single one of them had, shared
libraries included; it is no sum. Linux lets that peak begin with the daemon's own, since the process has the
daemon's memory until its exec: where the peak is no larger than that it is not known, and 0 here.
"""

import os
import resource
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import process
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.model.job import Usage
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.pipes import Pipe

MARGIN = 4 * 1024**2
"""The kernel adds up what it counts by processor only now and then: two looks may differ by so many bytes."""
LISTEN_AFTER = 0.005
"""The reactor looks at what a process prints once that has lasted for so many seconds."""

_handlers: dict[int, Any] = getattr(process, "reapProcessHandlers", {})


class MeasuredProtocol(ProcessProtocol):
    """What is told of a process.

    ``started``, its start time as /proc counts it, is there before connectionMade is called, and ``usage``
    before processExited is, each where it is known.
    """

    started: int | None = None
    usage: Usage | None = None


class ChildProcess:
    """A process, as the transport of its protocol; ``ends`` are our ends of its pipes, stdout's and stderr's.

    The protocol is told what Twisted's own transport tells: that it has exited, and that it has ended, which
    it has once its pipes are closed as well.
    """

    _log = Logger()

    def __init__(self, reactor: Any, protocol: MeasuredProtocol, pid: int, ends: tuple[int, int]) -> None:
        self.pid: int | None = pid
        self._protocol = protocol
        self._end: Failure | None = None
        self._floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MARGIN
        self._is_paused = False
        told = protocol.childDataReceived
        self.pipes = {
            stream: Pipe(reactor, stream, end, told, self._lost) for stream, end in enumerate(ends, 1)
        }

    def listen(self) -> None:
        """Have the reactor read what it prints from now on."""
        if not self._is_paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """Leave what it prints in its pipes."""
        self._is_paused = True
        for pipe in self.pipes.values():
            pipe.stopReading()

    def resumeProducing(self) -> None:
        """Have the reactor read what it prints."""
        self._is_paused = False
        for pipe in self.pipes.values():
            pipe.startReading()

    def reap(self) -> bool:
        """Reap it if it has exited, say what it has used and how it ended; tell whether that was so."""
        if self.pid is None:
            return False
        try:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return False  # reaped by somebody else, who keeps to himself how it ended: Twisted, too, waits on
        if not pid:
            return False
        peak = used.ru_maxrss * 1024  # KiB: getrusage(2)
        self._protocol.usage = Usage(
            round(used.ru_utime, 6), round(used.ru_stime, 6), peak if peak > self._floor else 0
        )
        self.pid = None
        end = self._end = Failure(_end_of(status))
        self._tell(self._protocol.processExited, end)
        self._tell_if_ended()
        self.listen()  # others may hold the pipes still, and whoever wants to hear of them leaves them open
        return True

    def _lost(self, stream: int) -> None:
        del self.pipes[stream]
        self._tell_if_ended()

    def _tell_if_ended(self) -> None:
        if self._end is not None and not self.pipes:
            end, self._end = self._end, None
            self._tell(self._protocol.processEnded, end)

    def _tell(self, told: Callable[[Failure], None], end: Failure) -> None:
        try:
            told(end)
        except Exception:  # noqa: BLE001 - it must not keep others from being reaped
            self._log.failure("whoever is told of the end of a process met a bug")


def _end_of(status: int) -> ProcessDone | ProcessTerminated:
    """Return what Twisted says of an end; ``status`` is what wait(2) gives."""
    if status == 0:
        return ProcessDone(status)
    code = os.waitstatus_to_exitcode(status)
    return ProcessTerminated(None, -code, status) if code < 0 else ProcessTerminated(code, None, status)


class ChildReaper:
    """All children of this process that are ``ChildProcess``; those that exited together end in one batch.

    While there are any it is among those whom Twisted asks to reap whenever a child has exited.
    """

    _log = Logger()

    def __init__(self, reactor: Any, together: BatchScope) -> None:
        self._reactor = reactor
        self._together = together
        self._by_pid: dict[int, ChildProcess] = {}
        self._young: deque[tuple[float, ChildProcess]] = deque()
        self._timer: Any = None

    def add(self, protocol: Any, pid: int, ends: tuple[int, int]) -> ChildProcess:
        """Take in a process that was just started, and tell the protocol of it."""
        child = ChildProcess(self._reactor, protocol, pid, ends)
        self._by_pid[pid] = child
        _handlers[id(self)] = self  # no pid is as large as that
        self._listen_later(child)
        try:
            protocol.makeConnection(child)
        except Exception:  # noqa: BLE001 - whatever a bug raises, the process is there and must be reaped
            self._log.failure("a process has started, and whom it was for cannot take it")
        return child

    def look_at(self, pid: int) -> None:
        """Reap a child if it has exited."""
        if pid in self._by_pid:
            self._reap(pid)

    def reapProcess(self) -> None:
        """Reap whoever has exited: what Twisted calls whenever somebody has."""
        self._together.begin()
        try:
            self._reap_all()
        finally:
            self._together.end()

    def _reap_all(self) -> None:
        while self._by_pid:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            if exited.si_pid not in self._by_pid or not self._reap(exited.si_pid):
                self._look_at_each()  # it is not ours to reap, and nobody behind it can be seen
                return

    def _look_at_each(self) -> None:
        for pid in list(self._by_pid):
            self._reap(pid)

    def _reap(self, pid: int) -> bool:
        is_reaped = self._by_pid[pid].reap()
        if is_reaped:
            del self._by_pid[pid]
            if not self._by_pid:
                self._rest()
        return is_reaped

    def _rest(self) -> None:
        """Let go of all that is only there while there are children."""
        del _handlers[id(self)]
        self._young.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _listen_later(self, child: ChildProcess) -> None:
        due = self._reactor.seconds() + LISTEN_AFTER
        self._young.append((due, child))
        if self._timer is None:
            self._timer = self._reactor.callLater(LISTEN_AFTER, self._listen)
        elif self._timer.getTime() > due:  # the clock was set back
            self._timer.reset(LISTEN_AFTER)

    def _listen(self) -> None:
        """Listen to those that have lasted for long enough, or to all if the clock was set back."""
        self._timer = None
        now = self._reactor.seconds()
        while self._young and not now < self._young[0][0] <= now + LISTEN_AFTER:
            self._young.popleft()[1].listen()
        if self._young:
            self._timer = self._reactor.callLater(self._young[0][0] - now, self._listen)


def are_known() -> bool:
    """Whether Twisted asks those that are among its handlers to reap."""
    probe = _Probe()
    _handlers[id(probe)] = probe
    try:
        process.reapAllProcesses()
    except Exception:  # noqa: BLE001 - whatever it is, it is not what we know
        return False
    finally:
        del _handlers[id(probe)]
    return probe.is_asked


class _Probe:
    is_asked = False

    def reapProcess(self) -> None:
        """Take note that Twisted has asked."""
        self.is_asked = True
