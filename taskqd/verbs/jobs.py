"""Jobs come in and are looked at: SUBMIT, STATUS, RESULT, SHOW, LIST, OUTPUT, HISTORY, WHY."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from taskqd import replies, secret, words
from taskqd.access import Principal
from taskqd.actors import Actor
from taskqd.errors import TaskqError, WrongState
from taskqd.interfaces import ICaller
from taskqd.job import Job
from taskqd.reception import Batch
from taskqd.refs import Ref
from taskqd.requests import Listing, Slice
from taskqd.submission import BLOCKS, Order
from taskqd.verbs.room import Handler, Reply, Room, one_that_runs
from taskqd.why import why

_NOBODY = Actor("")
"""Submits nothing: all that they ask for is refused."""
LOOKED_AT_ONCE = 1000
"""LIST looks at so many jobs before it lets others have their turn."""
ESCAPED_AT_ONCE = 65_536
"""RESULT escapes so many bytes before it lets others have their turn."""


class Submission(NamedTuple):
    """What came with a SUBMIT: its line as read, the blocks behind it, and the values of its secrets."""

    order: Order
    blocks: list[bytes]
    secret: bytes | None = None


class Jobs(Room):
    """Takes jobs, and tells what is known of them and what they printed."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {
            "SUBMIT": self._submit,
            "STATUS": self._tell_status,
            "RESULT": self._result,
            "SHOW": self._show,
            "LIST": self._list,
            "OUTPUT": self._output,
            "HISTORY": self._history,
            "WHY": self._why,
        }

    def _submit(self, caller: ICaller, asked: Submission) -> Reply:
        command, spec = asked.order
        names = [name for name in BLOCKS if getattr(spec, name) is not None]
        blocks = dict(zip(names, asked.blocks, strict=True))
        if asked.secret is not None:
            blocks[secret.BLOCK] = asked.secret
        who = caller.principal
        spec = self._gate.admit(who, command, spec, len(asked.secret or b""))
        most = self._gate.most_pending(who)
        accepted = self._dispatcher.submit(command, spec, who.actor, blocks, most_pending=most)
        return accepted.addCallback(replies.job_id)

    def submit_all(
        self, batches: list[tuple[Principal | TaskqError, list[Order]]]
    ) -> "Deferred[list[bytes]]":
        """Take jobs that have neither keys nor blocks, and fire with the reply to each batch.

        A batch is who asks, or why they may not, and their orders.
        """
        return self._dispatcher.submit_all(list(starmap(self._admitted, batches))).addCallback(_answers)

    def _admitted(self, who: Principal | TaskqError, orders: list[Order]) -> Batch:
        """Return orders as they are accepted, or why each is not."""
        if isinstance(who, TaskqError):
            return Batch(_NOBODY, [who] * len(orders))
        return Batch(who.actor, self._gate.admit_all(who, orders), self._gate.most_pending(who))

    def _tell_status(self, caller: ICaller, ref: Ref) -> bytes:
        return self._status(self._backlog.get(ref))

    def _result(self, caller: ICaller, ref: Ref) -> Reply:
        job = one_that_runs(self._backlog.get(ref))
        return Deferred.fromCoroutine(self._both_streams(job))

    async def _both_streams(self, job: Job) -> bytes:
        exit_code = job.exit_code  # now: a RETRY may come in between
        stdout, stderr = await self._results.both(job)
        return replies.result(await self._escaped(stdout), await self._escaped(stderr), exit_code)

    async def _escaped(self, data: bytes) -> bytes:
        """Escape a stream piece by piece, so that a large one does not make everybody wait."""
        pieces = []
        for at in range(0, len(data), ESCAPED_AT_ONCE):
            if at:
                await deferLater(self._clock, 0)
            pieces.append(words.escaped(data[at : at + ESCAPED_AT_ONCE]))
        return b"".join(pieces)

    def _show(self, caller: ICaller, ref: Ref) -> bytes:
        job = self._backlog.get(ref)
        skipped = self._backlog.skips.count(job.id)
        return replies.as_json(
            "JOB", {**self._results.show(job), **({"skipped": skipped} if skipped else {})}
        )

    def _list(self, caller: ICaller, listing: Listing) -> Reply:
        candidates = self._candidates(listing)
        return Deferred.fromCoroutine(self._send_list(caller, listing, candidates))

    async def _send_list(self, caller: ICaller, listing: Listing, candidates: Iterable[Job]) -> bytes:
        count = 0
        shows = self._gate.shows(caller.principal)
        for looked_at, job in enumerate(candidates, 1):
            if count == listing.limit:
                break
            if _matches(job, listing) and shows(job):
                caller.send(self._described(job))
                count += 1
            if looked_at % LOOKED_AT_ONCE == 0:
                await caller.while_connected(deferLater(self._clock, 0))
            await caller.room()
        return replies.end(count)

    def _candidates(self, listing: Listing) -> Iterable[Job]:
        """Return the jobs among which those that are asked for are, in order."""
        if listing.array is not None:
            return self._tasks(listing.array, listing)
        if listing.key is not None and not listing.has_tasks:
            jobs = [job for job in self._backlog.with_key(listing.key) if _is_on_page(job, listing)]
            return jobs[::-1] if listing.is_reverse else jobs
        first = self._backlog.last_id if listing.is_reverse else 1
        first = first if listing.first is None else listing.first
        if listing.has_tasks:
            return self._backlog.walk(first, listing.is_reverse)
        return self._wholes(first, listing.is_reverse)

    def _tasks(self, array_id: int, listing: Listing) -> Iterable[Job]:
        array = self._backlog.get(array_id)
        if array.tasks is None:
            raise WrongState(f"job {array_id} is no array, so it has no tasks")
        ids = array.tasks.ids
        if listing.is_reverse:
            ids = range(min(ids[-1], listing.first or ids[-1]), ids[0] - 1, -1)
        else:
            ids = range(max(ids[0], listing.first or ids[0]), ids[-1] + 1)
        return filter(None, map(self._backlog.jobs.get, ids))

    def _wholes(self, first: int | None, is_reverse: bool) -> Iterator[Job]:
        """Yield the jobs that are no tasks, from an id on; tasks are jumped over, however many there are."""
        while first is not None:
            walk, first = self._backlog.walk(first, is_reverse), None
            for job in walk:
                if job.array is None:
                    yield job
                tasks = self._backlog.whole(job).tasks
                if tasks is not None and not is_reverse:
                    first = tasks.ids.stop
                    break
                if job.array is not None:
                    first = job.array
                    break

    def _output(self, caller: ICaller, part: Slice) -> Reply:
        job = one_that_runs(self._backlog.get(part.id))
        offset = part.offset
        if part.tail is not None:
            offset = max(0, self._results.size(job, part.stream, part.attempt) - part.tail)
        return self._results.read(job, part.stream, offset, part.limit, part.attempt).addCallback(
            partial(replies.data, part.stream, offset)
        )

    def _history(self, caller: ICaller, ref: Ref) -> Reply:
        job = self._backlog.get(ref)
        ids = (job.id,) if job.array is None else (job.id, job.array)
        return self._results.history(*ids).addCallback(replies.events)

    def _why(self, caller: ICaller, ref: Ref) -> bytes:
        return replies.ok(
            why(self._backlog, self._backlog.get(ref), self._clock.elapsed(), self._dispatcher.lack())
        )


def _answers(results: list[list[int | TaskqError]]) -> list[bytes]:
    return [replies.job_ids(batch) for batch in results]


def _is_on_page(job: Job, listing: Listing) -> bool:
    if listing.first is None:
        return True
    return job.id <= listing.first if listing.is_reverse else job.id >= listing.first


def _matches(job: Job, listing: Listing) -> bool:
    wanted: tuple[tuple[Any, Any], ...] = (
        (listing.queue, job.spec.queue),
        (listing.owner, job.owner),
        (listing.label, job.spec.label),
        (listing.key, job.spec.key),
    )
    return (listing.statuses is None or job.status in listing.statuses) and all(
        asked is None or asked == has for asked, has in wanted
    )
