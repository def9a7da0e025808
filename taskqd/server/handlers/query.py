"""Handlers of the verbs that show jobs: STATUS, SHOW, LIST, HISTORY, WHY."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.errors import WrongState
from taskqd.model.job import Job, Tasks
from taskqd.protocol import replies
from taskqd.protocol.requests import JobRequest, ListRequest
from taskqd.server.handlers.base import HandlerGroup, LineSender, Reply, handles, send_lines
from taskqd.server.interfaces import IClient
from taskqd.state.explain import explain
from taskqd.storage.interfaces import IEventReader

IDS_PER_STEP = 1000
"""Job ids that LIST looks up before it checks whether to yield: most of them may belong to no job."""


class QueryHandlers(HandlerGroup):
    """Shows jobs, and changes nothing."""

    @handles("STATUS")
    def _status(self, client: IClient, request: JobRequest) -> bytes:
        return self._format_status(self._queue_state.get(request.job))

    @handles("SHOW")
    def _show(self, client: IClient, request: JobRequest) -> bytes:
        job = self._queue_state.get(request.job)
        skipped = self._queue_state.skips.count(job.id)
        document = self._job_view.show(job)
        if skipped:
            document["skipped"] = skipped
        return replies.as_json("JOB", document)

    @handles("LIST")
    def _list(self, client: IClient, request: ListRequest) -> Reply:
        if request.array is not None and self._queue_state.get(request.array).tasks is None:
            raise WrongState(f"job {request.array} is not an array, so it has no tasks")
        return Deferred.fromCoroutine(send_lines(client, self._lines(client.principal, request)))

    def _lines(self, principal: Principal, request: ListRequest) -> Iterator[bytes | None]:
        """Yield a line for each job that matches, None for others that were examined."""
        is_visible, remaining = self._authorizer.visible_jobs(principal), request.limit
        for job in self._candidates(request) if remaining else ():
            if job is None or not _matches(job, request) or not is_visible(job):
                yield None
                continue
            yield self._format_job(job)
            remaining -= 1
            if not remaining:
                return

    def _candidates(self, request: ListRequest) -> Iterable[Job | None]:
        """Return the jobs that may match, in the order of the list, with None for unused ids."""
        if request.array is not None:
            return self._tasks_of(request.array, request)
        if request.key is not None and not request.has_tasks:
            jobs = [job for job in self._queue_state.with_key(request.key) if _is_on_page(job, request)]
            return jobs[::-1] if request.is_reverse else jobs
        first = self._queue_state.last_id if request.is_reverse else 1
        first = first if request.first is None else request.first
        if request.has_tasks:
            return self._walk(first, request.is_reverse)
        return self._walk_without_tasks(first, request.is_reverse)

    def _tasks_of(self, array_id: int, request: ListRequest) -> Iterable[Job | None]:
        ids = cast("Tasks", self._queue_state.get(array_id).tasks).ids
        if request.is_reverse:
            ids = range(min(ids[-1], request.first or ids[-1]), ids[0] - 1, -1)
        else:
            ids = range(max(ids[0], request.first or ids[0]), ids[-1] + 1)
        return map(self._queue_state.jobs.get, ids)

    def _walk(self, first: int, is_reverse: bool) -> Iterator[Job | None]:
        """Yield the jobs from an id on, and None after every IDS_PER_STEP ids."""
        last = self._queue_state.last_id
        ids = range(min(first, last), 0, -1) if is_reverse else range(max(first, 1), last + 1)
        for at in range(0, len(ids), IDS_PER_STEP):
            yield from filter(None, map(self._queue_state.jobs.get, ids[at : at + IDS_PER_STEP]))
            yield None

    def _walk_without_tasks(self, first: int | None, is_reverse: bool) -> Iterator[Job | None]:
        """Yield the jobs that are no tasks, from an id on; the tasks of an array are skipped in one step."""
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

    @handles("HISTORY")
    def _history(self, client: IClient, request: JobRequest) -> Reply:
        job = self._queue_state.get(request.job)
        ids = (job.id,) if job.array is None else (job.id, job.array)
        return Deferred.fromCoroutine(_send_events(client, self._job_view.history(*ids)))

    @handles("WHY")
    def _why(self, client: IClient, request: JobRequest) -> bytes:
        job, now = self._queue_state.get(request.job), self._clock.elapsed()
        shortage = self._engine.dispatcher.explain_delay(now)
        return replies.ok(explain(self._queue_state, job, now, shortage))


async def _send_events(client: IClient, reader: IEventReader) -> bytes:
    sender = LineSender(client)
    while batch := await client.while_connected(reader.read_batch()):
        for sequence, event in batch:
            sender.add(replies.event(sequence, event))
            if sender.must_send:
                await sender.send()
    return sender.end()


def _is_on_page(job: Job, request: ListRequest) -> bool:
    if request.first is None:
        return True
    return job.id <= request.first if request.is_reverse else job.id >= request.first


def _matches(job: Job, request: ListRequest) -> bool:
    filters: tuple[tuple[Any, Any], ...] = (
        (request.queue, job.spec.queue),
        (request.owner, job.owner),
        (request.label, job.spec.label),
        (request.key, job.spec.key),
    )
    return (request.statuses is None or job.status in request.statuses) and all(
        wanted is None or wanted == value for wanted, value in filters
    )
