"""Explains in one sentence what a job waits for, and estimates when it may start.

The estimate is made from the latest attempts in the job's queue: their mean duration, how many of the queue's
jobs run side by side now, and how many are ahead of this one. It is made only for a job that waits for
nothing but capacity, and from at least MIN_ATTEMPTS attempts.
"""

from collections.abc import Iterable, Sequence
from typing import cast

from taskqd.model.durations import format_duration, format_time
from taskqd.model.job import Job, Reason, Status, Tasks
from taskqd.model.transitions import attempt_of
from taskqd.state.arrays import first_with
from taskqd.state.capacity import RATE, SLOTS, USER, Demand
from taskqd.state.queue_state import QueueState

MIN_ATTEMPTS = 3
"""Attempts that an estimate needs: the mean of fewer is too uncertain."""
MAX_NAMED = 5
"""Jobs that are named in a sentence; the others are counted."""


def explain(queue_state: QueueState, job: Job, now: float, shortage: str | None = None) -> str:
    """Return why a job does not run.

    ``now`` is on the monotonic clock. ``shortage`` is what the machine lacks to start jobs, None if nothing.
    """
    if job.status is not Status.PENDING:
        return _not_pending(job)
    if queue_state.has_expired(job):
        return "has expired; its end is being recorded"
    reason = queue_state.reason(job, now)
    if reason is Reason.HELD:
        text = f"held; RELEASE {job.id} lets it start"
    elif reason is Reason.SUSPENDED:
        array = queue_state.array_of(job)
        text = f"array {array.id} is suspended; CONTINUE {array.id} lets it go on"
    elif reason is Reason.AFTER:
        text = _dependencies(queue_state, queue_state.array_of(job))
    elif (delay := queue_state.remaining_delay(job, now)) > 0:
        text = _delay(job, delay, now + queue_state.ahead)
    elif job.tasks is not None:
        text = _array(queue_state, job, now, shortage)
    elif reason is Reason.PAUSED:
        text = _pause(queue_state, job.spec.queue)
    else:
        text = _capacity(queue_state, job, now, shortage)
    expires_at = queue_state.expires_at(job) if job.tasks is None else None
    if expires_at is None:
        return text
    remaining = expires_at - queue_state.ahead - now
    return f"{text}; expires at {format_time(expires_at)} (in {_approximate(remaining)}) unless it starts"


def _not_pending(job: Job) -> str:
    if job.suspended_at is not None:
        return f"not waiting: it is suspended; CONTINUE {job.id} lets it go on"
    if job.status is Status.RUNNING:
        return "not waiting: it is running"
    return f"not waiting: it has ended, {job.status.value}" + (f" ({job.reason.value})" if job.reason else "")


def _pause(queue_state: QueueState, queue: str) -> str:
    if queue_state.queues.is_paused:
        return "everything is paused; RESUME ends the pause"
    return f"queue {queue} is paused; RESUME {queue} ends the pause"


def _dependencies(queue_state: QueueState, job: Job) -> str:
    awaited = queue_state.dependencies.awaited(job)
    return "waits for " + _jobs(
        f"{other} ({queue_state.jobs[other].status.value}, --{kind.value})" for kind, other in awaited
    )


def _delay(job: Job, delay: float, time_of_day: float) -> str:
    when = f"{format_time(time_of_day + delay)} (in {_approximate(delay)})"
    if job.reason is not Reason.RETRYING:
        return f"delayed until {when}; RELEASE {job.id} lets it start now"
    reason = job.attempt.reason.value if job.attempt and job.attempt.reason else "failed"
    return f"attempt {job.attempts} has ended ({reason}); the next one is due at {when}"


def _array(queue_state: QueueState, array: Job, now: float, shortage: str | None) -> str:
    first = cast(Job, first_with(Status.PENDING, cast(Tasks, array.tasks)))
    return f"no task is running; job {first.id}, the first: {explain(queue_state, first, now, shortage)}"


def _capacity(queue_state: QueueState, job: Job, now: float, machine_shortage: str | None) -> str:
    queue_state.capacity.rates.set_time(now)
    demands = queue_state.capacity.demands_of(job.spec, job.owner, job.array)
    excess = queue_state.capacity.exceeds_total(demands)
    if excess is not None:
        return _excess(queue_state, excess)
    if queue_state.ready_queue.is_allocated(job.id):
        return "its start is being recorded"
    reserved_for = queue_state.ready_queue.reserved_for(job, now)
    shortage = queue_state.capacity.shortage(demands)
    if reserved_for is not None:
        text = f"capacity is reserved for job {reserved_for}, which needs more and has been overtaken"
    elif shortage is not None:
        text = _shortage(queue_state, shortage, now)
    elif machine_shortage is not None:
        text = f"capacity is available, but no job can start at present: {machine_shortage}"
    else:
        text = "capacity is available"
    ahead = queue_state.ready_queue.count_ahead(job)
    place = f"{ahead} {_noun(ahead, 'job')} ahead" if ahead else "first"
    turns = ", whose users take turns" if queue_state.queues.is_fair(job.spec.queue) else ""
    return f"{text}; {place} in queue {job.spec.queue}{turns}" + _estimate(
        queue_state, job, ahead, shortage, now
    )


