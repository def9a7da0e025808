"""Handlers of the verbs that answer when something happens: WAIT, FOLLOW, WATCH."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from taskqd.auth.authorization import Authorizer
from taskqd.engine.engine import Engine
from taskqd.errors import TimedOut
from taskqd.model.job import Job
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol import replies
from taskqd.protocol.output_requests import FollowRequest
from taskqd.protocol.requests import WaitRequest, WatchRequest
from taskqd.server.handlers.base import HandlerGroup, LineSender, Reply, check_has_output, handles
from taskqd.server.handlers.event_filter import EventFilter
from taskqd.server.handlers.event_stream import EventStream
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.output_stream import OutputFollower
from taskqd.server.handlers.output_tail import OutputTails
from taskqd.server.interfaces import IClient
from taskqd.storage.interfaces import IClock


class StreamingHandlers(HandlerGroup):
    """Sends clients the ends, the output and the events of jobs."""

    def __init__(
        self,
        engine: Engine,
        job_view: JobView,
        clock: IClock,
        authorizer: Authorizer,
        event_stream: EventStream,
    ) -> None:
        super().__init__(engine, job_view, clock, authorizer)
        self._event_stream = event_stream
        self._tails = OutputTails(engine.queue_state, job_view)

    @handles("WAIT")
    def _wait(self, client: IClient, request: WaitRequest) -> Reply:
        jobs = {job.id: job for job in map(self._queue_state.get, request.jobs)}
        ended: Deferred[Any]
        if request.has_one_line:
            ended = self._engine.wait(next(iter(jobs))).addCallback(self._format_status)
        else:
            names = JobNames(request.jobs, self._id_of)
            ended = Deferred.fromCoroutine(self._send_ends(client, names, request.is_any, jobs))
        ended = client.while_connected(ended)
        if request.timeout is not None:
            ended.addTimeout(request.timeout, self._clock)
        return ended.addErrback(self._raise_timed_out, jobs)

    async def _send_ends(
        self, client: IClient, names: "JobNames", is_any: bool, jobs: dict[int, Job]
    ) -> bytes:
        """Send the STATUS of each job as it ends, under the name by which the request named it."""
        remaining = 1 if is_any else names.count
        ends = EndedJobs(jobs.values(), self._engine.subscribe_to_ends)
        sender = LineSender(client)
        try:
            while remaining:
                job = await ends.next()
                for name in names.of(job.id)[:remaining]:
                    sender.add(b"%b %b\r\n" % (self._format_status(job).rstrip(), name.encode("ascii")))
                    remaining -= 1
                if sender.must_send or not ends.has_next:
                    await sender.send()
        finally:
            ends.stop()
        return sender.end()

    def _raise_timed_out(self, failure: Failure, jobs: dict[int, Job]) -> bytes:
        failure.trap(defer.TimeoutError)
        now = [self._queue_state.jobs.get(job_id, job) for job_id, job in jobs.items()]
        unfinished = [job for job in now if not job.status.is_final]
        if len(now) == 1:
            (job,) = now
            raise TimedOut(f"job {job.id} is still {job.status.value}")
        raise TimedOut(f"{len(unfinished)} of {len(now)} jobs have not ended")

    @handles("FOLLOW")
    def _follow(self, client: IClient, request: FollowRequest) -> Reply:
        job = check_has_output(self._queue_state.get(request.job))
        offsets = {"stdout": request.stdout, "stderr": request.stderr}
        follower = OutputFollower(self._engine, self._job_view, self._tails, client, job.id, offsets)
        ended: Deferred[Any] = client.while_connected(Deferred.fromCoroutine(follower.follow()))
        return ended.addCallback(self._format_status)

    @handles("WATCH")
    def _watch(self, client: IClient, request: WatchRequest) -> Reply:
        event_filter = EventFilter(queue=request.queue)
        if request.job is not None:
            event_filter = EventFilter.of_job(self._queue_state.get(request.job), request.queue)
        principal = client.principal
        owner = self._authorizer.visible_owner(principal)
        event_filter = replace(event_filter, owner=owner, token_queue=principal.queue)
        first = self._event_stream.first_sequence(request.since)
        client.send(replies.ok(str(first)))
        return Deferred.fromCoroutine(self._watch_until_next_line(client, event_filter, first))

    async def _watch_until_next_line(self, client: IClient, event_filter: EventFilter, first: int) -> bytes:
        next_line = client.next_line()
        watching = Deferred.fromCoroutine(self._event_stream.watch(client, event_filter, first))
        next_line.addCallbacks(lambda _: watching.cancel(), _ignore_cancel)
        try:
            with suppress(CancelledError):
                await client.while_connected(watching)
        finally:
            next_line.cancel()
        return replies.END


class JobNames:
    """The names by which a request names jobs: ids, and tasks by their arrays and indexes."""

    def __init__(self, refs: Iterable[JobRef], id_of: Callable[[TaskId], int]) -> None:
        self._tasks = {id_of(ref): ref for ref in refs if isinstance(ref, TaskId)}
        self._ids = frozenset(ref for ref in refs if not isinstance(ref, TaskId))

    @property
    def count(self) -> int:
        """The number of different names."""
        return len(self._tasks) + len(self._ids)

    def of(self, job_id: int) -> list[str]:
        """Return the names of a job: one or two."""
        names = [str(job_id)] if job_id in self._ids else []
        return [*names, str(self._tasks[job_id])] if job_id in self._tasks else names


class EndedJobs:
    """The given jobs in the order in which they end, beginning with those that have ended already.

    `subscribe` is `Engine.subscribe_to_ends`.
    """

    def __init__(
        self,
        jobs: Collection[Job],
        subscribe: Callable[[Iterable[int], Callable[[Job], object]], Callable[[], None]],
    ) -> None:
        self._ended = deque(job for job in jobs if job.status.is_final)
        self._waiter: Deferred[None] | None = None
        self._unsubscribe = subscribe([job.id for job in jobs if not job.status.is_final], self._on_ended)

    @property
    def has_next(self) -> bool:
        """Whether `next` returns without waiting."""
        return bool(self._ended)

    async def next(self) -> Job:
        """Return the next job that has ended; may be cancelled."""
        if not self._ended:
            self._waiter = Deferred()
            await self._waiter
        return self._ended.popleft()

    def stop(self) -> None:
        """Wait for no more ends."""
        self._unsubscribe()

    def _on_ended(self, job: Job) -> None:
        self._ended.append(job)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)
