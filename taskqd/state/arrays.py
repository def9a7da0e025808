"""Job arrays: the tasks of an array, and how the array's own status follows from theirs.

The tasks of an array have the ids after its own, one per index. An event of the array is applied to each task
to which it is possible; an event of a task may change the status of the array. Tasks that have had no event
alone are counted and not kept as objects (model/job.py, Tasks; docs/decisions/0060).
"""

from collections import Counter

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model import transitions
from taskqd.model.events import (
    Cancelled,
    Changed,
    Continued,
    Ended,
    Held,
    JobEvent,
    Released,
    Retried,
    Submitted,
    Suspended,
)
from taskqd.model.job import Job, Reason, Status, Tasks
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import Array
from taskqd.model.task_set import TaskSet


def make_tasks(array: Job, event: Submitted, indexes: Array) -> None:
    """Give an array its tasks, one per index: all are untouched."""
    shared = Job(
        id=array.id,
        command=event.command,
        spec=array.spec,
        owner=array.owner,
        submitted_at=event.at,
        is_held=array.is_held,
        not_before=array.not_before,
        is_dated=array.is_dated,
        reason=array.reason,
        array=array.id,
        index=indexes.first,
    )
    shared.schedule = event.schedule
    first, count = array.id + 1, indexes.count
    array.tasks = Tasks(
        first=first,
        count=count,
        counts={Status.PENDING: count},
        untouched=TaskSet(range(first, first + count)),
        shared=shared,
    )


def task_id(array: Job, task: TaskId) -> int:
    """Return the id of a task; raises BadRequest if the job is not an array, NoSuchJob for a wrong index."""
    indexes = array.spec.array
    if indexes is None or array.tasks is None:  # a task has the spec of its array
        raise BadRequest(f"job {array.id} is not an array; it has no task {task}")
    if not indexes.first <= task.index <= indexes.last:
        raise NoSuchJob(
            f"array {array.id} has the indexes {indexes.first} to {indexes.last}, not {task.index}"
        )
    return array.id + 1 + task.index - indexes.first


def affected(event: JobEvent, tasks: Tasks) -> set[Status]:
    """Return the statuses of the tasks to which an event of their array is to be applied.

    RETRY of an array applies to the tasks that did not complete, or to all if all completed. Of the pending
    tasks of an array that expires, those are not affected that have started before.
    """
    possible = {
        status for status in transitions.TRANSITIONS[type(event)].statuses if tasks.counts.get(status)
    }
    if isinstance(event, Retried):
        return possible - {Status.COMPLETED} or possible
    return possible & {Status.PENDING} if is_expiry(event) else possible


def is_expiry(event: JobEvent) -> bool:
    """Whether an event is the end of a job that has not started in time."""
    return type(event) is Cancelled and event.reason is Reason.EXPIRED


def tasks_moved(array: Job, tasks: Tasks, before: Status, after: Status, count: int, event: JobEvent) -> None:
    """Update an array of which ``count`` tasks had the status ``before``, and have ``after`` by an event."""
    if before is after:
        return
    tasks.counts[before] -= count
    tasks.counts[after] = tasks.counts.get(after, 0) + count
    array.status = _status(tasks)
    if array.status is not Status.PENDING:
        array.not_before = None
    if array.status.is_final:
        array.reason = _reason(array, tasks)
        array.completed_at = _time_of_end(tasks, event)
        array.is_held = False
        array.suspended_at = None
    else:
        array.reason = Reason.QUEUED if array.status is Status.PENDING else None
        array.completed_at = None


def apply_event(array: Job, event: JobEvent, ahead: float) -> None:
    """Update the array itself after an event that has been applied to its tasks."""
    if isinstance(event, Changed):
        if array.status is Status.PENDING:
            transitions.change_start_time(array, event, array.spec, ahead)
        array.change(event.command, event.spec)
    if isinstance(event, Retried):
        transitions.clear_expiry(array)
    if isinstance(event, Suspended | Continued):
        array.suspended_at = event.at if isinstance(event, Suspended) else None
    if isinstance(event, Held | Released):
        array.is_held = isinstance(event, Held)
    if isinstance(event, Released):
        array.not_before = None
        array.is_dated = False
        transitions.clear_start_time(array)


def _status(tasks: Tasks) -> Status:
    present = {status for status, count in tasks.counts.items() if count}
    if Status.PENDING in present:
        return Status.PENDING if present <= {Status.PENDING, Status.CANCELLED} else Status.RUNNING
    return next(status for status in _BY_PRECEDENCE if status in present)


_BY_PRECEDENCE = (Status.RUNNING, Status.FAILED, Status.CANCELLED, Status.COMPLETED)


def counts_by_queue(array: Job, tasks: Tasks) -> Counter[tuple[str, Status]]:
    """Return the number of tasks by queue and status: SET moves only those that are pending then."""
    if array.spec_before_change is None:
        return Counter({(array.spec.queue, status): count for status, count in tasks.counts.items()})
    counts = Counter((task.spec.queue, task.status) for task in tasks.touched.values())
    counts[tasks.shared.spec.queue, tasks.shared.status] += len(tasks.untouched)
    return +counts


def first_with(status: Status, tasks: Tasks) -> Job | None:
    """Return the task with the lowest index among those with a status, None if there is none."""
    found = next((each for each in sorted(tasks.touched) if tasks.touched[each].status is status), None)
    if tasks.untouched and tasks.shared.status is status:
        first = tasks.untouched.first
        found = first if found is None else min(first, found)
    return None if found is None else tasks.get(found)


def _time_of_end(tasks: Tasks, event: JobEvent) -> float:
    """Return when the last task of a finished array ended; its end may be recorded before an earlier one."""
    if not isinstance(event, Ended) or event.ended_at is None:
        return event.at
    ends = [task.completed_at for task in tasks.touched.values() if task.completed_at is not None]
    if tasks.untouched and tasks.shared.completed_at is not None:
        ends.append(tasks.shared.completed_at)
    return min(event.at, max(ends))


def _reason(array: Job, tasks: Tasks) -> Reason | None:
    """Return the reason of a finished array: that of its first task with the same status."""
    first = None if array.status is Status.COMPLETED else first_with(array.status, tasks)
    return None if first is None else first.reason
