"""Times as they are typed, and what is sent for them."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from taskqd.cli.times import next_time
from taskqd.errors import BadRequest

NOW = datetime(2026, 11, 24, 7, 30)  # noqa: DTZ001 - the clock on the wall


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
def test_a_time_without_an_offset_is_local_and_one_of_the_day_is_the_next(text: str, sent: str) -> None:
    assert next_time(text, NOW) == sent


@pytest.mark.parametrize(
    "text", ["", "soon", "24:00", "7", "7:5", "2026-11-24", "2026-02-30 07:00", "2026-11-24T25:00:00Z"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"a time such as 7:00|no such day"):
        next_time(text, NOW)
