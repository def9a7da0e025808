"""Starts processes in sessions, each way that a SessionReactor has, and collects what they print."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.runner.interfaces import ISessionProtocol
from taskqd.runner.session_reactor import SessionReactor

WAYS = {
    "pidfd": {"starts_sessions": True, "has_pidfds": True},
    "sigchld": {"starts_sessions": True, "has_pidfds": False},
    "setsid": {"starts_sessions": False},
}
ENVIRONMENT = {"PATH": os.environ["PATH"]}


@implementer(ISessionProtocol)
class Subscriber(ProcessProtocol):
    """Collects what a process prints; ``ended`` fires with its exit code, or minus the signal.

    ``closed`` fires when its pipes are closed. If it ``is_patient``, the process has exited before its spawn
    returns. The pipes are given to the user ``pipe_owner`` if that is not None.
    """

    def __init__(self, is_patient: bool = False, pipe_owner: int | None = None) -> None:
        self.started: int | None = None
        self.rusage: Any = None
        self.printed = {1: b"", 2: b""}
        self.exits: list[BaseException | None] = []
        self.on_data: Callable[[], object] = lambda: None
        self.closed: Deferred[None] = Deferred()
        self.ended: Deferred[int] = Deferred()
        self._is_patient = is_patient
        self._pipe_owner = pipe_owner

    def pipesOpened(self, descriptors: Sequence[int]) -> None:
        if self._pipe_owner is not None:
            for descriptor in descriptors:
                os.fchown(descriptor, self._pipe_owner, -1)

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.resumeProducing()
        if self._is_patient:
            os.waitid(os.P_PID, transport.pid, os.WEXITED | os.WNOWAIT)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.printed[childFD] += data
        self.on_data()

    def childConnectionLost(self, childFD: int) -> None:
        transport: Any = self.transport
        if not transport.pipes:
            self.closed.callback(None)

    def processExited(self, reason: Failure) -> None:
        self.exits.append(reason.value)

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        self.ended.callback(-number if number else code)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Starter:
    """Starts shell commands and argument lists in sessions."""

    def __init__(self, reactor: Any, **options: bool) -> None:
        self.sessions = SessionReactor(reactor, **options)

    def __call__(
        self,
        command: str | list[str],
        environment: dict[str, str] = ENVIRONMENT,
        stdin: str = os.devnull,
        subscriber: Subscriber | None = None,
        **options: Any,
    ) -> Subscriber:
        """Start one, and return its Subscriber; raises what spawnProcess raises."""
        subscriber = subscriber or Subscriber()
        words = [
            encode(word) for word in (["/bin/sh", "-c", command] if isinstance(command, str) else command)
        ]
        env = {encode(name): encode(value) for name, value in environment.items()}
        descriptor = os.open(stdin, os.O_RDONLY)
        try:
            options = {"env": env, "childFDs": {0: descriptor, 1: "r", 2: "r"}, **options}
            self.sessions.spawnProcess(subscriber, words[0], words, **options)
        finally:
            os.close(descriptor)
        return subscriber


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
