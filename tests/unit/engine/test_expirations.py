"""Jobs that expire: each is cancelled by one event unless it has started in time."""

from typing import Any

import pytest

from taskqd.engine.expirations import MAX_JOBS_PER_TURN, MAX_SLEEP
from taskqd.model.events import Cancelled, Started
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array
from taskqd.state.explain import explain
from tests.fakes.clocks import START
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
EXPIRED = (CANCELLED, Reason.EXPIRED)


def advance(harness: Harness, *seconds: float) -> None:
    """Advance the clock in steps, and make everything durable after each."""
    for step in seconds:
        harness.clock.advance(step)
        harness.settle()


def end(harness: Harness, job_id: int) -> tuple[Status, Reason | None]:
    job = harness.job(job_id)
    return job.status, job.reason


def expiries(harness: Harness) -> list[int]:
    return [
        event.id
        for event in harness.journal.events
        if isinstance(event, Cancelled) and event.reason is Reason.EXPIRED
    ]


def why(harness: Harness, job_id: int) -> str:
    return explain(harness.queue_state, harness.job(job_id), harness.clock.elapsed())


def full() -> Harness:
    """Return a harness of one slot, which job 1 occupies."""
    harness = opened(slots=1)
    harness.submit()
    return harness


def test_pending_job_is_cancelled_when_it_expires() -> None:
    harness = full()
    harness.submit(expires=60.0)
    waiting = harness.engine.wait(2)
    advance(harness, 59.0)
    assert harness.job(2).status is PENDING
    assert why(harness, 2).endswith("Z (in 1 s) unless it starts")
    advance(harness, 1.0)
    assert end(harness, 2) == EXPIRED
    assert result_of(waiting) is harness.job(2)
    assert harness.journal.events[-1] == Cancelled(
        id=2, at=START + 60.0, by="taskqd", signal=0, reason=Reason.EXPIRED
    )
    assert harness.engine.counters["cancelled"] == 1
    assert why(harness, 2) == "not waiting: it has ended, CANCELLED (expired)"


@pytest.mark.parametrize(
    "options", [{"hold": True}, {"delay": 50.0}, {"at": START + 5000.0}, {"after": (1,)}]
)
def test_job_expires_whatever_it_waits_for(options: dict[str, Any]) -> None:
    harness = full()
    harness.submit(expires=60.0, **options)
    advance(harness, 60.0)
    assert end(harness, 2) == EXPIRED


def test_job_that_has_started_does_not_expire() -> None:
    harness = opened()
    harness.submit(expires=60.0)
    advance(harness, 120.0)
    assert end(harness, 1) == (RUNNING, None)


def test_job_that_waits_for_a_retry_has_started() -> None:
    harness = opened()
    harness.submit(expires=60.0, retries=1, retry_delay=100.0)
    harness.finish(1, FAILED)
    advance(harness, 61.0)
    assert end(harness, 1) == (PENDING, Reason.RETRYING)
    advance(harness, 200.0)
    assert end(harness, 1) == (RUNNING, None)


def test_retry_of_an_expired_job_lets_it_wait_for_any_time() -> None:
    harness = full()
    harness.submit(expires=60.0)
    advance(harness, 60.0)
    harness.retry(2)
    harness.settle()
    advance(harness, 100.0)
    assert harness.job(2).status is PENDING
    assert (harness.job(2).spec.expires, harness.job(2).original_spec.expires) == (None, 60.0)
    again = replayed(harness.journal.events)
    assert again == harness.queue_state
    again.withdraw_expired(harness.clock.elapsed(), 10)
    assert not again.has_expired(again.get(2))


def test_expired_job_does_not_start_before_its_end_is_recorded() -> None:
    harness = full()
    harness.submit(expires=60.0)
    harness.clock.advance(60.0)
    harness.executor.finish(1)
    assert why(harness, 2) == "has expired; its end is being recorded"
    harness.settle()
    assert end(harness, 2) == EXPIRED
    assert running(harness) == []
    assert [event.id for event in harness.journal.events if isinstance(event, Started)] == [1]


