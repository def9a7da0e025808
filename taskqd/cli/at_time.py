"""Times in the language of at(1): ``9am tomorrow``, ``noon + 3 days``, ``now + 355 minutes``, ``fri 17:30``.

The grammar is that of POSIX at, with these differences: seconds may be given, a day may come before the time,
``next`` is followed by a unit, and an hour alone needs ``am`` or ``pm``, so that ``9`` is no time.
"""

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, tzinfo
from typing import TypeVar

from taskqd.errors import BadRequest
from taskqd.model.time_zones import at_or_after

EXPECTED = (
    "expected a time such as 7:00, 22:00:30, '9am tomorrow', 'now + 2 hours', 'fri 17:30', "
    "'2026-11-24 07:00' or 2026-11-24T07:00:00Z"
)
MAX_YEAR = 9998

Value = TypeVar("Value")

_WORD = re.compile(
    r"\d{1,2}:\d\d(?::\d\d)?|\d{4}-\d\d-\d\d|\d{1,2}\.\d{1,2}\.\d{4}|\d{1,2}/\d{1,2}/\d{4}|\d+|[a-z]+|[+,]",
    re.ASCII,
)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")
_NAMED_CLOCKS = {"noon": time(12), "midnight": time(0), "teatime": time(16)}
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG_NAMES = {
    *("monday", "tues", "tuesday", "weds", "wednesday", "thur", "thurs", "thursday", "friday", "saturday"),
    *("sunday", "january", "february", "march", "april", "june", "july", "august", "sept", "september"),
    *("october", "november", "december"),
}
_SECONDS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600}
_DAYS = {"day": 1, "week": 7}
_MONTH_COUNTS = {"month": 1, "year": 12}


class _Refused(Exception):
    """The text is not in the grammar, or names a time that does not exist."""


def parse_at(text: str, now: datetime, zone: tzinfo) -> float:
    """Return the seconds since the epoch of a time of at(1); raises BadRequest.

    ``now`` is the current local time in ``zone``, without a tzinfo. A time of day without a date is its next
    occurrence, as is a weekday. A day that is not in digits may be without a time of day, which then is that
    of now.
    """
    words = _WORD.findall(text.lower())
    try:
        if "".join(words) != "".join(text.lower().split()):
            raise _Refused
        return _Parser(words, now, zone).parse()
    except (_Refused, OverflowError, ValueError):
        raise BadRequest(f"{EXPECTED}, not {text[:60]!r}") from None


