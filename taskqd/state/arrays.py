"""What an array makes of what happens to its tasks: its own status is theirs, taken together.

An array takes the ids behind its own for its tasks, one for each index. What happens to the whole happens to
those of its tasks to which it can; what happens to a task may change the whole.
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


def make_tasks(array: Job, event: Submitted, asked: Array) -> Iterator[Job]:
    """Give an array its tasks, which are ``asked`` for, and yield them."""
    array.tasks = Tasks(first=array.id + 1, count=asked.count, counts={Status.PENDING: asked.count})
    for index, job_id in zip(range(asked.first, asked.last + 1), array.tasks.ids, strict=True):
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
    """Return the id of a task; raises BadRequest if the job is no array, NoSuchJob for an index beyond it."""
    asked = array.spec.array
    if asked is None or array.tasks is None:  # a task has the spec of its array
        raise BadRequest(f"job {array.id} is no array, so it has no task {task}")
    if not asked.first <= task.index <= asked.last:
        raise NoSuchJob(f"array {array.id} has the indexes {asked.first} to {asked.last}, not {task.index}")
    return array.id + 1 + task.index - asked.first


def affected(event: JobEvent, tasks: list[Job]) -> list[Job]:
    """Return those tasks of an array to which something can happen that happens to the whole.

    Of one that is run again these are the ones that did not complete, or all if all did.
    """
    able = [task for task in tasks if transitions.can_apply(event, task)]
    if isinstance(event, Retried):
        return [task for task in able if task.status is not Status.COMPLETED] or able
    return able


def note_move(array: Job, task: Job, before: Status, at: float, jobs: Mapping[int, Job]) -> None:
    """Take note that a task of an array, which was in status ``before``, has moved.

    ``jobs`` has all tasks by id.
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
        array.completed_at = at
        array.is_held = False
    else:
        array.reason = Reason.QUEUED if array.status is Status.PENDING else None
        array.completed_at = None


def note_change(array: Job, event: JobEvent, ahead: float) -> None:
    """Take over what a change of the whole means for the array itself."""
    if isinstance(event, Changed):
        if array.status is Status.PENDING:
            transitions.change_start_time(array, event, array.spec, ahead)
        array.asked = array.submission
        array.spec = event.spec
    if isinstance(event, Held | Released):
        array.is_held = isinstance(event, Held)
    if isinstance(event, Released):
        array.not_before = None
        array.is_dated = False
        transitions.clear_start_time(array)


def _status(tasks: Tasks) -> Status:
    there = {status for status, count in tasks.counts.items() if count}
    if Status.PENDING in there:
        return Status.PENDING if there <= {Status.PENDING, Status.CANCELLED} else Status.RUNNING
    return next(status for status in _GRAVEST if status in there)


_GRAVEST = (Status.RUNNING, Status.FAILED, Status.CANCELLED, Status.COMPLETED)


def _reason(array: Job, tasks: Tasks, jobs: Mapping[int, Job]) -> Reason | None:
    """Return why an array has ended: as the first of its tasks did that ended as the whole shows."""
    if array.status is Status.COMPLETED:
        return None
    return next(jobs[job_id].reason for job_id in tasks.ids if jobs[job_id].status is array.status)
