"""JobTable: a mapping of all jobs, with tasks that are not kept as objects."""

import pytest

from taskqd.state.job_table import CHUNK_SIZE, JobTable
from tests.support.events import array, fold, held, started, submitted


def table() -> JobTable:
    return fold(submitted(1), array(2, 3), submitted(7), array(9, 1), started(4)).jobs


def test_table_is_a_mapping_of_jobs_arrays_and_tasks() -> None:
    jobs = table()
    assert (list(jobs), len(jobs)) == ([1, 2, 3, 4, 5, 7, 9, 10], 8)
    assert [jobs[job_id].id for job_id in jobs] == list(jobs)
    assert [job_id for job_id in range(12) if job_id in jobs] == list(jobs)
    assert [jobs.get(0), jobs.get(6), jobs.get(8), jobs.get(11)] == [None] * 4
    assert jobs.get(6, "none") == "none"
    for unknown in (0, 6, 8, 11):
        with pytest.raises(KeyError):
            jobs[unknown]


def test_untouched_task_is_a_value_and_a_touched_one_an_object() -> None:
    jobs = table()
    assert jobs[3] is not jobs[3]
    assert jobs[3] == jobs[3]
    assert jobs[4] is jobs[4]
    assert [job.id for job in jobs.objects()] == [1, 2, 4, 7, 9]
    assert [job.id for job in jobs.whole()] == [1, 2, 7, 9]
    assert [job.id for job in jobs.arrays()] == [2, 9]


def test_task_that_is_touched_is_kept() -> None:
    jobs = table()
    task = jobs[3]
    jobs.touch(task)
    jobs.touch(jobs[1])
    assert jobs[3] is task
    assert [job.id for job in jobs.objects()] == [1, 2, 4, 3, 7, 9]


@pytest.mark.parametrize(
    "ids, expected",
    [
        (range(3, 4), True),
        (range(5, 9), True),
        (range(6, 7), False),
        (range(8, 10), True),
        (range(11, 15), False),
    ],
    ids=str,
)
def test_table_has_any_of_some_ids(ids: range, expected: bool) -> None:
    assert table().has_any(ids) is expected


def test_removed_array_is_gone_with_its_tasks() -> None:
    jobs = table()
    jobs.remove(jobs[2])
    jobs.remove(jobs[1])
    assert (list(jobs), len(jobs), jobs.get(4)) == ([7, 9, 10], 3, None)


def test_tables_are_compared_by_value() -> None:
    assert table() == table()
    assert table() != fold(submitted(1), array(2, 3), submitted(7), array(9, 1), held(4)).jobs
    assert dict(table()) == table()
    assert fold().jobs == {}
    with pytest.raises(TypeError):
        hash(table())


def test_jobs_far_apart_are_in_the_order_of_their_ids() -> None:
    ids = (3 * CHUNK_SIZE, 1, CHUNK_SIZE - 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 1)
    jobs = fold(*map(submitted, ids)).jobs
    assert list(jobs) == sorted(ids)
    jobs.remove(jobs[3 * CHUNK_SIZE])
    jobs.remove(jobs[CHUNK_SIZE])
    assert (list(jobs), len(jobs)) == ([1, CHUNK_SIZE - 1, 3 * CHUNK_SIZE + 1], 3)
    assert jobs == fold(*map(submitted, jobs)).jobs
    assert [jobs.get(CHUNK_SIZE), jobs.get(3 * CHUNK_SIZE)] == [None, None]


def test_jobs_that_are_added_together_are_as_if_added_one_by_one() -> None:
    jobs = fold(*map(submitted, (1, 2, CHUNK_SIZE - 1, CHUNK_SIZE, 5 * CHUNK_SIZE))).jobs
    together = JobTable()
    together.add_all(list(jobs.whole()))
    assert together == jobs
    assert len(together) == len(jobs)
