"""The interfaces of the parts of the runner."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from twisted.internet.interfaces import (
    IProcessProtocol,
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
    IReactorUNIX,
)
from zope.interface import Attribute, Interface

from taskqd.execution.messages import Message


class IRunnerReactor(IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTime, IReactorUNIX):
    """All interfaces of the reactor that the runner uses."""


class IDaemonLink(Interface):
    """The connection of a daemon."""

    def send(message: Message) -> None:
        """Send a message, at once or at the next ``flush``."""

    def hold() -> None:
        """Collect what is sent until ``flush``."""

    def flush() -> None:
        """Send what was collected in one write."""

    def close() -> None:
        """Close the connection after what was sent."""


class ISessionProtocol(IProcessProtocol):
    """The protocol of a SessionProcess."""

    started = Attribute("The start time in clock ticks since boot if known; set before connectionMade.")
    rusage = Attribute("The resource usage (wait4(2)) if known; set before processExited.")

    def pipesOpened(descriptors: Sequence[int]) -> None:
        """Set the owner of the process's stdout and stderr, by their descriptors in this process.

        This is called before the process exists.
        """


class Pipe(Protocol):
    """Our end of a pipe that a process prints into."""

    def fileno(self) -> int: ...

    def loseConnection(self) -> None: ...


class ChildTransport(Protocol):
    """The part of a process's transport that is used; ``pipes`` has those that are open, by descriptor."""

    pid: int
    pipes: Mapping[int, Pipe]

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...
