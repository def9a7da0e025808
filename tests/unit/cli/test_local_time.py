"""Conversion of local times on the command line."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from taskqd.cli.local_time import next_time
from taskqd.errors import BadRequest
from taskqd.model.time_zones import named


def local(*parts: int, fold: int = 0) -> datetime:
    """Return a local time without a zone."""
    return datetime(*parts, fold=fold)  # type: ignore[arg-type]  # noqa: DTZ001 - local time


NOW = datetime(2026, 11, 24, 7, 30)  # noqa: DTZ001 - local time


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text,sent",
    [
        ("2026-11-24T07:00:00Z", "2026-11-24T07:00:00Z"),
        ("2026-11-24T07:00:00.5+05:30", "2026-11-24T07:00:00.5+05:30"),
        ("2026-11-24T07:00", "2026-11-24T07:00:00+01:00"),
        ("2026-07-24 07:00", "2026-07-24T07:00:00+02:00"),
        ("2026-07-24 07:00:15", "2026-07-24T07:00:15+02:00"),
        ("8:05", "2026-11-24T08:05:00+01:00"),
        ("08:05", "2026-11-24T08:05:00+01:00"),
        ("7:30", "2026-11-25T07:30:00+01:00"),
        ("0:00", "2026-11-25T00:00:00+01:00"),
        ("22:00:30", "2026-11-24T22:00:30+01:00"),
        ("07:30:01", "2026-11-24T07:30:01+01:00"),
        # at(1): NOW is a Tuesday.
        ("now", "2026-11-24T07:30:00+01:00"),
        ("now + 355 minutes", "2026-11-24T13:25:00+01:00"),
        ("now + 1 min", "2026-11-24T07:31:00+01:00"),
        ("now+90 seconds", "2026-11-24T07:31:30+01:00"),
        ("+ 2 hours", "2026-11-24T09:30:00+01:00"),
        ("next week", "2026-12-01T07:30:00+01:00"),
        ("now next month", "2026-12-24T07:30:00+01:00"),
        ("9am", "2026-11-24T09:00:00+01:00"),
        ("7 AM", "2026-11-25T07:00:00+01:00"),
        ("12am", "2026-11-25T00:00:00+01:00"),
        ("12pm", "2026-11-24T12:00:00+01:00"),
        ("9:05pm", "2026-11-24T21:05:00+01:00"),
        ("1530", "2026-11-24T15:30:00+01:00"),
        ("noon", "2026-11-24T12:00:00+01:00"),
        ("midnight", "2026-11-25T00:00:00+01:00"),
        ("teatime tomorrow", "2026-11-25T16:00:00+01:00"),
        ("tomorrow", "2026-11-25T07:30:00+01:00"),
        ("9am tomorrow", "2026-11-25T09:00:00+01:00"),
        ("tomorrow 9am", "2026-11-25T09:00:00+01:00"),
        ("today 17:00", "2026-11-24T17:00:00+01:00"),
        ("today 7:00", "2026-11-24T07:00:00+01:00"),
        ("4pm + 3 days", "2026-11-27T16:00:00+01:00"),
        ("7:00 + 1 day", "2026-11-25T07:00:00+01:00"),
        ("fri", "2026-11-27T07:30:00+01:00"),
        ("Friday 17:30", "2026-11-27T17:30:00+01:00"),
        ("tue 7:00", "2026-12-01T07:00:00+01:00"),
        ("tue 8:00", "2026-11-24T08:00:00+01:00"),
        ("10am Jul 31", "2027-07-31T10:00:00+02:00"),
        ("10am dec 24", "2026-12-24T10:00:00+01:00"),
        ("10am December 24, 2028", "2028-12-24T10:00:00+01:00"),
        ("dec 24 1530", "2026-12-24T15:30:00+01:00"),
        ("9am 12/24/2026", "2026-12-24T09:00:00+01:00"),
        ("24.12.2026 9:00", "2026-12-24T09:00:00+01:00"),
        ("2026-12-24 9am", "2026-12-24T09:00:00+01:00"),
        ("noon jan 31 2027 + 1 month", "2027-02-28T12:00:00+01:00"),
        ("noon feb 29 2028 + 1 year", "2029-02-28T12:00:00+01:00"),
    ],
)
def test_next_time_reads_local_times_and_next_time_of_day(text: str, sent: str) -> None:
    assert next_time(text, NOW) == sent


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "24:00", "7", "7:5", "2026-11-24", "2026-02-30 07:00", "2026-11-24T25:00:00Z"),
        *("now now", "now 7:00", "9am 10am", "tomorrow fri", "9", "13pm", "0am", "25:00 tomorrow", "feb 30"),
        *(
            "+ 2",
            "next",
            "next fri",
            "now + x days",
            "now + 2 parsecs",
            "now - 1 day",
            "9am!",
            "jan",
            "fri +",
        ),
        *("noon 2", "now + 9999 years", "now + 99999999999 days", "31.11.2026 9:00", "9am 2026"),
    ],
)
def test_next_time_rejects_other_text(text: str) -> None:
    with pytest.raises(BadRequest, match=r"a time such as 7:00|no such day"):
        next_time(text, NOW)


@pytest.mark.parametrize(
    "text,now,sent",
    [
        ("2026-03-29 02:30", NOW, "2026-03-29T03:00:00+02:00"),
        ("now + 2 hours", local(2026, 3, 29, 1, 30), "2026-03-29T04:30:00+02:00"),
        ("now + 1 day", local(2026, 3, 28, 2, 30), "2026-03-29T03:00:00+02:00"),
        ("2026-03-29 02:00", NOW, "2026-03-29T03:00:00+02:00"),
        ("2026-03-29 01:59:59", NOW, "2026-03-29T01:59:59+01:00"),
        ("2:30", local(2026, 3, 29, 1, 50), "2026-03-29T03:00:00+02:00"),
        ("2:30", local(2026, 3, 29, 3, 0), "2026-03-30T02:30:00+02:00"),
        ("2026-10-25 02:30", NOW, "2026-10-25T02:30:00+02:00"),
        ("2:30", local(2026, 10, 25, 2, 10), "2026-10-25T02:30:00+02:00"),
        ("2:30", local(2026, 10, 25, 2, 40), "2026-10-25T02:30:00+01:00"),
        ("2:30", local(2026, 10, 25, 2, 10, fold=1), "2026-10-25T02:30:00+01:00"),
        ("2:30", local(2026, 10, 25, 2, 40, fold=1), "2026-10-26T02:30:00+01:00"),
    ],
)
def test_next_time_at_a_clock_change_is_never_too_early(text: str, now: datetime, sent: str) -> None:
    assert next_time(text, now) == sent


def test_next_time_uses_the_given_zone() -> None:
    zone = named("America/New_York")
    assert next_time("2026-11-24 07:00", NOW, zone) == "2026-11-24T07:00:00-05:00"
    assert next_time("2026-03-08 02:30", NOW, zone) == "2026-03-08T03:00:00-04:00"
    assert next_time("8:00", NOW, zone) == "2026-11-24T08:00:00-05:00"
