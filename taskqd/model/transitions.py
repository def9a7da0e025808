"""The life of a job: which events are possible in which status, and what each event changes in its job.

TRANSITIONS is the state machine; nothing else decides whether an event is legal. What an event changes
elsewhere (indexes, counts, arrays) is up to ``state``.
"""

from collections.abc import Callable, Mapping
from sys import intern
from typing import Any, NamedTuple, cast

from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Continued,
    Ended,
    Held,
    JobEvent,
    Output,
    Released,
    Removed,
    Retried,
    Skipped,
    Spawned,
    Started,
    Suspended,
)
from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.model.spec import Spec
from taskqd.model.units import pack_units

MAX_PAST_ATTEMPTS = 100
"""Attempts before the latest that are kept in memory per job; the journal has all of them."""


class Transition(NamedTuple):
    """The effect of an event on its job, and the statuses that it may lead to, by the status before.

    ``change(job, event, whole, ahead)`` is called when the job has its new status. ``whole`` is the spec of
    the job, or of the array that it is a task of. ``ahead`` is how many seconds the time of day is ahead of
    the monotonic clock.
    """

    change: Callable[[Job, Any, Spec, float], None]
    statuses: Mapping[Status, tuple[Status, ...]]


def next_status(event: JobEvent, job: Job) -> Status | None:
    """Return the status of a job after an event, None if the event is not possible."""
    possible = TRANSITIONS[type(event)].statuses.get(job.status, ())
    if type(event) is Ended:  # only Ended has several possible statuses, and names one of them
        return event.status if event.status in possible else None
    return possible[0] if possible else None


def apply_event(job: Job, event: JobEvent, whole: Spec, ahead: float) -> None:
    """Change a job that has its new status already; for the arguments see Transition."""
    TRANSITIONS[type(event)].change(job, event, whole, ahead)


def attempt_of(job: Job) -> Attempt:
    """Return the latest attempt of a job that the table says has been started."""
    return cast(Attempt, job.attempt)


def clear_start_time(job: Job) -> None:
    """Remove the start time from the spec of a job that has been released."""
    if job.spec.at is not None or job.spec.delay is not None:
        job.spec_before_change = job.original_spec
        job.spec = replace(job.spec, at=None, delay=None)


def change_start_time(job: Job, event: Changed, before: Spec, ahead: float) -> None:
    """Set the earliest start of a job, if the event changes it.

    ``before`` is the spec of the whole array: one of its tasks may have been released alone.
    """
    if (event.spec.at, event.spec.delay) == (before.at, before.delay):
        return
    at = event.spec.at
    job.is_dated = at is not None and not event.is_delay
    job.not_before = at if at is None or job.is_dated else at - ahead


def clear_expiry(job: Job) -> None:
    """Let a job that has not started wait for any time: it was retried."""
    if job.spec.expires is not None:
        job.spec_before_change = job.original_spec
        job.spec = replace(job.spec, expires=None)


def _started(job: Job, event: Started, _whole: Spec, ahead: float) -> None:
    if job.attempt is not None:
        job.past = (*job.past, job.attempt)[-MAX_PAST_ATTEMPTS:]
    job.reason = None
    job.not_before = None
    job.attempts = event.attempt
    job.attempt = Attempt(
        number=event.attempt, started_at=event.at, word=event.word, runner=intern(event.runner)
    )
    if event.units:
        job.attempt.units = pack_units(event.units)
    job.ahead = ahead


def _spawned(job: Job, event: Spawned, _whole: Spec, _ahead: float) -> None:
    attempt = attempt_of(job)
    attempt.pid, attempt.pid_started = event.pid, event.started


def _cancelled(job: Job, event: Cancelled, _whole: Spec, _ahead: float) -> None:
    if job.status is Status.RUNNING:
        job.cancelling = event.signal
        job.suspended_at = None  # it is continued, so that it can clean up
    else:
        _end_unstarted(job, event.reason, event.at)


def _skipped(job: Job, event: Skipped, _whole: Spec, _ahead: float) -> None:
    _end_unstarted(job, Reason.DEPENDENCY, event.at)


def _end_unstarted(job: Job, reason: Reason, at: float) -> None:
    job.reason = reason
    job.is_held = False
    job.not_before = None
    job.completed_at = at


def _held(job: Job, _event: Held, _whole: Spec, _ahead: float) -> None:
    job.is_held = True


