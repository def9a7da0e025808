"""The slots: what there is room for runs, each job from its recorded start to its recorded end.

Whatever is due takes what it wants (capacity.py). Its start is durable before it is spawned, and its end is
recorded as soon as that is possible, before anybody hears of it.
"""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks
from taskqd.engine.shortage import FIRST_WAIT, MAX_WAIT, Shortage
from taskqd.errors import StoreFailed
from taskqd.execution.command_line import duration
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.run import CannotStart, Outcome, Run
from taskqd.model.events import Ended, JobEvent, Spawned, Started
from taskqd.model.job import Job, Reason, Status
from taskqd.model.retry import backoff, is_retryable
from taskqd.storage.interfaces import ISpool

STOPPED = "the daemon was told to stop while it ran"
"""What is said of an attempt that a stop interrupted, and not a crash."""
LONGEST_SLEEP = 5.0
"""Seconds until the next look at the latest: timers stand still while the machine is suspended."""
JITTER = 0.25
"""A retry waits longer than its delay by up to this part of it, lest many come back at once."""


class Dispatcher:
    """What runs.

    ``make_run(job, attempt)`` builds what the executor takes, or raises CannotStart; ``chance()`` is a number
    from 0 to 1.
    """

    _log = Logger()

    def __init__(
        self,
        recorder: EventWriter,
        turns: JobLocks,
        spool: ISpool,
        executor: IExecutor,
        clock: Any,
        make_run: Callable[[Job, int], Run],
        chance: Callable[[], float],
    ) -> None:
        self.is_draining = False
        self._recorder = recorder
        self._queue_state = recorder.queue_state
        self._store = recorder.store
        self._turns = turns
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._make_run = make_run
        self._chance = chance
        self._told_started: Callable[[], None] = lambda: None
        self._told_ended: Callable[[Job], None] = lambda _: None
        self._is_stopping = False
        self._is_requeuing = False
        self._is_deferred = False
        self._taken: set[int] = set()
        self._tried: set[int] = set()
        self._uncounted: set[int] = set()
        self.shortage = Shortage()
        self._unfinished = 0
        self._drained: list[Deferred[None]] = []
        self._going_on: Deferred[None] | None = None
        self._alarm: Any = None
        self._alarm_at: float | None = None

    def listen(self, started: Callable[[], None], ended: Callable[[Job], None]) -> None:
        """Have ``started`` called for each attempt, and ``ended`` with each job that ends.

        An attempt counts once it has a process, or has ended without: a start that is taken back was none.
        """
        self._told_started, self._told_ended = started, ended

    @property
    def busy(self) -> int:
        """How many jobs have what they want: they run, or their start is on its way to the disk."""
        return len(self._taken)

    def recover(self, detail: str) -> list[Job]:
        """End the attempts that a crash interrupted, before anything else; returns their jobs.

        Their processes must be gone. ``detail`` tells what the crash was. To be called once, before the
        reactor runs; blocks for one sync.
        """
        running = self._queue_state.running()
        ends: list[JobEvent] = []
        for job in running:
            stdout, stderr = self._spool.output_on_disk(job.id, job.attempts)
            outcome = Outcome(reason=Reason.INTERRUPTED, detail=detail, stdout=stdout, stderr=stderr)
            ends.append(self._end_of(job, outcome))
        self._recorder.record_now(ends)
        for job in running:
            self._spool.close_attempt(job.id)
        return running

    def drain(self) -> "Deferred[None]":
        """Take nothing new and start nothing more; fire when what runs has ended."""
        self.is_draining = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        drained: Deferred[None] = Deferred(self._drained.remove)
        self._drained.append(drained)
        self._tell_if_drained()
        return drained

    def stop(self, requeue: bool) -> "Deferred[None]":
        """End what runs, and fire when all of it is recorded, or can't be.

        With ``requeue`` the attempts that this interrupts are made up for: their jobs are PENDING again and
        the attempts do not count against their retries.
        """
        self._is_stopping, self._is_requeuing = True, requeue
        stopped = self.drain()
        for job_id in list(self._taken):
            self._executor.end(job_id, Reason.INTERRUPTED, signal.SIGTERM)
        self._recorder.give_up()
        return stopped

    def fill(self) -> None:
        """Start what there is room for, if anything has changed since that was done."""
        if self._is_deferred or not self._queue_state.is_quiescent or self.shortage.detail is not None:
            self._fill()

    def _fill(self) -> None:
        """Start what there is room for, and see to it that what becomes due later is not forgotten."""
        self._is_deferred = True
        if self.is_draining or self._recorder.is_behind:
            return
        if self._store.failure is not None:
            self._resume_after_failure()
            return
        self._is_deferred = False
        now = self._clock.elapsed()
        while self.shortage.allows(len(self._tried), now):
            if (job := self._queue_state.take(now)) is None:
                if not self._tried:
                    self.shortage.idle()
                break
            self._taken.add(job.id)
            if self.shortage.detail is not None:
                self._tried.add(job.id)
            self._unfinished += 1
            Deferred.fromCoroutine(self._run(job)).addErrback(self._broken, job.id)
        if self.shortage.end(now):
            self._tried.clear()
            seconds = duration(now - self.shortage.began_at)
            self._log.info("jobs start again: the shortage of {seconds} is over", seconds=seconds)
            self._fill()
            return
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        looks = (self._queue_state.next_due(now), self.shortage.next_look(now))
        due = min((look for look in looks if look is not None), default=None)
        is_set = self._alarm is not None and self._alarm.active()
        if is_set and due == self._alarm_at:
            return
        if is_set:
            self._alarm.cancel()
        self._alarm_at = due
        if due is not None:
            self._alarm = self._clock.callLater(min(max(0.0, due - now), LONGEST_SLEEP), self._fill)

    async def _run(self, job: Job) -> None:
        """Take a job that was given what it wants from its start to its end."""
        try:
            attempt = await self._begin(job)
            if attempt is not None:
                await self._end(job, await attempt.addErrback(self._unknown_end, job.id))
        except StoreFailed as why:
            status = job.status.value
            self._log.error("job {id} stays {status}: {why}", id=job.id, status=status, why=why)
            self._resume_after_failure()
        finally:
            self._unfinished -= 1
            self._give_back(job)
            self._tell_if_drained()

    def _give_back(self, job: Job) -> None:
        """Let others have what a job had taken, unless they do already."""
        if job.id in self._taken:
            self._taken.discard(job.id)
            self._tried.discard(job.id)
            self._queue_state.give_back(job.id)
        self.fill()

    def _resume_after_failure(self) -> None:
        """Start what is due when the store works again."""
        if self._going_on is None:
            self._going_on = self._store.when_writable()
            self._going_on.addCallbacks(self._go_on, lambda failure: failure.trap(CancelledError))

    def _go_on(self, _: None) -> None:
        self._going_on = None
        self.fill()

    async def _begin(self, job: Job) -> "Deferred[Outcome] | None":
        """Record the start and spawn; None if the job is not to start after all."""
        async with self._turns.of(job):
            if not self._queue_state.is_due(job, self._clock.elapsed()):
                return None
            number = job.attempts + 1
            await self._recorder.record(Started(id=job.id, at=self._clock.now(), attempt=number))
            try:
                self._uncounted.add(job.id)
                if self._is_stopping:
                    return succeed(Outcome(reason=Reason.INTERRUPTED))
                if self.shortage.is_paused(self._clock.elapsed()):  # it has begun since
                    detail = self.shortage.detail
                    return succeed(Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=True))
                run = self._make_run(job, number)
                recording = self._spool.open_output(job.id, number, job.spec.max_output)
                return self._executor.start(run, recording, partial(self._spawned, job.id))
            except CannotStart as why:
                detail = f"could not be started: {why}"
                return succeed(Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=why.is_shortage))
            except Exception as why:  # noqa: BLE001 - its start is recorded, and so must its end be
                self._broken(Failure(), job.id)
                return succeed(Outcome(reason=Reason.SPAWN, detail=f"could not be started: {why}"))

    def _count(self, job_id: int) -> None:
        """Count the attempt of a job that runs, once."""
        if job_id in self._uncounted:
            self._uncounted.discard(job_id)
            self._told_started()

    def _spawned(self, job_id: int, pid: int, started: int | None) -> None:
        self._count(job_id)
        event = Spawned(id=job_id, at=self._clock.now(), pid=pid, started=started)
        self._recorder.record(event, may_wait=True).addErrback(self._broken, job_id)
        if job_id in self._tried:
            self._tried.discard(job_id)
            self.shortage.succeed()
            self.fill()

    def _unknown_end(self, failure: Failure, job_id: int) -> Outcome:
        """Return how an attempt ended whose end the executor could not tell."""
        self._broken(failure, job_id)
        return Outcome(reason=Reason.OUTPUT, detail=f"its end could not be handled: {failure.value}")

    async def _end(self, job: Job, outcome: Outcome) -> None:
        """Record the end of an attempt, as soon as that is possible, and tell whoever waits for it.

        Its process is gone, so the next start goes to the disk with this end, and right behind it.
        """
        self._take_note(job.id, outcome)
        async with self._turns.of(job):
            try:
                ended = self._end_of(job, outcome)
                if ended.is_void:
                    self._uncounted.discard(job.id)
                recorded = self._recorder.record_until_durable(ended)
            except Exception:  # noqa: BLE001 - whatever its end has that cannot be recorded, it has ended
                self._broken(Failure(), job.id)
                recorded = self._recorder.record_until_durable(self._plain_end(job, outcome))
            self._count(job.id)
            self._give_back(job)
            await recorded
        self._spool.close_attempt(job.id)
        if job.status.is_final:
            self._told_ended(job)

    def _take_note(self, job_id: int, outcome: Outcome) -> None:
        """See what the end of an attempt says about a shortage of the machine's."""
        now = self._clock.elapsed()
        if not outcome.is_shortage:
            if job_id in self._tried and outcome.reason is not Reason.SPAWN:
                self.shortage.succeed()
            self.shortage.ease(now)
        elif self.shortage.refuse(outcome.detail or "", now):
            self._log.warn(
                "no job starts for now, since the machine lacks what a start takes: {detail}. No job fails "
                "by it; a start is tried again after {first} s, then less often, at least every {most:g} s",
                detail=outcome.detail,
                first=FIRST_WAIT,
                most=MAX_WAIT,
            )

    def _end_of(self, job: Job, outcome: Outcome) -> Ended:
        """Return what an outcome means for its job, as the event."""
        now = self._clock.now()
        status, reason, retry_at, is_free, is_void = Status.FAILED, outcome.reason, None, False, False
        if job.cancelling is not None:
            status, reason = Status.CANCELLED, Reason.CANCELLED
        elif outcome.is_shortage:
            status, is_free, is_void = Status.PENDING, True, True
        elif outcome.reason is None:
            status = Status.COMPLETED
        elif outcome.reason is Reason.INTERRUPTED and self._is_requeuing:
            status, retry_at, is_free = Status.PENDING, now, True
        elif is_retryable(job, outcome.reason, outcome.exit_code, outcome.signal):
            status = Status.PENDING
            retry_at = now + backoff(job.spec, job.failures + 1) * (1 + JITTER * self._chance())
        return Ended(
            id=job.id,
            at=now,
            status=status,
            reason=reason,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            detail=STOPPED if outcome.reason is Reason.INTERRUPTED and self._is_stopping else outcome.detail,
            progress=self._spool.read_progress(job.id),
            is_free=is_free,
            is_void=is_void,
            retry_at=retry_at,
            usage=outcome.usage,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            pid=outcome.pid,
        )

    def _plain_end(self, job: Job, outcome: Outcome) -> Ended:
        """Return the end of an attempt without all that could keep it from being recorded."""
        is_cancelled = job.cancelling is not None
        return Ended(
            id=job.id,
            at=self._clock.now(),
            status=Status.CANCELLED if is_cancelled else Status.FAILED,
            reason=Reason.CANCELLED if is_cancelled else Reason.OUTPUT,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            detail="its end could not be recorded as it was; the daemon's log has the reason",
        )

    def _tell_if_drained(self) -> None:
        if self.is_draining and not self._unfinished:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)

    def _broken(self, failure: Failure, job_id: int) -> None:
        if failure.check(StoreFailed) is None:  # the store has said that itself, once
            self._log.failure("job {id} met a bug of taskqd's", failure, id=job_id)
