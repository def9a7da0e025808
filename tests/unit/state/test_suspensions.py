"""Suspended jobs and arrays in the state: what changes, what starts, and what is said about them."""

import pytest

from taskqd.model.attempt import Reason
from taskqd.model.events import Ended, Event
from taskqd.model.job import Status
from taskqd.protocol import documents
from taskqd.state import job_changes
from taskqd.state.capacity import CapacityTotals
from taskqd.state.errors import InvalidTransition
from taskqd.state.explain import explain
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    continued,
    ended,
    fold,
    held,
    retried,
    started,
    submitted,
    suspended,
)

NOW = 400.0


def start_next(queue_state: QueueState, count: int) -> list[int]:
    """Start the next jobs, up to a number of them, and return their ids."""
    found = []
    for _ in range(count):
        job = queue_state.next_job(NOW)
        if job is not None:
            queue_state.apply(started(job.id, job.attempts + 1))
            found.append(job.id)
    return found


# Single jobs.


def test_running_job_is_suspended_until_it_is_continued() -> None:
    queue_state = fold(submitted(1), started(1), suspended(1, 300.0))
    job = queue_state.get(1)
    assert (job.status, job.suspended_at) == (Status.RUNNING, 300.0)
    queue_state.apply(continued(1))
    assert job.suspended_at is None
    queue_state.apply(suspended(1, 310.0))
    assert job.suspended_at == 310.0


@pytest.mark.parametrize("event", [ended(1), ended(1, Status.PENDING, retry_at=500.0), cancelled(1)])
def test_end_and_cancel_of_a_suspended_job_clear_it(event: Event) -> None:
    queue_state = fold(submitted(1), started(1), suspended(1), event)
    assert queue_state.get(1).suspended_at is None


def test_undone_start_of_a_suspended_job_clears_it() -> None:
    void = Ended(id=1, at=310.0, status=Status.PENDING, is_void=True)
    assert fold(submitted(1), started(1), suspended(1), void) == fold(submitted(1), started(1), void)


def test_job_that_is_being_cancelled_is_not_suspended() -> None:
    queue_state = fold(submitted(1), started(1), cancelled(1), suspended(1))
    assert queue_state.get(1).suspended_at is None


@pytest.mark.parametrize("events", [(submitted(1),), (submitted(1), started(1), ended(1))])
@pytest.mark.parametrize("event", [suspended(1), continued(1)])
def test_job_that_does_not_run_is_not_suspended(events: tuple[Event, ...], event: Event) -> None:
    with pytest.raises(InvalidTransition):
        fold(*events, event)


def test_time_when_a_job_was_suspended_does_not_count_as_its_duration() -> None:
    end = Ended(id=1, at=200.0, status=Status.COMPLETED, exit_code=0, suspended=60.0)
    queue_state = fold(submitted(1), started(1, at=100.0), end)
    assert queue_state.queues.recent_durations("default") == [40.0]


# Arrays.


def test_suspended_array_suspends_its_running_tasks_and_starts_no_other() -> None:
    queue_state = fold(array(1, 6), submitted(9), totals=CapacityTotals(slots=9))
    assert start_next(queue_state, 2) == [2, 3]
    queue_state.apply(suspended(1))
    assert [queue_state.get(each).suspended_at for each in (1, 2, 3, 4)] == [300.0, 300.0, 300.0, None]
    assert start_next(queue_state, 9) == [9]
    queue_state.apply(continued(1))
    assert [queue_state.get(each).suspended_at for each in (1, 2, 3)] == [None] * 3
    assert start_next(queue_state, 9) == [4, 5, 6, 7]


def test_untouched_tasks_of_a_suspended_array_stay_untouched() -> None:
    queue_state = fold(array(1, 1000), totals=CapacityTotals(slots=1))
    assert start_next(queue_state, 1) == [2]
    for event in (suspended(1), continued(1)):
        queue_state.apply(event)
        tasks = queue_state.get(1).tasks
        assert tasks is not None
        assert (list(tasks.touched), len(tasks.untouched)) == ([2], 999)


def test_touched_tasks_of_a_suspended_array_do_not_start() -> None:
    queue_state = fold(array(1, 4), held(3), totals=CapacityTotals(slots=1))
    assert start_next(queue_state, 1) == [2]
    apply_all(queue_state, (suspended(1), ended(2, Status.PENDING, retry_at=350.0)))
    queue_state.release(2)
    assert start_next(queue_state, 9) == []
    queue_state.apply(continued(1))
    assert start_next(queue_state, 1) == [2]


def test_task_to_which_capacity_is_allocated_does_not_start_once_its_array_is_suspended() -> None:
    queue_state = fold(array(1, 3), totals=CapacityTotals(slots=2))
    assert start_next(queue_state, 1) == [2]
    job = queue_state.next_job(NOW)
    assert job is not None
    queue_state.apply(suspended(1))
    assert not queue_state.may_start(job, NOW)
    queue_state.release(job.id)
    assert start_next(queue_state, 9) == []
    queue_state.apply(continued(1))
    assert start_next(queue_state, 9) == [3]