class _Parser:
    """Parses the words of one time from left to right."""

    def __init__(self, words: list[str], now: datetime, zone: tzinfo) -> None:
        self._words = words
        self._now = now
        self._zone = zone
        self._clock: time | None = None
        self._day: date | None = None
        self._has_year = True
        self._is_weekday = False
        self._is_now = False
        self._needs_clock = False

    def parse(self) -> float:
        if not self._words:
            raise _Refused
        while self._words and self._words[0] not in ("+", "next"):
            self._parse_part()
        count, unit = self._parse_increment()
        if self._words:
            raise _Refused
        return self._moment(count, unit)

    def _take(self) -> str:
        if not self._words:
            raise _Refused
        return self._words.pop(0)

    def _take_if(self, read: Callable[[str], Value | None]) -> Value | None:
        """Take the next word if ``read`` makes a value of it."""
        value = read(self._words[0]) if self._words else None
        if value is not None:
            self._words.pop(0)
        return value

    def _parse_part(self) -> None:
        """Take a time of day, a day, or ``now``; each may be there once."""
        word = self._take()
        if word == "now":
            self._set_once("_is_now", True, self._is_now or self._clock or self._day)
        elif word in ("today", "tomorrow"):
            self._set_day(self._now.date() + timedelta(days=word == "tomorrow"))
        elif (month := _index(word, _MONTHS)) is not None:
            self._parse_month(month + 1)
        elif (weekday := _index(word, _WEEKDAYS)) is not None:
            self._set_day(self._now.date() + timedelta(days=(weekday - self._now.weekday()) % 7))
            self._is_weekday = True
        elif (day := _numeric_date(word)) is not None:
            self._set_day(day)
            self._needs_clock = True
        else:
            clock = self._parse_clock(word)
            self._set_once("_clock", clock, self._is_now or self._clock is not None)

    def _set_once(self, name: str, value: object, is_set: object) -> None:
        if is_set:
            raise _Refused
        setattr(self, name, value)

    def _set_day(self, day: date) -> None:
        self._set_once("_day", day, self._is_now or self._day)

    def _parse_month(self, month: int) -> None:
        """Take the day of a month and perhaps ``, YEAR``."""
        day = int(self._take())
        self._take_if(lambda word: word if word == "," else None)
        year = self._take_if(
            lambda word: (
                int(word) if re.fullmatch(r"\d{4}", word) and int(word) > self._now.year - 2 else None
            )
        )
        self._has_year = year is not None
        self._set_day(date(year or self._now.year, month, day))

    def _parse_clock(self, word: str) -> time:
        """Return a time of day that begins with a word: ``7:00``, ``0700``, ``9`` with am or pm, ``noon``."""
        if word in _NAMED_CLOCKS:
            return _NAMED_CLOCKS[word]
        match = _CLOCK.fullmatch(word)
        hour, minute, second = (
            (int(match[1]), int(match[2]), int(match[3] or 0))
            if match
            else (int(word[:-2]), int(word[-2:]), 0)
            if len(word) == 4 and word.isdigit()
            else (int(word), 0, 0)
        )
        half = self._take_if(lambda half: half if half in ("am", "pm") else None)
        if half is None:
            if len(word) < 4:
                raise _Refused
        elif not 1 <= hour <= 12:
            raise _Refused
        else:
            hour = hour % 12 + 12 * (half == "pm")
        return time(hour, minute, second)

    def _parse_increment(self) -> tuple[int, str]:
        """Take ``+ N UNIT`` or ``next UNIT``; without it, the increment is 0 days."""
        if not self._words:
            return 0, "day"
        count = 1 if self._take() == "next" else int(self._take())
        unit = self._take()
        unit = unit if unit in _SECONDS else unit.removesuffix("s")
        if unit not in {*_SECONDS, *_DAYS, *_MONTH_COUNTS}:
            raise _Refused
        return count, unit

    def _moment(self, count: int, unit: str) -> float:
        now, is_increment = self._now, count > 0
        if self._needs_clock and self._clock is None:
            raise _Refused
        if self._clock is None and self._day is None:  # now, or an increment alone
            if not (self._is_now or is_increment):
                raise _Refused
            local = now
        else:
            clock = now.time() if self._clock is None else self._clock
            local = datetime.combine(self._day or now.date(), clock)
            if local <= now and not is_increment:
                local = self._after_now(local)
        if unit in _SECONDS:  # these pass in real time, whatever the clocks do
            return at_or_after(local, self._zone)[0] + count * _SECONDS[unit]
        if unit in _DAYS:
            local += timedelta(days=count * _DAYS[unit])
        else:
            local = _add_months(local, count * _MONTH_COUNTS[unit])
        return at_or_after(local, self._zone)[0]

    def _after_now(self, local: datetime) -> datetime:
        """Return the next occurrence of a time that is past, if it has no full date."""
        if self._day is None:
            return local + timedelta(days=1)
        if self._is_weekday:
            return local + timedelta(days=7)
        return local if self._has_year else _add_months(local, 12)


def _index(word: str, names: tuple[str, ...]) -> int | None:
    """Return the number of a weekday or month by its name, abbreviated or not."""
    is_name = word in names or word in _LONG_NAMES
    return names.index(word[:3]) if is_name and word[:3] in names else None


def _numeric_date(word: str) -> date | None:
    """Return the day of ``2026-11-24``, ``24.11.2026`` or ``11/24/2026``, None for another word."""
    if "-" in word:
        return date.fromisoformat(word)
    if "." in word:
        day, month, year = map(int, word.split("."))
    elif "/" in word:
        month, day, year = map(int, word.split("/"))
    else:
        return None
    return date(year, month, day)


def _add_months(local: datetime, count: int) -> datetime:
    """Return a time some months later, on the last day of the month if it has no such day."""
    years, month = divmod(local.month - 1 + count, 12)
    year = local.year + years
    if year > MAX_YEAR:
        raise _Refused
    return local.replace(year=year, month=month + 1, day=min(local.day, monthrange(year, month + 1)[1]))
