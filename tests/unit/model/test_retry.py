"""Which failures are retried, and after which delay."""

import signal
from typing import Any

import pytest

from taskqd.model.job import Job, Reason, Status
from taskqd.model.retry import REASONS, backoff, is_retryable, signal_name
from taskqd.model.spec import DEFAULT_MAX_RETRY_DELAY, Spec
from taskqd.protocol.values import parse_signal


def _job(failures: int = 0, cancelling: int | None = None, **spec: Any) -> Job:
    job = Job(
        id=1,
        command="true",
        spec=Spec(**{"retries": 2, **spec}),
        owner="ann",
        submitted_at=0.0,
        status=Status.RUNNING,
    )
    job.failures, job.cancelling = failures, cancelling
    return job


@pytest.mark.parametrize(
    "delay, failures, seconds",
    [
        (1.0, 1, 1.0),
        (1.0, 2, 2.0),
        (1.0, 3, 4.0),
        (0.5, 4, 4.0),
        (1.0, 12, 2048.0),
        (1.0, 13, DEFAULT_MAX_RETRY_DELAY),
        (1.0, 10**6, DEFAULT_MAX_RETRY_DELAY),
        (7200.0, 1, DEFAULT_MAX_RETRY_DELAY),
        (3155760000.0, 10**6, DEFAULT_MAX_RETRY_DELAY),
        (0.0, 1, 0.0),
        (0.0, 10**6, 0.0),
        (0.001, 5, 0.016),
    ],
)
def test_backoff_doubles_up_to_an_hour(delay: float, failures: int, seconds: float) -> None:
    assert backoff(Spec(retry_delay=delay), failures) == pytest.approx(seconds)


@pytest.mark.parametrize("most, seconds", [(0.0, 0.0), (5.0, 5.0), (86_400.0, 16_384.0)])
def test_backoff_does_not_exceed_retry_delay_max(most: float, seconds: float) -> None:
    assert backoff(Spec(retry_delay=1.0, retry_delay_max=most), 15) == seconds


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize(
    "known, is_one_more",
    [
        ({"failures": 0}, True),
        ({"failures": 1}, True),
        ({"failures": 2}, False),
        ({"failures": 3}, False),
        ({"failures": 0, "cancelling": 15}, False),
        ({"retries": 0}, False),
    ],
)
def test_failure_is_retryable_while_retries_are_left(
    known: dict[str, Any], is_one_more: bool, reason: Reason
) -> None:
    assert is_retryable(_job(**known), reason, None, None) is is_one_more


EXIT_3 = (Reason.EXIT, 3, None)
KILLED = (Reason.SIGNAL, None, 9)
LATE = (Reason.TIMEOUT, None, 15)


@pytest.mark.parametrize(
    "retry_on, no_retry_on, end, is_one_more",
    [
        ((), (), EXIT_3, True),
        (("exit",), (), EXIT_3, True),
        (("exit:3",), (), EXIT_3, True),
        (("exit:4",), (), EXIT_3, False),
        (("exit:4", "exit:3"), (), EXIT_3, True),
        (("signal",), (), EXIT_3, False),
        (("signal",), (), KILLED, True),
        (("signal:KILL",), (), KILLED, True),
        (("signal:TERM",), (), KILLED, False),
        (("exit", "spawn"), (), KILLED, False),
        (("timeout",), (), LATE, True),
        (("signal:TERM",), (), LATE, False),
        ((), ("exit",), EXIT_3, False),
        ((), ("exit:3",), EXIT_3, False),
        ((), ("exit:4",), EXIT_3, True),
        ((), ("signal:KILL",), KILLED, False),
        ((), ("signal:TERM",), LATE, True),
        (("exit",), ("exit:3",), EXIT_3, False),
        (("exit:3",), ("exit",), EXIT_3, False),
        (("exit",), ("exit:4",), EXIT_3, True),
        (("spawn", "output", "interrupted"), (), (Reason.SPAWN, None, None), True),
        (("spawn", "output", "interrupted"), (), (Reason.OUTPUT, None, 15), True),
        (("spawn", "output", "interrupted"), (), (Reason.INTERRUPTED, None, None), True),
        (("memory",), (), (Reason.MEMORY, None, 15), True),
        (("signal",), (), (Reason.MEMORY, None, 15), False),
    ],
)
def test_failure_is_retryable_only_if_it_matches_the_conditions(
    retry_on: tuple[str, ...],
    no_retry_on: tuple[str, ...],
    end: tuple[Reason, int | None, int | None],
    is_one_more: bool,
) -> None:
    assert is_retryable(_job(retry_on=retry_on, no_retry_on=no_retry_on), *end) is is_one_more


@pytest.mark.parametrize("text", ["TERM", "term", "SIGTERM", "SigTerm"])
def test_parse_signal_accepts_names_with_or_without_prefix(text: str) -> None:
    assert parse_signal(text) == signal.SIGTERM


@pytest.mark.parametrize(
    "number, name", [(15, "TERM"), (9, "KILL"), (34, "RTMIN"), (35, "35"), (0, "0"), (99, "99")]
)
def test_signal_name_of_an_unnamed_signal_is_its_number(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_signal_name_is_parsed_back_for_every_signal() -> None:
    for number in signal.Signals:
        assert parse_signal(signal_name(number)) == number
