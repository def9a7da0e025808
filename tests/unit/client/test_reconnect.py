"""Intervals and timeout of reconnects."""

import pytest

from taskqd.client import (
    Unreachable,
    reconnect,
)


@pytest.mark.parametrize("losses, pause", [(1, 0.1), (2, 0.2), (5, 1.6), (6, 2.0), (5000, 2.0)])
def test_reconnect_interval_doubles_with_each_loss(losses: int, pause: float) -> None:
    pauses: list[float] = []
    reconnect.reconnect(lambda: None, 60.0, pauses.append, losses=losses)
    assert pauses == [pause]


def test_reconnect_reports_its_timeout_rounded() -> None:
    def connect() -> None:
        raise Unreachable("no")

    times = iter([0.0, 9.0])
    with pytest.raises(Unreachable, match="gave up after 3 s"):
        reconnect.reconnect(connect, 2.99996, lambda _: None, lambda: next(times))


@pytest.mark.parametrize(
    "given, named, seconds",
    [(None, {}, 60), (None, {"TASKQ_RECONNECT": "2m"}, 120), ("1s", {}, 1), (3, {}, 3)],
)
def test_reconnect_timeout_is_argument_or_environment_or_default(
    given: str | float | None, named: dict[str, str], seconds: float
) -> None:
    assert reconnect.parse_reconnect_timeout(given, named) == seconds


def test_invalid_reconnect_timeout_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        reconnect.parse_reconnect_timeout(None, {"TASKQ_RECONNECT": "soon"})
