"""What a job waits for, in a sentence for a person; and when it may start, where there is ground to tell.

The estimate is made from the latest runs of the job's queue: how long they took on average, how many of the
queue's jobs run beside each other now, and how many are before this one. It is not made where fewer than
FEWEST runs are known, nor for a job that waits for anything but room.
"""

from collections.abc import Iterable
from datetime import datetime, timezone

from taskqd.model.job import Job, Reason, Status
from taskqd.state.capacity import Demand, demands_of
from taskqd.state.queue_state import QueueState

FEWEST = 3
"""No estimate is made from fewer runs."""
MOST_NAMED = 5
"""So many jobs are named at most, the others counted."""


def why(queue_state: QueueState, job: Job, now: float, shortage: str | None = None) -> str:
    """Return what keeps a job where it is; ``shortage`` says what the machine lacks for a start."""
    if job.status is not Status.PENDING:
        return _unpending(job)
    reason = queue_state.reason(job, now)
    if reason is Reason.HELD:
        text = f"it is held; RELEASE {job.id} lets it start"
    elif reason is Reason.AFTER:
        text = _after(queue_state, queue_state.array_of(job))
    elif (wait := queue_state.remaining_delay(job, now)) > 0:
        text = _delayed(job, wait, now + queue_state.ahead)
    elif job.tasks is not None:
        text = _array(queue_state, job, now, shortage)
    elif reason is Reason.PAUSED:
        text = _paused(queue_state, job.spec.queue)
    else:
        text = _room(queue_state, job, now, shortage)
    return text


def _unpending(job: Job) -> str:
    if job.status is Status.RUNNING:
        return "it waits for nothing: it runs"
    return f"it waits for nothing: it has ended, {job.status.value}" + (
        f" ({job.reason.value})" if job.reason else ""
    )


def _paused(queue_state: QueueState, queue: str) -> str:
    if queue_state.queues.is_paused:
        return "everything is paused; RESUME ends that"
    return f"queue {queue} is paused; RESUME {queue} ends that"


def _after(queue_state: QueueState, job: Job) -> str:
    awaited = queue_state.dependencies.awaited(job)
    names = (f"{other} ({queue_state.jobs[other].status.value}, --{kind.value})" for kind, other in awaited)
    return f"it comes after job {_listed(names)}"


def _delayed(job: Job, wait: float, time_of_day: float) -> str:
    when = f"{_moment(time_of_day + wait)}, in {_span(wait)}"
    if job.reason is not Reason.RETRYING:
        return f"it is delayed until {when}; RELEASE {job.id} lets it start before"
    ended = job.attempt.reason.value if job.attempt and job.attempt.reason else "failed"
    return f"attempt {job.attempts} has ended ({ended}) and the next is due at {when}"


def _array(queue_state: QueueState, array: Job, now: float, shortage: str | None) -> str:
    tasks = (queue_state.jobs[job_id] for job_id in array.tasks.ids) if array.tasks else ()
    first = next(task for task in tasks if task.status is Status.PENDING)
    reason = why(queue_state, first, now, shortage)
    return f"none of its tasks runs; of the first that waits, {first.id}: {reason}"


def _room(queue_state: QueueState, job: Job, now: float, shortage: str | None) -> str:
    wanted = demands_of(job.spec, job.array)
    ahead = queue_state.ready_queue.count_ahead(job)
    impossible = queue_state.capacity.exceeds_total(wanted)
    if impossible is not None:
        return f"it can never start: {describe_excess(queue_state, impossible)}"
    if queue_state.ready_queue.is_allocated(job.id):
        return "its start is being recorded"
    reserved_for = queue_state.ready_queue.reserved_for(job, now)
    lacking = queue_state.capacity.shortage(wanted)
    if reserved_for is not None:
        text = f"room is kept for job {reserved_for}, which wants more and was passed by others"
    elif lacking is not None:
        text = _lack(queue_state, lacking)
    elif shortage is not None:
        text = f"there is room for it, but no job starts for now: {shortage}"
    else:
        text = "there is room for it"
    place = (
        f"{ahead} before it in queue {job.spec.queue}"
        if ahead
        else f"it is the next of queue {job.spec.queue}"
    )
    return f"{text}; {place}" + _estimate(queue_state, job, ahead)


def describe_excess(queue_state: QueueState, want: Demand) -> str:
    """Return in words that something wanted is more than there is in all."""
    total = queue_state.capacity.total(want.constraint) or 0
    return f"it wants {_amount(want)}, and there {'is' if total == 1 else 'are'} {total} in all"


def _lack(queue_state: QueueState, want: Demand) -> str:
    total = queue_state.capacity.total(want.constraint) or 0
    free = max(0, total - queue_state.capacity.allocated(want.constraint))
    left = f"{free or 'none'} of {total} {'is' if free < 2 else 'are'} free"
    holders = _listed(map(str, sorted(queue_state.ready_queue.holders(want.constraint))))
    return f"it wants {_amount(want)}; {left}, the rest is taken by job {holders}"


def _amount(want: Demand) -> str:
    (kind, name), amount = want
    noun = "slot" if amount == 1 else "slots"
    if kind == "queue":
        return f"{amount} {noun} of queue {name}"
    if kind == "array":
        return f"one of the places at once of array {name}"
    return f"{amount} {name or noun}"


def _estimate(queue_state: QueueState, job: Job, ahead: int) -> str:
    latest = queue_state.queues.recent_durations(job.spec.queue)
    if len(latest) < FEWEST:
        return ""
    mean = sum(latest) / len(latest)
    beside = max(1, queue_state.queues.running(job.spec.queue))
    return (
        f"; it may start in about {_span(mean * (ahead + 1) / beside)}: "
        f"the last {len(latest)} runs there took {_span(mean)} on average, and {beside} go on at once"
    )


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = len(found) - MOST_NAMED
    return ", ".join(found[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 0.999 * size:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds)} s"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
