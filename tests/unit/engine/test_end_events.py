"""How the end of an attempt changes its job: retries, requeues, interruptions."""

from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.engine.end_events import JITTER, STOPPED
from taskqd.execution.run import Outcome
from taskqd.model.events import Ended
from taskqd.model.job import Reason, Status, Usage
from tests.fakes.clocks import START
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED
from tests.unit.engine.test_dispatcher import INTERRUPTED, crashed

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED


# Retries.


def test_failed_attempt_is_retried_until_no_retries_are_left() -> None:
    harness = opened()
    harness.submit(retries=2, retry_delay=1.0)
    for attempt in (1, 2, 3):
        assert harness.job(1).attempts == attempt
        harness.finish(1, FAILED)
        harness.clock.advance(4)
        harness.settle()
    assert (harness.job(1).status, harness.job(1).reason) == (Status.FAILED, Reason.EXIT)
    assert harness.job(1).exit_code == 3


def test_completed_attempt_is_not_retried() -> None:
    harness = opened()
    harness.submit(retries=2)
    harness.finish(1)
    assert harness.statuses() == [Status.COMPLETED]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_retry_delay_doubles_and_includes_recorded_jitter(chance: float) -> None:
    harness = opened(chance=chance)
    harness.submit(retries=14, retry_delay=1.0)
    delays = []
    for _ in range(14):
        harness.finish(1, FAILED)
        not_before = harness.job(1).not_before
        assert not_before is not None
        delays.append(not_before - harness.clock.elapsed())
        harness.clock.advance(delays[-1] + 0.001)
        harness.settle()
    factor = 1 + JITTER * chance
    assert delays == pytest.approx([min(2.0**n, 3600) * factor for n in range(14)])
    recorded = [event.retry_at for event in harness.journal.events if isinstance(event, Ended)]
    assert len(recorded) == 14
    assert replayed(harness.journal.events) == harness.queue_state


def test_retry_delay_counts_from_an_end_that_is_reported_late() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=100.0)
    harness.clock.advance(60)
    late = replace(FAILED, ended_at=harness.clock.now() - 40.0)
    harness.finish(1, late)
    ended = harness.journal.events[-1]
    assert isinstance(ended, Ended)
    now = harness.clock.now()
    assert (ended.at, ended.ended_at, ended.retry_at) == (now, now - 40.0, now + 60.0)


def test_job_that_waits_for_its_retry_holds_no_slot_and_starts_when_due() -> None:
    harness = opened(1)
    harness.submit(retries=1, retry_delay=10.0)
    harness.finish(1, FAILED)
    assert (harness.job(1).status, harness.job(1).reason) == (PENDING, Reason.RETRYING)
    harness.submit()
    assert running(harness) == [2]
    harness.finish(2)
    harness.clock.advance(9.9)
    harness.settle()
    assert running(harness) == []
    harness.clock.advance(0.2)
    harness.settle()
    assert running(harness) == [1]
    assert harness.job(1).attempts == 2


def test_earlier_of_two_delayed_jobs_starts_first() -> None:
    harness = opened(2)
    harness.submit(retries=1, retry_delay=100.0)
    harness.submit(retries=1, retry_delay=10.0)
    harness.finish(1, FAILED)
    harness.finish(2, FAILED)
    assert len(harness.clock.getDelayedCalls()) == 1
    harness.clock.advance(10)
    harness.settle()
    assert running(harness) == [2]
    harness.clock.advance(90)
    harness.settle()
    assert running(harness) == [1, 2]


@pytest.mark.parametrize(
    "options, outcome, is_retried",
    [
        ({"retry_on": ("exit:3",)}, FAILED, True),
        ({"retry_on": ("exit:4", "timeout")}, FAILED, False),
        ({"no_retry_on": ("exit:3",)}, FAILED, False),
        ({"retry_on": ("signal:KILL",)}, Outcome(reason=Reason.SIGNAL, signal=9), True),
        ({"retry_on": ("timeout",)}, Outcome(reason=Reason.TIMEOUT, signal=15), True),
        ({"no_retry_on": ("spawn",)}, Outcome(reason=Reason.SPAWN), False),
    ],
)
def test_attempt_is_retried_if_the_retry_conditions_match(
    options: dict[str, Any], outcome: Outcome, is_retried: bool
) -> None:
    harness = opened()
    harness.submit(retries=1, **options)
    harness.finish(1, outcome)
    assert harness.job(1).status is (PENDING if is_retried else Status.FAILED)


def test_retry_delay_is_limited_by_retry_delay_max() -> None:
    harness = opened()
    harness.submit(retries=9, retry_delay=1.0, retry_delay_max=5.0)
    delays = []
    for _ in range(5):
        harness.finish(1, FAILED)
        delays.append((harness.job(1).not_before or 0.0) - harness.clock.elapsed())
        harness.clock.advance(5)
        harness.settle()
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_resource_usage_is_recorded_with_the_end() -> None:
    harness = opened()
    harness.submit()
    usage = Usage(user=1.5, system=0.5, memory=4096)
    harness.finish(1, Outcome(reason=None, exit_code=0, usage=usage))
    end = harness.journal.events[-1]
    assert isinstance(end, Ended)
    assert end.usage == usage


# Requeue and interruption.


def test_requeue_makes_an_interrupted_job_pending_without_using_a_retry() -> None:
    harness = opened()
    harness.submit(retries=1)
    stopped = harness.engine.dispatcher.stop(requeue=True)
    harness.finish(1, INTERRUPTED)
    result_of(stopped)
    job = harness.job(1)
    assert (job.status, job.reason, job.failures, job.attempts) == (PENDING, Reason.RETRYING, 0, 1)
    end = harness.journal.events[-1]
    assert isinstance(end, Ended)
    assert (end.is_free, end.retry_at, end.reason, end.detail) == (True, START, Reason.INTERRUPTED, STOPPED)
    again = Harness(events=harness.journal.events)
    again.engine.start()
    again.settle()
    assert running(again) == [1]
    assert again.job(1).attempts == 2


def test_requeue_leaves_jobs_alone_that_end_by_themselves_or_were_cancelled() -> None:
    harness = opened(3)
    for _ in range(3):
        harness.submit()
    harness.cancel(2)
    harness.settle()
    harness.engine.dispatcher.stop(requeue=True)
    harness.finish(1, COMPLETED)
    harness.finish(2, INTERRUPTED)
    harness.finish(3, FAILED)
    assert harness.statuses() == [Status.COMPLETED, CANCELLED, Status.FAILED]


def test_requeue_includes_a_start_that_is_not_durable_yet() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync()
    harness.engine.dispatcher.stop(requeue=True)
    harness.settle()
    assert (harness.statuses(), harness.job(1).failures) == ([PENDING], 0)


def test_detail_distinguishes_a_stop_from_a_crash() -> None:
    harness = opened()
    harness.submit()
    harness.engine.dispatcher.stop(requeue=False)
    harness.finish(1, INTERRUPTED)
    attempt = harness.job(1).attempt
    assert attempt is not None
    assert attempt.detail == STOPPED
    attempt = crashed().job(1).attempt
    assert attempt is not None
    assert attempt.detail == "the daemon was killed"
