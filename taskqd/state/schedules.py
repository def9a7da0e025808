"""The schedules, and when each is due next.

They are part of the queue state and a fold of the journal: they change only by ``apply``, ``job_submitted``
and ``set_time``. An ``every`` schedule is due at its creation plus multiples of its period. A ``cron``
schedule is due when crontab(5) says, in the time zone of its spec, or else in the daemon's.

When clocks are put forward or back, ``cron`` follows Debian's cron. If neither the minute nor the hour field
begins with ``*``, the schedule follows what clocks show: a run in the hour that is left out is due at the
end of that hour, once, and a run in the hour that occurs twice is due in the first one only. Any other
schedule follows the time that passes: no run is moved, and the hour that occurs twice has its runs twice.
"""

from collections.abc import Callable
from datetime import tzinfo
from typing import Any, ClassVar, cast

from sortedcontainers import SortedList

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model import time_zones
from taskqd.model.events import (
    Paused,
    QueueEvent,
    Rescheduled,
    Resumed,
    ScheduleContent,
    Scheduled,
    Unscheduled,
)
from taskqd.model.schedule import (
    MAX_SET_BACK,
    TIME_TOLERANCE,
    Schedule,
    check_cron,
    check_every,
    next_of_cron,
    next_of_every,
)
from taskqd.model.time_zones import LOCAL