def _released(job: Job, _event: Released, _whole: Spec, _ahead: float) -> None:
    job.is_held = False
    job.not_before = None
    job.is_dated = False
    job.reason = Reason.QUEUED
    clear_start_time(job)


def _suspended(job: Job, event: Suspended, _whole: Spec, _ahead: float) -> None:
    if job.cancelling is None:
        job.suspended_at = event.at


def _continued(job: Job, _event: Continued, _whole: Spec, _ahead: float) -> None:
    job.suspended_at = None


def _changed(job: Job, event: Changed, whole: Spec, ahead: float) -> None:
    change_start_time(job, event, whole, ahead)
    job.change(event.command, event.spec)


def _ended(job: Job, event: Ended, _whole: Spec, ahead: float) -> None:
    job.suspended_at = None
    if event.is_void:
        _undo_start(job)
        return
    attempt = attempt_of(job)
    ended_at = event.at
    if event.ended_at is not None:  # and in between the clock may have been set
        started_at = attempt.started_at - job.ahead + ahead
        ended_at = min(event.at, max(event.ended_at, started_at))
    _end_attempt(attempt, event, ended_at)
    job.output_bytes += event.stdout.size + event.stderr.size
    job.cancelling = None
    if event.status in (Status.FAILED, Status.PENDING) and event.counts_against_retries:
        job.failures += 1
    if event.status is Status.PENDING:
        job.reason = Reason.RETRYING
        job.not_before = (event.at if event.retry_at is None else event.retry_at) - ahead
        job.is_dated = False
    else:
        job.reason = event.reason
        job.completed_at = ended_at


def _undo_start(job: Job) -> None:
    """Remove the latest attempt, which never had a process."""
    job.attempts -= 1
    job.attempt = job.past[-1] if job.past else None
    job.past = job.past[:-1]
    job.reason = Reason.QUEUED


def _end_attempt(attempt: Attempt, event: Ended, ended_at: float) -> None:
    attempt.ended_at = ended_at
    attempt.word = attempt.runner = ""
    attempt.pid_started = None
    attempt.reason = event.reason
    attempt.exit_code, attempt.signal, attempt.detail = event.exit_code, event.signal, event.detail
    attempt.progress, attempt.usage = event.progress, event.usage
    if event.pid is not None:
        attempt.pid = event.pid
    attempt.stdout_bytes, attempt.stdout_dropped, attempt.stdout_inline = _measured(event.stdout)
    attempt.stderr_bytes, attempt.stderr_dropped, attempt.stderr_inline = _measured(event.stderr)


def _measured(output: Output) -> tuple[int, int, bool]:
    return output.size, output.dropped, output.is_inline


def _retried(job: Job, _event: Retried, _whole: Spec, _ahead: float) -> None:
    job.reason = Reason.QUEUED
    job.failures = 0
    job.completed_at = None
    if not job.attempts:
        clear_expiry(job)


def _removed(_job: Job, _event: Removed, _whole: Spec, _ahead: float) -> None:
    """Change nothing: the job itself is removed."""


PENDING, RUNNING = Status.PENDING, Status.RUNNING
COMPLETED, FAILED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.CANCELLED

TRANSITIONS: dict[type[JobEvent], Transition] = {
    Started: Transition(_started, {PENDING: (RUNNING,)}),
    Spawned: Transition(_spawned, {RUNNING: (RUNNING,)}),
    Cancelled: Transition(_cancelled, {PENDING: (CANCELLED,), RUNNING: (RUNNING,)}),
    Skipped: Transition(_skipped, {PENDING: (FAILED,)}),
    Held: Transition(_held, {PENDING: (PENDING,)}),
    Released: Transition(_released, {PENDING: (PENDING,)}),
    Changed: Transition(_changed, {PENDING: (PENDING,)}),
    Suspended: Transition(_suspended, {RUNNING: (RUNNING,)}),
    Continued: Transition(_continued, {RUNNING: (RUNNING,)}),
    Ended: Transition(_ended, {RUNNING: (COMPLETED, FAILED, CANCELLED, PENDING)}),
    Retried: Transition(_retried, {COMPLETED: (PENDING,), FAILED: (PENDING,), CANCELLED: (PENDING,)}),
    Removed: Transition(_removed, {COMPLETED: (COMPLETED,), FAILED: (FAILED,), CANCELLED: (CANCELLED,)}),
}
"""The row of each event. Submitted has none: it creates its job."""
