"""Jobs that expire in the queue state: they do not start, and one event ends them."""

from typing import Any

import pytest

from taskqd.model.events import Cancelled, Ended
from taskqd.model.job import Reason, Status
from taskqd.state.capacity import CapacityTotals
from taskqd.state.explain import explain
from taskqd.state.queue_state import QueueState
from tests.support.events import array, ended, fold, held, next_jobs, retried, started, submitted

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = Status
EXPIRES_AT = 61.0
"""When job 1 expires, which was submitted at 1 s with ``expires=60``."""


def expired(job_id: int) -> Cancelled:
    return Cancelled(id=job_id, at=100.0, by="taskqd", signal=0, reason=Reason.EXPIRED)


def due(queue_state: QueueState, now: float = EXPIRES_AT) -> set[int]:
    """Let jobs expire that are due, and return those that have expired."""
    queue_state.withdraw_expired(now, 10)
    return queue_state.expiry_queue.expired


def test_job_expires_at_its_time_after_its_submission() -> None:
    queue_state = fold(submitted(1, expires=60.0), submitted(2))
    job = queue_state.get(1)
    assert due(queue_state, EXPIRES_AT - 1) == set()
    assert queue_state.expires_at(job) == EXPIRES_AT
    assert explain(queue_state, job, 51.0).endswith(
        "; expires at 1970-01-01T00:01:01Z (in 10 s) unless it starts"
    )
    assert due(queue_state) == {1}
    assert queue_state.has_expired(job)
    assert queue_state.expires_at(job) is None
    assert explain(queue_state, job, EXPIRES_AT) == "has expired; its end is being recorded"
    assert next_jobs(queue_state) == [2]


def test_event_of_an_expiry_ends_the_job() -> None:
    queue_state = fold(submitted(1, expires=60.0))
    assert due(queue_state) == {1}
    queue_state.apply(expired(1))
    job = queue_state.get(1)
    assert (job.status, job.reason, job.completed_at) == (CANCELLED, Reason.EXPIRED, 100.0)
    assert due(queue_state) == set()


def test_job_that_is_due_is_withdrawn_in_place_of_its_start() -> None:
    queue_state = fold(submitted(1, expires=60.0), submitted(2))
    job = queue_state.next_job(EXPIRES_AT)
    assert job is not None
    assert job.id == 2
    assert queue_state.next_job(EXPIRES_AT) is None
    assert queue_state.has_expired(queue_state.get(1))
    assert due(queue_state) == {1}


def test_allocated_job_that_has_expired_may_not_start() -> None:
    queue_state = fold(submitted(1, expires=60.0))
    job = queue_state.next_job(2.0)
    assert job is not None
    assert due(queue_state) == {1}
    assert not queue_state.may_start(job, EXPIRES_AT)
    queue_state.release(1)
    assert queue_state.next_job(EXPIRES_AT) is None


def test_job_whose_start_was_undone_expires() -> None:
    queue_state = fold(submitted(1, expires=60.0), started(1))
    assert due(queue_state) == set()
    queue_state.apply(Ended(id=1, at=101.0, status=PENDING, reason=Reason.SPAWN, is_void=True))
    assert due(queue_state) == {1}


def test_job_that_waits_for_a_retry_does_not_expire() -> None:
    queue_state = fold(submitted(1, expires=60.0, retries=1), started(1), ended(1, PENDING, retry_at=900.0))
    assert due(queue_state) == set()
    assert queue_state.expires_at(queue_state.get(1)) is None


@pytest.mark.parametrize(
    "events, expires", [([expired(1)], None), ([started(1), ended(1, FAILED)], 60.0)], ids=["waited", "ran"]
)
def test_retried_job_does_not_expire(events: list[Any], expires: float | None) -> None:
    queue_state = fold(submitted(1, expires=60.0, key="k"), *events, retried(1))
    assert due(queue_state) == set()
    job = queue_state.get(1)
    assert (job.spec.expires, job.original_spec.expires) == (expires, 60.0)
    assert next_jobs(queue_state) == [1]


def test_tasks_of_an_array_expire_that_have_not_started() -> None:
    queue_state = fold(
        array(1, 6, expires=60.0, retries=1),
        *(started(2), ended(2)),
        started(3),
        *(started(4), ended(4, PENDING, retry_at=300.0)),
        held(5),
        totals=CapacityTotals(slots=10),
    )
    assert due(queue_state) == {1}
    assert queue_state.count_unstarted(queue_state.get(1)) == 3
    assert [queue_state.has_expired(task) for task in queue_state.tasks(queue_state.get(1))] == [
        *(False, False, False),
        *(True, True, True),
    ]
    assert next_jobs(queue_state, now=400.0) == [4]
    queue_state.apply(expired(1))
    assert [task.status for task in queue_state.tasks(queue_state.get(1))] == [
        *(COMPLETED, RUNNING, PENDING),
        *(CANCELLED, CANCELLED, CANCELLED),
    ]
    assert queue_state.get(1).status is RUNNING
    assert due(queue_state) == set()


def test_touched_tasks_of_an_array_expire_with_it() -> None:
    queue_state = fold(array(1, 2, expires=60.0), held(2), held(3))
    assert due(queue_state) == {1}
    queue_state.apply(expired(1))
    assert queue_state.get(1).reason is Reason.EXPIRED


def test_array_expires_as_a_whole_and_starts_after_a_retry() -> None:
    queue_state = fold(array(1, 3, expires=60.0))
    assert due(queue_state) == {1}
    assert next_jobs(queue_state) == []
    queue_state.apply(expired(1))
    assert (queue_state.get(1).status, queue_state.get(3).reason) == (CANCELLED, Reason.EXPIRED)
    queue_state.apply(retried(1))
    assert due(queue_state) == set()
    assert queue_state.get(1).spec.expires is None
    assert next_jobs(queue_state) == [2, 3, 4]


def test_array_that_has_ended_does_not_expire() -> None:
    queue_state = fold(array(1, 1, expires=60.0), started(2), ended(2))
    assert due(queue_state) == set()
