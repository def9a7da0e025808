"""The commands for jobs that have ended: retry, remove."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.errors import (
    Gone,
    NoSuchJob,
    StoreFailed,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Removed
from taskqd.model.job import Status
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED, LARGE

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED


# Retry.


def test_retry_runs_an_ended_job_again_and_resets_its_retries() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=1.0)
    for _ in range(2):
        harness.finish(1, FAILED)
        harness.clock.advance(1)
        harness.settle()
    assert harness.job(1).status is Status.FAILED
    answer = harness.retry(1)
    harness.settle()
    assert result_of(answer).id == 1
    assert (harness.job(1).attempts, harness.job(1).failures) == (3, 0)
    harness.finish(1, FAILED)
    assert harness.job(1).status is PENDING
    harness.clock.advance(1)
    harness.settle()
    harness.finish(1, COMPLETED)
    assert (harness.job(1).attempts, harness.job(1).status) == (4, Status.COMPLETED)
    assert harness.engine.counters["retried"] == 1


@pytest.mark.parametrize("end", [COMPLETED, FAILED, None])
def test_retry_accepts_every_final_status(end: Outcome | None) -> None:
    harness = opened()
    harness.submit()
    if end is None:
        harness.cancel(1)
        harness.settle()
    harness.finish(1, end or FAILED)
    harness.retry(1)
    harness.settle()
    assert running(harness) == [1]
    assert harness.job(1).attempts == 2


def test_retry_of_a_job_that_has_not_ended_is_refused() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    for job_id in (1, 2):
        assert isinstance(error_of(harness.retry(job_id)), WrongState)


def test_second_retry_is_refused() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    first, second = harness.retry(1), harness.retry(1)
    harness.settle()
    assert result_of(first).id == 1
    assert isinstance(error_of(second), WrongState)


def test_job_retried_before_its_cancel_is_durable_runs_once() -> None:
    harness = opened(2)
    for _ in range(3):
        harness.submit()
    harness.cancel(3)
    harness.retry(3)
    harness.executor.finish(1)
    harness.executor.finish(2)
    harness.settle()
    assert running(harness) == [3]
    for _ in range(3):
        harness.submit()
    assert running(harness) == [3, 4]
    stopped = harness.engine.dispatcher.stop(requeue=False)
    assert [signalled for signalled, _, _ in harness.executor.signals] == [3, 4]
    harness.finish(3)
    harness.finish(4)
    result_of(stopped)


# Remove.


def test_remove_fires_when_it_is_durable_and_then_removes_the_files() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, FAILED)
    harness.clock.advance(1)
    harness.settle()
    harness.finish(1, LARGE)
    answer = harness.remove(1)
    assert not answer.called
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.spool.removed == []
    harness.settle()
    result_of(answer)
    assert harness.journal.events[-1] == Removed(id=1, at=START + 1, by="ada")
    assert harness.spool.removed == [(1, 2)]
    assert harness.engine.counters["removed"] == 1
    refused: list[Deferred[Any]] = [harness.remove(1), harness.retry(1), harness.cancel(1)]
    assert all(isinstance(error_of(each), Gone) for each in refused)
    with pytest.raises(Gone):
        harness.engine.wait(1)
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize("is_running", [True, False])
def test_remove_of_a_job_that_has_not_ended_is_refused(is_running: bool) -> None:
    harness = opened(int(is_running))
    harness.submit()
    assert isinstance(error_of(harness.remove(1)), WrongState)
    assert isinstance(error_of(harness.remove(2)), NoSuchJob)
    assert harness.journal.pending == []


def test_remove_waits_for_leftover_processes_of_the_job() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    leftovers = harness.executor.leftovers[1] = Deferred()
    answer = harness.remove(1)
    harness.settle()
    assert not answer.called
    assert harness.statuses() == [Status.COMPLETED]
    leftovers.callback(None)
    harness.settle()
    result_of(answer)
    assert harness.statuses() == []


@pytest.mark.parametrize("second", [Harness.remove, Harness.retry, Harness.cancel])
def test_command_after_a_remove_finds_the_job_gone(
    second: Callable[[Harness, int], "Deferred[Any]"],
) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answers = [harness.remove(1), second(harness, 1)]
    harness.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), Gone)
    assert [type(event) for event in harness.journal.events].count(Removed) == 1
    assert replayed(harness.journal.events) == harness.queue_state


def test_remove_after_a_retry_is_refused() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answers: list[Deferred[Any]] = [harness.retry(1), harness.remove(1)]
    harness.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), WrongState)
    assert running(harness) == [1]


def test_remove_that_cannot_be_recorded_changes_nothing() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answer = harness.remove(1)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.spool.removed == []


def test_files_that_cannot_be_removed_are_left_for_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, LARGE)
    harness.spool.error = OSError("it is busy")
    answer = harness.remove(1)
    harness.settle()
    result_of(answer)
    assert "files of job 1 are left for the next start: it is busy" in caplog.text