def test_next_job_is_not_one_that_is_due_to_expire() -> None:
    harness = full()
    harness.submit(expires=60.0)
    harness.submit()
    state = replayed(harness.journal.events)
    job = state.next_job(harness.clock.elapsed() + 60.0)
    assert job is not None
    assert job.id == 3
    assert state.next_job(harness.clock.elapsed() + 60.0) is None
    assert state.has_expired(state.get(2))


def test_job_whose_start_is_being_recorded_does_not_expire() -> None:
    harness = opened()
    submitted = harness.begin_submit(expires=60.0)
    harness.journal.sync()
    assert result_of(submitted) == 1
    harness.clock.advance(60.0)
    harness.settle()
    assert end(harness, 1) == (RUNNING, None)
    assert expiries(harness) == []
    assert not harness.queue_state.expiry_queue.expired


def test_job_that_is_being_cancelled_does_not_expire() -> None:
    harness = full()
    harness.submit(expires=60.0)
    harness.cancel(2)
    harness.clock.advance(60.0)
    harness.settle()
    assert end(harness, 2) == (CANCELLED, Reason.CANCELLED)
    assert expiries(harness) == []


def test_dependent_of_an_expired_job_is_skipped() -> None:
    harness = full()
    harness.submit(expires=60.0)
    harness.submit(after=(2,))
    advance(harness, 60.0)
    assert end(harness, 3) == (Status.FAILED, Reason.DEPENDENCY)


def test_tasks_that_have_not_started_expire_with_their_array() -> None:
    harness = opened(slots=2)
    harness.submit(array=Array(1, 5), expires=60.0, retries=1, retry_delay=100.0)
    harness.hold(5)
    harness.settle()
    harness.finish(2, FAILED)
    harness.finish(4)
    advance(harness, 60.0)
    assert expiries(harness) == [1]
    assert [harness.job(job_id).status for job_id in range(2, 7)] == [
        *(PENDING, RUNNING, Status.COMPLETED),
        *(CANCELLED, RUNNING),
    ]
    assert end(harness, 5) == EXPIRED
    assert harness.engine.counters["cancelled"] == 1
    assert replayed(harness.journal.events) == harness.queue_state


def test_array_that_has_not_started_expires_as_a_whole() -> None:
    harness = full()
    harness.submit(array=Array(1, 3), expires=60.0)
    advance(harness, 60.0)
    assert end(harness, 2) == end(harness, 4) == EXPIRED
    assert harness.engine.counters["cancelled"] == 3
    harness.retry(2)
    harness.settle()
    advance(harness, 100.0)
    assert harness.job(2).status is PENDING
    assert replayed(harness.journal.events) == harness.queue_state
    harness.finish(1)
    assert running(harness) == [3]


def test_array_that_has_ended_does_not_expire() -> None:
    harness = opened()
    harness.submit(array=Array(1, 1), expires=60.0)
    harness.finish(2)
    advance(harness, 60.0)
    assert end(harness, 1) == (Status.COMPLETED, None)
    assert harness.queue_state.expiry_queue.next_due() is None


def test_expired_job_is_cancelled_after_a_restart() -> None:
    harness = full()
    harness.submit(expires=60.0)
    restarted = Harness(1, events=harness.journal.events)
    restarted.clock.advance(60.0)
    restarted.engine.start()
    restarted.settle()
    assert end(restarted, 2) == EXPIRED


def test_more_jobs_expire_than_one_turn_allows() -> None:
    harness = full()
    for _ in range(MAX_JOBS_PER_TURN + 1):
        harness.begin_submit(expires=60.0, hold=True)
    harness.settle()
    harness.clock.advance(60.0)
    harness.settle()
    assert len(expiries(harness)) == MAX_JOBS_PER_TURN + 1


def test_job_expires_after_a_suspend_of_the_machine() -> None:
    harness = full()
    harness.submit(expires=3600.0)
    harness.clock.suspend(3600.0)
    advance(harness, MAX_SLEEP)
    assert end(harness, 2) == EXPIRED


def test_stopped_daemon_sets_no_timer() -> None:
    harness = full()
    harness.submit(expires=60.0)
    harness.engine.expirations.stop()
    harness.submit(expires=30.0)
    advance(harness, 100.0)
    assert expiries(harness) == []
