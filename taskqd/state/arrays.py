"""Job arrays: the tasks of an array, and how the array's own status follows from theirs.

The tasks of an array have the ids after its own, one per index. An event of the array is applied to each task
to which it is possible; an event of a task may change the status of the array.
"""

from collections.abc import Iterator, Mapping

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model import transitions
from taskqd.model.events import (
    Changed,
    Held,
    JobEvent,
    Released,
    Retried,
    Submitted,
)
from taskqd.model.job import Job, Reason, Status, Tasks
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import Array


def make_tasks(array: Job, event: Submitted, indexes: Array) -> Iterator[Job]:
    """Create the tasks of an array, one per index, and yield them."""
    array.tasks = Tasks(first=array.id + 1, count=indexes.count, counts={Status.PENDING: indexes.count})
    for index, job_id in zip(range(indexes.first, indexes.last + 1), array.tasks.ids, strict=True):
        yield Job(
            id=job_id,
            command=event.command,
            spec=array.spec,
            owner=array.owner,
            submitted_at=event.at,
            is_held=array.is_held,
            not_before=array.not_before,
            is_dated=array.is_dated,
            reason=array.reason,
            array=array.id,
            index=index,
            schedule=event.schedule,
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


def affected(event: JobEvent, tasks: list[Job]) -> list[Job]:
    """Return the tasks to which an event of their array is to be applied.

    RETRY of an array applies to the tasks that did not complete, or to all if all completed.
    """
    possible = [task for task in tasks if transitions.can_apply(event, task)]
    if isinstance(event, Retried):
        return [task for task in possible if task.status is not Status.COMPLETED] or possible
    return possible


def task_moved(array: Job, task: Job, before: Status, at: float, jobs: Mapping[int, Job]) -> None:
    """Update an array whose task had another status before.

    ``at`` is the time of the event that moved it, ``jobs`` has all tasks by id.
    """
    tasks = array.tasks
    if tasks is None or task.status is before:
        return
    tasks.counts[before] -= 1
    tasks.counts[task.status] = tasks.counts.get(task.status, 0) + 1
    array.status = _status(tasks)
    if array.status is not Status.PENDING:
        array.not_before = None
    if array.status.is_final:
        array.reason = _reason(array, tasks, jobs)
        array.completed_at = _time_of_end(tasks, at, jobs)
        array.is_held = False
    else:
        array.reason = Reason.QUEUED if array.status is Status.PENDING else None
        array.completed_at = None


def apply_event(array: Job, event: JobEvent, ahead: float) -> None:
    """Update the array itself after an event that has been applied to its tasks."""
    if isinstance(event, Changed):
        if array.status is Status.PENDING:
            transitions.change_start_time(array, event, array.spec, ahead)
        array.spec_before_change = array.original_spec
        array.spec = event.spec
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


def _time_of_end(tasks: Tasks, at: float, jobs: Mapping[int, Job]) -> float:
    """Return when the last task of a finished array ended; its end may be recorded before an earlier one."""
    ends = (jobs[job_id].completed_at for job_id in tasks.ids)
    return min(at, max((end for end in ends if end is not None), default=at))


def _reason(array: Job, tasks: Tasks, jobs: Mapping[int, Job]) -> Reason | None:
    """Return the reason of a finished array: that of its first task with the same status."""
    if array.status is Status.COMPLETED:
        return None
    return next(jobs[job_id].reason for job_id in tasks.ids if jobs[job_id].status is array.status)
