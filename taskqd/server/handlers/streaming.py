"""What is answered when it happens: WAIT, FOLLOW, WATCH."""

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
from taskqd.protocol.requests import Follow, Wait, Watch
from taskqd.server.handlers.base import Handler, HandlerGroup, Lines, Reply, one_that_runs
from taskqd.server.handlers.event_stream import EventFilter, EventStream
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.output_stream import Follower
from taskqd.server.interfaces import IClient


class StreamingHandlers(HandlerGroup):
    """Has a caller wait for what jobs do."""

    def __init__(
        self, engine: Engine, results: JobView, clock: Any, gate: Authorizer, feed: EventStream
    ) -> None:
        super().__init__(engine, results, clock, gate)
        self._feed = feed

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {"WAIT": self._wait, "FOLLOW": self._follow, "WATCH": self._watch}

    def _wait(self, client: IClient, wait: Wait) -> Reply:
        jobs = {job.id: job for job in map(self._queue_state.get, wait.ids)}
        ended: Deferred[Any]
        if wait.is_plain:
            ended = self._engine.wait(next(iter(jobs))).addCallback(self._status)
        else:
            ended = Deferred.fromCoroutine(
                self._wait_for_several(client, Names(wait.ids, self._id), wait.is_any, jobs)
            )
        ended = client.while_connected(ended)
        if wait.timeout is not None:
            ended.addTimeout(wait.timeout, self._clock)
        return ended.addErrback(self._waited_in_vain, jobs)

    async def _wait_for_several(
        self, client: IClient, names: "Names", is_any: bool, jobs: dict[int, Job]
    ) -> bytes:
        """Send the STATUS of each of these jobs as it ends, under the name by which it was asked for."""
        left = 1 if is_any else names.count
        ends = Ends(jobs.values(), self._engine.subscribe_to_ends)
        reply = Lines(client)
        try:
            while left:
                job = await ends.next()
                for name in names.of(job.id)[:left]:
                    reply.add(b"%b %b\r\n" % (self._status(job).rstrip(), name.encode("ascii")))
                    left -= 1
                if reply.is_due or not ends.are_there:
                    await reply.send()
        finally:
            ends.stop()
        return reply.end()

    def _waited_in_vain(self, failure: Failure, jobs: dict[int, Job]) -> bytes:
        failure.trap(defer.TimeoutError)
        left = [job for job in jobs.values() if not job.status.is_final]
        if len(jobs) == 1:
            (job,) = jobs.values()
            raise TimedOut(f"job {job.id} is still {job.status.value}")
        raise TimedOut(f"{len(left)} of {len(jobs)} jobs have not ended")

    def _follow(self, client: IClient, asked: Follow) -> Reply:
        job = one_that_runs(self._queue_state.get(asked.id))
        offsets = {"stdout": asked.stdout, "stderr": asked.stderr}
        follower = Follower(self._engine, self._results, client, job.id, offsets)
        ended: Deferred[Any] = client.while_connected(Deferred.fromCoroutine(follower.follow()))
        return ended.addCallback(self._status)

    def _watch(self, client: IClient, asked: Watch) -> Reply:
        wanted = EventFilter(queue=asked.queue)
        if asked.job is not None:
            wanted = EventFilter.of_job(self._queue_state.get(asked.job), asked.queue)
        wanted = replace(
            wanted, owner=self._authorizer.visible_owner(client.principal), of_token=client.principal.queue
        )
        first = self._feed.first(asked.since)
        client.send(replies.ok(str(first)))
        return Deferred.fromCoroutine(self._watch_until_next_line(client, wanted, first))

    async def _watch_until_next_line(self, client: IClient, wanted: EventFilter, first: int) -> bytes:
        heard = client.next_line()
        watching = Deferred.fromCoroutine(self._feed.watch(client, wanted, first))
        heard.addCallbacks(lambda _: watching.cancel(), _ignore_cancel)
        try:
            with suppress(CancelledError):
                await client.while_connected(watching)
        finally:
            heard.cancel()
        return replies.END


class Names:
    """The names under which jobs were asked for: their numbers, tasks also by their arrays and indexes."""

    def __init__(self, refs: Iterable[JobRef], task_of: Callable[[TaskId], int]) -> None:
        self._tasks = {task_of(ref): ref for ref in refs if isinstance(ref, TaskId)}
        self._numbers = frozenset(ref for ref in refs if not isinstance(ref, TaskId))

    @property
    def count(self) -> int:
        """How many names there are."""
        return len(self._tasks) + len(self._numbers)

    def of(self, job_id: int) -> list[str]:
        """Return the names of a job, of which there are one or two."""
        names = [str(job_id)] if job_id in self._numbers else []
        return [*names, str(self._tasks[job_id])] if job_id in self._tasks else names


class Ends:
    """The ends of some jobs in the order in which they come, those that have ended already first.

    ``tell_end`` is the dispatcher's.
    """

    def __init__(
        self,
        jobs: Collection[Job],
        tell_end: Callable[[Iterable[int], Callable[[Job], object]], Callable[[], None]],
    ) -> None:
        self._ended = deque(job for job in jobs if job.status.is_final)
        self._waiting: Deferred[None] | None = None
        self._leave = tell_end([job.id for job in jobs if not job.status.is_final], self._take)

    @property
    def are_there(self) -> bool:
        """Whether ``next`` does not have to wait."""
        return bool(self._ended)

    async def next(self) -> Job:
        """Return the next job that has ended; may be cancelled."""
        if not self._ended:
            self._waiting = Deferred()
            await self._waiting
        return self._ended.popleft()

    def stop(self) -> None:
        """Wait for no more ends."""
        self._leave()

    def _take(self, job: Job) -> None:
        self._ended.append(job)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)
