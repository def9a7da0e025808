"""Schedules: jobs that are submitted again and again, and when each is due next.

Like the backlog, of which they are a part, they are a fold of the journal: ``apply`` and ``ran`` are the ways
in. The runs of an ``every`` are at its creation and so many times that many seconds. Those of a ``cron`` are
what crontab(5) would have, in the time zone of the spec, or else in one that is handed in: the daemon's own.

Where clocks are put forward or back, cron's runs are those of Debian's cron. If neither its minute nor its
hour begins with ``*``, it goes by what clocks show: what falls into an hour that is left out comes at that
hour's end, once, and what falls into an hour that comes twice comes the first time only. Any other goes by
the time that passes: nothing is moved, and the hour that comes twice has its runs twice.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, ClassVar, cast

from cronsim import CronSim, CronSimError
from msgspec import Struct
from sortedcontainers import SortedList

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model import time_zones
from taskqd.model.events import Paused, Resumed, Scheduled, Unscheduled
from taskqd.model.job import PLAIN, Spec
from taskqd.model.time_zones import LOCAL

SHORTEST = 1.0
"""No schedule runs more often than every so many seconds."""
SET_BACK = 60.0
"""If the time of day is set back by more seconds, the runs of a `cron` count anew from then."""
ROUNDING = 1e-4
"""Times that are no further apart, in seconds, are the same: a sum of two of them is rounded."""
LONGEST_CRON = 1000
"""A cron expression has so many letters at most."""

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EXPECTED = 'minute, hour, day of the month, month and weekday, such as "30 4 * * MON-FRI"'
_FIELDS = 5
_TO_SUNDAY = re.compile(r"-SUN(?=[,/]|\s*$)", re.IGNORECASE)
_RANGE = re.compile(r"([A-Z]+|[0-9]+)-([A-Z]+|[0-9]+)")
CRON_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
CRON_MONTHS = ("", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_ANY_TIME = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""What has no run in the fifty years from here has none ever: the calendar is the same again by then."""


def check_every(seconds: float) -> None:
    """Raise BadRequest if a schedule would run too often."""
    if seconds < SHORTEST:
        raise BadRequest(f"expected a duration of at least {SHORTEST:g} second, not {seconds:g}")


def check_cron(text: str) -> None:
    """Raise BadRequest if ``text`` is no cron expression, or one that no day ever matches."""
    if text.strip().lower().startswith("@every"):
        every = "".join(text.split()[1:]) or "5m"
        raise BadRequest(f"@every is no cron expression: ask for --every={every[:30]} instead of --cron")
    fields = _fields(text)
    if len(text) > LONGEST_CRON or len(fields.split()) != _FIELDS:
        raise BadRequest(
            f"expected the {_FIELDS} fields of a cron expression, {_EXPECTED}, or one of "
            f"{' '.join(_NICKNAMES)}, not {text[:60]!r}"
        )
    try:
        first = next(CronSim(fields, _ANY_TIME), None)
    except CronSimError as why:
        wrong = str(why).replace("Bad", "wrong") + (_backwards(fields) or "")
        raise BadRequest(f"expected {_EXPECTED}, not {text[:60]!r}: {wrong}") from None
    if first is None:
        raise BadRequest(f"expected a cron expression that some day matches, and {text[:60]!r} never does")


def _fields(cron: str) -> str:
    """Return the five fields of an expression; a range of weekdays may end with Sunday."""
    return _TO_SUNDAY.sub("-7", _NICKNAMES.get(cron.strip().lower(), cron))


def _backwards(fields: str) -> str | None:
    """Return what is wrong with a range whose end comes before its beginning, None if there is none."""
    for first, last in _RANGE.findall(fields.upper()):
        for names in (CRON_DAYS, CRON_MONTHS):
            number = {name: at for at, name in enumerate(names)}
            ends = [number.get(end, int(end) if end.isdigit() else -1) for end in (first, last)]
            if 0 <= ends[1] < ends[0]:
                return f", since {first}-{last} ends before it begins; write two ranges, with a comma"
    return None


class Schedule(Struct, kw_only=True, gc=False):
    """A schedule: the job that it submits, ``every`` so many seconds or as ``cron`` says.

    Where ``overlap`` is not set, no job is submitted while ``last_job`` has not ended. That one was submitted
    at ``last_run_at``. The next run is the first after ``counted_from``: when it ran last, or was made,
    paused or resumed since, so that what a pause has kept from running is not made up for. That is a time of
    day for a ``cron``, else a time on the clock of waits, which the time of day was ``ahead`` of when the
    schedule was made (events.Clocked).
    """

    id: int
    owner: str
    command: str
    spec: Spec = PLAIN
    created_at: float
    counted_from: float
    every: float | None = None
    cron: str | None = None
    overlap: bool = False
    is_paused: bool = False
    ahead: float = 0.0
    last_run_at: float | None = None
    last_job: int | None = None


class Schedules:
    """The schedules by number, in the order of their next runs.

    ``_counted_from`` has by number the times that ``count_from`` was told. It is in memory only, and not what
    makes two of them equal: after a restart, a run that was left out and is still to come is due once.
    Both it and ``_next`` are on the clock of each, as `counted_from` is. ``_next`` and ``_upcoming``, the
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

    def apply(self, event: Scheduled | Unscheduled | Paused | Resumed) -> None:
        """Change the one schedule that ``event`` is about; the event is already on disk.

        Raises ValueError, having changed nothing, if such an event cannot be.
        """
        number = cast(int, event.schedule)
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
            counted_from=event.at - (self.ahead if event.cron is None else 0.0),
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
        schedule.counted_from = self._on_its_clock(schedule, event.at)
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
        schedule.counted_from = at = self._on_its_clock(schedule, at)
        if self._counted_from.get(number, at) <= at:
            self._counted_from.pop(number, None)
        self._stale.add(number)

    def is_latest(self, job_id: int) -> bool:
        """Whether a job is the latest one of a schedule, so that its submission tells when that ran last."""
        return job_id in self._latest

    def count_from(self, number: int, at: float | None) -> None:
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
                if schedule.counted_from > at + SET_BACK:
                    schedule.counted_from = at
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
        after = self._counted_from.get(schedule.id, schedule.counted_from) + ROUNDING
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


def _next_of_every(created_at: float, every: float, after: float) -> float:
    number = (after - created_at) // every + 1
    at = created_at + number * every
    return at if at > after else created_at + (number + 1) * every  # where rounding has made it no later


def _next_of_cron(cron: str, after: float, zone: tzinfo) -> float | None:
    """Return the first run after a moment, None if there is none ever.

    CronSim lists the times of day that match, and the zone says at which moments clocks show each.
    """
    fields = _fields(cron)
    is_fixed = not any(field.startswith("*") for field in fields.split()[:2])
    start = time_zones.wall(after, zone) - time_zones.spread(after, zone) - timedelta(seconds=1)
    second: list[float] = []
    for shown in CronSim(fields, start):
        found = time_zones.at_or_after(shown, zone)[:1] if is_fixed else time_zones.moments(shown, zone)
        if found and found[0] > after:
            return min([*second, found[0]])
        second += [moment for moment in found[1:] if moment > after]
    return None
