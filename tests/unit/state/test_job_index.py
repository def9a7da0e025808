"""JobIndex: a search finds all jobs that match, in order, also if they are changed meanwhile."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Spec
from taskqd.model.task_set import TaskSet
from taskqd.state import job_index
from taskqd.state.job_index import CHUNK_SIZE, JobIndex

LAST = 3 * CHUNK_SIZE
OWNERS = ("ann", "bob", "eve")
QUEUES = ("default", "q", "r")
LABELS = (None, "x", "y")

EDGES = [1, 2, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, LAST - 1, LAST]
IDS = st.sampled_from(EDGES) | st.integers(1, LAST)
JOBS = st.builds(
    lambda job_id, owner, status, array, **spec: Job(
        id=job_id, owner=owner, submitted_at=0.0, status=status, array=array, spec=Spec(**spec)
    ),
    IDS,
    st.sampled_from(OWNERS),
    st.sampled_from(Status),
    st.sampled_from([None, None, 5]),
    queue=st.sampled_from(QUEUES),
    label=st.sampled_from(LABELS),
)
FILTERS = st.builds(
    JobFilter,
    statuses=st.none() | st.frozensets(st.sampled_from(Status)),
    owner=st.sampled_from([None, None, *OWNERS, "other"]),
    queue=st.sampled_from([None, None, *QUEUES, "other"]),
    label=st.sampled_from([*LABELS, "other"]),
)


def _job(job_id: int, **fields: Any) -> Job:
    return Job(**{"id": job_id, "owner": "ann", "submitted_at": 0.0, **fields})


def _index(*jobs: Job) -> JobIndex:
    index = JobIndex()
    for job in jobs:
        index.add(job)
    return index


def _found(found: Iterator[int | None]) -> list[int]:
    return [job_id for job_id in found if job_id is not None]


@given(
    changes=st.lists(st.tuples(st.booleans(), JOBS), max_size=40),
    wanted=FILTERS,
    first=IDS,
    last=IDS,
    is_reverse=st.booleans(),
    has_tasks=st.booleans(),
)
def test_search_finds_what_a_look_at_each_job_finds(
    changes: list[tuple[bool, Job]],
    wanted: JobFilter,
    first: int,
    last: int,
    is_reverse: bool,
    has_tasks: bool,
) -> None:
    index, jobs = JobIndex(), dict[int, Job]()
    for is_removal, job in changes:
        if job.id not in jobs:
            index.add(job)
            jobs[job.id] = job
        elif is_removal:
            index.remove(job.id)
            del jobs[job.id]
        else:
            jobs[job.id] = job
            index.update(job)
    filled = JobIndex()
    filled.fill(jobs.values())
    found = _found(index.find(wanted, first, last, is_reverse, has_tasks))
    assert _found(filled.find(wanted, first, last, is_reverse, has_tasks)) == found
    expected = [
        job.id
        for job in sorted(jobs.values(), key=lambda job: job.id, reverse=is_reverse)
        if first <= job.id <= last and wanted.admits(job) and (has_tasks or job.array is None)
    ]
    assert found == expected


def test_jobs_that_share_their_spec_are_filled_in_like_others() -> None:
    plain, spec, index = Spec(), Spec(queue="q"), JobIndex()
    specs = [plain, plain, spec, plain, spec, spec]
    jobs = [_job(job_id, spec=spec) for job_id, spec in enumerate(specs, CHUNK_SIZE - 3)]
    jobs[1].status = Status.RUNNING
    index.fill(jobs)
    last = 2 * CHUNK_SIZE
    assert _found(index.find(JobFilter(), 1, last)) == [job.id for job in jobs]
    in_q = [job.id for job in jobs if job.spec is spec]
    assert _found(index.find(JobFilter(queue="q"), 1, last)) == in_q
    running = JobFilter(statuses=frozenset({Status.RUNNING}))
    assert _found(index.find(running, 1, last)) == [jobs[1].id]


FIRST_IDS = [2, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1]


@pytest.mark.parametrize("first", FIRST_IDS)
@pytest.mark.parametrize("count", [1, 3, CHUNK_SIZE, 2 * CHUNK_SIZE + 3])
def test_tasks_of_an_array_are_found_like_jobs(first: int, count: int) -> None:
    index, ids = _index(_job(1), _job(4 * CHUNK_SIZE)), range(first, first + count)
    shared = _job(first, array=first - 1, owner="bob", spec=Spec(queue="q", label="x"))
    index.put_tasks(shared, TaskSet(ids), are_new=True)
    tasks = JobFilter(owner="bob", queue="q", label="x", statuses=frozenset({Status.PENDING}))
    assert _found(index.find(tasks, 1, 5 * CHUNK_SIZE)) == [*ids]
    assert _found(index.find(tasks, 1, 5 * CHUNK_SIZE, has_tasks=False)) == []
    changed = TaskSet(ids)
    changed.discard(first)
    shared.status, shared.spec = Status.CANCELLED, Spec(queue="r")
    index.put_tasks(shared, changed)
    assert _found(index.find(tasks, 1, 5 * CHUNK_SIZE)) == [first]
    cancelled = JobFilter(queue="r", statuses=frozenset({Status.CANCELLED}))
    assert _found(index.find(cancelled, 1, 5 * CHUNK_SIZE)) == [*ids[1:]]
    index.remove_tasks(ids)
    assert list(index.find(JobFilter(), 1, 5 * CHUNK_SIZE)) == [1, 4 * CHUNK_SIZE]


def test_search_yields_none_after_some_chunks_that_have_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_index, "CHUNKS_PER_STEP", 2)
    index = _index(_job(3), _job(4), _job(5 * CHUNK_SIZE), _job(7 * CHUNK_SIZE))
    found = [3, 4, 5 * CHUNK_SIZE, None, 7 * CHUNK_SIZE]
    assert list(index.find(JobFilter(), 1, 9 * CHUNK_SIZE)) == found
    assert list(index.find(JobFilter(owner="bob"), 1, 9 * CHUNK_SIZE)) == [None]
    assert list(JobIndex().find(JobFilter(), 1, 9)) == []


@pytest.mark.parametrize("is_reverse, ids", [(False, [1, 4, 5]), (True, [5, 2, 1])])
def test_search_finds_jobs_as_they_are_when_it_reaches_them(is_reverse: bool, ids: list[int]) -> None:
    pending = JobFilter(statuses=frozenset({Status.PENDING}))
    running = [_job(job_id, status=Status.RUNNING) for job_id in (2, 4)]
    index = _index(_job(1), running[0], _job(3), running[1], _job(5))
    found = index.find(pending, 1, 9, is_reverse)
    before = [next(found)]
    index.update(_job(3, status=Status.COMPLETED))
    for job in running:
        job.status = Status.PENDING
    index.update(running[0 if is_reverse else 1])
    assert before + _found(found) == ids


def test_search_ends_if_the_last_job_of_a_chunk_is_removed_meanwhile() -> None:
    index = _index(_job(1), _job(2))
    found = index.find(JobFilter(), 1, 9)
    assert next(found) == 1
    index.remove(2)
    index.remove(1)
    assert list(found) == []


def test_values_with_the_same_hash_are_found_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.state.job_index.hash", lambda _: 0x50000, raising=False)
    index = _index(_job(1), _job(2, owner="bob"), _job(3, owner="eve"))
    assert _found(index.find(JobFilter(owner="bob"), 1, 9)) == [2, 3]
    assert _found(index.find(JobFilter(owner="ann"), 1, 9)) == [1]


# Tasks of an array.


@given(
    first=st.sampled_from([2, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1]),
    count=st.sampled_from([1, 3, CHUNK_SIZE, 2 * CHUNK_SIZE]),
    shared=JOBS,
    wanted=FILTERS,
    data=st.data(),
)
def test_tasks_that_are_put_together_are_found_like_those_that_are_added_one_by_one(
    first: int, count: int, shared: Job, wanted: JobFilter, data: st.DataObject
) -> None:
    ids = range(first, first + count)
    shared = replace(shared, id=first - 1, array=first - 1)
    changed = replace(shared, status=Status.CANCELLED, spec=Spec(queue="r", label="y"))
    others = [_job(1, status=Status.RUNNING), _job(ids.stop, owner="eve")]
    some = TaskSet(ids)
    for job_id in data.draw(st.lists(st.sampled_from(ids), max_size=5)):
        some.discard(job_id)
    together = _index(*others)
    together.put_tasks(shared, TaskSet(ids), are_new=True)
    together.put_tasks(changed, some)
    one_by_one = _index(*others, *(replace(shared, id=job_id) for job_id in ids))
    for job_id in some:
        one_by_one.update(replace(changed, id=job_id))
    for index in (together, one_by_one):
        assert _found(index.find(wanted, 1, ids.stop)) == _found(one_by_one.find(wanted, 1, ids.stop))
    together.remove_tasks(ids)
    assert _found(together.find(JobFilter(), 1, ids.stop)) == [1, ids.stop]
    for other in others:
        together.remove(other.id)
    assert list(together.find(JobFilter(), 1, ids.stop)) == []
