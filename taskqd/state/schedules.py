"""Schedules: jobs that are submitted again and again, and when each is due next.

Like the backlog, of which they are a part, they are a fold of the journal: ``apply`` and ``ran`` are the ways
in. The runs of an ``every`` are at its creation and so many times that many seconds. Those of a ``cron`` are
what crontab(5) would have, in the time zone of the spec, or else in one that is handed in: the daemon's own.

Where clocks are put forward or back, cron's runs are those of Debian's cron. If neither its minute nor its
hour begins with ``*``, it goes by what clocks show: what falls into an hour that is left out comes at that
hour's end, once, and what falls into an hour that comes twice comes the first time only. Any other goes by
the time that passes: nothing is moved, and the hour that comes twice has its runs twice.
"""

from collections.abc import Callable
from datetime import tzinfo
from typing import Any, ClassVar, cast

from sortedcontainers import SortedList

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model import time_zones
from taskqd.model.events import Paused, QueueEvent, Resumed, Scheduled, Unscheduled
from taskqd.model.schedule import (
    ROUNDING,
    SET_BACK,
    Schedule,
    _next_of_cron,
    _next_of_every,
    check_cron,
    check_every,
)
from taskqd.model.time_zones import LOCAL


class Schedules:
    """The schedules by number, in the order of their next runs.

    ``_counted_from`` has by number the times that ``set_next_run_base`` was told. It is in memory only, and
    not what
    makes two of them equal: after a restart, a run that was left out and is still to come is due once.
    Both it and ``_next`` are on the clock of each, as `next_run_base` is. ``_next`` and ``_upcoming``, the
    latter of (time, number) apart for those with a ``cron``, are derived, and wrong for the numbers that are
    in ``_stale``. The time of day is ``ahead`` of the clock of waits.
    """

    def __init__(self, zone: tzinfo = LOCAL) -> None:
        self.by_id: dict[int, Schedule] = {}
        self.last_id = 0
        self.ahead = 0.0
        self._zone = zone
        self._latest: set[int] = set()
        self._counted_from: dict[int, float] = {}
        self._next: dict[int, float] = {}
        self._upcoming: dict[bool, SortedList[tuple[float, int]]] = {False: SortedList(), True: SortedList()}
        self._stale: set[int] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedules) and (self.by_id, self.last_id) == (other.by_id, other.last_id)

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def get(self, number: int) -> Schedule:
        """Return the schedule of that number; raises NoSuchJob."""
        if number not in self.by_id:
            raise NoSuchJob(f"there is no schedule {number}; SCHEDULES has those that there are")
        return self.by_id[number]

    def apply(self, event: QueueEvent) -> None:
        """Apply a durable event that names a schedule.

        Raises ValueError, having changed nothing, if the event is not possible.
        """
        number = cast(Scheduled, event).schedule
        if (type(event) is Scheduled) is (number in self.by_id):
            raise ValueError(
                f"{event.name} cannot happen to schedule {number}, which is "
                f"{'there already' if number in self.by_id else 'unknown'}"
            )
        self._changes[type(event)](self, number, event)
        self._stale.add(number)

    def _scheduled(self, number: int, event: Scheduled) -> None:
        try:
            _check(event)
        except BadRequest as why:
            raise ValueError(f"schedule {number} cannot be: {why}") from None
        self.by_id[number] = Schedule(
            id=number,
            owner=event.by,
            command=event.command,
            spec=event.spec,
            created_at=event.at,
            next_run_base=event.at - (self.ahead if event.cron is None else 0.0),
            ahead=self.ahead,
            every=event.every,
            cron=event.cron,
            overlap=event.overlap,
        )
        self.last_id = max(self.last_id, number)

    def _unscheduled(self, number: int, event: Unscheduled) -> None:
        self._latest.discard(self.by_id.pop(number).last_job or 0)
        self._counted_from.pop(number, None)

    def _paused_or_resumed(self, number: int, event: Paused | Resumed) -> None:
        schedule = self.by_id[number]
        schedule.is_paused = type(event) is Paused
        schedule.next_run_base = self._on_its_clock(schedule, event.at)
        self._counted_from.pop(number, None)

    _changes: ClassVar[dict[type, Callable[["Schedules", int, Any], None]]] = {
        Scheduled: _scheduled,
        Unscheduled: _unscheduled,
        Paused: _paused_or_resumed,
        Resumed: _paused_or_resumed,
    }

    def ran(self, number: int, at: float, job_id: int) -> None:
        """Take in that a schedule has submitted a job; one that has ended meanwhile is ignored."""
        schedule = self.by_id.get(number)
        if schedule is None:
            return
        self._latest.discard(schedule.last_job or 0)
        self._latest.add(job_id)
        schedule.last_run_at, schedule.last_job = at, job_id
        schedule.next_run_base = at = self._on_its_clock(schedule, at)
        if self._counted_from.get(number, at) <= at:
            self._counted_from.pop(number, None)
        self._stale.add(number)

    def is_latest(self, job_id: int) -> bool:
        """Whether a job is the latest one of a schedule, so that its submission tells when that ran last."""
        return job_id in self._latest

    def set_next_run_base(self, number: int, at: float | None) -> None:
        """Have a schedule's next run be the first after ``at``, until it has run; None takes that back.

        This is for a run that is under way or is left out. ``at`` is on the clock of waits.
        """
        schedule = self.by_id.get(number)
        if schedule is not None and at is not None:
            self._counted_from[number] = at if schedule.cron is None else at + self.ahead
        else:
            self._counted_from.pop(number, None)
        self._stale.add(number)

    def set_time(self, at: float, ahead: float) -> None:
        """Take in that the time of day is ``at`` now, ``ahead`` of the clock of waits."""
        self.ahead = ahead
        for number, schedule in self.by_id.items():
            if schedule.cron is not None:
                if schedule.next_run_base > at + SET_BACK:
                    schedule.next_run_base = at
                    self._stale.add(number)
                if self._counted_from.get(number, at) > at + SET_BACK:
                    self._counted_from[number] = at
                    self._stale.add(number)

    def _on_its_clock(self, schedule: Schedule, at: float) -> float:
        """Return a time of day that was recorded on the clock from which a schedule counts."""
        return at - self.ahead if schedule.cron is None else at

    def next_run(self, schedule: Schedule) -> float | None:
        """Return the time of day at which a schedule is due next, None while it is paused.

        What lies in the past is due now.
        """
        self._settle()
        at = self._next.get(schedule.id)
        return at if at is None or schedule.cron is not None else at + self.ahead

    def upcoming(self) -> tuple[float, Schedule] | None:
        """Return the schedule that is due first of all, after when that is on the clock of waits."""
        self._settle()
        firsts = [
            (runs[0][0] - (self.ahead if is_cron else 0.0), runs[0][1])
            for is_cron, runs in self._upcoming.items()
            if runs
        ]
        if not firsts:
            return None
        at, number = min(firsts)
        return at, self.by_id[number]

    def _settle(self) -> None:
        while self._stale:
            number = self._stale.pop()
            if number in self._next:
                run = self._next.pop(number), number
                for runs in self._upcoming.values():
                    runs.discard(run)
            schedule = self.by_id.get(number)
            at = self._first_after(schedule)
            if schedule is not None and at is not None:
                self._next[number] = at
                self._upcoming[schedule.cron is not None].add((at, number))

    def _first_after(self, schedule: Schedule | None) -> float | None:
        if schedule is None or schedule.is_paused:
            return None
        after = self._counted_from.get(schedule.id, schedule.next_run_base) + ROUNDING
        if schedule.every is not None:
            return _next_of_every(schedule.created_at - schedule.ahead, schedule.every, after)
        try:
            zone = self._zone if schedule.spec.tz is None else time_zones.named(schedule.spec.tz)
        except BadRequest:
            return None  # the machine does not know it any more; there is no telling when that would be
        return _next_of_cron(cast(str, schedule.cron), after, zone)


def _check(event: Scheduled) -> None:
    if (event.every is None) is (event.cron is None):
        raise BadRequest("expected either a duration or a cron expression")
    if event.every is not None:
        check_every(event.every)
    else:
        check_cron(cast(str, event.cron))
