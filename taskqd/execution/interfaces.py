"""The interfaces of the executor, and of the reactor and the transports that it uses."""

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred
from zope.interface import Interface

from taskqd.execution.run import Outcome, Run
from taskqd.model.job import Reason
from taskqd.storage.interfaces import IOutputWriter

OnSpawned = Callable[[int, "int | None"], None]
"""Called with the pid of a new process, and its start time in clock ticks since boot if it is known."""


class IExecutor(Interface):
    """Runs attempts as processes. It knows neither the journal nor the queue."""

    def start(run: Run, output: IOutputWriter, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        """Start an attempt; the Deferred fires when it has ended, and never fails.

        An attempt that cannot be started has an outcome, too. ``on_spawned`` is not called for a process
        that has exited before it could be reported.
        """

    def end(job_id: int, reason: Reason, number: int) -> None:
        """Signal all processes of a running attempt, and kill them after its ``kill_after``."""

    def kill_leftovers(job_id: int) -> "Deferred[None] | None":
        """Kill the processes that an ended attempt of a job left in its session; None if there are none.

        The Deferred fires when they are gone or no signal ends them. The job may be removed then.
        """

    def kill() -> "Deferred[None]":
        """Kill all running attempts and all that ended attempts left behind: the daemon is about to stop.

        The Deferred fires when they are gone or no signal ends them.
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
