"""The interface of what runs attempts."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Interface

from taskqd.model.job import Reason
from taskqd.storage.interfaces import IOutputWriter


class IExecutor(Interface):
    """Runs attempts as processes. It knows neither journal nor backlog: values go in, values come out."""

    def start(
        run: Any, recording: IOutputWriter, spawned: Callable[[int, "int | None"], None]
    ) -> "Deferred[Any]":
        """Run a ``command_line.Run``; ``spawned(pid, start time)`` is called, then an Outcome is delivered.

        Of a process that has exited before it could be told of, ``spawned`` is not called.
        The Deferred never fails: an attempt that could not be started is an outcome too.
        """

    def end(job_id: int, why: Reason, number: int) -> None:
        """Signal all processes of a running attempt, and kill them after its grace."""

    def kill_leftovers(job_id: int) -> "Deferred[None] | None":
        """Kill at once what an ended attempt of a job left in its session, for which the job may be removed.

        The Deferred fires once that is gone, or no signal ends it. None if there is nothing.
        """

    def kill() -> "Deferred[None]":
        """Kill at once all that runs and all that ended attempts left behind: the daemon is about to stop.

        The Deferred fires once all of it is gone, or no signal ends it.
        """
