"""Jobs come in and are looked at: SUBMIT, STATUS, SHOW, LIST, HISTORY, WHY."""

from collections.abc import Iterable, Iterator
from itertools import starmap
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.engine.submissions import NewJob, SubmissionBatch
from taskqd.errors import TaskqError, WrongState
from taskqd.model import submission as secret
from taskqd.model.actor import Actor
from taskqd.model.job import Job, Tasks
from taskqd.model.job_ref import JobRef
from taskqd.model.submission import BLOCKS, Submission
from taskqd.protocol import replies
from taskqd.protocol.requests import Listing
from taskqd.server.handlers.base import Handler, HandlerGroup, Lines, Reply, send_all
from taskqd.server.interfaces import IClient
from taskqd.state.explain import explain
from taskqd.storage.interfaces import IEventReader

_NOBODY = Actor("")
"""Submits nothing: all that they ask for is refused."""
WALKED_AT_ONCE = 1000
"""LIST looks up this many job numbers at a time: there may be a job under few of them, or under none."""


class SubmitRequest(NamedTuple):
    """What came with a SUBMIT: its line as read, the blocks behind it, and the values of its secrets."""

    order: Submission
    blocks: list[bytes]
    secret: bytes | None = None


class QueryHandlers(HandlerGroup):
    """Takes jobs, and tells what is known of them."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {
            "SUBMIT": self._submit,
            "STATUS": self._tell_status,
            "SHOW": self._show,
            "LIST": self._list,
            "HISTORY": self._history,
            "WHY": self._why,
        }

    def _submit(self, client: IClient, asked: SubmitRequest) -> Reply:
        command, spec = asked.order
        names = [name for name in BLOCKS if getattr(spec, name) is not None]
        blocks = dict(zip(names, asked.blocks, strict=True))
        if asked.secret is not None:
            blocks[secret.BLOCK] = asked.secret
        who = client.principal
        spec = self._authorizer.authorize_submission(who, command, spec, len(asked.secret or b""))
        max_pending = self._authorizer.most_pending(who)
        new = NewJob(command, spec, who.actor, blocks, max_pending=max_pending)
        accepted = self._engine.submissions.submit(new)
        return accepted.addCallback(replies.job_id)

    def submit_all(
        self, batches: list[tuple[Principal | TaskqError, list[Submission]]]
    ) -> "Deferred[list[bytes]]":
        """Take jobs that have neither keys nor blocks, and fire with the reply to each batch.

        A batch is who asks, or why they may not, and their orders.
        """
        return self._engine.submissions.submit_all(list(starmap(self._admitted, batches))).addCallback(
            _answers
        )

    def _admitted(self, who: Principal | TaskqError, orders: list[Submission]) -> SubmissionBatch:
        """Return orders as they are accepted, or why each is not."""
        if isinstance(who, TaskqError):
            return SubmissionBatch(_NOBODY, [who] * len(orders))
        return SubmissionBatch(
            who.actor, self._authorizer.authorize_submissions(who, orders), self._authorizer.most_pending(who)
        )

    def _tell_status(self, client: IClient, ref: JobRef) -> bytes:
        return self._status(self._queue_state.get(ref))

    def _show(self, client: IClient, ref: JobRef) -> bytes:
        job = self._queue_state.get(ref)
        skipped = self._queue_state.skips.count(job.id)
        return replies.as_json(
            "JOB", {**self._results.show(job), **({"skipped": skipped} if skipped else {})}
        )

    def _list(self, client: IClient, listing: Listing) -> Reply:
        if listing.array is not None and self._queue_state.get(listing.array).tasks is None:
            raise WrongState(f"job {listing.array} is no array, so it has no tasks")
        return Deferred.fromCoroutine(send_all(client, self._shown(client.principal, listing)))

    def _shown(self, who: Principal, listing: Listing) -> Iterator[bytes | None]:
        """Yield a line for each job that is asked for, None for others that were looked at."""
        visible_jobs, left = self._authorizer.visible_jobs(who), listing.limit
        for job in self._candidates(listing) if left else ():
            if job is None or not _matches(job, listing) or not visible_jobs(job):
                yield None
                continue
            yield self._described(job)
            left -= 1
            if not left:
                return

    def _candidates(self, listing: Listing) -> Iterable[Job | None]:
        """Return the jobs among which those that are asked for are, in order; None where there is none."""
        if listing.array is not None:
            return self._tasks(listing.array, listing)
        if listing.key is not None and not listing.has_tasks:
            jobs = [job for job in self._queue_state.with_key(listing.key) if _is_on_page(job, listing)]
            return jobs[::-1] if listing.is_reverse else jobs
        first = self._queue_state.last_id if listing.is_reverse else 1
        first = first if listing.first is None else listing.first
        if listing.has_tasks:
            return self._walk(first, listing.is_reverse)
        return self._wholes(first, listing.is_reverse)

    def _tasks(self, array_id: int, listing: Listing) -> Iterable[Job | None]:
        ids = cast("Tasks", self._queue_state.get(array_id).tasks).ids
        if listing.is_reverse:
            ids = range(min(ids[-1], listing.first or ids[-1]), ids[0] - 1, -1)
        else:
            ids = range(max(ids[0], listing.first or ids[0]), ids[-1] + 1)
        return map(self._queue_state.jobs.get, ids)

    def _walk(self, first: int, is_reverse: bool) -> Iterator[Job | None]:
        """Yield the jobs from an id on, with a None among them for each WALKED_AT_ONCE numbers."""
        last = self._queue_state.last_id
        ids = range(min(first, last), 0, -1) if is_reverse else range(max(first, 1), last + 1)
        for at in range(0, len(ids), WALKED_AT_ONCE):
            yield from filter(None, map(self._queue_state.jobs.get, ids[at : at + WALKED_AT_ONCE]))
            yield None

    def _wholes(self, first: int | None, is_reverse: bool) -> Iterator[Job | None]:
        """Yield the jobs that are no tasks, from an id on; tasks are jumped over, however many there are."""
        while first is not None:
            walk, first = self._walk(first, is_reverse), None
            for job in walk:
                if job is None:
                    yield None
                    continue
                if job.array is None:
                    yield job
                tasks = self._queue_state.array_of(job).tasks
                if tasks is not None and not is_reverse:
                    first = tasks.ids.stop
                    break
                if job.array is not None:
                    first = job.array
                    break

    def _history(self, client: IClient, ref: JobRef) -> Reply:
        job = self._queue_state.get(ref)
        ids = (job.id,) if job.array is None else (job.id, job.array)
        return Deferred.fromCoroutine(_send_events(client, self._results.history(*ids)))

    def _why(self, client: IClient, ref: JobRef) -> bytes:
        now = self._clock.elapsed()
        return replies.ok(
            explain(
                self._queue_state,
                self._queue_state.get(ref),
                now,
                self._engine.dispatcher.shortage.explain(now),
            )
        )


async def _send_events(client: IClient, reading: IEventReader) -> bytes:
    reply = Lines(client)
    while portion := await client.while_connected(reading.read_batch()):
        for sequence, happened in portion:
            reply.add(replies.event(sequence, happened))
            if reply.is_due:
                await reply.send()
    return reply.end()


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
