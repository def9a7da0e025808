"""What an event means for the one job that it happens to: its status, and what is known of it.

The table TRANSITIONS says which moves are legal; what depends on a move is the queue state's.
"""

from collections.abc import Callable
from typing import Any, cast, get_args

from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Ended,
    Held,
    JobEventType,
    Output,
    Released,
    Removed,
    Retried,
    Skipped,
    Spawned,
    Started,
)
from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.model.spec import Spec

MOST_PAST = 100
"""Of so many attempts before the latest, what is known of each is kept at hand; the journal has all."""

TRANSITIONS: dict[tuple[Status, str], frozenset[Status]] = {
    (Status.PENDING, "started"): frozenset({Status.RUNNING}),
    (Status.PENDING, "cancelled"): frozenset({Status.CANCELLED}),
    (Status.PENDING, "skipped"): frozenset({Status.FAILED}),
    (Status.PENDING, "held"): frozenset({Status.PENDING}),
    (Status.PENDING, "released"): frozenset({Status.PENDING}),
    (Status.PENDING, "changed"): frozenset({Status.PENDING}),
    (Status.RUNNING, "spawned"): frozenset({Status.RUNNING}),
    (Status.RUNNING, "cancelled"): frozenset({Status.RUNNING}),
    (Status.RUNNING, "ended"): frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.PENDING}),
    (Status.COMPLETED, "retried"): frozenset({Status.PENDING}),
    (Status.FAILED, "retried"): frozenset({Status.PENDING}),
    (Status.CANCELLED, "retried"): frozenset({Status.PENDING}),
    (Status.COMPLETED, "removed"): frozenset({Status.COMPLETED}),
    (Status.FAILED, "removed"): frozenset({Status.FAILED}),
    (Status.CANCELLED, "removed"): frozenset({Status.CANCELLED}),
}
"""(status, event) -> the statuses that the event may lead to; what is not here cannot happen."""


def next_status(event: JobEventType, job: Job) -> Status | None:
    """Return the status of a job after an event, None where it cannot happen to it."""
    leads_to = _LEADS_TO.get((job.status, type(event)), ())
    if type(event) is Ended:
        return event.status if event.status in leads_to else None
    return leads_to[0] if leads_to else None


def change(job: Job, event: JobEventType, asked: Spec, ahead: float) -> None:
    """Make an event true for a job that has its new status already, but for what depends on that.

    ``asked`` is what was asked of the job before, or of the array that it is a task of. ``ahead`` is how far
    the time of day is ahead of the clock of waits.
    """
    if isinstance(event, Changed):
        change_start(job, event, asked, ahead)
        job.asked = job.submission
        job.spec = event.spec
    else:
        _CHANGES[type(event)](job, event)
        if type(event) is Started:
            job.ahead = ahead
        elif type(event) is Ended and job.not_before is not None:
            job.not_before -= ahead


def attempt_of(job: Job) -> Attempt:
    """Return the attempt of a job that was started, as the table of moves makes sure."""
    return cast(Attempt, job.attempt)


def forget_times(job: Job) -> None:
    """Take out of what is asked of a job when it is to start: it has been released."""
    if job.spec.at is not None or job.spec.delay is not None:
        job.asked = job.submission
        job.spec = replace(job.spec, at=None, delay=None)


def change_start(job: Job, event: Changed, before: Spec, ahead: float) -> None:
    """Set when a job may start at the earliest, if that was changed.

    ``before`` is what was asked of the whole: one of its tasks may have been released by itself.
    """
    if (event.spec.at, event.spec.delay) == (before.at, before.delay):
        return
    at = event.spec.at
    job.is_dated = at is not None and not event.is_delay
    job.not_before = at if at is None or job.is_dated else at - ahead


def _started(job: Job, event: Started) -> None:
    if job.attempt is not None:
        job.past = (*job.past, job.attempt)[-MOST_PAST:]
    job.reason = None
    job.not_before = None
    job.attempts = event.attempt
    job.attempt = Attempt(number=event.attempt, started_at=event.at)


def _spawned(job: Job, event: Spawned) -> None:
    attempt = attempt_of(job)
    attempt.pid, attempt.pid_started = event.pid, event.started


def _cancelled(job: Job, event: Cancelled) -> None:
    if job.status is Status.RUNNING:
        job.cancelling = event.signal
    else:
        _end_unstarted(job, Reason.CANCELLED, event.at)


def _skipped(job: Job, event: Skipped) -> None:
    _end_unstarted(job, Reason.DEPENDENCY, event.at)


def _end_unstarted(job: Job, reason: Reason, at: float) -> None:
    job.reason = reason
    job.is_held = False
    job.not_before = None
    job.completed_at = at


def _held(job: Job, _: Held) -> None:
    job.is_held = True


def _released(job: Job, _: Released) -> None:
    job.is_held = False
    job.not_before = None
    job.is_dated = False
    job.reason = Reason.QUEUED
    forget_times(job)


def _ended(job: Job, event: Ended) -> None:
    if event.is_void:
        _take_back(job)
        return
    _finish(attempt_of(job), event)
    job.output_bytes += event.stdout.size + event.stderr.size
    job.cancelling = None
    job.failures += event.status in (Status.FAILED, Status.PENDING) and not event.is_free
    if event.status is Status.PENDING:
        job.reason = Reason.RETRYING
        job.not_before = event.at if event.retry_at is None else event.retry_at
        job.is_dated = False
    else:
        job.reason = event.reason
        job.completed_at = event.at


def _take_back(job: Job) -> None:
    """Forget the start of an attempt of which there was no process."""
    job.attempts -= 1
    job.attempt = job.past[-1] if job.past else None
    job.past = job.past[:-1]
    job.reason = Reason.QUEUED


def _retried(job: Job, _: Retried) -> None:
    job.reason = Reason.QUEUED
    job.failures = 0
    job.completed_at = None


def _removed(job: Job, _: Removed) -> None:
    """Nothing of the job itself changes: it goes."""


_CHANGES: dict[type, Callable[[Job, Any], None]] = {
    Started: _started,
    Spawned: _spawned,
    Cancelled: _cancelled,
    Skipped: _skipped,
    Held: _held,
    Released: _released,
    Ended: _ended,
    Retried: _retried,
    Removed: _removed,
}


_LEADS_TO = {
    (status, kind): (*afters,)
    for (status, name), afters in TRANSITIONS.items()
    for kind in get_args(JobEventType)
    if name == kind.__name__.lower()
}
"""The table of moves by the type of the event. Only an end may lead to several; it says to which it does."""


def _finish(attempt: Attempt, event: Ended) -> None:
    attempt.ended_at = event.at
    attempt.reason = event.reason
    attempt.exit_code, attempt.signal, attempt.detail = event.exit_code, event.signal, event.detail
    attempt.progress, attempt.usage = event.progress, event.usage
    if event.pid is not None:
        attempt.pid = event.pid
    attempt.stdout_bytes, attempt.stdout_dropped, attempt.stdout_inline = _measured(event.stdout)
    attempt.stderr_bytes, attempt.stderr_dropped, attempt.stderr_inline = _measured(event.stderr)


def _measured(output: Output) -> tuple[int, int, bool]:
    return output.size, output.dropped, output.is_inline