class Schedules:
    """The schedules by number, and an index of their next runs.

    ``_base_overrides`` has the times that ``set_next_run_base`` has set, by number. They are not persistent
    and not compared: after a restart, a run that was skipped and is still ahead is due once. They and
    ``_next`` are on each schedule's own clock, as ``Schedule.next_run_base`` is. ``_next`` and ``_upcoming``,
    which is sorted by (time, number) for each of the two clocks, are derived, and outdated for the numbers in
    ``_stale``. The time of day is ``ahead`` of the monotonic clock.
    """

    def __init__(self, zone: tzinfo = LOCAL) -> None:
        self.by_id: dict[int, Schedule] = {}
        self.last_id = 0
        self.ahead = 0.0
        self._zone = zone
        self._latest: set[int] = set()
        self._base_overrides: dict[int, float] = {}
        self._next: dict[int, float] = {}
        self._upcoming: dict[bool, SortedList[tuple[float, int]]] = {False: SortedList(), True: SortedList()}
        self._stale: set[int] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedules) and (self.by_id, self.last_id) == (other.by_id, other.last_id)

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def get(self, number: int) -> Schedule:
        """Return a schedule by its number; raises NoSuchJob."""
        if number not in self.by_id:
            raise NoSuchJob(f"there is no schedule {number}; SCHEDULES lists them")
        return self.by_id[number]

    def file_names(self) -> set[str]:
        """Return the names of the files of all schedules."""
        return {name for schedule in self.by_id.values() for name in schedule.blocks.file_names}

    def apply(self, event: QueueEvent) -> None:
        """Apply a durable event that names a schedule.

        Raises ValueError, having changed nothing, if the event is not possible.
        """
        number = cast(Scheduled, event).schedule
        if (type(event) is Scheduled) is (number in self.by_id):
            raise ValueError(
                f"{event.name} is not possible for schedule {number}, which is "
                f"{'there already' if number in self.by_id else 'unknown'}"
            )
        self._changes[type(event)](self, number, event)
        self._stale.add(number)

    def _scheduled(self, number: int, event: Scheduled) -> None:
        _check(event)
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
            version=event.version,
        )
        self.last_id = max(self.last_id, number)

    def _rescheduled(self, number: int, event: Rescheduled) -> None:
        _check(event)
        schedule = self.by_id[number]
        schedule.command, schedule.spec, schedule.overlap = event.command, event.spec, event.overlap
        schedule.every, schedule.cron, schedule.version = event.every, event.cron, event.version
        schedule.next_run_base = self._on_its_clock(schedule, event.at)
        self._base_overrides.pop(number, None)

    def _unscheduled(self, number: int, event: Unscheduled) -> None:
        self._latest.discard(self.by_id.pop(number).last_job or 0)
        self._base_overrides.pop(number, None)

    def _paused_or_resumed(self, number: int, event: Paused | Resumed) -> None:
        schedule = self.by_id[number]
        schedule.is_paused = type(event) is Paused
        schedule.next_run_base = self._on_its_clock(schedule, event.at)
        self._base_overrides.pop(number, None)

    _changes: ClassVar[dict[type, Callable[["Schedules", int, Any], None]]] = {
        Scheduled: _scheduled,
        Rescheduled: _rescheduled,
        Unscheduled: _unscheduled,
        Paused: _paused_or_resumed,
        Resumed: _paused_or_resumed,
    }

    def latest_run(self, schedule: int) -> int | None:
        """Return the id of the latest job of a schedule, None if there is no such schedule or job."""
        known = self.by_id.get(schedule)
        return None if known is None else known.last_job

    def job_submitted(self, number: int, at: float, job_id: int) -> None:
        """Record that a schedule has submitted a job; does nothing if the schedule was ended meanwhile."""
        schedule = self.by_id.get(number)
        if schedule is None:
            return
        self._latest.discard(schedule.last_job or 0)
        self._latest.add(job_id)
        schedule.last_run_at, schedule.last_job = at, job_id
        schedule.next_run_base = at = self._on_its_clock(schedule, at)
        if self._base_overrides.get(number, at) <= at:
            self._base_overrides.pop(number, None)
        self._stale.add(number)

    def is_latest_run(self, job_id: int) -> bool:
        """Whether a job is the latest run of a schedule: its record tells when the schedule ran last."""
        return job_id in self._latest

    def set_next_run_base(self, number: int, at: float | None) -> None:
        """Make the first run after ``at`` the next one, until the schedule has run; None undoes that.

        This is for a run that is being submitted or is skipped. ``at`` is on the monotonic clock.
        """
        schedule = self.by_id.get(number)
        if schedule is not None and at is not None:
            self._base_overrides[number] = at if schedule.cron is None else at + self.ahead
        else:
            self._base_overrides.pop(number, None)
        self._stale.add(number)

    def set_time(self, at: float, ahead: float) -> None:
        """Record that the time of day is ``at`` now, ``ahead`` of the monotonic clock."""
        self.ahead = ahead
        for number, schedule in self.by_id.items():
            if schedule.cron is not None:
                if schedule.next_run_base > at + MAX_SET_BACK:
                    schedule.next_run_base = at
                    self._stale.add(number)
                if self._base_overrides.get(number, at) > at + MAX_SET_BACK:
                    self._base_overrides[number] = at
                    self._stale.add(number)

    def _on_its_clock(self, schedule: Schedule, at: float) -> float:
        """Convert a recorded time of day to the clock of a schedule."""
        return at - self.ahead if schedule.cron is None else at

    def next_run(self, schedule: Schedule) -> float | None:
        """Return the time of day at which a schedule is due next, None while it is paused.

        A time in the past means that it is due now.
        """
        self._refresh()
        at = self._next.get(schedule.id)
        return at if at is None or schedule.cron is not None else at + self.ahead

    def next_runs(self, schedule: Schedule, count: int) -> list[float]:
        """Return up to ``count`` times of day at which a schedule is due next, none while it is paused."""
        runs: list[float] = []
        at = self.next_run(schedule)
        while at is not None and len(runs) < count:
            runs.append(at)
            after = self._on_its_clock(schedule, at) + TIME_TOLERANCE
            found = self._run_after(schedule, after)
            at = found if found is None or schedule.cron is not None else found + self.ahead
        return runs

    def next_due(self) -> tuple[float, Schedule] | None:
        """Return the schedule that is due first, as (time on the monotonic clock, schedule)."""
        self._refresh()
        firsts = [
            (runs[0][0] - (self.ahead if is_cron else 0.0), runs[0][1])
            for is_cron, runs in self._upcoming.items()
            if runs
        ]
        if not firsts:
            return None
        at, number = min(firsts)
        return at, self.by_id[number]

    def _refresh(self) -> None:
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
        after = self._base_overrides.get(schedule.id, schedule.next_run_base) + TIME_TOLERANCE
        return self._run_after(schedule, after)

    def _run_after(self, schedule: Schedule, after: float) -> float | None:
        """Return the first run after a time; both are on the schedule's own clock."""
        if schedule.every is not None:
            return next_of_every(schedule.created_at - schedule.ahead, schedule.every, after)
        try:
            zone = self._zone if schedule.spec.tz is None else time_zones.named(schedule.spec.tz)
        except BadRequest:
            return None  # the machine no longer has the time zone
        return next_of_cron(cast(str, schedule.cron), after, zone)


def _check(event: ScheduleContent) -> None:
    """Raise ValueError if no schedule can have this content."""
    try:
        if (event.every is None) is (event.cron is None):
            raise BadRequest("expected either a duration or a cron expression")
        if event.every is not None:
            check_every(event.every)
        else:
            check_cron(cast(str, event.cron))
    except BadRequest as why:
        raise ValueError(f"schedule {event.schedule} is invalid: {why}") from None
