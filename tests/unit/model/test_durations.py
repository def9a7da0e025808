"""Durations as text."""

import pytest

from taskqd.model.durations import format_duration


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
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