def test_task_that_is_retried_waits_for_the_continuation_of_its_array() -> None:
    queue_state = fold(array(1, 2), totals=CapacityTotals(slots=2))
    start_next(queue_state, 2)
    apply_all(queue_state, (suspended(1), ended(2, Status.FAILED)))
    queue_state.release(2)
    queue_state.apply(retried(2))
    assert (start_next(queue_state, 1), queue_state.reason(queue_state.get(2), NOW)) == (
        [],
        Reason.SUSPENDED,
    )
    queue_state.apply(continued(1))
    assert start_next(queue_state, 1) == [2]


def test_single_task_is_continued_alone() -> None:
    queue_state = fold(array(1, 4), started(2), started(3), suspended(1), continued(2))
    assert [queue_state.get(each).suspended_at for each in (1, 2, 3)] == [300.0, None, 300.0]
    assert start_next(queue_state, 1) == []


def test_array_is_not_suspended_any_more_when_it_has_ended() -> None:
    queue_state = fold(array(1, 2), started(2), suspended(1), cancelled(1), ended(2, Status.CANCELLED))
    assert queue_state.get(1).suspended_at is None
    queue_state.apply(retried(1))
    assert start_next(queue_state, 9) == [2, 3]
    with pytest.raises(InvalidTransition):
        fold(array(1, 1), started(2), ended(2), suspended(1))


def test_suspended_array_is_suspended_after_a_restart() -> None:
    replayed = QueueState(CapacityTotals(slots=9), is_open=False)
    apply_all(replayed, (array(1, 4), held(5), started(2), ended(2), retried(2), started(3), suspended(1)))
    replayed.open()
    assert start_next(replayed, 9) == []
    replayed.apply(continued(1))
    assert start_next(replayed, 9) == [2, 4]


def test_array_with_many_touched_tasks_is_suspended_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_changes, "PORTION_COST", 2 * (job_changes.MOVE_COST + 1))
    queue_state = fold(array(1, 6), totals=CapacityTotals(slots=9))
    assert start_next(queue_state, 6) == [2, 3, 4, 5, 6, 7]
    queue_state.apply(suspended(1), in_portions=True)
    assert [queue_state.get(each).suspended_at for each in (1, 3, 4)] == [300.0, 300.0, None]
    while queue_state.continue_change(1):
        pass
    assert queue_state.get(7).suspended_at == 300.0


# What is said about them.


def test_documents_of_suspended_jobs_have_the_time() -> None:
    queue_state = fold(submitted(1), started(1))
    assert "suspended_at" not in documents.describe(queue_state.get(1), 0, None)
    queue_state.apply(suspended(1, 300.0))
    assert documents.describe(queue_state.get(1), 0, None)["suspended_at"] == "1970-01-01T00:05:00.000Z"


def test_explain_says_that_a_job_is_suspended() -> None:
    queue_state = fold(submitted(1), started(1), suspended(1))
    text = explain(queue_state, queue_state.get(1), NOW)
    assert text == "not waiting: it is suspended; CONTINUE 1 lets it go on"


def test_explain_says_that_the_array_of_a_task_is_suspended() -> None:
    queue_state = fold(array(1, 3), started(2), suspended(1))
    assert explain(queue_state, queue_state.get(3), NOW) == "array 1 is suspended; CONTINUE 1 lets it go on"
    queue_state.apply(Ended(id=2, at=310.0, status=Status.PENDING, is_void=True))
    assert explain(queue_state, queue_state.get(1), NOW) == "array 1 is suspended; CONTINUE 1 lets it go on"


def test_explain_names_the_suspended_jobs_that_hold_capacity() -> None:
    queue_state = fold(*map(submitted, (1, 2, 3)), totals=CapacityTotals(slots=2))
    assert start_next(queue_state, 2) == [1, 2]
    queue_state.apply(suspended(1))
    assert "none of 2 is available; jobs 1 (suspended) and 2 hold all" in explain(
        queue_state, queue_state.get(3), NOW
    )
    apply_all(queue_state, (ended(2), submitted(4, slots=2)))
    queue_state.release(2)
    assert "1 of 2 is available; job 1, which is suspended, holds the others" in explain(
        queue_state, queue_state.get(4), NOW
    )


def test_explain_names_the_suspended_jobs_that_hold_the_slots_of_a_user() -> None:
    queue_state = fold(submitted(1), submitted(2), totals=CapacityTotals(slots=2, slots_per_user=1))
    assert start_next(queue_state, 2) == [1]
    queue_state.apply(suspended(1))
    text = explain(queue_state, queue_state.get(2), NOW)
    assert "the limit for one user: job 1, which is suspended; first in queue" in text


def test_explain_estimates_nothing_from_suspended_jobs() -> None:
    queue_state = fold(*map(submitted, range(1, 6)), totals=CapacityTotals(slots=1))
    for job_id in (1, 2, 3):
        assert start_next(queue_state, 1) == [job_id]
        queue_state.apply(ended(job_id, at=1000.0))
        queue_state.release(job_id)
    assert start_next(queue_state, 1) == [4]
    assert "may start in about" in explain(queue_state, queue_state.get(5), NOW)
    queue_state.apply(suspended(4))
    assert "may start" not in explain(queue_state, queue_state.get(5), NOW)
