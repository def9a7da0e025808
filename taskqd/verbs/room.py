"""What the rooms of the verbs have in common: whom they ask, and how they show a job.

A handler takes who asks and the request's argument, returns the reply or a Deferred of it, and raises from
the tree of errors.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from taskqd import replies
from taskqd.dispatcher import Dispatcher
from taskqd.errors import WrongState
from taskqd.interfaces import ICaller
from taskqd.job import Job, TaskId
from taskqd.refs import Ref
from taskqd.results import Results
from taskqd.verbs.gate import Gate

Reply: TypeAlias = bytes | Deferred[bytes]
Handler: TypeAlias = Callable[[ICaller, Any], Reply]


class Room:
    """The handlers of some verbs; what is asked of them has been let through by ``gate``."""

    def __init__(self, dispatcher: Dispatcher, results: Results, clock: Any, gate: Gate) -> None:
        self._dispatcher = dispatcher
        self._backlog = dispatcher.backlog
        self._results = results
        self._clock = clock
        self._gate = gate

    def _id(self, ref: Ref) -> int:
        """Return a job's number; raises NoSuchJob and Gone."""
        return self._backlog.get(ref).id

    def _status(self, job: Job) -> bytes:
        return replies.status(job, self._results.progress(job))

    def _described(self, job: Job) -> bytes:
        return replies.as_json("JOB", self._results.describe(job))


def one_that_runs(job: Job) -> Job:
    """Return a job that has output of its own; raises WrongState for an array, which has none."""
    if job.spec.array is not None and job.tasks is not None:
        first, last = TaskId(job.id, job.spec.array.first), TaskId(job.id, job.spec.array.last)
        raise WrongState(f"array {job.id} prints nothing itself; ask for one of its tasks, {first} to {last}")
    return job


async def send_all(caller: ICaller, lines: Iterable[bytes]) -> bytes:
    """Send lines as fast as the caller reads them, and return the END behind them."""
    count = 0
    for line in lines:
        caller.send(line)
        count += 1
        await caller.room()
    return replies.end(count)
