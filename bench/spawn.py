"""Measures spawns and exits alone, beside sleeping children: ``python -m bench.spawn 0 500 2000``."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import react
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.runner.interfaces import ISessionProtocol
from taskqd.runner.session_reactor import SessionReactor

JOBS, SLOTS = 1500, 4
NULL = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
ENVIRONMENT = {b"PATH": os.environb[b"PATH"]}


@implementer(ISessionProtocol)
class Child(ProcessProtocol):
    """Closes its pipes when the process has exited, and calls ``on_end``."""

    started: int | None = None
    rusage: Any = None

    def __init__(self, on_end: Callable[[], object]) -> None:
        self._on_end = on_end

    def pipesOpened(self, descriptors: Sequence[int]) -> None:
        """Do nothing: the pipes belong to this user."""

    def processExited(self, reason: Failure) -> None:
        transport: Any = self.transport
        for pipe in list(transport.pipes.values()):
            pipe.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        self._on_end()


class Turn:
    """Runs ``sh -c true`` until JOBS of them have ended, SLOTS at once; ``ended`` fires then."""

    def __init__(self, sessions: SessionReactor) -> None:
        self.ended: Deferred[None] = Deferred()
        self._sessions = sessions
        self._unstarted = self._running = JOBS
        for _ in range(SLOTS):
            self._start()

    def _start(self) -> None:
        if self._unstarted:
            self._unstarted -= 1
            spawn(self._sessions, b"true", self._on_end)

    def _on_end(self) -> None:
        self._running -= 1
        if self._running:
            self._start()
        else:
            self.ended.callback(None)


def spawn(sessions: SessionReactor, command: bytes, on_end: Callable[[], object]) -> Any:
    """Start a shell command, and return its transport."""
    argv = [b"/bin/sh", b"-c", command]
    childs = {0: NULL, 1: "r", 2: "r"}
    return sessions.spawnProcess(Child(on_end), argv[0], argv, env=ENVIRONMENT, childFDs=childs)


async def measure(sessions: SessionReactor, sleepers: int) -> None:
    """Print the figures of a turn beside ``sleepers`` children."""
    children = [spawn(sessions, b"exec sleep 1000", lambda: None) for _ in range(sleepers)]
    await Turn(sessions).ended
    before, reaped = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time()
    await Turn(sessions).ended
    rate = JOBS / (time.perf_counter() - before)
    own = time.process_time() - own
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_child = used.ru_utime + used.ru_stime - reaped.ru_utime - reaped.ru_stime
    print(
        f"beside {sleepers}: {rate:.0f} a second, {own / JOBS * 1e6:.0f} µs of CPU each, "
        f"and {of_child / JOBS * 1e6:.0f} in the child"
    )
    for child in children:
        child.signalProcess(signal.SIGKILL)
    while sessions.children:
        ended: Deferred[None] = Deferred()
        reactor.callLater(0.1, ended.callback, None)  # type: ignore[attr-defined]
        await ended


def main() -> None:
    """Measure beside each number of children in the arguments."""

    async def run(_: object) -> None:
        sessions = SessionReactor(reactor)
        print(sessions.description)
        for word in sys.argv[1:] or ["0", "500", "2000"]:
            await measure(sessions, int(word))

    react(lambda clock: Deferred.fromCoroutine(run(clock)))


if __name__ == "__main__":
    main()
