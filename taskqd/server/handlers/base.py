"""The base class of the handlers, and replies that are sent in parts.

A handler has the arguments (client, request) and returns the reply or a Deferred of it. It raises the errors
of errors.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

from taskqd.auth.authorization import Authorizer
from taskqd.engine.engine import Engine
from taskqd.errors import WrongState
from taskqd.model.job import Job
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol import replies
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IClient
from taskqd.storage.interfaces import IClock

PART_SIZE = 16_384
"""Bytes. A part of a reply is sent once it has this size, or when the reactor is needed for others."""

Reply: TypeAlias = bytes | Deferred[bytes]
Handler: TypeAlias = Callable[[IClient, Any], Reply]
Method = TypeVar("Method", bound=Callable[..., Reply])

_VERB_ATTRIBUTE = "handled_verb"


def handles(verb: str) -> Callable[[Method], Method]:
    """Return a decorator that marks a method of a HandlerGroup as the handler of a verb."""

    def mark(method: Method) -> Method:
        setattr(method, _VERB_ATTRIBUTE, verb)
        return method

    return mark


class HandlerGroup:
    """Handlers of related verbs. The requests that they are given have been authorized."""

    def __init__(self, engine: Engine, job_view: JobView, clock: IClock, authorizer: Authorizer) -> None:
        self._engine = engine
        self._queue_state = engine.queue_state
        self._job_view = job_view
        self._clock = clock
        self._authorizer = authorizer

    def handlers(self) -> dict[str, Handler]:
        """Return the methods that are decorated with `handles`, by verb."""
        methods = vars(type(self)).items()
        return {
            getattr(method, _VERB_ATTRIBUTE): getattr(self, name)
            for name, method in methods
            if hasattr(method, _VERB_ATTRIBUTE)
        }

    def _id_of(self, ref: JobRef) -> int:
        """Return a job's id; raises NoSuchJob or Gone."""
        return self._queue_state.get(ref).id

    def _format_status(self, job: Job) -> bytes:
        return replies.status(job, self._job_view.progress(job).percent)

    def _format_job(self, job: Job) -> bytes:
        return replies.as_json("JOB", self._job_view.describe(job))


def check_has_output(job: Job) -> Job:
    """Return a job that has output itself; raises WrongState for an array, whose tasks have it."""
    if job.spec.array is not None and job.tasks is not None:
        first, last = TaskId(job.id, job.spec.array.first), TaskId(job.id, job.spec.array.last)
        raise WrongState(f"array {job.id} has no output itself; name one of its tasks, {first} to {last}")
    return job


class LineSender:
    """Sends a reply of many lines in parts, as fast as the client reads them; `count` is the number of lines.

    Lines are collected only while nothing else can happen, so that each is true when it is sent.
    """

    def __init__(self, client: IClient) -> None:
        self.count = 0
        self._client = client
        self._unsent: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> None:
        """Add a line to the part."""
        self.count += 1
        self._unsent.append(line)
        self._size += len(line)

    @property
    def must_send(self) -> bool:
        """Whether the part must be sent before more lines are produced."""
        return self._size >= PART_SIZE or not self._client.can_send

    async def send(self) -> None:
        """Send the part, and wait until the client has read enough and the reactor has time."""
        if self._unsent:
            self._client.send(b"".join(self._unsent))
            self._unsent, self._size = [], 0
        await self._client.writable()

    def end(self, end: Callable[[int], bytes] = replies.end) -> bytes:
        """Return the lines that were not sent, and the END that `end` makes of the number of all lines."""
        return b"".join((*self._unsent, end(self.count)))


async def send_lines(
    client: IClient, lines: Iterable[bytes | None], end: Callable[[int], bytes] = replies.end
) -> bytes:
    """Send lines in parts, and return the last part with the END that `end` makes of the number of all lines.

    Each line is produced when the client can read it. None is something that was examined and is not listed:
    it takes time, but sends nothing.
    """
    sender = LineSender(client)
    for line in lines:
        if line is not None:
            sender.add(line)
        if sender.must_send:
            await sender.send()
    return sender.end(end)
