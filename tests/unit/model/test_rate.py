"""Start rates: their text, and what it means."""

import pytest

from taskqd.model.rate import parse_rate


@pytest.mark.parametrize(
    "text, starts, period, words",
    [
        ("10/m", 10, 60.0, "10 per minute"),
        ("5/s", 5, 1.0, "5 per second"),
        ("100/1h", 100, 3600.0, "100 per hour"),
        ("1/15m", 1, 900.0, "1 per 15 minutes"),
        ("10000/d", 10_000, 86_400.0, "10000 per day"),
    ],
)
def test_rate_is_a_number_of_starts_per_period(text: str, starts: int, period: float, words: str) -> None:
    rate = parse_rate(text)
    assert (rate.starts, rate.period, rate.text, str(rate)) == (starts, period, text, words)


@pytest.mark.parametrize(
    "text",
    ["", "10", "10/", "/m", "0/m", "10/0m", "10/2d", "10001/s", "10 /m", "10/M", "-1/m", "1.5/m", "٣/m"],
)
def test_text_that_is_no_rate_is_refused_with_the_allowed_ones(text: str) -> None:
    with pytest.raises(ValueError, match="expected a rate of 1 to 10000 starts per second, minute or hour"):
        parse_rate(text)
