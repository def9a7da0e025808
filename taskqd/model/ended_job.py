"""Makes a job that has ended from its three usual events, in one step: there may be a million at a start."""

from sys import intern

from taskqd.model.events import NOTHING, Compacted, Ended, Output, RecordPosition, Started, Submitted
from taskqd.model.job import NO_EXTRAS, Job, JobExtras, Status
from taskqd.model.packed_attempt import PACKED_NUMBER, pack_end
from taskqd.model.spec import DEFAULT_SPEC

_FAILED = Status.FAILED
_FAILED_ONCE = JobExtras(failures=1)


def make_ended_job(record: Compacted, ahead: float, position: RecordPosition | None) -> Job | None:
    """Return a job that ended with its first attempt, as its transitions would leave it (transitions.py).

    Return None if it has other events, if its attempt cannot be packed or was suspended, or if it is an array
    or waited for other jobs. ``ahead`` is how many seconds the time of day is ahead of the monotonic clock.
    """
    events = record.events
    if len(events) != 3:
        return None
    submitted, started, ended = events
    if type(submitted) is not Submitted or type(started) is not Started or type(ended) is not Ended:
        return None
    spec, status, stdout, stderr = submitted.spec, ended.status, ended.stdout, ended.stderr
    if spec is not DEFAULT_SPEC and (spec.array is not None or spec.has_dependencies):
        return None
    if (
        started.units
        or ended.suspended
        or started.attempt != PACKED_NUMBER
        or ended.signal
        or ended.detail is not None
        or not status.is_final
    ):
        return None
    if (stdout is not NOTHING and not _is_usual(stdout)) or (stderr is not NOTHING and not _is_usual(stderr)):
        return None
    at, sizes = ended.at, (stdout.size, stderr.size)
    if ended.ended_at is not None:
        at = min(at, max(ended.ended_at, started.at))
    packed = pack_end(started.at, at, sizes, ended, position)
    extras, schedule = NO_EXTRAS, submitted.schedule
    if schedule is not None or status is _FAILED:
        failures = int(status is _FAILED and ended.counts_against_retries)
        extras = _extras(failures, schedule)
    return (
        None
        if packed is None
        else Job(
            id=submitted.id,
            command=submitted.command,
            spec=spec,
            owner=intern(submitted.owner),
            submitted_at=submitted.at,
            status=status,
            reason=ended.reason,
            is_held=spec.hold,
            attempts=PACKED_NUMBER,
            is_dated=spec.delay is None and spec.at is not None,
            ahead=ahead,
            last_attempt=packed,
            output_bytes=stdout.size + stderr.size,
            extras=extras,
        )
    )


def _is_usual(output: Output) -> bool:
    """Whether all of an output is in the journal."""
    return (output.text is not None or output.is_inline) and not output.dropped


def _extras(failures: int, schedule: int | None) -> JobExtras:
    if schedule is None:
        return _FAILED_ONCE if failures else NO_EXTRAS
    return JobExtras(failures=failures, schedule=schedule)
