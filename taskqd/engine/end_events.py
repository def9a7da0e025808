"""Makes the event for the end of an attempt: its job is completed, failed, cancelled, or pending again."""

from collections.abc import Callable

from taskqd.execution.run import Outcome
from taskqd.model.events import Ended
from taskqd.model.job import Job, Reason, Status
from taskqd.model.retry import backoff, is_retryable
from taskqd.storage.interfaces import IClock, ISpool

JITTER = 0.25
"""A retry is delayed at random by up to this fraction more: jobs that fail together return one by one."""
STOPPED = "the daemon was stopped while it ran"
"""The detail of an attempt that a stop interrupted; those of a crash are in daemon/recovery.py."""


class EndEvents:
    """Makes ``Ended`` events; ``random()`` returns a number from 0 to 1."""

    def __init__(self, spool: ISpool, clock: IClock, random: Callable[[], float]) -> None:
        self._spool = spool
        self._clock = clock
        self._random = random
        self.is_stopping = False
        self._is_requeuing = False

    def stop(self, requeue: bool) -> None:
        """From now on interrupted attempts are due to the stop of the daemon.

        With ``requeue`` their jobs are pending again, and the attempts do not count against the retries.
        """
        self.is_stopping, self._is_requeuing = True, requeue

    def make(self, job: Job, outcome: Outcome) -> Ended:
        """Return the event for an attempt of a job."""
        now = self._clock.now()
        ended_at = now if outcome.ended_at is None else min(now, outcome.ended_at)
        status, reason, retry_at, is_free, is_void = Status.FAILED, outcome.reason, None, False, False
        if job.cancelling is not None:
            status, reason = Status.CANCELLED, Reason.CANCELLED
        elif outcome.is_shortage or outcome.is_void:
            status, is_free, is_void = Status.PENDING, True, True
        elif outcome.reason is None:
            status = Status.COMPLETED
        elif outcome.reason is Reason.INTERRUPTED and self._is_requeuing:
            status, retry_at, is_free = Status.PENDING, now, True
        elif is_retryable(job, outcome.reason, outcome.exit_code, outcome.signal):
            status = Status.PENDING
            retry_at = ended_at + backoff(job.spec, job.failures + 1) * (1 + JITTER * self._random())
        is_stopped = outcome.reason is Reason.INTERRUPTED and self.is_stopping
        progress = self._spool.read_progress(job.id)
        return Ended(
            id=job.id,
            at=now,
            status=status,
            reason=reason,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            detail=STOPPED if is_stopped else outcome.detail,
            progress=progress.percent,
            progress_text="" if status is Status.COMPLETED else progress.text,
            is_free=is_free,
            is_void=is_void,
            retry_at=retry_at,
            usage=outcome.usage,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            pid=outcome.pid,
            ended_at=outcome.ended_at,
            order=outcome.order,
            suspended=_seconds_suspended(job, outcome, ended_at),
        )

    def make_minimal(self, job: Job, outcome: Outcome) -> Ended:
        """Return an event without the fields that may have kept the one of ``make`` from being recorded."""
        is_cancelled = job.cancelling is not None
        return Ended(
            id=job.id,
            at=self._clock.now(),
            status=Status.CANCELLED if is_cancelled else Status.FAILED,
            reason=Reason.CANCELLED if is_cancelled else Reason.OUTPUT,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            detail="its end could not be recorded as it was; the daemon's log has the reason",
            ended_at=outcome.ended_at,
        )


def _seconds_suspended(job: Job, outcome: Outcome, ended_at: float) -> float:
    """Return for how long an attempt was suspended; of a lost one only the time since SUSPEND is known."""
    if outcome.is_lost and job.suspended_at is not None:
        return max(0.0, ended_at - job.suspended_at)
    return outcome.suspended
