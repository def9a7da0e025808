"""The clock of the schedules: submits what is due, once for all that was missed, and none beside another.

When each is due is in schedules.py. A run that is under way, or was left out because the job before has not
ended, is counted from at once: only a submission that is durable is told by the journal.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine.engine import Engine
from taskqd.errors import StoreFailed, TaskqError
from taskqd.model.actor import Actor
from taskqd.model.schedule import Schedule

TRY_AGAIN = 1.0
"""While runs cannot be recorded, one is tried after so many seconds each time."""
LONGEST_SLEEP = 5.0
"""Seconds until the next look at the latest: timers stand still while the machine is suspended."""
AT_ONCE = 100
"""So many jobs are submitted in one turn of the reactor."""


class RecurringSubmitter:
    """Submits by ``engine`` what is due; one alarm for all schedules, at the earliest run.

    Nothing is submitted for an owner by which more than ``most_pending`` would be pending.
    """

    _log = Logger()

    def __init__(self, engine: Engine, clock: Any, most_pending: PendingLimit = UNBOUNDED) -> None:
        self._engine = engine
        self._most_pending = most_pending
        self._schedules = engine.queue_state.schedules
        self._clock = clock
        self._alarm: Any = None
        self._under_way: set[int] = set()
        self._refusals: dict[int, str] = {}
        self._not_before = 0.0
        self._is_stopped = False
        engine.controls.on_schedules(self._look)
        engine.jumps.on_jump(self._look)

    def start(self) -> None:
        """Submit what is due, and go on doing so until the daemon drains."""
        self._look()

    def stop(self) -> None:
        """Submit nothing more."""
        self._is_stopped = True
        self._arm()

    def _look(self) -> None:
        now = self._clock.elapsed()
        for _ in range(AT_ONCE):
            schedule = self._due(now)
            if schedule is None:
                break
            self._run(schedule, now)
        self._arm()

    def _due(self, now: float) -> Schedule | None:
        upcoming = self._schedules.upcoming()
        is_due = self._is_at_work and upcoming is not None and max(upcoming[0], self._not_before) <= now
        return upcoming[1] if upcoming is not None and is_due else None

    @property
    def _is_at_work(self) -> bool:
        return not (self._is_stopped or self._engine.is_draining)

    def _arm(self) -> None:
        """Set the alarm to the next run; what is due already comes in a turn of its own."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        upcoming = self._schedules.upcoming()
        if self._is_at_work and upcoming is not None:
            pause = max(upcoming[0], self._not_before) - self._clock.elapsed()
            self._alarm = self._clock.callLater(min(max(pause, 0.0), LONGEST_SLEEP), self._look)

    def _run(self, schedule: Schedule, now: float) -> None:
        """Submit the job of a schedule that is due, or leave that out; either way it is counted from now."""
        self._schedules.set_next_run_base(schedule.id, now)
        if schedule.id in self._under_way or (not schedule.overlap and self._is_active(schedule)):
            return
        self._under_way.add(schedule.id)
        submitted = Deferred.fromCoroutine(self._submit(schedule))
        submitted.addErrback(self._not_submitted, schedule.id)

    def _is_active(self, schedule: Schedule) -> bool:
        job = self._engine.queue_state.jobs.get(schedule.last_job or 0)
        return job is not None and not job.status.is_final

    async def _submit(self, schedule: Schedule) -> None:
        try:
            owner = Actor(schedule.owner)
            await self._engine.submit(
                schedule.command, schedule.spec, owner, {}, schedule.id, self._most_pending
            )
        finally:
            self._under_way.discard(schedule.id)
        self._refusals.pop(schedule.id, None)
        self._arm()

    def _not_submitted(self, failure: Failure, number: int) -> None:
        """Leave a run out that is refused, but have one that could not be recorded come again.

        Why is said once, until the schedule submits again.
        """
        if not failure.check(TaskqError):
            self._log.failure("schedule {number} met a bug of taskqd's", failure=failure, number=number)
            return
        why = str(failure.value)
        if why != self._refusals.get(number):
            self._log.warn("schedule {number} could not submit: {why}", number=number, why=why)
        self._refusals[number] = why
        if failure.check(StoreFailed):
            self._schedules.set_next_run_base(number, None)
            self._not_before = self._clock.elapsed() + TRY_AGAIN
            self._arm()
