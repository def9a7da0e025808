"""Conversion between times (seconds since the epoch) and what wall clocks show in a time zone.

When clocks are put forward, some wall-clock times do not occur; when they are put back, some occur twice.
"""

import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import cast

from taskqd.errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,3}")
_DAY = timedelta(days=1)


class _LocalTime(tzinfo):
    """The time zone of this process, from the C library and TZ."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        naive = cast(datetime, moment).replace(tzinfo=None)
        return naive - datetime.fromtimestamp(naive.timestamp(), timezone.utc).replace(tzinfo=None)

    def fromutc(self, moment: datetime) -> datetime:
        seconds = moment.replace(tzinfo=timezone.utc).timestamp()
        return datetime.fromtimestamp(seconds).replace(tzinfo=self)  # noqa: DTZ006 - it has the fold

    def dst(self, moment: datetime | None) -> None:
        """Return None: not used."""

    def tzname(self, moment: datetime | None) -> None:
        """Return None: not used."""


LOCAL: tzinfo = _LocalTime()


def named(name: str) -> tzinfo:
    """Return a time zone by its name in the tz database; raises BadRequest if it is unknown."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - slow, and most starts of taskq need none

    try:
        if _NAME.fullmatch(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise BadRequest(
        f"expected a time zone that this machine knows, such as Europe/Berlin or UTC, not {name[:60]!r}; "
        "on Debian, the package tzdata has all of them"
    )


def check(name: str) -> str:
    """Return the name of a time zone; raises BadRequest if it is unknown."""
    named(name)
    return name


def wall(moment: float, zone: tzinfo) -> datetime:
    """Return what wall clocks show at a time, as a naive datetime."""
    return datetime.fromtimestamp(moment, zone).replace(tzinfo=None, fold=0)


def moments(shown: datetime, zone: tzinfo) -> list[float]:
    """Return the times at which wall clocks show a datetime: none, one or two, in order."""
    found = (_moment(shown, zone, fold) for fold in (0, 1))
    return sorted({moment for moment in found if wall(moment, zone) == shown})


def at_or_after(shown: datetime, zone: tzinfo) -> list[float]:
    """Return the times at which wall clocks show a datetime, or if none, the first at which it is past."""
    found = moments(shown, zone)
    if found:
        return found
    early, late = _moment(shown, zone, 1) // 1, _moment(shown, zone, 0) // 1 + 1
    while late - early > 1:
        middle = (early + late) // 2
        early, late = (middle, late) if wall(middle, zone) < shown else (early, middle)
    return [late]


def _moment(shown: datetime, zone: tzinfo, fold: int) -> float:
    return shown.replace(tzinfo=zone, fold=fold).timestamp()


def spread(moment: float, zone: tzinfo) -> timedelta:
    """Return by how much clocks are put forward or back within a day of a time."""
    day = _DAY.total_seconds()
    offsets = [
        cast(timedelta, datetime.fromtimestamp(at, zone).utcoffset())
        for at in (moment - day, moment, moment + day)
    ]
    return max(offsets) - min(offsets)
