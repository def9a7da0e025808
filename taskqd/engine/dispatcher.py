"""Starts due jobs while capacity is available, and records how they end.

A start is durable in the journal before its process is spawned. An end is recorded as soon as that is
possible, and only then announced.
"""

import signal
from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine import suspects
from taskqd.engine.end_events import EndEvents
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks
from taskqd.engine.randomness import Randomness
from taskqd.engine.shortage import MAX_DELAY, MIN_DELAY, Shortage
from taskqd.errors import StoreFailed, WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.run import CannotStart, Outcome
from taskqd.model.actor import DAEMON_NAME
from taskqd.model.durations import format_duration
from taskqd.model.events import Ended, Held, Spawned, Started
from taskqd.model.job import Job, Reason
from taskqd.model.transitions import attempt_of
from taskqd.storage.interfaces import ISpool

MAX_SLEEP = 5.0
"""Maximum seconds until the next check for due jobs: timers stand still while the machine is suspended."""

MakeStart = Callable[[Job, int, str], Start]
"""Makes the Start of an attempt of a job, with its number and its word."""


class Dispatcher:
    """Runs jobs.

    ``make_start(job, attempt, word)`` builds what the executor is given, or raises CannotStart.
    ``on_started`` is called for each attempt when it has a process, or has ended without one, but not for a
    start that is undone because the machine lacks resources. ``on_ended`` is called with each job that has
    ended.
    """

    _log = Logger()

    def __init__(
        self,
        event_writer: EventWriter,
        locks: JobLocks,
        spool: ISpool,
        executor: IExecutor,
        make_start: MakeStart,
        random: Randomness,
        on_started: Callable[[], None],
        on_ended: Callable[[Job], None],
    ) -> None:
        self.is_draining = False
        self.shortage = Shortage()
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._journal = event_writer.journal
        self._locks = locks
        self._spool = spool
        self._executor = executor
        self._clock = event_writer.clock
        self._make_start = make_start
        self._make_word = random.word
        executor.make_start = self._make_start_again
        executor.on_ready = self._on_executor_ready
        self._end_events = EndEvents(spool, event_writer.clock, random.fraction)
        self._on_started = on_started
        self._on_ended = on_ended
        self._is_deferred = False  # jobs may be due that were not started, as the journal had failed
        self._allocated: set[int] = set()  # jobs that hold capacity
        self._trial_starts: set[int] = set()  # jobs whose start is under way in a shortage
        self._uncounted: set[int] = set()  # jobs whose attempt ``on_started`` was not called for
        self._under_way = 0
        self._is_in_commit = False
        self._unannounced: list[Deferred[None]] = []  # fire when the ends may be announced
        self._is_stopping = False
        self._drain_waiters: list[Deferred[None]] = []
        self._drain_end_observers: list[Callable[[], object]] = []
        self._journal_recovery: Deferred[None] | None = None
        self._wakeup: IDelayedCall | None = None
        self._wakeup_at: float | None = None

    @property
    def busy(self) -> int:
        """How many jobs hold capacity: they run, or their start is being recorded."""
        return len(self._allocated)

    def runner_stats(self) -> dict[str, str | None]:
        """Return the runner as STATS shows it: its name, or why none accepts starts."""
        return {"name": self._executor.runner or None, "detail": self._executor.unready_detail}

    def explain_delay(self, now: float) -> str | None:
        """Return why no job starts now, a lack of runners or of the machine's resources; else None."""
        return self._executor.unready_detail or self.shortage.explain(now)

    # Start and stop of the daemon.

    def recover(self, outcomes: Mapping[int, Outcome]) -> list[Job]:
        """Record what became of attempts whose runner is dead; return their jobs.

        Their processes must be gone. ``outcomes`` are by job. To be called once, before the reactor runs;
        blocks for one sync.
        """
        jobs = [job for job in self._queue_state.running() if job.id in outcomes]
        ends = [self._make_end(job, outcomes[job.id]) for job in jobs]
        holds = [self._make_hold(ended.id) for ended in ends if suspects.needs_hold(ended)]
        self._event_writer.record_now([*ends, *holds])
        for job in jobs:
            self._spool.close_attempt(job.id)
        return jobs

    def adopt_running(self) -> None:
        """Go on with the attempts that a former daemon has started and whose runner lives."""
        running = self._queue_state.running()
        newest = suspects.newest_start(self._queue_state.jobs.objects()) if running else None
        for job in running:
            attempt = attempt_of(job)
            self._allocated.add(job.id)
            self._queue_state.allocate_running(job)
            self._under_way += 1
            self._spool.open_attempt(job.id, attempt.number)
            key = AttemptKey(job.id, attempt.number, attempt.word)
            on_spawned = partial(self._on_spawned, job.id)
            ended = self._executor.adopt(key, attempt.runner, on_spawned, job.id == newest)
            if job.cancelling is not None:
                self._executor.end(job.id, Reason.CANCELLED, job.cancelling)
            elif job.suspended_at is not None:
                self._executor.set_suspended(job.id, True)
            Deferred.fromCoroutine(self._follow(job, ended)).addErrback(self._log_internal_error, job.id)

    def commit_started(self) -> None:
        """Announce no end before the jobs have been started whose start is in the same commit."""
        self._is_in_commit = True

    def commit_ended(self) -> None:
        """Announce the ends that the commit has made durable."""
        self._is_in_commit = False
        unannounced, self._unannounced = self._unannounced, []
        for waiter in unannounced:
            waiter.callback(None)

    def drain(self, *, is_stopping: bool = False) -> "Deferred[None]":
        """Start nothing more; fire when all running jobs have ended. ``is_stopping``: it has no way back."""
        self._stop_starting(is_stopping=is_stopping)
        drained: Deferred[None] = Deferred(self._drain_waiters.remove)
        self._drain_waiters.append(drained)
        self._notify_if_drained()
        return drained

    def end_drain(self) -> None:
        """Start jobs again; raises WrongState if the daemon is stopping."""
        if self._is_stopping:
            raise WrongState("the daemon is stopping, which ends with its process; start it again")
        if self.is_draining:
            self.is_draining = False
            self._start_due_jobs()
            for observer in self._drain_end_observers:
                observer()

    def add_drain_end_observer(self, observer: Callable[[], object]) -> None:
        """Call ``observer()`` when jobs start again after a drain."""
        self._drain_end_observers.append(observer)

    def stop(self, requeue: bool) -> "Deferred[None]":
        """End all running jobs; fire when their ends are recorded, or cannot be.

        With ``requeue`` the jobs are pending again, and their attempts do not count against the retries.
        """
        self._end_events.stop(requeue)
        stopped = self.drain(is_stopping=True)
        for job_id in list(self._allocated):
            self._executor.end(job_id, Reason.INTERRUPTED, signal.SIGTERM)
        self._event_writer.give_up()
        return stopped

    def leave(self) -> None:
        """Start nothing more, and record nothing that cannot be recorded at once; running jobs go on."""
        self._stop_starting(is_stopping=True)
        self._event_writer.give_up()

    def _stop_starting(self, *, is_stopping: bool) -> None:
        self.is_draining = True
        self._is_stopping |= is_stopping
        if self._wakeup is not None and self._wakeup.active():
            self._wakeup.cancel()

    def _notify_if_drained(self) -> None:
        if self.is_draining and not self._under_way:
            waiters, self._drain_waiters = self._drain_waiters, []
            for waiter in waiters:
                waiter.callback(None)

    # Choosing jobs.

    def start_due_jobs(self) -> None:
        """Start due jobs, unless nothing has changed since the last attempt."""
        if self._is_deferred or self._queue_state.needs_scheduling or self.shortage.detail is not None:
            self._start_due_jobs()

    def _start_due_jobs(self) -> None:
        """Start due jobs, and set the timer for those that become due later."""
        self._is_deferred = True
        if self.is_draining or self._event_writer.has_unwritten or not self._executor.runner:
            return
        if self._journal.failure is not None:
            self._resume_after_failure()
            return
        self._is_deferred = False
        now = self._clock.elapsed()
        while self.shortage.allows_start(len(self._trial_starts), now):
            if (job := self._queue_state.next_job(now)) is None:
                if not self._trial_starts:
                    self.shortage.record_idle()
                break
            self._allocated.add(job.id)
            if self.shortage.detail is not None:
                self._trial_starts.add(job.id)
            self._under_way += 1
            Deferred.fromCoroutine(self._run(job)).addErrback(self._log_internal_error, job.id)
        if self.shortage.end_if_over(now):
            self._trial_starts.clear()
            seconds = format_duration(now - self.shortage.began_at)
            self._log.info("jobs start again: the shortage is over after {seconds}", seconds=seconds)
            self._start_due_jobs()
            return
        self._set_wakeup(now)

    def _on_executor_ready(self) -> None:
        if self._is_deferred:
            self._start_due_jobs()

    def _set_wakeup(self, now: float) -> None:
        times = (self._queue_state.next_due(now), self.shortage.next_wakeup(now))
        wakeup_at = min((each for each in times if each is not None), default=None)
        wakeup = self._wakeup if self._wakeup is not None and self._wakeup.active() else None
        if wakeup is not None and wakeup_at == self._wakeup_at:
            return
        if wakeup is not None:
            wakeup.cancel()
        self._wakeup_at = wakeup_at
        if wakeup_at is not None:
            delay = min(max(0.0, wakeup_at - now), MAX_SLEEP)
            self._wakeup = self._clock.callLater(delay, self._start_due_jobs)

    def _resume_after_failure(self) -> None:
        """Start due jobs when the journal can be written again."""
        if self._journal_recovery is None:
            self._journal_recovery = self._journal.when_writable()
            self._journal_recovery.addCallbacks(
                self._on_journal_recovered, lambda failure: failure.trap(CancelledError)
            )

    def _on_journal_recovered(self, _: None) -> None:
        self._journal_recovery = None
        self.start_due_jobs()

    # One attempt, from its start to its end.

    async def _run(self, job: Job) -> None:
        """Run a job to which capacity has been allocated."""
        try:
            attempt = await self._begin(job)
        except StoreFailed as why:
            self._log.error("job {id} stays {status}: {why}", id=job.id, status=job.status.value, why=why)
            self._resume_after_failure()
            attempt = None
        except BaseException:
            self._forget(job)
            raise
        if attempt is None:
            self._forget(job)
        else:
            await self._follow(self._queue_state.jobs[job.id], attempt)

    async def _follow(self, job: Job, attempt: "Deferred[Outcome]") -> None:
        """Record the end of an attempt when it has ended, and start others with its capacity."""
        try:
            await self._end(job, await attempt.addErrback(self._unknown_outcome, job.id))
        except StoreFailed as why:
            status = job.status.value
            self._log.error("job {id} stays {status}: {why}", id=job.id, status=status, why=why)
            self._resume_after_failure()
        finally:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """Release what a job's attempt holds: it has ended, or was not started."""
        self._under_way -= 1
        self._release(job)
        self._notify_if_drained()

    def _release(self, job: Job) -> None:
        """Release a job's capacity, unless that has been done, and start other jobs with it."""
        if job.id in self._allocated:
            self._allocated.discard(job.id)
            self._trial_starts.discard(job.id)
            self._queue_state.release(job.id)
        self.start_due_jobs()

    async def _begin(self, job: Job) -> "Deferred[Outcome] | None":
        """Record the start and spawn the process; None if the job may no longer start."""
        async with self._locks.of(job):
            known = self._queue_state.jobs.get(job.id)
            if known is None or not self._queue_state.may_start(known, self._clock.elapsed()):
                return None
            number, word, runner = known.attempts + 1, self._make_word(), self._executor.runner
            needs = known.spec.needs
            units = self._queue_state.capacity.units.assign(job.id, needs) if needs else {}
            started = Started(
                id=job.id, at=self._clock.now(), attempt=number, word=word, runner=runner, units=units
            )
            job = await self._event_writer.record(started)
            try:
                self._uncounted.add(job.id)
                if self._end_events.is_stopping:
                    return succeed(Outcome(reason=Reason.INTERRUPTED))
                if self.shortage.is_paused(self._clock.elapsed()):  # it has begun since
                    detail = self.shortage.detail
                    return succeed(Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=True))
                start = self._make_start(job, number, word)
                self._spool.open_attempt(job.id, number)
                return self._executor.start(start, runner, partial(self._on_spawned, job.id))
            except CannotStart as why:
                detail = f"could not be started: {why}"
                return succeed(Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=why.is_shortage))
            except Exception as why:  # noqa: BLE001 - the start is recorded, so the end must be as well
                self._log_internal_error(Failure(), job.id)
                return succeed(Outcome(reason=Reason.SPAWN, detail=f"could not be started: {why}"))

    def _make_start_again(self, key: AttemptKey) -> Start:
        """Return the Start of an attempt that never arrived at its runner; raises CannotStart."""
        return self._make_start(self._queue_state.jobs[key.id], key.attempt, key.word)

    def _notify_started(self, job_id: int) -> None:
        """Count the running attempt of a job, once."""
        if job_id in self._uncounted:
            self._uncounted.discard(job_id)
            self._on_started()

    def _on_spawned(self, job_id: int, pid: int, started: int | None) -> None:
        self._notify_started(job_id)
        event = Spawned(id=job_id, at=self._clock.now(), pid=pid, started=started)
        self._event_writer.record(event, may_wait=True).addErrback(self._log_internal_error, job_id)
        if job_id in self._trial_starts:
            self._trial_starts.discard(job_id)
            self.shortage.record_success()
            self.start_due_jobs()

    def _unknown_outcome(self, failure: Failure, job_id: int) -> Outcome:
        """Return the outcome of an attempt for which the executor failed."""
        self._log_internal_error(failure, job_id)
        return Outcome(reason=Reason.OUTPUT, detail=f"its end could not be handled: {failure.value}")

    async def _end(self, job: Job, outcome: Outcome) -> None:
        """Record the end of an attempt as soon as that is possible, and announce it.

        The process is gone, so the capacity is released first: the next start is written right behind this
        end, in the same batch.
        """
        self._update_shortage(job.id, outcome)
        held: Deferred[None] = succeed(None)
        async with self._locks.of(job):
            try:
                ended = self._make_end(job, outcome)
                if ended.is_void:
                    self._uncounted.discard(job.id)
                recorded = self._event_writer.record_until_durable(ended)
                if suspects.needs_hold(ended):
                    held = self._hold(job)
            except Exception:  # noqa: BLE001 - the attempt has ended, whatever cannot be recorded of it
                self._log_internal_error(Failure(), job.id)
                ended = self._end_events.make_minimal(job, outcome)
                recorded = self._event_writer.record_until_durable(ended)
            self._notify_started(job.id)
            self._release(job)
            await recorded
            await held  # before the lock is released: the job may be due at once
        if self._is_in_commit:  # jobs whose start is in the same commit go first
            self._unannounced.append(Deferred())
            await self._unannounced[-1]
        self._executor.acknowledge(job.id)
        self._spool.close_attempt(job.id)
        if job.status.is_final:
            self._on_ended(job)

    def _make_end(self, job: Job, outcome: Outcome) -> Ended:
        """Return the event for the end of an attempt."""
        if outcome.is_lost:
            stdout, stderr = self._spool.output_on_disk(job.id, job.attempts)
            outcome = replace(outcome, stdout=stdout, stderr=stderr)
        return suspects.with_verdict(job, self._end_events.make(job, outcome))

    def _make_hold(self, job_id: int) -> Held:
        return Held(id=job_id, at=self._clock.now(), by=DAEMON_NAME)

    def _hold(self, job: Job) -> "Deferred[None]":
        """Hold a job that is to be retried: its attempts may be what kills the runners."""
        recorded = self._event_writer.record_until_durable(self._make_hold(job.id))
        return recorded.addCallbacks(lambda _: None, self._log_internal_error, errbackArgs=(job.id,))

    def _update_shortage(self, job_id: int, outcome: Outcome) -> None:
        """Note what the end of an attempt shows about a shortage of the machine."""
        now = self._clock.elapsed()
        if not outcome.is_shortage:
            if job_id in self._trial_starts and outcome.reason is not Reason.SPAWN:
                self.shortage.record_success()
            self.shortage.record_process_end(now)
        elif self.shortage.record_refusal(outcome.detail or "", now):
            self._log.warn(
                "no job starts for now, since the machine lacks what a start needs: {detail}. No job fails "
                "because of it; a start is tried again after {min:g} s, then less often, at least every "
                "{max:g} s",
                detail=outcome.detail,
                min=MIN_DELAY,
                max=MAX_DELAY,
            )

    def _log_internal_error(self, failure: Failure, job_id: int) -> None:
        if failure.check(StoreFailed) is None:  # the journal has logged that one, once
            self._log.failure("internal error while running job {id}", failure, id=job_id)
