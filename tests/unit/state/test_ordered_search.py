"""find_in_order: jobs in line, delayed ones, all others, and ends by time."""

import pytest

from taskqd.model.job import Status
from taskqd.model.job_filter import JobFilter, ListOrder
from taskqd.state import ordered_search
from taskqd.state.ordered_search import find_in_order
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    ended,
    fold,
    next_jobs,
    paused,
    removed,
    retried,
    started,
    submitted,
)


def in_line(queue_state: QueueState, **wanted: object) -> list[int]:
    found = find_in_order(queue_state, JobFilter(**wanted), ListOrder.START)  # type: ignore[arg-type]
    return [job.id for job in found if job is not None]


def latest(queue_state: QueueState, **wanted: object) -> list[int]:
    found = find_in_order(queue_state, JobFilter(**wanted), ListOrder.ENDED)  # type: ignore[arg-type]
    return [job.id for job in found if job is not None]


def pending() -> QueueState:
    return fold(
        submitted(2, delay=500.0),
        submitted(3),
        submitted(4, priority=5, label="x"),
        submitted(5, hold=True),
        submitted(6, at=300.0, label="x"),
        array(7, 3, priority=1),
        array(11, 2, delay=100.0),
        submitted(14, queue="stopped", priority=9),
        submitted(15),
        submitted(16, after=(3,)),
        cancelled(15),
        paused("stopped"),
    )


def test_pending_jobs_are_found_in_line_then_by_time_then_by_id() -> None:
    assert in_line(pending()) == [4, 7, 3, 14, 11, 6, 2, 5, 16]


def test_pending_jobs_are_filtered_in_order() -> None:
    queue_state = pending()
    assert in_line(queue_state, label="x") == [4, 6]
    assert in_line(queue_state, queue="stopped") == [14]
    assert in_line(queue_state, owner="eve") == []
    assert in_line(queue_state, statuses=frozenset({Status.PENDING}), label="x") == [4, 6]


def test_array_is_found_at_the_place_of_its_first_ready_task() -> None:
    queue_state = fold(submitted(1), array(2, 3), submitted(6), cancelled(3))
    assert in_line(queue_state) == [1, 2, 6]
    next_jobs(queue_state)
    assert in_line(queue_state) == [1, 2, 6], "allocated, and not started yet"


def test_jobs_beyond_those_that_were_visited_come_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_search, "MAX_WALKED", 2)
    queue_state = fold(*(submitted(number, priority=number) for number in range(1, 6)))
    assert in_line(queue_state) == [5, 4, 1, 2, 3]
    apply_all(queue_state, [started(3, at=50.0), ended(3, at=60.0)])
    apply_all(queue_state, [started(2, at=50.0), ended(2, at=70.0)])
    apply_all(queue_state, [started(4, at=50.0), ended(4, at=80.0), cancelled(1)])
    assert latest(queue_state)[:2] == [1, 4]
    assert latest(queue_state)[2:] == [3, 2]


def ends() -> QueueState:
    queue_state = fold(*(submitted(number) for number in range(1, 6)), array(6, 2))
    for job_id, at in ((4, 110.0), (1, 140.0), (8, 115.0), (3, 120.0), (2, 130.0), (7, 150.0)):
        apply_all(queue_state, [started(job_id, at=100.0), ended(job_id, at=at)])
    return queue_state


def test_ended_jobs_are_found_the_latest_end_first() -> None:
    queue_state = ends()
    assert latest(queue_state) == [6, 1, 2, 3, 4]
    assert latest(queue_state, statuses=frozenset({Status.FAILED})) == []


def test_end_of_a_job_that_was_retried_or_removed_is_not_found() -> None:
    queue_state = ends()
    apply_all(queue_state, [retried(1), started(1, 2), removed(2)])
    assert latest(queue_state) == [6, 3, 4]
    apply_all(queue_state, [ended(1, at=400.0)])
    assert latest(queue_state) == [1, 6, 3, 4]


def test_ended_job_that_the_retention_keeps_is_found() -> None:
    queue_state = ends()
    queue_state.retention_index.pop_expired(0.0, 1)
    assert sorted(latest(queue_state)) == [1, 2, 3, 4, 6]
