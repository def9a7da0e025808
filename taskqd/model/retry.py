"""Whether an attempt that failed is followed by another of the daemon's own accord, and when.

A condition names a way to fail: ``exit``, ``signal``, ``timeout``, ``spawn``, ``output``, ``interrupted``;
and of the first two also one in particular: ``exit:75``, ``signal:KILL`` (docs/protocol.md §3).
"""

import signal

from taskqd.errors import BadRequest
from taskqd.model.job import Job, Reason, Spec
from taskqd.protocol.values import capitals, parse_integer

REASONS = (
    Reason.EXIT,
    Reason.SIGNAL,
    Reason.TIMEOUT,
    Reason.SPAWN,
    Reason.OUTPUT,
    Reason.INTERRUPTED,
)
"""The ways in which an attempt can fail."""
MOST_CONDITIONS = 50
"""One option has so many conditions at most."""

_EXPECTED = "such as exit:75, signal:KILL, timeout, spawn, output or interrupted"


def parse_conditions(text: str) -> tuple[str, ...]:
    """Return the conditions of ``exit:75,signal:KILL,…`` in their one spelling; raises BadRequest."""
    words = text.split(",")
    if len(words) > MOST_CONDITIONS:
        raise BadRequest(f"expected at most {MOST_CONDITIONS} conditions, not {len(words)}")
    return tuple(map(_parse_condition, words))


def _parse_condition(text: str) -> str:
    reason, colon, which = text.partition(":")
    reason = reason.lower() if reason.isascii() else reason
    if reason not in {known.value for known in REASONS}:
        raise BadRequest(f"expected a way to fail {_EXPECTED}, not {text[:40]!r}")
    if not colon:
        return reason
    if reason == Reason.EXIT.value:
        return f"exit:{parse_integer(which, 1, 255)}"
    if reason == Reason.SIGNAL.value:
        return f"signal:{signal_name(parse_signal(which))}"
    raise BadRequest(f"{reason} has no kinds of its own: expected {reason} alone, not {text[:40]!r}")


def parse_signal(text: str) -> int:
    """Return the number of a signal by its name, with or without SIG before it."""
    name = capitals(text).removeprefix("SIG")
    number = getattr(signal.Signals, "SIG" + name, None)
    if not isinstance(number, signal.Signals):
        raise BadRequest(f"expected the name of a signal such as TERM, INT or KILL, not {text[:40]!r}")
    return int(number)


def signal_name(number: int) -> str:
    """Return a signal's name without SIG before it, or its number where it has none."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def is_retryable(job: Job, reason: Reason, exit_code: int | None, number: int | None) -> bool:
    """Whether the running attempt of a job, which ended so, is to be followed by another.

    ``number`` is the signal that ended it. It must be a failure that the job's conditions take, and not be
    one too many; a job that is being cancelled is not run again.
    """
    if job.cancelling is not None or job.failures >= job.spec.retries:
        return False
    ways = {reason.value}
    if reason is Reason.EXIT:
        ways.add(f"exit:{exit_code}")
    if reason is Reason.SIGNAL and number is not None:
        ways.add(f"signal:{signal_name(number)}")
    if job.spec.retry_on and ways.isdisjoint(job.spec.retry_on):
        return False
    return ways.isdisjoint(job.spec.no_retry_on)


def backoff(spec: Spec, failures: int) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row, before any jitter."""
    return float(min(spec.retry_delay * 2.0 ** min(failures - 1, 64), spec.retry_delay_max))
