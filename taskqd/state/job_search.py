"""Finds jobs by a filter, in the order of their ids, without looking at every job."""

from collections.abc import Iterable, Iterator

from taskqd.model.job import Job
from taskqd.model.job_filter import JobFilter
from taskqd.state.queue_state import QueueState


def find_jobs(
    queue_state: QueueState,
    wanted: JobFilter,
    array: Job | None = None,
    first: int | None = None,
    is_reverse: bool = False,
    has_tasks: bool = False,
) -> Iterator[Job | None]:
    """Yield the jobs that a filter admits, whatever their text, by id, ascending or descending.

    They begin with the id ``first``. Tasks of arrays are omitted without ``has_tasks``; with an ``array``
    only its tasks are yielded. None means that time has passed without a job. Jobs may change meanwhile; each
    is tested when it is reached.
    """
    low, high = 1, queue_state.last_id
    if array is not None and array.tasks is not None:
        low, high, has_tasks = array.tasks.ids[0], array.tasks.ids[-1], True
    if first is not None:
        low, high = (low, min(first, high)) if is_reverse else (max(first, low), high)
    ids: Iterable[int | None]
    if wanted.key is not None:
        ids = _ids_with_key(queue_state, wanted.key, range(low, high + 1), is_reverse, has_tasks)
    else:
        ids = queue_state.index.find(wanted, low, high, is_reverse, has_tasks)
    for job_id in ids:
        job = None if job_id is None else queue_state.jobs.get(job_id)
        yield job if job is not None and wanted.admits(job) else None


def _ids_with_key(
    queue_state: QueueState, key: str, ids: range, is_reverse: bool, has_tasks: bool
) -> Iterator[int]:
    """Yield those of ``ids`` that were submitted with a key; the tasks of an array have its key."""
    jobs = queue_state.with_key(key)
    for job in reversed(jobs) if is_reverse else jobs:
        count = job.tasks.count if has_tasks and job.tasks is not None else 0
        own = range(max(job.id, ids.start), min(job.id + count + 1, ids.stop))
        yield from reversed(own) if is_reverse else own
