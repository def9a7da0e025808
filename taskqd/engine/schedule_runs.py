"""Submits the jobs of schedules, each with the blocks of its schedule."""

from twisted.internet.defer import Deferred

from taskqd.config.limits import PendingLimit
from taskqd.engine.locks import KeyedLock
from taskqd.engine.submissions import NewJob, Submissions
from taskqd.model.actor import Actor
from taskqd.model.schedule import Schedule
from taskqd.state.schedules import Schedules


class ScheduleRuns:
    """Submits jobs of ``schedules``.

    While a job gets the blocks of its schedule, no other version replaces them: ``locks`` are those of the
    schedules.
    """

    def __init__(self, schedules: Schedules, submissions: Submissions, locks: KeyedLock[int]) -> None:
        self._schedules = schedules
        self._submissions = submissions
        self._locks = locks

    def submit(self, schedule: Schedule, origin: str | None, max_pending: PendingLimit) -> "Deferred[int]":
        """Submit a job for the schedule's owner; fire with its id when it is durable.

        ``origin`` is where the user is who requests it. Raises and fails as ``Submissions.submit`` does, and
        fails with NoSuchJob if the schedule is ended meanwhile.
        """
        if not schedule.blocks.names:
            return self._submissions.submit(_new_job(schedule, origin, max_pending))
        return Deferred.fromCoroutine(self._submit_with_blocks(schedule.id, origin, max_pending))

    async def _submit_with_blocks(self, number: int, origin: str | None, max_pending: PendingLimit) -> int:
        await self._locks.acquire(number)
        try:
            schedule = self._schedules.get(number)
            return await self._submissions.submit(_new_job(schedule, origin, max_pending))
        finally:
            self._locks.release(number)


def _new_job(schedule: Schedule, origin: str | None, max_pending: PendingLimit) -> NewJob:
    return NewJob(
        schedule.command,
        schedule.spec,
        Actor(schedule.owner, origin),
        schedule=schedule.id,
        schedule_blocks=schedule.blocks if schedule.blocks.names else None,
        max_pending=max_pending,
    )
