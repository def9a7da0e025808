"""The commands for jobs, one or many: cancel, retry, remove, hold, release, suspend, continue, change.

Each acquires the lock of a job, checks the job's status (acts.py), records one event, and returns when that
is durable and applied. The commands for one job raise NoSuchJob, Gone, WrongState and StoreFailed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.acts import Act, Acts, Change, OnTasksEnded, check_can_be_cancelled
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks, KeyedLock, gather_results
from taskqd.errors import Gone, NoSuchJob, StoreFailed, TaskqError, WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.model.actor import Actor
from taskqd.model.events import Cancelled, Removed, Retried
from taskqd.model.job import Job, Reason, Status
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH, next_batch
from taskqd.storage.interfaces import ISpool

MAX_VISITS_PER_TURN = 1000
"""Jobs that one request visits per turn of the reactor: each takes one to five microseconds."""


class Changed(NamedTuple):
    """A job on which an act was carried out, and whether that changed it."""

    job: Job
    is_changed: bool


class Outcome(NamedTuple):
    """How many jobs an act on many has changed, and the errors by job of those to which it did not apply."""

    changed: int
    refusals: dict[int, TaskqError]


class JobCommands:
    """Changes jobs.

    ``on_ended`` is called with jobs that have ended without running, ``on_tasks_ended`` with an array and the
    status and number of those of its tasks. ``on_change`` is called when more jobs may be able to start.
    ``counters`` counts the retried and removed jobs.
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
        on_tasks_ended: OnTasksEnded,
    ) -> None:
        self.acts = Acts(event_writer.queue_state, event_writer.clock, executor.runner_obstacle)
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._locks = locks
        self._spool = spool
        self._executor = executor
        self._clock = event_writer.clock
        self._counters = counters
        self._on_change = on_change
        self._on_ended = on_ended
        self._on_tasks_ended = on_tasks_ended
        self._batch_lock: KeyedLock[str] = KeyedLock()

    # One job.

    async def hold(self, job_id: int, by: Actor) -> Job:
        """Keep a pending job from starting, and return it."""
        return (await self._carry_out(job_id, self.acts.hold(by))).job

    async def release(self, job_id: int, by: Actor) -> Job:
        """Let a job start that is held or delayed, and return it; any other pending job is left alone."""
        return (await self._carry_out(job_id, self.acts.release(by))).job

    async def suspend(self, job_id: int, by: Actor) -> Job:
        """Stop the processes of a running job, and return it; an array starts no task then."""
        return (await self._carry_out(job_id, self.acts.suspend(by))).job

    async def continue_(self, job_id: int, by: Actor) -> Job:
        """Let a suspended job go on, and return it; a running job that is not suspended is left alone."""
        return (await self._carry_out(job_id, self.acts.continue_(by))).job

    async def change(self, job_id: int, by: Actor, values: dict[str, Any], *, command: str = "set") -> Job:
        """Change fields of a pending job's spec, and return the job.

        A ``delay`` counts from now. Raises BadRequest if the job could then never start. ``command`` is what
        the user calls, for an error.
        """
        return (await self._carry_out(job_id, self.acts.change(by, values, command))).job

    async def retry(self, job_id: int, by: Actor) -> Job:
        """Make a job that has ended PENDING again, and return it."""
        return (await self._carry_out(job_id, self.acts.retry(by))).job

    async def remove(self, job_id: int, by: Actor) -> None:
        """Remove a job that has ended, and its files."""
        await self._remove(job_id, self.acts.remove(by))

    async def _remove(self, job_id: int, act: Act) -> Changed:
        job = self._queue_state.get(job_id)
        parts = list(job.touched) if _is_possible(act, job) else []
        for at in range(0, len(parts), MAX_VISITS_PER_TURN):
            if at:
                await deferLater(self._clock, 0)
            for killing in self._kill_leftovers(parts[at : at + MAX_VISITS_PER_TURN]):
                await killing
        return await self._carry_out(job_id, act)

    def _kill_leftovers(self, parts: Iterable[Job]) -> list[Deferred[None]]:
        """Kill the processes left in jobs' sessions, as nothing identifies them once the jobs are removed."""
        return list(filter(None, [self._executor.kill_leftovers(part.id) for part in parts]))

    def _needs_time(self, job: Job) -> bool:
        """Whether processes of a job are being killed, or it has too many tasks to look for them at once."""
        return len(job.touched) > MAX_VISITS_PER_TURN or bool(self._kill_leftovers(job.touched))

    async def _carry_out(self, job_id: int, act: Act) -> Changed:
        """Carry out an act on a job, and return the job when that is recorded."""
        job = self._queue_state.get(job_id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._queue_state.get(job_id)  # it may have been removed while this waited for the lock
            change = act(job)
            if change is None:
                return Changed(job, is_changed=False)
            job = await self._event_writer.record(change.event)
        self._on_recorded([change])
        return Changed(job, is_changed=True)

    def _on_recorded(self, changes: Iterable[Change]) -> None:
        """Do what follows from changes that are recorded and applied."""
        ended: list[Job] = []
        to_purge: dict[int, int] = {}
        may_start = False
        for change in changes:
            kind = type(change.event)
            self._signal_processes(change)
            if change.removed is not None:
                to_purge |= self._purge_tasks(change.removed)
            if change.ended:
                ended += self._on_cancelled(change)
            if kind is Removed:
                self._counters["removed"] += 1
            elif kind is Retried:
                self._counters["retried"] += 1
            may_start |= kind is not Removed and kind is not Cancelled
        if to_purge:
            self.purge(to_purge)
        if ended:
            self._on_ended(*ended)
        if may_start:
            self._on_change()

    def _signal_processes(self, change: Change) -> None:
        """End, stop or continue the processes of running jobs."""
        for job_id in change.to_end:
            self._executor.end(job_id, Reason.CANCELLED, change.signal)
        for job_id in change.to_suspend:
            self._executor.set_suspended(job_id, True)
        for job_id in change.to_continue:
            self._executor.set_suspended(job_id, False)

    def _on_cancelled(self, change: Change) -> list[Job]:
        """Announce tasks that a cancel of their array has ended; return the job if it is another job."""
        job = self._queue_state.jobs[change.event.id]
        if job.tasks is None:
            return [job]
        self._on_tasks_ended(job, Status.CANCELLED, change.ended)
        return []

    def _purge_tasks(self, job: Job) -> dict[int, int]:
        """Remove the files of the tasks of a removed job, in portions; return its own attempts by id.

        Nothing is returned for a job that has no files.
        """
        if job.tasks is not None and job.tasks.touched:
            purging = Deferred.fromCoroutine(self._purge_touched(job.tasks.touched))
            purging.addErrback(lambda failure: self._log.failure("internal error in a removal", failure))
        return {job.id: job.attempts} if job.may_have_files else {}

    async def _purge_touched(self, touched: dict[int, Job]) -> None:
        while touched:
            parts = [touched.pop(task_id) for task_id in list(islice(touched, MAX_VISITS_PER_TURN))]
            attempts = {part.id: part.attempts for part in parts if part.may_have_files}
            if attempts:
                self.purge(attempts)
            if touched:
                await deferLater(self._clock, 0)

    def purge(self, attempts: Mapping[int, int]) -> None:
        """Remove the files of jobs that are no longer known; what remains is removed at the next start.

        ``attempts`` has the number of attempts of each job, by id.
        """
        self._spool.remove_jobs(attempts).addErrback(self._on_purge_failed, attempts)

    def _on_purge_failed(self, failure: Failure, attempts: Mapping[int, int]) -> None:
        failure.trap(OSError)
        first, *others = attempts
        ids = f"{first} or of {len(others)} others" if others else str(first)
        self._log.warn("files of job {id} are left for the next start: {why}", id=ids, why=failure.value)

    # Many jobs.

    async def carry_out_all(
        self, job_ids: Sequence[int], act: Act, *, is_removal: bool = False, may_wait: bool = False
    ) -> Outcome:
        """Carry out an act on some jobs, by one batch of records, and return when it is durable.

        Raises StoreFailed: some of the jobs are changed then, and others not. Jobs that are locked, and those
        to remove that have left processes, are changed one by one beside the others, so that nothing is
        awaited while locks are held. ``may_wait`` is that of ``IJournal.append_all``. Batches that may not
        wait are made one at a time, so that those of several clients are not applied in one reactor turn.
        """
        if may_wait:
            changed, refusals, others = await self._carry_out_batch(job_ids, act, is_removal, may_wait)
        else:
            await self._batch_lock.acquire("")
            try:
                changed, refusals, others = await self._carry_out_batch(job_ids, act, is_removal, may_wait)
            finally:
                self._batch_lock.release("")
        for job_id, result in (await others).items():
            if not isinstance(result, Failure):
                changed += result.is_changed
            elif isinstance(result.value, TaskqError) and not isinstance(result.value, StoreFailed):
                refusals[job_id] = result.value
            else:
                result.raiseException()
        return Outcome(changed, refusals)

    async def _carry_out_batch(
        self, job_ids: Sequence[int], act: Act, is_removal: bool, may_wait: bool
    ) -> tuple[int, dict[int, TaskqError], Deferred[dict[int, Changed | Failure]]]:
        """Change the jobs that need no wait; return how many, the errors, and the results for the others."""
        self._event_writer.check_writable()
        batch, unknown = self._get_all(job_ids)
        if is_removal:
            batch = [job for job in batch if not (_is_possible(act, job) and self._needs_time(job))]
        locked = {job.id: job for job in batch if self._locks.try_acquire(job)}
        try:
            changes, refusals = _try_act(act, locked.values())
            refusals |= unknown
            # From now on they wait for their locks, before what may follow from the batch.
            others = [job_id for job_id in job_ids if job_id not in locked and job_id not in unknown]
            results = Deferred.fromCoroutine(self._carry_out_each(others, act, is_removal))
            if changes:
                await self._event_writer.record_all([change.event for change in changes], may_wait)
        finally:
            for job in locked.values():
                self._locks.release(job)
        self._on_recorded(changes)
        return len(changes), refusals, results

    def _get_all(self, job_ids: Iterable[int]) -> tuple[list[Job], dict[int, TaskqError]]:
        """Return the jobs that are known, and the errors by id of the others."""
        known: list[Job] = []
        unknown: dict[int, TaskqError] = {}
        for job_id in job_ids:
            try:
                known.append(self._queue_state.get(job_id))
            except TaskqError as why:
                unknown[job_id] = why
        return known, unknown

    async def _carry_out_each(
        self, job_ids: Sequence[int], act: Act, is_removal: bool
    ) -> dict[int, Changed | Failure]:
        carry_out = self._remove if is_removal else self._carry_out
        each = [Deferred.fromCoroutine(carry_out(job_id, act)) for job_id in job_ids]
        results = await gather_results(each)
        return dict(zip(job_ids, results, strict=True))

    # A job and those that depend on it.

    async def cancel(self, job_id: int, by: Actor, signal: int, dependents: Sequence[int] = ()) -> Job:
        """Cancel a job and return it when that is recorded; a job that is being cancelled is left alone.

        A running job is sent ``signal``. Its ``dependents`` are cancelled first, a batch per turn of the
        reactor; after an error some of them are cancelled and others not.
        """
        act = self.acts.cancel(by, signal)
        if not dependents:
            return (await self._carry_out(job_id, act)).job
        job = self._queue_state.get(job_id)
        check_can_be_cancelled(job)
        await self.carry_out_in_portions([*dependents, job_id], lambda: act, required=job_id)
        return self._queue_state.jobs.get(job_id) or job

    async def carry_out_in_portions(
        self, job_ids: Sequence[int], make_act: Callable[[], Act], required: int | None = None
    ) -> None:
        """Carry out an act on jobs, a batch per turn of the reactor; ``make_act`` makes that of a batch.

        A job that has changed or been removed meanwhile is left alone, unless it is ``required``. Any other
        error is raised; some jobs are changed then, and others not.
        """
        done = 0
        while done < len(job_ids):
            if done:
                await deferLater(self._clock, 0)
            batch = next_batch(job_ids[done : done + MAX_JOBS_PER_BATCH], self._queue_state.jobs)
            done += len(batch)
            for each, why in (await self.carry_out_all(batch, make_act())).refusals.items():
                if each == required or not isinstance(why, WrongState | NoSuchJob | Gone):
                    raise why

    async def dependents_of(self, job_id: int, check: Callable[[Job], object] = lambda _: None) -> list[int]:
        """Return the ids of the jobs that depend on a job, directly or not, each before those it depends on.

        A job can only depend on older ones, so this is the order of descending ids. ``check`` is called with
        each job and may raise. The reactor serves others after every MAX_VISITS_PER_TURN jobs.
        """
        found: list[int] = []
        for count, job in enumerate(self._queue_state.dependents_of(job_id), 1):
            if job is not None:
                check(job)
                found.append(job.id)
            if count % MAX_VISITS_PER_TURN == 0:
                await deferLater(self._clock, 0)
        found.sort(reverse=True)
        return found

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


def _is_possible(act: Act, job: Job) -> bool:
    try:
        return act(job) is not None
    except WrongState:
        return False


def _try_act(act: Act, jobs: Iterable[Job]) -> tuple[list[Change], dict[int, TaskqError]]:
    """Return the changes of jobs by an act, and the errors by job of those to which it does not apply."""
    changes: list[Change] = []
    refusals: dict[int, TaskqError] = {}
    for job in jobs:
        try:
            change = act(job)
        except TaskqError as why:
            refusals[job.id] = why
        else:
            if change is not None:
                changes.append(change)
    return changes, refusals
