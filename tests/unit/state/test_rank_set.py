"""RankSet: it is the same as a sorted list of ranks, of single jobs and of tasks."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.job import Job
from taskqd.model.spec import Array, Spec
from taskqd.model.task_set import TaskSet
from taskqd.state import rank_set
from taskqd.state.rank_set import RankSet, id_of, rank_of, run_of

COUNT = 4
ARRAYS = (3, 20, 30)
PRIORITIES = (0, 0, 5, -5)
IDS = (*range(41), 50, 55, 75, 91, 99)
FIRST_SIMILAR = {0: 50, 5: 70, -5: 90}


def a_job(job_id: int, array: int | None = None, priority: int = 0) -> Job:
    spec = Spec(priority=priority, array=None if array is None else Array(1, COUNT))
    return Job(id=job_id, owner="ann", submitted_at=0.0, array=array, spec=spec)


SINGLES = st.builds(a_job, st.sampled_from([1, 2, 9, 10, 27, 40]), priority=st.sampled_from(PRIORITIES))
RUNS = st.tuples(
    st.sampled_from(ARRAYS), st.sampled_from(PRIORITIES), st.sets(st.integers(1, COUNT), min_size=1)
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "append"]), SINGLES)
    | st.tuples(st.sampled_from(["add task", "add tasks", "discard tasks"]), RUNS)
    | st.tuples(st.just("add similar"), st.tuples(st.integers(2, 12), st.sampled_from(PRIORITIES)))
    | st.tuples(st.just("discard"), st.integers(0, 20)),
    max_size=25,
)


def add_similar(ranks: RankSet, expected: set[int], count: int, priority: int) -> None:
    jobs = [a_job(FIRST_SIMILAR[priority] + index, priority=priority) for index in range(count)]
    if expected.isdisjoint(map(rank_of, jobs)):
        ranks.add_similar(jobs)
        expected.update(map(rank_of, jobs))


def step(ranks: RankSet, expected: set[int], what: str, value: Any) -> None:
    if what == "discard":
        if expected:
            rank = sorted(expected)[value % len(expected)]
            ranks.discard(rank)
            expected.discard(rank)
    elif what == "add similar":
        add_similar(ranks, expected, *value)
    elif isinstance(value, Job):
        if rank_of(value) in expected:
            return
        if what == "add":
            ranks.add(value)
        if what == "add" or ranks.append(value):
            expected.add(rank_of(value))
    else:
        array, priority, indexes = value
        tasks = [a_job(array + index, array, priority) for index in sorted(indexes)]
        ids = TaskSet(range(array + 1, array + 1 + COUNT), is_full=False)
        ids.add_all(task.id for task in tasks)
        if what == "add task":
            ranks.add(tasks[0])
            expected.add(rank_of(tasks[0]))
        elif what == "add tasks":
            ranks.add_tasks(run_of(tasks[0], ids), ids)
            expected.update(map(rank_of, tasks))
        else:
            is_first = bool(expected) and min(expected) in set(map(rank_of, tasks))
            assert not expected or ranks.is_first_in(run_of(tasks[0], ids), ids) == is_first
            ranks.discard_tasks(run_of(tasks[0], ids), ids)
            expected.difference_update(map(rank_of, tasks))


@pytest.fixture(autouse=True, scope="module")
def _few_jobs_are_a_run() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_set, "MIN_RUN", 6)
        yield


@pytest.mark.covers
@given(STEPS)
def test_set_is_the_same_as_a_sorted_list(steps: list[tuple[str, Any]]) -> None:
    ranks, expected = RankSet(), set[int]()
    for what, value in steps:
        step(ranks, expected, what, value)
        in_order = sorted(expected)
        assert list(ranks) == in_order
        assert bool(ranks) == bool(in_order)
        assert not in_order or ranks.first == in_order[0]
        asked = [a_job(job_id, priority=priority) for job_id in IDS for priority in (0, 5, -5)]
        for rank in (*map(rank_of, asked), *in_order):
            index = bisect_left(in_order, rank)
            assert (rank in ranks) == (rank in expected)
            assert ranks.count_before(rank) == index
            assert ranks.first_from(rank) == (in_order[index] if index < len(in_order) else None)


def test_rank_has_the_id_and_the_run_of_a_task() -> None:
    task = a_job(5, 3, priority=7)
    assert (id_of(rank_of(task)), id_of(run_of(task, TaskSet(range(4, 4 + COUNT))))) == (5, 3)
    assert rank_of(a_job(5)) == 5


def test_task_whose_spec_has_no_array_is_a_single_job() -> None:
    task = a_job(5, 3)
    task.spec = Spec()
    ranks = RankSet()
    ranks.add(task)
    assert (list(ranks), rank_of(task) in ranks) == ([5], True)
    ranks.discard(5)
    assert not ranks


def test_walk_leaves_out_a_run_that_has_gone_meanwhile() -> None:
    ranks = RankSet([1, 9])
    for run in (2, 5):
        ranks.add_tasks(run, TaskSet(range(run + 1, run + 3)))
    walk = ranks.walk(lambda _: True)
    found = [next(walk)]
    ranks.discard_tasks(5, TaskSet(range(6, 8)))
    assert [*found, *walk] == [1, 3, 9]
