"""The commands for one job: cancel, retry, remove, hold, release, change.

Each acquires the job's lock, checks the job's status, records one event, and returns when that is durable and
applied. All raise NoSuchJob, Gone, WrongState and StoreFailed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.admission import check_capacity
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks, gather_results
from taskqd.errors import Gone, WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.model.actor import Actor
from taskqd.model.events import Cancelled, Changed, Held, JobEvent, Released, Removed, Retried
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Spec
from taskqd.state.dependencies import next_batch
from taskqd.storage.interfaces import ISpool

MAX_VISITS_PER_TURN = 1000
"""Jobs that one request visits per turn of the reactor: each takes one to five microseconds."""


class JobCommands:
    """Changes single jobs.

    ``on_ended`` is called with jobs that have ended without running, ``on_change`` when more jobs may be able
    to start. ``counters`` counts the retried and removed jobs.
    """

    _log = Logger()

    def __init__(
        self,
        event_writer: EventWriter,
        locks: JobLocks,
        spool: ISpool,
        executor: IExecutor,
        counters: dict[str, int],
        on_change: Callable[[], None],
        on_ended: Callable[..., None],
    ) -> None:
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._locks = locks
        self._spool = spool
        self._executor = executor
        self._clock = event_writer.clock
        self._counters = counters
        self._on_change = on_change
        self._on_ended = on_ended

    # Jobs that have not ended: cancel.

    async def cancel(self, job_id: int, by: Actor, signal: int, dependents: Sequence[int] = ()) -> Job:
        """Cancel a job and return it when that is recorded; a job that is being cancelled is left alone.

        A running job is sent ``signal``. Its ``dependents`` are cancelled first, a batch per turn of the
        reactor; after an error some of them are cancelled and others not.
        """
        job = self._queue_state.get(job_id)
        if dependents:
            _check_can_be_cancelled(job)
        job_ids = [*dependents, job_id]
        done = 0
        while done < len(job_ids):
            if done:
                await deferLater(self._clock, 0)
            batch = next_batch(islice(job_ids, done, None), self._queue_state.jobs)
            done += len(batch)
            cancels = [Deferred.fromCoroutine(self._cancel(each, by, signal)) for each in batch]
            results = await gather_results(cancels)
            for each, result in zip(batch, results, strict=True):
                # A dependent may have ended or been removed meanwhile.
                if isinstance(result, Failure) and (each == job_id or not result.check(WrongState, Gone)):
                    result.raiseException()
        return job

    async def _cancel(self, job_id: int, by: Actor, signal: int) -> Job:
        job = self._queue_state.get(job_id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._queue_state.get(job_id)  # it may have been removed while this waited for the lock
            parts = self._queue_state.tasks(job) or [job]
            pending = [part for part in parts if part.status is Status.PENDING]
            running = [part for part in parts if part.status is Status.RUNNING and part.cancelling is None]
            _check_can_be_cancelled(job)
            if not pending and not running:
                return job
            await self._event_writer.record(
                Cancelled(id=job_id, at=self._clock.now(), by=by.name, origin=by.origin, signal=signal)
            )
        for part in running:
            self._executor.end(part.id, Reason.CANCELLED, signal)
        if pending:
            self._on_ended(*pending)
        return job

    async def dependents_of(self, job_id: int, check: Callable[[Job], object] = lambda _: None) -> list[Job]:
        """Return the jobs that depend on a job, directly or not, each before those that it depends on.

        A job can only depend on older ones, so this is the order of descending ids. ``check`` is called with
        each job and may raise. The reactor serves others after every MAX_VISITS_PER_TURN jobs.
        """
        found: list[Job] = []
        for count, job in enumerate(self._queue_state.dependents_of(job_id), 1):
            check(job)
            found.append(job)
            if count % MAX_VISITS_PER_TURN == 0:
                await deferLater(self._clock, 0)
        return sorted(found, key=lambda job: job.id, reverse=True)

    # Jobs that have ended: retry, remove.

    async def retry(self, job_id: int, by: Actor) -> Job:
        """Make a job that has ended PENDING again, and return it."""
        job = await self._record_for_ended(job_id, partial(Retried, id=job_id, by=by.name, origin=by.origin))
        self._counters["retried"] += 1
        self._on_change()
        return job

    async def skipped_because_of(
        self, job_id: int, check: Callable[[Job], object] = lambda _: None
    ) -> list[Job]:
        """Return the jobs that failed because of a job, directly or not, in the order of their ids.

        ``check`` is called with each job and may raise. The reactor serves others after every
        MAX_VISITS_PER_TURN jobs.
        """
        found: dict[int, Job] = {}
        to_visit = [job_id]
        while to_visit:
            for skipped in self._queue_state.skips.of(to_visit.pop()):
                job = self._queue_state.jobs.get(skipped)
                if job is None or skipped in found:
                    continue
                check(job)
                found[skipped] = job
                to_visit.append(skipped)
                if len(found) % MAX_VISITS_PER_TURN == 0:
                    await deferLater(self._clock, 0)
        return [found[each] for each in sorted(found)]

    async def remove(self, job_id: int, by: Actor) -> None:
        """Remove a job that has ended, and its files."""
        job = self._queue_state.get(job_id)
        if job.array is not None:
            raise WrongState(
                f"job {job_id} cannot be removed: it is a task of array {job.array}; "
                f"`taskq remove {job.array}` removes all tasks"
            )
        tasks = self._queue_state.tasks(job)
        removed = partial(Removed, id=job_id, by=by.name, origin=by.origin)
        if job.status.is_final and self._queue_state.reason_to_keep(job_id) is None:
            await self._kill_leftovers(tasks or [job])
        await self._record_for_ended(job_id, removed, self._check_can_be_removed)
        self._counters["removed"] += 1
        for part in (job, *(task for task in tasks if task.attempts)):
            self.purge(part.id, part.attempts)

    async def _kill_leftovers(self, parts: Sequence[Job]) -> None:
        """Kill the processes left in the jobs' sessions; nothing identifies them once these are removed."""
        for part in parts:
            killing = self._executor.kill_leftovers(part.id)
            if killing is not None:
                await killing

    def _check_can_be_removed(self, job: Job) -> None:
        reason = self._queue_state.reason_to_keep(job.id)
        if reason is not None:
            raise WrongState(f"job {job.id} cannot be removed: {reason}")

    async def _record_for_ended(
        self, job_id: int, make: Callable[..., JobEvent], check: Callable[[Job], None] = lambda _: None
    ) -> Job:
        """Record ``make(at=now)`` for a job that must have ended; ``now`` is read when the lock is held."""
        job = self._queue_state.get(job_id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._queue_state.get(job_id)  # as in _cancel
            if not job.status.is_final:
                raise WrongState(
                    f"job {job_id} has not ended: it is {job.status.value}; `taskq cancel {job_id}` ends it"
                )
            check(job)
            await self._event_writer.record(make(at=self._clock.now()))
        return job

    def purge(self, job_id: int, attempts: int = 0) -> None:
        """Remove the files of a job that is no longer known; what remains is removed at the next start."""
        self._spool.remove_job(job_id, attempts).addErrback(self._on_purge_failed, job_id)

    def _on_purge_failed(self, failure: Failure, job_id: int) -> None:
        failure.trap(OSError)
        self._log.warn("files of job {id} are left for the next start: {why}", id=job_id, why=failure.value)

    # Jobs that have not started: hold, release, change.

    async def hold(self, job_id: int, by: Actor) -> Job:
        """Keep a pending job from starting, and return it."""
        return await self._record_for_pending(
            "hold", Held(id=job_id, at=0.0, by=by.name, origin=by.origin), lambda job: not job.is_held
        )

    async def release(self, job_id: int, by: Actor) -> Job:
        """Let a job start that is held or delayed, and return it; any other pending job is left alone."""
        return await self._record_for_pending(
            "release",
            Released(id=job_id, at=0.0, by=by.name, origin=by.origin),
            lambda job: job.is_held or job.not_before is not None,
        )

    async def _record_for_pending(
        self, command: str, event: JobEvent, has_effect: Callable[[Job], bool]
    ) -> Job:
        """Record an event of a pending job, unless it has no effect on the job or on any pending task.

        ``command`` is what the user calls, for an error.
        """
        job = self._queue_state.get(event.id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._get_pending(event.id, command)
            pending = [task for task in self._queue_state.tasks(job) if task.status is Status.PENDING]
            if not any(map(has_effect, [job, *pending])):
                return job
            await self._event_writer.record(replace(event, at=self._clock.now()))
        self._on_change()
        return job

    async def change(self, job_id: int, by: Actor, values: dict[str, Any], *, command: str = "set") -> Job:
        """Change fields of a pending job's spec, and return the job.

        A ``delay`` counts from now. Raises BadRequest if the job could then never start. ``command`` is what
        the user calls, for an error.
        """
        job = self._queue_state.get(job_id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._get_pending(job_id, command)
            if job.array is not None:
                raise WrongState(
                    f"job {job_id} cannot be changed: it is a task of array {job.array}; "
                    f"`taskq {command} {job.array}` changes all tasks"
                )
            now = self._clock.now()
            spec = _changed_spec(job.spec, values, now)
            check_capacity(self._queue_state, spec)
            await self._event_writer.record(
                Changed(
                    id=job_id,
                    at=now,
                    by=by.name,
                    origin=by.origin,
                    command=job.command,
                    spec=spec,
                    is_delay=values.get("delay") is not None,
                )
            )
        self._on_change()
        return job

    def _get_pending(self, job_id: int, command: str) -> Job:
        """Return a job that has not started, or an array with a task that has not started."""
        job = self._queue_state.get(job_id)
        is_pending = job.status is Status.PENDING or (
            job.tasks is not None and bool(job.tasks.counts.get(Status.PENDING))
        )
        if not is_pending:
            raise WrongState(
                f"job {job_id} is {job.status.value}; "
                f"`taskq {command}` is only for jobs that have not started"
            )
        return job


def _changed_spec(spec: Spec, values: dict[str, Any], now: float) -> Spec:
    """Return a spec with fields changed; a delay becomes a time, and replaces the previous time."""
    if values.get("delay") is not None:
        values = {**values, "at": now + values["delay"]}
    if "delay" in values or "at" in values:
        values = {"at": None, **values, "delay": None}
    return replace(spec, **values)


def _check_can_be_cancelled(job: Job) -> None:
    if job.status.is_final and job.status is not Status.CANCELLED:
        raise WrongState(
            f"job {job.id} has already ended: it is {job.status.value}; `taskq retry {job.id}` runs it again"
        )
