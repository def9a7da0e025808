"""Arrays: their tasks are jobs, and their status follows from the tasks."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.events import Event, Spawned
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    changed,
    configured,
    ended,
    fold,
    held,
    next_jobs,
    ran,
    released,
    removed,
    retried,
    skipped,
    started,
    submitted,
)

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = Status
WAYS: dict[Status, Any] = {
    PENDING: lambda _: (),
    RUNNING: lambda task: (started(task),),
    COMPLETED: ran,
    FAILED: lambda task: ran(task, FAILED),
    CANCELLED: lambda task: (cancelled(task),),
}


def _array_of(*statuses: Status) -> tuple[Event, ...]:
    """Return the events of an array whose tasks get these statuses."""
    moves = [event for task, status in enumerate(statuses, 2) for event in WAYS[status](task)]
    return array(1, len(statuses)), *moves


def _tasks(*events: Event) -> list[Job]:
    queue_state = fold(*events)
    return queue_state.tasks(queue_state.get(1))


def test_tasks_are_jobs_with_the_ids_after_the_array() -> None:
    queue_state = fold(submitted(7, array=Array(3, 5), hold=True, delay=2.0, queue="q"))
    assert queue_state.last_id == 10
    whole, *tasks = queue_state.walk(1)
    assert [(task.id, task.array, task.index) for task in tasks] == [(8, 7, 3), (9, 7, 4), (10, 7, 5)]
    assert {(task.is_held, task.not_before, task.owner, task.submitted_at) for task in tasks} == {
        (True, 9.0, "ann", 7.0)
    }
    assert all(task.spec is whole.spec and task.tasks is None for task in tasks)
    assert whole.tasks is not None
    assert [queue_state.array_of(job).id for job in (whole, tasks[0])] == [7, 7]
    assert queue_state.tasks(whole) == tasks
    assert queue_state.tasks(tasks[0]) == []


def test_tasks_start_by_index_and_the_array_never_starts() -> None:
    assert next_jobs(fold(submitted(5), array(1, 3))) == [2, 3, 4, 5]


def test_array_runs_up_to_its_limit_of_tasks() -> None:
    queue_state = fold(array(1, 5, at_once=2), submitted(7))
    assert next_jobs(queue_state) == [2, 3, 7]
    apply_all(queue_state, ran(3))
    queue_state.release(3)
    assert next_jobs(queue_state) == [4]


def test_limits_of_two_arrays_are_independent() -> None:
    assert next_jobs(fold(array(1, 3, at_once=1), array(11, 3, at_once=2))) == [2, 12, 13]


def _aggregate(counts: Counter[Status]) -> Status:
    """Return the status of an array by the rule in docs/protocol.md."""
    if counts[RUNNING] or (counts[PENDING] and (counts[COMPLETED] or counts[FAILED])):
        return RUNNING
    for status in (PENDING, FAILED, CANCELLED):
        if counts[status]:
            return status
    return COMPLETED


@given(st.lists(st.sampled_from(Status), min_size=1, max_size=6))
def test_array_status_follows_from_its_tasks(statuses: list[Status]) -> None:
    queue_state = fold(*_array_of(*statuses))
    whole = queue_state.get(1)
    assert whole.status is _aggregate(Counter(statuses))
    assert whole.tasks is not None
    assert +Counter(whole.tasks.counts) == Counter(statuses)
    assert (whole.completed_at is not None) == whole.status.is_final


@pytest.mark.parametrize(
    "events, reason",
    [
        (_array_of(PENDING, PENDING), Reason.QUEUED),
        (_array_of(RUNNING, PENDING), None),
        (_array_of(COMPLETED, COMPLETED), None),
        (_array_of(COMPLETED, FAILED), Reason.EXIT),
        (_array_of(FAILED, CANCELLED), Reason.EXIT),
        (_array_of(COMPLETED, CANCELLED), Reason.CANCELLED),
        ((array(1, 2), cancelled(2), skipped(1, 9)), Reason.DEPENDENCY),
        ((*_array_of(FAILED, PENDING), skipped(1, 9)), Reason.EXIT),
    ],
)
def test_array_reason_is_that_of_its_first_task_with_the_same_status(
    events: tuple[Event, ...], reason: Reason | None
) -> None:
    assert fold(*events).get(1).reason is reason


def test_array_ended_with_its_latest_task_whose_end_may_be_recorded_before_others() -> None:
    queue_state = fold(array(1, 3), *map(started, (2, 3, 4)))
    apply_all(queue_state, [ended(2, at=200.0, ended_at=150.0), ended(3, at=200.0, ended_at=170.0)])
    queue_state.apply(ended(4, at=200.0, ended_at=160.0))
    assert queue_state.get(1).completed_at == 170.0


# Events of arrays.


def test_cancel_of_an_array_applies_to_unfinished_tasks() -> None:
    queue_state = fold(*_array_of(COMPLETED, RUNNING, PENDING), cancelled(1))
    whole = queue_state.get(1)
    assert [task.status for task in queue_state.tasks(whole)] == [COMPLETED, RUNNING, CANCELLED]
    assert queue_state.get(3).cancelling == 15
    assert whole.status is RUNNING
    queue_state.apply(ended(3, CANCELLED))
    assert (whole.status, whole.completed_at) == (CANCELLED, 200.0)


@pytest.mark.parametrize(
    "statuses, again",
    [
        ((COMPLETED, COMPLETED), [2, 3]),
        ((COMPLETED, FAILED), [3]),
        ((CANCELLED, COMPLETED, FAILED), [2, 4]),
        ((FAILED, FAILED), [2, 3]),
    ],
)
def test_retry_of_an_array_applies_to_incomplete_tasks_or_to_all_if_all_completed(
    statuses: tuple[Status, ...], again: list[int]
) -> None:
    queue_state = fold(*_array_of(*statuses), retried(1))
    assert next_jobs(queue_state) == again
    assert queue_state.get(1).completed_at is None


def test_retry_of_a_task_leaves_the_other_tasks() -> None:
    queue_state = fold(*_array_of(COMPLETED, COMPLETED), retried(3))
    assert next_jobs(queue_state) == [3]
    assert queue_state.get(1).status is RUNNING


def test_hold_of_an_array_applies_to_pending_tasks_and_a_task_can_be_held_alone() -> None:
    queue_state = fold(*_array_of(COMPLETED, PENDING, PENDING, PENDING), held(1), released(4))
    assert next_jobs(queue_state) == [4]
    queue_state.apply(released(1))
    assert next_jobs(queue_state) == [3, 5]
    queue_state = fold(array(1, 2), held(2))
    assert next_jobs(queue_state) == [3]


@pytest.mark.parametrize("then", [released(1), changed(1, array=Array(1, 2))], ids=lambda event: event.name)
def test_array_is_not_delayed_any_more_if_its_tasks_are_not(then: Event) -> None:
    queue_state = fold(array(1, 2, delay=900.0))
    assert queue_state.reason(queue_state.get(1), 500.0) is Reason.DELAYED
    queue_state.apply(then)
    assert queue_state.reason(queue_state.get(1), 500.0) is Reason.QUEUED
    assert next_jobs(queue_state, 500.0) == [2, 3]


def test_array_that_is_changed_to_start_later_is_delayed_with_its_tasks() -> None:
    queue_state = fold(array(1, 2), changed(1, array=Array(1, 2), at=900.0))
    assert queue_state.reason(queue_state.get(1), 500.0) is Reason.DELAYED
    assert next_jobs(queue_state, 500.0) == []


@pytest.mark.parametrize("how", [{"hold": True}, {"delay": 999.0}], ids=str)
def test_retried_array_is_not_held_or_delayed_any_more(
    how: dict[str, Any],
) -> None:
    queue_state = fold(array(1, 2, **how), cancelled(1), retried(1))
    assert (queue_state.get(1).is_held, queue_state.get(1).not_before) == (False, None)
    assert queue_state.reason(queue_state.get(1), 500.0) is Reason.QUEUED
    assert next_jobs(queue_state, 500.0) == [2, 3]


def test_change_of_an_array_applies_to_pending_tasks_only() -> None:
    now = changed(1, array=Array(1, 3), queue="q", priority=2)
    queue_state = fold(*_array_of(COMPLETED, PENDING, PENDING), now)
    assert [task.spec.queue for task in queue_state.tasks(queue_state.get(1))] == ["default", "q", "q"]
    assert (queue_state.get(1).spec.queue, queue_state.get(1).original_spec.queue) == ("q", "default")


def test_removed_array_is_gone_with_its_tasks_and_its_limit() -> None:
    queue_state = fold(array(1, 3, at_once=1), cancelled(1), removed(1))
    assert not queue_state.jobs
    assert set(queue_state.counts.values()) == {0}
    assert queue_state == fold(array(1, 3), cancelled(1), removed(1))


@pytest.mark.parametrize(
    "statuses, event",
    [
        ((PENDING, COMPLETED), removed(1)),
        ((RUNNING, COMPLETED), removed(1)),
        ((PENDING, PENDING), retried(1)),
        ((COMPLETED, COMPLETED), cancelled(1)),
        ((COMPLETED, COMPLETED), skipped(1, 9)),
        ((RUNNING, FAILED), held(1)),
        ((RUNNING, FAILED), released(1)),
        ((RUNNING, FAILED), changed(1)),
        ((PENDING, PENDING), started(1)),
        ((RUNNING, RUNNING), Spawned(id=1, at=1.0, pid=2)),
        ((RUNNING, RUNNING), ended(1)),
    ],
    ids=str,
)
def test_event_that_applies_to_no_task_or_not_to_arrays_is_refused(
    statuses: tuple[Status, ...], event: Event
) -> None:
    before = _array_of(*statuses)
    queue_state = fold(*before)
    with pytest.raises(InvalidTransition, match=f"{event.name} is not possible for array 1, which is"):
        queue_state.apply(event)
    assert queue_state == fold(*before)
    assert next_jobs(queue_state) == next_jobs(fold(*before))


def test_tasks_of_an_unsatisfiable_array_are_skipped_if_pending() -> None:
    assert [task.status for task in _tasks(array(1, 2), cancelled(2), skipped(1, 9))] == [CANCELLED, FAILED]


# Untouched tasks.


def test_pending_states_are_those_of_touched_tasks_and_one_for_all_others() -> None:
    queue_state = fold(array(1, 4), held(3), *ran(4), submitted(9))
    states = list(queue_state.pending_states(queue_state.get(1)))
    assert [(state.is_shared, state.is_held) for state in states] == [(True, False), (False, True)]
    assert list(queue_state.pending_states(queue_state.get(9))) == [queue_state.get(9)]
    queue_state.apply(cancelled(1))
    assert list(queue_state.pending_states(queue_state.get(1))) == []


def test_running_tasks_of_an_array_are_found_alone() -> None:
    queue_state = fold(array(1, 3), started(3), submitted(9), started(9))
    assert [job.id for job in queue_state.running()] == [3, 9]
    assert [job.id for job in queue_state.running(queue_state.get(1))] == [3]
    assert [job.id for job in queue_state.running(queue_state.get(9))] == [3, 9]


def test_delayed_tasks_wait_again_if_the_clock_is_set_back() -> None:
    queue_state = fold(submitted(1), array(2, 3, at=900.0))
    assert next_jobs(queue_state, 899.0) == [1]
    job = queue_state.next_job(901.0)
    assert job is not None
    queue_state.release(job.id)
    assert next_jobs(queue_state, 800.0) == []
    assert queue_state.next_due(800.0) == 900.0
    assert next_jobs(queue_state, 902.0) == [3, 4, 5]


def test_task_that_is_released_without_a_start_is_ready_again() -> None:
    queue_state = fold(array(1, 3))
    job = queue_state.next_job(0.0)
    assert job is not None
    queue_state.apply(released(1))
    assert not queue_state.ready_queue.is_allocated(3)
    queue_state.release(job.id)
    assert next_jobs(queue_state) == [2, 3, 4]


def test_array_whose_only_task_is_allocated_is_not_queued_twice() -> None:
    queue_state = fold(array(1, 1))
    assert next_jobs(queue_state) == [2]
    queue_state.apply(released(1))
    assert next_jobs(queue_state) == []


def test_end_of_untouched_tasks_resolves_dependencies_on_them() -> None:
    queue_state = fold(
        array(1, 3), submitted(5, after_any=(3,)), submitted(6, after=(4,)), submitted(7, after_any=(2,))
    )
    queue_state.apply(held(2))
    queue_state.apply(cancelled(1))
    assert next_jobs(queue_state) == [5, 7]
    assert queue_state.dependencies.unsatisfiable == {6: 4}


def test_touched_tasks_are_queued_with_the_others_when_their_dependency_ends() -> None:
    queue_state = fold(
        submitted(1), array(2, 5, after=(1,), hold=True), released(3), released(4), released(6)
    )
    queue_state.apply(held(6))
    apply_all(queue_state, ran(1))
    assert next_jobs(queue_state) == [3, 4]
    queue_state = fold(submitted(1), array(2, 2, after=(1,)), released(3))
    queue_state.apply(changed(2, array=Array(1, 2), after=(1,), at=900.0))
    apply_all(queue_state, ran(1))
    assert (next_jobs(queue_state, 800.0), next_jobs(queue_state, 900.0)) == ([], [3, 4])


@pytest.mark.parametrize("is_open", [True, False])
def test_removed_array_is_counted_out_of_the_queues_of_its_tasks(is_open: bool) -> None:
    queue_state = QueueState(is_open=is_open)
    moved = changed(1, array=Array(1, 4), queue="q")
    apply_all(queue_state, [array(1, 4), *ran(2), moved, *ran(3), cancelled(1)])
    counts = {each["name"]: (each["completed"], each["cancelled"]) for each in queue_state.describe_queues()}
    assert counts == {"default": (1, 0), "q": (1, 2)}
    queue_state.apply(removed(1))
    assert set(queue_state.counts.values()) == {0}
    assert [each["name"] for each in queue_state.describe_queues()] == ["default"]


def test_tasks_are_queued_again_when_their_queue_becomes_fair() -> None:
    queue_state = fold(array(1, 3), submitted(5), configured("default", "fair", True))
    assert next_jobs(queue_state) == [2, 3, 4, 5]


@pytest.mark.parametrize("late, expected", [(None, 200.0), (160.0, 170.0)])
def test_array_whose_last_end_is_recorded_late_ended_with_its_latest_task(
    late: float | None, expected: float
) -> None:
    queue_state = fold(array(1, 3), started(2), cancelled(3, at=170.0), cancelled(4, at=120.0))
    queue_state.apply(ended(2, at=200.0, ended_at=late))
    assert queue_state.get(1).completed_at == expected


def test_late_end_counts_untouched_tasks() -> None:
    queue_state = fold(array(1, 3), started(2), cancelled(1, at=170.0))
    queue_state.apply(ended(2, at=200.0, ended_at=160.0))
    assert queue_state.get(1).completed_at == 170.0
