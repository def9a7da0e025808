"""What the rooms of the verbs have in common: whom they ask, and how they show a job.

A handler takes who asks and the request's argument, returns the reply or a Deferred of it, and raises from
the tree of errors.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from taskqd.auth.authorization import Authorizer
from taskqd.engine.engine import Engine
from taskqd.errors import WrongState
from taskqd.model.job import Job
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol import replies
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IClient

PORTION_BYTES = 16_384
"""A portion of a reply is sent once it has this many bytes, or when its time slice is spent."""

Reply: TypeAlias = bytes | Deferred[bytes]
Handler: TypeAlias = Callable[[IClient, Any], Reply]


class HandlerGroup:
    """The handlers of some verbs; what is asked of them has been let through by ``gate``."""

    def __init__(self, engine: Engine, results: JobView, clock: Any, gate: Authorizer) -> None:
        self._engine = engine
        self._queue_state = engine.queue_state
        self._results = results
        self._clock = clock
        self._authorizer = gate

    def _id(self, ref: JobRef) -> int:
        """Return a job's number; raises NoSuchJob and Gone."""
        return self._queue_state.get(ref).id

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


class Lines:
    """The lines of one reply, sent in portions at the caller's pace; ``count`` of them so far.

    Lines are gathered for as long as nothing else can happen, so that each is true when it is sent.
    """

    def __init__(self, client: IClient) -> None:
        self.count = 0
        self._client = client
        self._gathered: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> None:
        """Gather a line."""
        self.count += 1
        self._gathered.append(line)
        self._size += len(line)

    @property
    def is_due(self) -> bool:
        """Whether a portion must be sent before more is produced."""
        return self._size >= PORTION_BYTES or not self._client.can_send

    async def send(self) -> None:
        """Send what is gathered, and wait until the caller has room for more and the reactor has time."""
        if self._gathered:
            self._client.send(b"".join(self._gathered))
            self._gathered, self._size = [], 0
        await self._client.writable()

    def end(self) -> bytes:
        """Return what is gathered and was not sent yet, and the END with the count of all lines."""
        return b"".join((*self._gathered, replies.end(self.count)))


async def send_all(client: IClient, lines: Iterable[bytes | None]) -> bytes:
    """Send lines in portions, and return the last portion with its END.

    The lines are produced one by one as the caller reads them. None stands for something that was looked at
    and is not shown.
    """
    reply = Lines(client)
    for line in lines:
        if line is not None:
            reply.add(line)
        if reply.is_due:
            await reply.send()
    return reply.end()
