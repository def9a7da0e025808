"""Schedules, and when they are due: periodically, or by a cron expression in a time zone."""

import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from cronsim import CronSim, CronSimError
from msgspec import Struct

from taskqd.errors import BadRequest
from taskqd.model import time_zones
from taskqd.model.spec import DEFAULT_SPEC, Spec

MIN_EVERY = 1.0
"""The shortest period of a schedule, in seconds."""

MAX_SET_BACK = 60.0
"""Seconds that the system clock may be set back before ``cron`` runs are counted from the new time."""

TIME_TOLERANCE = 1e-4
"""Times that differ by less, in seconds, are equal: sums of times are rounded."""

MAX_CRON_LENGTH = 1000
"""Maximum length of a cron expression, in characters."""

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
_RANGE = re.compile(r"([A-Z]+|[0-9]+)-([A-Z]+|[0-9]+)")
_TO_SUNDAY = re.compile(r"-SUN(?=[,/]|\s*$)", re.IGNORECASE)
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

_ANY_TIME = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""An expression that matches nothing in the 50 years after this never matches: the calendar repeats."""


def check_every(seconds: float) -> None:
    """Raise BadRequest if a period is too short."""
    if seconds < MIN_EVERY:
        raise BadRequest(f"expected a duration of at least {MIN_EVERY:g} second, not {seconds:g}")


def check_cron(text: str) -> None:
    """Raise BadRequest if ``text`` is not a cron expression, or never matches."""
    if text.strip().lower().startswith("@every"):
        every = "".join(text.split()[1:]) or "5m"
        raise BadRequest(f"@every is not a cron expression; use --every={every[:30]} in place of --cron")
    fields = _fields(text)
    if len(text) > MAX_CRON_LENGTH or len(fields.split()) != _FIELDS:
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
        raise BadRequest(f"expected a cron expression that matches some day; {text[:60]!r} never does")


def _fields(cron: str) -> str:
    """Return the five fields of an expression, with Sunday as 7 at the end of a range."""
    return _TO_SUNDAY.sub("-7", _NICKNAMES.get(cron.strip().lower(), cron))


def _backwards(fields: str) -> str | None:
    """Return an error text if a range ends before it begins, else None."""
    for first, last in _RANGE.findall(fields.upper()):
        for names in (_DAYS, _MONTHS):
            number = {name: at for at, name in enumerate(names)}
            ends = [number.get(end, int(end) if end.isdigit() else -1) for end in (first, last)]
            if 0 <= ends[1] < ends[0]:
                return f": {first}-{last} ends before it begins; use two ranges, with a comma"
    return None


class ScheduleBlocks(NamedTuple):
    """The blocks of a schedule: its number, their version, and their names.

    They are kept in files, of which each job of the schedule gets links.
    """

    schedule: int
    version: int
    names: tuple[str, ...]

    def file_name(self, name: str) -> str:
        """Return the name of the file with a block."""
        return f"{self.schedule}.{self.version}.{name}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of all files."""
        return tuple(map(self.file_name, self.names))


class Schedule(Struct, kw_only=True, gc=False):
    """A schedule: it submits a job every ``every`` seconds, or whenever ``cron`` matches.

    Unless ``overlap`` is set, no job is submitted while ``last_job``, which was submitted at ``last_run_at``,
    has not ended. The next run is the first after ``next_run_base``: the latest run, creation, change, pause
    or resumption, so that runs missed in a pause are not made up for. ``next_run_base`` is a time of day if
    there is a ``cron``, else a time on the monotonic clock. ``ahead`` is how many seconds the time of day was
    ahead of that clock at the creation (events.Clocked). ``version`` is that of the blocks.
    """

    id: int
    owner: str
    command: str
    spec: Spec = DEFAULT_SPEC
    created_at: float
    next_run_base: float
    every: float | None = None
    cron: str | None = None
    overlap: bool = False
    version: int = 0
    is_paused: bool = False
    ahead: float = 0.0
    last_run_at: float | None = None
    last_job: int | None = None

    @property
    def blocks(self) -> ScheduleBlocks:
        """The blocks of its jobs."""
        return ScheduleBlocks(self.id, self.version, self.spec.block_names)


def next_of_every(created_at: float, every: float, after: float) -> float:
    """Return the first run after a time; runs are multiples of the period ``every`` after the creation."""
    number = (after - created_at) // every + 1
    at = created_at + number * every
    return at if at > after else created_at + (number + 1) * every  # rounding made it no later


def next_of_cron(cron: str, after: float, zone: tzinfo) -> float | None:
    """Return the first run after a time, None if there is none.

    CronSim lists the matching wall-clock times; the zone says at which times clocks show them.
    """
    fields = _fields(cron)
    is_fixed = not any(field.startswith("*") for field in fields.split()[:2])
    start = time_zones.wall(after, zone) - time_zones.spread(after, zone) - timedelta(seconds=1)
    repeated: list[float] = []  # later moments with a time that clocks show twice
    for shown in CronSim(fields, start):
        found = time_zones.at_or_after(shown, zone)[:1] if is_fixed else time_zones.moments(shown, zone)
        if found and found[0] > after:
            return min([*repeated, found[0]])
        repeated += [moment for moment in found[1:] if moment > after]
    return None
