"""What is answered when it happens: WAIT, FOLLOW, WATCH."""

from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.python.failure import Failure

from taskqd import replies
from taskqd.dispatcher import Dispatcher
from taskqd.errors import TimedOut
from taskqd.feed import Feed, Filter
from taskqd.follow import Follower
from taskqd.interfaces import ICaller
from taskqd.job import Job
from taskqd.refs import Ref
from taskqd.requests import Follow, Wait, Watch
from taskqd.results import Results
from taskqd.verbs.gate import Gate
from taskqd.verbs.room import Handler, Reply, Room, one_that_runs


class Live(Room):
    """Has a caller wait for what jobs do."""

    def __init__(self, dispatcher: Dispatcher, results: Results, clock: Any, gate: Gate, feed: Feed) -> None:
        super().__init__(dispatcher, results, clock, gate)
        self._feed = feed

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {"WAIT": self._wait, "FOLLOW": self._follow, "WATCH": self._watch}

    def _wait(self, caller: ICaller, wait: Wait) -> Reply:
        jobs = {ref: self._backlog.get(ref) for ref in wait.ids}
        ended: Deferred[Any]
        if wait.is_plain:
            ended = self._dispatcher.wait(jobs[wait.ids[0]].id).addCallback(self._status)
        else:
            ended = Deferred.fromCoroutine(self._wait_for_several(caller, jobs, wait.is_any))
        ended = caller.while_connected(ended)
        if wait.timeout is not None:
            ended.addTimeout(wait.timeout, self._clock)
        return ended.addErrback(self._waited_in_vain, list(jobs.values()))

    async def _wait_for_several(self, caller: ICaller, jobs: dict[Ref, Job], is_any: bool) -> bytes:
        """Send the STATUS of each of these jobs as it ends, under the name by which it was asked for."""
        ends: DeferredQueue[tuple[Ref, Job]] = DeferredQueue()
        waiting = [
            self._dispatcher.wait(job.id).addCallbacks(partial(_note_end, ends, ref), _ignore_cancel)
            for ref, job in jobs.items()
        ]
        count = 1 if is_any else len(jobs)
        try:
            for _ in range(count):
                ref, job = await ends.get()
                caller.send(b"%b %b\r\n" % (self._status(job).rstrip(), str(ref).encode("ascii")))
        finally:
            for each in waiting:
                each.cancel()
        return replies.end(count)

    def _waited_in_vain(self, failure: Failure, jobs: list[Job]) -> bytes:
        failure.trap(defer.TimeoutError)
        left = [job for job in jobs if not job.status.is_final]
        if len(jobs) == 1:
            raise TimedOut(f"job {jobs[0].id} is still {jobs[0].status.value}")
        raise TimedOut(f"{len(left)} of {len(jobs)} jobs have not ended")

    def _follow(self, caller: ICaller, asked: Follow) -> Reply:
        job = one_that_runs(self._backlog.get(asked.id))
        offsets = {"stdout": asked.stdout, "stderr": asked.stderr}
        follower = Follower(self._dispatcher, self._results, caller, job.id, offsets)
        ended: Deferred[Any] = caller.while_connected(Deferred.fromCoroutine(follower.follow()))
        return ended.addCallback(self._status)

    def _watch(self, caller: ICaller, asked: Watch) -> Reply:
        wanted = Filter(queue=asked.queue)
        if asked.job is not None:
            wanted = Filter.of_job(self._backlog.get(asked.job), asked.queue)
        wanted = replace(wanted, owner=self._gate.only(caller.principal), of_token=caller.principal.queue)
        first = self._feed.first(asked.since)
        caller.send(replies.ok(str(first)))
        return Deferred.fromCoroutine(self._watch_until_next_line(caller, wanted, first))

    async def _watch_until_next_line(self, caller: ICaller, wanted: Filter, first: int) -> bytes:
        heard = caller.next_line()
        watching = Deferred.fromCoroutine(self._feed.watch(caller, wanted, first))
        heard.addCallbacks(lambda _: watching.cancel(), _ignore_cancel)
        try:
            with suppress(CancelledError):
                await caller.while_connected(watching)
        finally:
            heard.cancel()
        return replies.END


def _note_end(ends: "DeferredQueue[tuple[Ref, Job]]", ref: Ref, job: Job) -> None:
    ends.put((ref, job))


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)
