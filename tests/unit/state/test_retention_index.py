"""Expiry of finished jobs by age, count, size and memory, and jobs that are still needed."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.model.events import Ended, Event, Output
from taskqd.model.footprint import ATTEMPT_BYTES, JOB_BYTES, SPEC_BYTES, TASK_BYTES
from taskqd.model.job import Status
from taskqd.state.queue_state import QueueState
from taskqd.state.retention_index import MAX_BATCH, MAX_VISITED
from tests.support.events import (
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


def _finished(count: int) -> QueueState:
    """Return a state with jobs that ended at 1.0, 2.0 and so on."""
    queue_state = QueueState()
    for job_id in range(1, count + 1):
        queue_state.apply(submitted(job_id))
        queue_state.apply(cancelled(job_id, at=float(job_id)))
    return queue_state


def _remove(queue_state: QueueState, ids: list[int]) -> list[int]:
    for job_id in ids:
        queue_state.apply(removed(job_id))
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
def test_jobs_expire_by_age_and_count_oldest_first(before: float, most: int, ids: list[int]) -> None:
    queue_state = _finished(5)
    assert _remove(queue_state, queue_state.retention_index.pop_expired(before, most)) == ids
    assert queue_state.retention_index.pop_expired(before, most) == []


def test_up_to_a_batch_of_jobs_expires_per_call() -> None:
    queue_state = _finished(MAX_BATCH + 3)
    assert len(_remove(queue_state, queue_state.retention_index.pop_expired(0.0, 0))) == MAX_BATCH
    assert len(_remove(queue_state, queue_state.retention_index.pop_expired(0.0, 0))) == 3
    assert queue_state.retention_index.pop_expired(0.0, 0) == []


def test_retried_job_expires_by_its_last_end() -> None:
    queue_state = _finished(2)
    queue_state.apply(retried(1))
    assert queue_state.retention_index.pop_expired(9.0, 0) == [2]
    queue_state.apply(cancelled(1, at=7.0))
    queue_state.apply(removed(2))
    assert queue_state.retention_index.pop_expired(7.0, 10) == []
    assert queue_state.retention_index.pop_expired(7.5, 10) == [1]


def test_outdated_ends_of_many_retried_jobs_are_visited_in_several_calls() -> None:
    queue_state = _finished(MAX_VISITED + 10)
    index = queue_state.retention_index
    for job_id in range(1, MAX_VISITED + 6):
        queue_state.apply(retried(job_id))
    assert index.pop_expired(0.0, 0) == []
    assert index.may_have_more
    assert index.pop_expired(0.0, 0) == list(range(MAX_VISITED + 6, MAX_VISITED + 11))
    assert not index.may_have_more


def test_retained_job_expires_again() -> None:
    queue_state = _finished(2)
    [job_id] = queue_state.retention_index.pop_expired(0.0, 1)
    assert queue_state.retention_index.pop_expired(0.0, 1) == []
    queue_state.retention_index.retain(job_id)
    assert queue_state.retention_index.pop_expired(0.0, 1) == [job_id]
    queue_state.apply(retried(1))
    queue_state.retention_index.retain(1)
    assert queue_state.retention_index.pop_expired(0.0, 1) == []


def test_expired_jobs_do_not_count_any_more() -> None:
    queue_state = _finished(11)
    assert queue_state.retention_index.pop_expired(0.0, 10) == [1]
    queue_state.apply(submitted(12))
    queue_state.apply(cancelled(12, at=12.0))
    assert queue_state.retention_index.pop_expired(0.0, 10) == [2]


# Size.


def _printed(count: int, size: int) -> QueueState:
    """Return a state with jobs that ended at 1.0, 2.0 and so on, each with this many bytes per stream."""
    queue_state = QueueState()
    for job_id in range(1, count + 1):
        for event in (submitted(job_id), started(job_id), _ended(job_id, size, at=float(job_id))):
            queue_state.apply(event)
    return queue_state


def _ended(job_id: int, size: int, at: float, **options: Any) -> Ended:
    return replace(ended(job_id, at=at, **options), stdout=Output(size), stderr=Output(size))


@pytest.mark.parametrize(
    "most_bytes, ids",
    [(None, []), (50, []), (49, [1]), (30, [1, 2]), (29, [1, 2, 3]), (10, [1, 2, 3, 4]), (0, [1, 2, 3, 4])],
)
def test_jobs_expire_by_kept_bytes_oldest_first_except_the_last(
    most_bytes: int | None, ids: list[int]
) -> None:
    queue_state = _printed(5, 5)
    assert queue_state.retention_index.bytes == 50
    assert _remove(queue_state, queue_state.retention_index.pop_expired(0.0, 10, most_bytes)) == ids
    assert queue_state.retention_index.bytes == 50 - 10 * len(ids)
    assert queue_state.retention_index.pop_expired(0.0, 10, most_bytes) == []


def test_kept_bytes_of_expired_jobs_do_not_count_until_retained() -> None:
    queue_state = _printed(3, 5)
    assert queue_state.retention_index.pop_expired(0.0, 10, 25) == [1]
    assert queue_state.retention_index.pop_expired(0.0, 10, 25) == []
    queue_state.retention_index.retain(1)
    assert queue_state.retention_index.pop_expired(0.0, 10, 25) == [1]
    queue_state.apply(retried(1))
    assert queue_state.retention_index.pop_expired(0.0, 10, 19) == [2]


def test_kept_bytes_are_output_of_all_attempts_and_blocks_of_finished_jobs() -> None:
    queue_state = fold(submitted(1, script=100, stdin=50), started(1))
    queue_state.apply(_ended(1, 5, at=1.0, status=Status.PENDING, retry_at=2.0))
    assert queue_state.retention_index.bytes == 0
    queue_state.apply(started(1, attempt=2))
    queue_state.apply(_ended(1, 7, at=3.0))
    assert queue_state.retention_index.bytes == 150 + 10 + 14
    queue_state.apply(retried(1))
    assert queue_state.retention_index.bytes == 0


def test_kept_bytes_of_an_array_are_output_of_its_tasks_and_its_blocks_once() -> None:
    queue_state = fold(array(1, 2, stdin=50), started(2), started(3))
    queue_state.apply(_ended(2, 5, at=1.0))
    assert queue_state.retention_index.bytes == 0
    queue_state.apply(_ended(3, 7, at=2.0))
    assert queue_state.retention_index.bytes == 50 + 10 + 14
    queue_state.apply(retried(3))
    assert queue_state.retention_index.bytes == 0
    queue_state.apply(started(3, attempt=2))
    queue_state.apply(_ended(3, 1, at=3.0))
    assert queue_state.retention_index.bytes == 50 + 10 + 14 + 2
    queue_state.apply(removed(1))
    assert queue_state.retention_index.bytes == 0


def test_removed_job_cannot_be_retained() -> None:
    queue_state = _printed(2, 5)
    assert queue_state.retention_index.pop_expired(0.0, 10, 15) == [1]
    queue_state.apply(removed(1))
    queue_state.retention_index.retain(1)
    assert queue_state.retention_index.pop_expired(0.0, 10, 15) == []
    assert queue_state.retention_index.bytes == 10


# Arrays.


def test_array_expires_as_one_job_by_the_end_of_its_last_task() -> None:
    queue_state = fold(array(1, 2), cancelled(2, at=5.0), submitted(4), cancelled(4, at=6.0))
    assert queue_state.retention_index.count == 1
    assert queue_state.retention_index.pop_expired(99.0, 0) == [4]
    queue_state.apply(cancelled(3, at=7.0))
    assert queue_state.retention_index.count == 2
    assert queue_state.retention_index.pop_expired(7.0, 9) == []
    assert queue_state.retention_index.pop_expired(7.5, 9) == [1]


def test_array_with_a_retried_task_does_not_expire() -> None:
    queue_state = fold(array(1, 2), cancelled(1, at=5.0), retried(3))
    assert queue_state.retention_index.count == 0
    assert queue_state.retention_index.pop_expired(99.0, 0) == []
    queue_state.apply(cancelled(3, at=7.0))
    assert queue_state.retention_index.pop_expired(6.0, 9) == []
    assert queue_state.retention_index.pop_expired(7.5, 9) == [1]
    queue_state.apply(removed(1))
    assert queue_state.retention_index.count == 0


# Jobs that are needed.


def test_latest_run_of_a_schedule_expires_after_a_later_run() -> None:
    run = submitted(1, schedule=1)
    queue_state = fold(scheduled(), run, cancelled(1, at=1.0), submitted(2), cancelled(2, at=2.0))
    assert queue_state.retention_index.pop_expired(99.0, 0) == [2]
    assert queue_state.retention_index.pop_expired(99.0, 0) == []
    queue_state.apply(submitted(3, schedule=1))
    assert queue_state.retention_index.pop_expired(99.0, 0) == [1]


@pytest.mark.parametrize("is_looked_at_before", [True, False])
def test_latest_run_of_a_schedule_expires_after_the_schedule_was_ended(is_looked_at_before: bool) -> None:
    queue_state = fold(scheduled(), submitted(1, schedule=1), cancelled(1, at=1.0))
    if is_looked_at_before:
        assert queue_state.retention_index.pop_expired(99.0, 0) == []
    queue_state.apply(unscheduled())
    assert queue_state.retention_index.pop_expired(99.0, 0) == [1]
    assert queue_state.retention_index.pop_expired(99.0, 0) == []


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
def test_cause_of_unsatisfiable_jobs_expires_after_all_were_skipped(
    before: Iterable[Event], needed: int, last: Event
) -> None:
    queue_state = fold(*before, submitted(4, after=(2,)), submitted(5, after=(2,)))
    assert queue_state.retention_index.pop_expired(999.0, 9) == []
    queue_state.apply(skipped(4, 2))
    assert queue_state.retention_index.pop_expired(999.0, 9) == [4]
    queue_state.apply(last)
    assert set(queue_state.retention_index.pop_expired(999.0, 9)) == {5, needed}


def test_reconsidered_job_that_is_still_needed_does_not_expire() -> None:
    queue_state = fold(scheduled(), submitted(1, schedule=1), cancelled(1, at=1.0))
    for _ in range(3):
        assert queue_state.retention_index.pop_expired(99.0, 0) == []
    queue_state.apply(retried(1))
    queue_state.apply(unscheduled())
    assert queue_state.retention_index.pop_expired(99.0, 0) == []


# Memory.


@pytest.mark.parametrize(
    "most_memory, left",
    [(None, 5), (5 * JOB_BYTES + 20, 5), (5 * JOB_BYTES + 19, 4), (2 * JOB_BYTES, 1), (0, 1)],
)
def test_jobs_expire_by_memory_oldest_first_except_the_last(most_memory: int | None, left: int) -> None:
    queue_state = _finished(5)
    assert queue_state.retention_index.memory == 5 * (JOB_BYTES + 4)
    assert _remove(queue_state, queue_state.retention_index.pop_expired(0.0, 10, None, most_memory)) == list(
        range(1, 6 - left)
    )
    assert queue_state.retention_index.memory == left * (JOB_BYTES + 4)
    assert queue_state.retention_index.pop_expired(0.0, 10, None, most_memory) == []


def test_memory_of_expired_jobs_does_not_count_until_retained() -> None:
    queue_state = _finished(3)
    most = 2 * (JOB_BYTES + 4)
    assert queue_state.retention_index.pop_expired(0.0, 10, None, most) == [1]
    assert queue_state.retention_index.pop_expired(0.0, 10, None, most) == []
    queue_state.retention_index.retain(1)
    assert queue_state.retention_index.pop_expired(0.0, 10, None, most) == [1]
    queue_state.apply(retried(1))
    assert queue_state.retention_index.memory == most
    assert queue_state.retention_index.pop_expired(0.0, 10, None, most - 1) == [2]


def test_memory_includes_attempts_and_tasks() -> None:
    queue_state = fold(submitted(1), started(1), ended(1, Status.PENDING, retry_at=2.0))
    assert queue_state.pending_bytes == JOB_BYTES + 4 + ATTEMPT_BYTES
    queue_state.apply(started(1, attempt=2))
    queue_state.apply(ended(1))
    assert queue_state.retention_index.memory == JOB_BYTES + 4 + 2 * ATTEMPT_BYTES
    queue_state.apply(array(2, 3))
    queue_state.apply(cancelled(2, at=5.0))
    assert (
        queue_state.retention_index.memory
        == 2 * (JOB_BYTES + 4 + ATTEMPT_BYTES) + SPEC_BYTES + 3 * TASK_BYTES
    )