def _excess(queue_state: QueueState, demand: Demand) -> str:
    capacity, amount = queue_state.capacity, demand.amount
    if demand.constraint != SLOTS or amount > capacity.totals.max_slots:
        return f"can never start: {describe_excess(queue_state, demand)}"
    return f"needs {_amount(demand)}, the daemon has {capacity.slots}; SET-SLOTS {amount} lets it start"


def describe_excess(queue_state: QueueState, demand: Demand) -> str:
    """Return in words that a demand exceeds the total of its constraint."""
    total = queue_state.capacity.total(demand.constraint) or 0
    return f"needs {_amount(demand)}, the total is {total}"


def _shortage(queue_state: QueueState, demand: Demand, now: float) -> str:
    total = queue_state.capacity.total(demand.constraint) or 0
    allocated = queue_state.capacity.allocated(demand.constraint)
    available = max(0, total - allocated)
    (kind, name), amount = demand
    if kind == RATE:
        opens_at = queue_state.capacity.rates.opens_at(name)
        when = f"{format_time(opens_at + queue_state.ahead)} (in {_approximate(opens_at - now)})"
        return f"queue {name} starts up to {queue_state.queues.rate(name)}; the next may start at {when}"
    holders = sorted(queue_state.ready_queue.holders(demand.constraint))
    if kind == USER:
        more = f"; this job needs {amount}" if amount > 1 else ""
        used = f"user {name} runs jobs on {allocated} of {total} {_noun(total, 'slot')}"
        return f"{used}, the limit for one user: {_holders(queue_state, holders).rstrip(',')}{more}"
    held = f"{_holders(queue_state, holders, name)} {_noun(len(holders), 'holds', 'hold')}"
    if available:
        rest = f"{available} of {total} {_noun(available, 'is', 'are')} available; {held} the others"
    elif allocated > total:
        rest = f"none of {total} is available; {held} {allocated} until they end, since the limit was lowered"
    else:
        rest = f"none of {total} is available; {held} all"
    return f"needs {_amount(demand)}, {rest}"


def _holders(queue_state: QueueState, holders: Sequence[int], resource: str = "") -> str:
    """Return jobs that hold capacity in words, with the units of a resource that they hold.

    Suspended ones hold it until they are continued.
    """
    suspended = {holder for holder in holders if queue_state.get(holder).suspended_at is not None}
    details = {holder: list(queue_state.capacity.units.of(holder, resource)) for holder in holders}
    if len(holders) == 1 and suspended:
        return f"job {_with_details(holders[0], details[holders[0]])}, which is suspended,"
    for holder in suspended:
        details[holder].append("suspended")
    return _jobs(_with_details(holder, details[holder]) for holder in holders)


def _with_details(job_id: int, details: Sequence[str]) -> str:
    return f"{job_id} ({', '.join(details)})" if details else str(job_id)


def _amount(demand: Demand) -> str:
    (kind, name), amount = demand
    slots = f"{amount} {_noun(amount, 'slot')}"
    if kind == "queue":
        return f"{slots} of queue {name}"
    if kind == USER:
        return f"{slots} for one user"
    if kind == "array":
        return f"a place in the limit of array {name}"
    return f"{amount} {name}" if name else slots


def _estimate(queue_state: QueueState, job: Job, ahead: int, shortage: Demand | None, now: float) -> str:
    rate = queue_state.queues.rate(job.spec.queue)
    if rate is not None:
        delay = queue_state.capacity.rates.opens_at(job.spec.queue) - now + ahead // rate.starts * rate.period
        return f"; at {rate} it may start in about {_approximate(delay)}" if ahead and delay > 0 else ""
    durations = queue_state.queues.recent_durations(job.spec.queue)
    if len(durations) < MIN_ATTEMPTS:
        return ""
    mean = sum(durations) / len(durations)
    if shortage is not None and _have_all_run_longer(queue_state, shortage, mean, now):
        return ""
    parallel = max(1, queue_state.queues.running(job.spec.queue))
    return (
        f"; may start in about {_approximate(mean * (ahead + 1) / parallel)}: the last {len(durations)} "
        f"attempts in this queue took {_approximate(mean)} on average, {parallel} at a time"
    )


def _have_all_run_longer(queue_state: QueueState, shortage: Demand, seconds: float, now: float) -> bool:
    """Whether all jobs that hold what is short have run longer than ``seconds``: no estimate from that.

    Nor is there one from suspended jobs: nothing is known about when they go on.
    """
    holders = [queue_state.get(holder) for holder in queue_state.ready_queue.holders(shortage.constraint)]
    return all(
        job.suspended_at is not None
        or (job.status is Status.RUNNING and now - (attempt_of(job).started_at - job.ahead) > seconds)
        for job in holders
    )


def _jobs(names: Iterable[str]) -> str:
    found = list(names)
    more = len(found) - MAX_NAMED
    if more > 0:
        found[MAX_NAMED:] = [f"{more} more"]
    text = " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))
    return f"{_noun(len(found), 'job')} {text}"


def _noun(count: int, singular: str, plural: str | None = None) -> str:
    return singular if count == 1 else plural or f"{singular}s"


def _approximate(seconds: float) -> str:
    return format_duration(round(seconds, 1) if seconds < 10 else round(seconds), max_units=2)
