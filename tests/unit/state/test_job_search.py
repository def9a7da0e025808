"""find_jobs: by key, of an array, and from an id on; test_walk.py compares it with a scan."""

import pytest

from taskqd.model.events import Submitted
from taskqd.model.job import Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Array, Spec
from taskqd.state.job_search import find_jobs
from taskqd.state.queue_state import QueueState
from tests.support.events import array, cancelled, fold, submitted


def _with_key(job_id: int, owner: str, *indexes: int) -> Submitted:
    spec = Spec(key="k", array=Array(*indexes) if indexes else None)
    return Submitted(id=job_id, at=1.0, owner=owner, command="true", spec=spec)


def _ids(queue_state: QueueState, wanted: JobFilter, **page: object) -> list[int]:
    return [job.id for job in find_jobs(queue_state, wanted, **page) if job is not None]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "first, is_reverse, has_tasks, ids",
    [
        (None, False, False, [2, 6]),
        (None, True, False, [6, 2]),
        (3, False, False, [6]),
        (3, True, False, [2]),
        (None, False, True, [2, 3, 4, 6]),
        (None, True, True, [6, 4, 3, 2]),
        (4, False, True, [4, 6]),
        (3, True, True, [3, 2]),
        (9, False, True, []),
    ],
)
def test_jobs_with_a_key_are_found(
    first: int | None, is_reverse: bool, has_tasks: bool, ids: list[int]
) -> None:
    queue_state = fold(submitted(1), _with_key(2, "ann", 1, 2), submitted(5), _with_key(6, "bob"))
    page = {"first": first, "is_reverse": is_reverse, "has_tasks": has_tasks}
    assert _ids(queue_state, JobFilter(key="k"), **page) == ids
    assert _ids(queue_state, JobFilter(key="k", owner="bob"), **page) == [one for one in ids if one == 6]
    assert _ids(queue_state, JobFilter(key="other"), **page) == []


def test_tasks_of_an_array_are_found_without_others() -> None:
    queue_state = fold(submitted(1), array(2, 3), cancelled(4), array(6, 2))
    whole = queue_state.get(2)
    assert _ids(queue_state, JobFilter(), array=whole) == [3, 4, 5]
    assert _ids(queue_state, JobFilter(), array=whole, first=4, is_reverse=True) == [4, 3]
    assert _ids(queue_state, JobFilter(statuses=frozenset({Status.CANCELLED})), array=whole) == [4]


@pytest.mark.parametrize(
    "first, is_reverse, has_tasks, ids",
    [
        (None, False, False, [1, 2, 6]),
        (None, True, False, [6, 2, 1]),
        (4, False, False, [6]),
        (4, True, False, [2, 1]),
        (4, False, True, [4, 5, 6]),
        (4, True, True, [4, 3, 2, 1]),
        (10**18, False, True, []),
        (10**18, True, False, [6, 2, 1]),
    ],
)
def test_jobs_are_found_from_an_id_on(
    first: int | None, is_reverse: bool, has_tasks: bool, ids: list[int]
) -> None:
    queue_state = fold(submitted(1), array(2, 3), submitted(6))
    page = {"first": first, "is_reverse": is_reverse, "has_tasks": has_tasks}
    assert _ids(queue_state, JobFilter(), **page) == ids


def test_job_that_was_removed_meanwhile_is_not_found() -> None:
    queue_state = fold(submitted(1), submitted(2))
    found = find_jobs(queue_state, JobFilter())
    assert next(found) is queue_state.get(1)
    queue_state.jobs.remove(queue_state.get(2))
    assert list(found) == [None]
