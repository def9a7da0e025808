"""What has expired: the oldest first, by age and by count, and what has to stay nevertheless."""

from collections.abc import Iterable

import pytest

from taskqd.backlog import Backlog
from taskqd.events import Event
from taskqd.expiry import AT_ONCE
from taskqd.job import Status
from tests.facts import (
    array,
    cancelled,
    ended,
    fold,
    removed,
    retried,
    scheduled,
    skipped,
    started,
    submitted,
    unscheduled,
)


def _finished(count: int) -> Backlog:
    """Return a backlog of jobs that ended at 1.0, 2.0 and so on."""
    backlog = Backlog()
    for job_id in range(1, count + 1):
        backlog.apply(submitted(job_id))
        backlog.apply(cancelled(job_id, at=float(job_id)))
    return backlog


def _remove(backlog: Backlog, ids: list[int]) -> list[int]:
    for job_id in ids:
        backlog.apply(removed(job_id))
    return ids


@pytest.mark.parametrize(
    "before, most, ids",
    [
        (0.0, 10, []),
        (0.0, 5, []),
        (0.0, 4, [1]),
        (0.0, 0, [1, 2, 3, 4, 5]),
        (3.0, 10, [1, 2]),
        (3.5, 10, [1, 2, 3]),
        (3.0, 1, [1, 2, 3, 4]),
        (9.0, 10, [1, 2, 3, 4, 5]),
    ],
)
def test_jobs_expire_by_age_and_by_count_oldest_first(before: float, most: int, ids: list[int]) -> None:
    backlog = _finished(5)
    assert _remove(backlog, backlog.expiry.take(before, most)) == ids
    assert backlog.expiry.take(before, most) == []


def test_so_many_jobs_expire_at_once_and_no_more() -> None:
    backlog = _finished(AT_ONCE + 3)
    assert len(_remove(backlog, backlog.expiry.take(0.0, 0))) == AT_ONCE
    assert len(_remove(backlog, backlog.expiry.take(0.0, 0))) == 3
    assert backlog.expiry.take(0.0, 0) == []


def test_a_retried_job_expires_by_its_last_end() -> None:
    backlog = _finished(2)
    backlog.apply(retried(1))
    assert backlog.expiry.take(9.0, 0) == [2]
    backlog.apply(cancelled(1, at=7.0))
    backlog.apply(removed(2))
    assert backlog.expiry.take(7.0, 10) == []
    assert backlog.expiry.take(7.5, 10) == [1]


def test_a_job_that_could_not_be_removed_expires_again() -> None:
    backlog = _finished(2)
    [job_id] = backlog.expiry.take(0.0, 1)
    assert backlog.expiry.take(0.0, 1) == []
    backlog.expiry.keep(job_id)
    assert backlog.expiry.take(0.0, 1) == [job_id]
    backlog.apply(retried(1))
    backlog.expiry.keep(1)
    assert backlog.expiry.take(0.0, 1) == []


def test_jobs_on_their_way_out_do_not_count_twice() -> None:
    backlog = _finished(11)
    assert backlog.expiry.take(0.0, 10) == [1]
    backlog.apply(submitted(12))
    backlog.apply(cancelled(12, at=12.0))
    assert backlog.expiry.take(0.0, 10) == [2]


# Arrays.


def test_an_array_expires_as_one_job_by_the_end_of_its_last_task() -> None:
    backlog = fold(array(1, 2), cancelled(2, at=5.0), submitted(4), cancelled(4, at=6.0))
    assert backlog.expiry.count == 1
    assert backlog.expiry.take(99.0, 0) == [4]
    backlog.apply(cancelled(3, at=7.0))
    assert backlog.expiry.count == 2
    assert backlog.expiry.take(7.0, 9) == []
    assert backlog.expiry.take(7.5, 9) == [1]


def test_an_array_of_which_a_task_runs_again_does_not_expire() -> None:
    backlog = fold(array(1, 2), cancelled(1, at=5.0), retried(3))
    assert backlog.expiry.count == 0
    assert backlog.expiry.take(99.0, 0) == []
    backlog.apply(cancelled(3, at=7.0))
    assert backlog.expiry.take(6.0, 9) == []
    assert backlog.expiry.take(7.5, 9) == [1]
    backlog.apply(removed(1))
    assert backlog.expiry.count == 0


# What is needed.


def test_the_latest_run_of_a_schedule_expires_once_there_is_a_later_one() -> None:
    run = submitted(1, schedule=1)
    backlog = fold(scheduled(), run, cancelled(1, at=1.0), submitted(2), cancelled(2, at=2.0))
    assert backlog.expiry.take(99.0, 0) == [2]
    assert backlog.expiry.take(99.0, 0) == []
    backlog.apply(submitted(3, schedule=1))
    assert backlog.expiry.take(99.0, 0) == [1]


@pytest.mark.parametrize("is_looked_at_before", [True, False])
def test_the_latest_run_of_a_schedule_expires_once_that_has_ended(is_looked_at_before: bool) -> None:
    backlog = fold(scheduled(), submitted(1, schedule=1), cancelled(1, at=1.0))
    if is_looked_at_before:
        assert backlog.expiry.take(99.0, 0) == []
    backlog.apply(unscheduled())
    assert backlog.expiry.take(99.0, 0) == [1]
    assert backlog.expiry.take(99.0, 0) == []


FAILED_TASK: tuple[Event, ...] = (started(2), ended(2, Status.FAILED))


@pytest.mark.parametrize("last", [skipped(5, 2), cancelled(5)], ids=lambda event: event.name)
@pytest.mark.parametrize(
    "before, needed",
    [
        ((submitted(2), *FAILED_TASK), 2),
        ((array(1, 1), *FAILED_TASK), 1),
    ],
    ids=["a job", "an array"],
)
def test_what_dooms_others_expires_once_all_of_them_were_told(
    before: Iterable[Event], needed: int, last: Event
) -> None:
    backlog = fold(*before, submitted(4, after=(2,)), submitted(5, after=(2,)))
    assert backlog.expiry.take(999.0, 9) == []
    backlog.apply(skipped(4, 2))
    assert backlog.expiry.take(999.0, 9) == [4]
    backlog.apply(last)
    assert set(backlog.expiry.take(999.0, 9)) == {5, needed}


def test_what_is_needed_again_by_nobody_is_passed_over_as_often_as_it_is_looked_at() -> None:
    backlog = fold(scheduled(), submitted(1, schedule=1), cancelled(1, at=1.0))
    for _ in range(3):
        assert backlog.expiry.take(99.0, 0) == []
    backlog.apply(retried(1))
    backlog.apply(unscheduled())
    assert backlog.expiry.take(99.0, 0) == []
