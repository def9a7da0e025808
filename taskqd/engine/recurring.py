"""Submits the jobs of schedules when they are due: one job for all runs that were missed.

``state.schedules`` computes when each schedule is due. A run counts from the moment that it is submitted or
left out; only a durable submission is in the journal.
"""

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine.engine import Engine
from taskqd.errors import BlocksLost, LabelInUse, StoreFailed, TaskqError
from taskqd.model.schedule import Schedule
from taskqd.storage.interfaces import IClock

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to submit while the journal cannot be written."""
MAX_SLEEP = 5.0
"""Maximum seconds until the next check for due schedules: timers stand still during a suspend."""
MAX_SUBMISSIONS_PER_TURN = 100
"""Jobs that are submitted per turn of the reactor."""


class RecurringSubmitter:
    """Submits due jobs of all schedules, with one timer for the next of them.

    ``max_pending`` is the limit of pending jobs of a schedule's owner.
    """

    _log = Logger()

    def __init__(self, engine: Engine, clock: IClock, max_pending: PendingLimit = UNBOUNDED) -> None:
        self._engine = engine
        self._max_pending = max_pending
        self._schedules = engine.queue_state.schedules
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._submitting: set[int] = set()
        self._refusals: dict[int, str] = {}  # the last reason that was logged, by schedule
        self._not_before = 0.0
        self._is_stopped = False
        engine.queue_commands.add_schedule_observer(self._submit_due)
        engine.clock_jumps.add_observer(self._submit_due)
        engine.dispatcher.add_drain_end_observer(self._submit_due)

    def start(self) -> None:
        """Submit due jobs, now and until the daemon drains."""
        self._submit_due()

    def stop(self) -> None:
        """Submit nothing more."""
        self._is_stopped = True
        self._set_timer()

    def _submit_due(self) -> None:
        now = self._clock.elapsed()
        for _ in range(MAX_SUBMISSIONS_PER_TURN):
            schedule = self._due(now)
            if schedule is None:
                break
            self._run(schedule, now)
        self._set_timer()

    def _due(self, now: float) -> Schedule | None:
        upcoming = self._schedules.next_due()
        is_due = self._is_active and upcoming is not None and max(upcoming[0], self._not_before) <= now
        return upcoming[1] if upcoming is not None and is_due else None

    @property
    def _is_active(self) -> bool:
        return not (self._is_stopped or self._engine.dispatcher.is_draining)

    def _set_timer(self) -> None:
        """Set the timer for the next run; if it is due already, for the next turn of the reactor."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        upcoming = self._schedules.next_due()
        if self._is_active and upcoming is not None:
            delay = max(upcoming[0], self._not_before) - self._clock.elapsed()
            self._timer = self._clock.callLater(min(max(delay, 0.0), MAX_SLEEP), self._submit_due)

    def _run(self, schedule: Schedule, now: float) -> None:
        """Submit the job of a due schedule, or leave this run out if the job of the last one is active."""
        self._schedules.set_next_run_base(schedule.id, now)
        if schedule.id in self._submitting or (not schedule.overlap and self._has_active_job(schedule)):
            return
        self._submitting.add(schedule.id)
        submitted = Deferred.fromCoroutine(self._submit(schedule))
        submitted.addErrback(self._on_submit_failed, schedule.id)

    def _has_active_job(self, schedule: Schedule) -> bool:
        job = self._engine.queue_state.jobs.get(schedule.last_job or 0)
        return job is not None and not job.status.is_final

    async def _submit(self, schedule: Schedule) -> None:
        try:
            await self._engine.schedule_runs.submit(schedule, None, self._max_pending)
        finally:
            self._submitting.discard(schedule.id)
        self._refusals.pop(schedule.id, None)
        self._set_timer()

    def _on_submit_failed(self, failure: Failure, number: int) -> None:
        """Leave out a run that was refused; try again soon if the journal has failed.

        The same reason is logged once, until the schedule submits again.
        """
        if not failure.check(TaskqError):
            self._log.failure("internal error in schedule {number}", failure=failure, number=number)
            return
        is_ended = number not in self._schedules.by_id
        if is_ended or failure.check(LabelInUse):  # as its --unless says
            return
        why = str(failure.value)
        if why != self._refusals.get(number):
            self._log.warn("schedule {number} could not submit: {why}", number=number, why=why)
        self._refusals[number] = why
        if failure.check(StoreFailed) and not failure.check(BlocksLost):
            self._schedules.set_next_run_base(number, None)
            self._not_before = self._clock.elapsed() + RETRY_INTERVAL
            self._set_timer()
