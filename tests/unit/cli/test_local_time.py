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
    ],
)
def test_next_time_reads_local_times_and_next_time_of_day(text: str, sent: str) -> None:
    assert next_time(text, NOW) == sent


@pytest.mark.parametrize(
    "text", ["", "soon", "24:00", "7", "7:5", "2026-11-24", "2026-02-30 07:00", "2026-11-24T25:00:00Z"]
)
def test_next_time_rejects_other_text(text: str) -> None:
    with pytest.raises(BadRequest, match=r"a time such as 7:00|no such day"):
        next_time(text, NOW)


@pytest.mark.parametrize(
    "text,now,sent",
    [
        ("2026-03-29 02:30", NOW, "2026-03-29T03:00:00+02:00"),
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
