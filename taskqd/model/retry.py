"""Which failed attempts are retried, and after which delay.

A condition names a kind of failure: ``exit``, ``signal``, ``timeout``, ``spawn``, ``output``, ``memory`` or
``interrupted``; or one exit status or signal: ``exit:75``, ``signal:KILL`` (docs/protocol.md §3).
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
    Reason.MEMORY,
    Reason.INTERRUPTED,
)
"""The reasons of a failed attempt."""


def signal_name(number: int) -> str:
    """Return the name of a signal without SIG, or its number if it has no name."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def is_retryable(job: Job, reason: Reason, exit_code: int | None, number: int | None) -> bool:
    """Whether a job is to be retried after its running attempt failed for a reason.

    ``number`` is the signal that ended the attempt. The failure must match the job's conditions, and retries
    must be left; a job that is being cancelled is not retried.
    """
    if job.cancelling is not None or job.failures >= job.spec.retries:
        return False
    conditions = {reason.value}
    if reason is Reason.EXIT:
        conditions.add(f"exit:{exit_code}")
    if reason is Reason.SIGNAL and number is not None:
        conditions.add(f"signal:{signal_name(number)}")
    if job.spec.retry_on and conditions.isdisjoint(job.spec.retry_on):
        return False
    return conditions.isdisjoint(job.spec.no_retry_on)


def backoff(spec: Spec, failures: int) -> float:
    """Return the delay in seconds after a number of consecutive failures, without jitter."""
    return float(min(spec.retry_delay * 2.0 ** min(failures - 1, 64), spec.retry_delay_max))
