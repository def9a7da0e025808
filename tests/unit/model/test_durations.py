"""Durations and times as text for people."""

import pytest

from taskqd.model.durations import format_duration, format_time


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (0.0004, "0 s"),
        (1.5, "1.5 s"),
        (10.0, "10 s"),
        (59.9999, "1 min"),
        (90, "1 min 30 s"),
        (120.0, "2 min"),
        (3600, "1 h"),
        (5400.5, "1 h 30 min 0.5 s"),
        (86_400 * 10 + 60, "10 d 1 min"),
    ],
)
def test_format_duration_uses_all_units_by_default(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    "max_units, text", [(1, "1 d"), (2, "1 d 2 h"), (3, "1 d 2 h 3 min"), (9, "1 d 2 h 3 min 4 s")]
)
def test_format_duration_cuts_off_the_smallest_units(max_units: int, text: str) -> None:
    assert format_duration(93_784, max_units) == text


def test_format_time_has_whole_seconds_in_utc() -> None:
    assert format_time(1000.9) == "1970-01-01T00:16:40Z"
