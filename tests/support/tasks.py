"""The tasks of an array, for tests that need no queue state."""

from taskqd.model.job import Job, Status, Tasks
from taskqd.model.task_set import TaskSet


def some_tasks(first: int, count: int, counts: dict[Status, int] | None = None) -> Tasks:
    """Return ``count`` untouched tasks of the array with the id before ``first``."""
    shared = Job(id=first - 1, array=first - 1, index=1, owner="ada", submitted_at=0.0)
    ids = range(first, first + count)
    return Tasks(first=first, count=count, counts=counts or {}, untouched=TaskSet(ids), shared=shared)
