"""Whether an attempt that failed is followed by another of the daemon's own accord, and when.

A condition names a way to fail: ``exit``, ``signal``, ``timeout``, ``spawn``, ``output``, ``interrupted``;
and of the first two also one in particular: ``exit:75``, ``signal:KILL`` (docs/protocol.md §3).
"""

import signal

from taskqd.model.job import Job, Reason
from taskqd.model.spec import Spec

REASONS = (
    Reason.EXIT,
    Reason.SIGNAL,
    Reason.TIMEOUT,
    Reason.SPAWN,
    Reason.OUTPUT,
    Reason.INTERRUPTED,
)
"""The ways in which an attempt can fail."""


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
