"""The processes of this one that have not been waited for: what they print, what they used, how they ended.

A child is a Process of Twisted's with a constructor, pipes and a reaping of our own (docs/decisions/0002 and
0025). What is counted of it is what wait4(2) counts: the CPU time of the process itself, nice(1) and
prlimit(1) before it included, and of those of its descendants that were waited for, each by its parent. Not
counted is whoever was not waited for: what is left in the background, what goes on after the end, what has a
parent that ignores SIGCHLD. The peak of memory is the largest resident set that any single one of them had,
shared libraries included; it is no sum. Linux lets that peak begin with the daemon's own, since the process
has the daemon's memory until its exec: where the peak is no larger than that it is not known, and 0 here.
"""

import dis
import inspect
import os
import resource
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import process
from twisted.internet.process import Process
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from taskqd.job import Usage
from taskqd.pipes import Pipe

MARGIN = 4 * 1024**2
"""The kernel adds up what it counts by processor only now and then: two looks may differ by so many bytes."""
LISTEN_AFTER = 0.005
"""The reactor looks at what a process prints once that has lasted for so many seconds."""

_KNOWN: list[tuple[Any, str, list[str]]] = [
    (Process, "processEnded", ["self", "status"]),
    (Process, "childDataReceived", ["self", "name", "data"]),
    (Process, "childConnectionLost", ["self", "childFD", "reason"]),
    (process, "reapAllProcesses", []),
]
"""What is called of Twisted: where it is, its name and its parameters."""
_KNOWN_ATTRIBUTES = {"_reactor", "proto", "pipes"}
"""What Process's own constructor sets, in whose place ours is."""

_handlers: dict[int, Any] = process.reapProcessHandlers


class MeasuredProtocol(ProcessProtocol):
    """What is told of a process; ``usage`` is there before processExited is called, where it is known."""

    usage: Usage | None = None


class Child(Process):
    """A process; ``ends`` are our ends of its pipes, stdout's and stderr's.

    Twisted's constructor is not called, since it spawns; this one does the same for a stdin that is there and
    pipes to read from.
    """

    proto: Any
    pid: Any

    def __init__(self, reactor: Any, protocol: MeasuredProtocol, pid: int, ends: tuple[int, int]) -> None:
        super(Process, self).__init__(protocol)
        self._reactor = reactor
        self.pid = pid
        self._floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MARGIN
        self._is_paused = False
        told, lost = self.childDataReceived, self.childConnectionLost
        self.pipes: dict[int, Any] = {
            stream: Pipe(reactor, stream, end, told, lost) for stream, end in enumerate(ends, 1)
        }

    def listen(self) -> None:
        """Have the reactor read what it prints from now on."""
        if not self._is_paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        self._is_paused = True
        for pipe in self.pipes.values():
            pipe.stopReading()

    def resumeProducing(self) -> None:
        self._is_paused = False
        for pipe in self.pipes.values():
            pipe.startReading()

    def reapProcess(self) -> None:
        """Do nothing: that it has closed its pipes says nothing of its end, which Children find out."""

    def reap(self) -> bool:
        """Reap it if it has exited, say what it has used and how it ended; tell whether that was so."""
        try:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return False  # reaped by somebody else, who keeps to himself how it ended: Twisted, too, waits on
        if not pid:
            return False
        peak = used.ru_maxrss * 1024  # KiB: getrusage(2)
        self.proto.usage = Usage(
            round(used.ru_utime, 6), round(used.ru_stime, 6), peak if peak > self._floor else 0
        )
        self.processEnded(status)
        self.listen()  # others may hold the pipes still, and whoever wants to hear of them leaves them open
        return True


class Children:
    """All children of this process that are ``Child``.

    While there are any it is among those whom Twisted asks to reap whenever a child has exited.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._by_pid: dict[int, Child] = {}
        self._young: deque[tuple[float, Child]] = deque()
        self._timer: Any = None

    def add(self, protocol: Any, pid: int, ends: tuple[int, int]) -> Child:
        """Take in a process that was just started, and tell the protocol of it."""
        child = Child(self._reactor, protocol, pid, ends)
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

    def _listen_later(self, child: Child) -> None:
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
    """Whether this Twisted is such that children can be made of its processes."""
    if not all(_takes(getattr(where, name, None), parameters) for where, name, parameters in _KNOWN):
        return False
    return _attributes_set_by(Process.__init__) == _KNOWN_ATTRIBUTES


def _takes(function: Callable[..., Any] | None, parameters: list[str]) -> bool:
    return function is not None and list(inspect.signature(function).parameters) == parameters


def _attributes_set_by(function: Callable[..., Any]) -> set[str]:
    """Return the names of the attributes, of whatever object, that a function sets."""
    return {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}
