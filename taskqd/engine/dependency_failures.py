"""Fails the jobs that depend on a job which did not end as they require: each becomes FAILED by one event.

They are recorded in batches, so that thousands do not block the reactor.
"""

from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.acts import OnTasksEnded
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks, gather_results
from taskqd.errors import StoreFailed
from taskqd.model.events import Skipped
from taskqd.model.job import Job, Status
from taskqd.state.dependencies import next_batch


class DependencyFailures:
    """Skips jobs whose dependency cannot be met; ``on_ended`` and ``on_tasks_ended`` as in JobCommands."""

    _log = Logger()

    def __init__(
        self,
        event_writer: EventWriter,
        locks: JobLocks,
        on_ended: Callable[..., None],
        on_tasks_ended: OnTasksEnded,
    ) -> None:
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._unsatisfiable = event_writer.queue_state.dependencies.unsatisfiable
        self._locks = locks
        self._clock = event_writer.clock
        self._on_ended = on_ended
        self._on_tasks_ended = on_tasks_ended
        self._is_busy = False

    def process(self) -> None:
        """Skip all jobs whose dependency cannot be met, unless that is under way."""
        if self._unsatisfiable and not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._skip_all()).addErrback(self._on_failure)

    async def _skip_all(self) -> None:
        try:
            while self._unsatisfiable:
                await self._skip_batch(next_batch(self._unsatisfiable, self._queue_state.jobs))
        finally:
            self._is_busy = False

    async def _skip_batch(self, job_ids: Sequence[int]) -> None:
        """Skip jobs by one batch of records, and those that are locked one by one."""
        locked = [job for job in map(self._queue_state.get, job_ids) if self._locks.try_acquire(job)]
        skips = [self._make_skip(job, self._unsatisfiable[job.id]) for job in locked]
        done = {job.id for job in locked}
        others = [
            Deferred.fromCoroutine(self._skip(job_id, self._unsatisfiable[job_id]))
            for job_id in job_ids
            if job_id not in done
        ]
        try:
            if skips:
                await self._event_writer.record_all_until_durable([event for event, _ in skips])
        finally:
            for job in locked:
                self._locks.release(job)
        if skips:
            self._on_skipped(skips)
        for result in await gather_results(others):
            if isinstance(result, Failure):
                result.raiseException()

    async def _skip(self, job_id: int, dependency: int) -> None:
        job = self._queue_state.get(job_id)
        async with self._locks.of(job):
            if self._unsatisfiable.get(job_id) != dependency:
                return  # it was cancelled while this waited for the lock
            event, pending = self._make_skip(job, dependency)
            await self._event_writer.record_until_durable(event)
        self._on_skipped([(event, pending)])

    def _make_skip(self, job: Job, dependency: int) -> tuple[Skipped, int]:
        """Return the event that fails a job, and how many it ends: the job, or tasks of an array."""
        event = Skipped(id=job.id, at=self._clock.now(), dependency=dependency)
        return event, job.count_of(Status.PENDING)

    def _on_skipped(self, skips: Iterable[tuple[Skipped, int]]) -> None:
        jobs: list[Job] = []
        for event, count in skips:
            job = self._queue_state.jobs[event.id]
            if job.tasks is None:
                jobs.append(job)
            else:
                self._on_tasks_ended(job, Status.FAILED, count)
        if jobs:
            self._on_ended(*jobs)

    def _on_failure(self, failure: Failure) -> None:
        """Log a bug; if the daemon stops before the journal works again, the next start skips the jobs."""
        if failure.check(StoreFailed) is None:
            self._log.failure("internal error while failing jobs whose dependency failed", failure)
