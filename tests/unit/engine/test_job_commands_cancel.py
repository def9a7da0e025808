"""The command cancel, also with all dependents (`CANCEL --cascade`)."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine.job_commands import MAX_VISITS_PER_TURN
from taskqd.errors import (
    NoSuchJob,
    StoreFailed,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Cancelled, Started
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array
from taskqd.state import dependencies
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED
from tests.unit.engine.test_dependency_failures import SKIPPED, announced_ends, end, skips

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
TERM = signal.SIGTERM


def test_cancel_ends_a_pending_job_at_once() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    waiting = harness.engine.wait(2)
    answer = harness.cancel(2)
    harness.settle()
    assert result_of(answer) is result_of(waiting) is harness.job(2)
    assert (harness.job(2).status, harness.job(2).reason) == (CANCELLED, Reason.CANCELLED)
    harness.finish(1)
    assert [run.id for run in harness.executor.runs] == [1]


def test_running_job_that_is_cancelled_ends_as_cancelled_in_any_case() -> None:
    for outcome in (COMPLETED, FAILED, Outcome(reason=Reason.CANCELLED, signal=15)):
        harness = opened()
        harness.submit(retries=3)
        harness.cancel(1, signal.SIGINT)
        harness.settle()
        assert harness.executor.signals == [(1, Reason.CANCELLED, signal.SIGINT)]
        harness.finish(1, outcome)
        assert (harness.job(1).status, harness.job(1).reason) == (CANCELLED, Reason.CANCELLED)


def test_cancel_records_the_user_and_the_signal() -> None:
    harness = opened()
    harness.submit()
    harness.clock.advance(2)
    harness.cancel(1, signal.SIGINT)
    assert harness.journal.pending == [Cancelled(id=1, at=START + 2, by="ada", signal=2)]


def test_second_cancel_changes_nothing() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    answers = [harness.cancel(job_id) for job_id in (1, 1, 2, 2)]
    harness.settle()
    answers += [harness.cancel(1), harness.cancel(2)]
    assert [result_of(answer).id for answer in answers] == [1, 1, 2, 2, 1, 2]
    assert [type(event) for event in harness.journal.events].count(Cancelled) == 2
    assert len(harness.executor.signals) == 1


def test_cancel_of_an_ended_job_is_refused() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    assert isinstance(error_of(harness.cancel(1)), WrongState)
    assert harness.journal.pending == []


def test_cancel_before_the_start_is_durable_ends_the_process_after_its_start() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync()
    answer = harness.cancel(1)
    assert [type(event) for event in harness.journal.pending] == [Started]
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert len(harness.executor.runs) == 1
    assert harness.executor.signals == [(1, Reason.CANCELLED, TERM)]
    harness.finish(1, FAILED)
    assert harness.statuses() == [CANCELLED]


def test_job_does_not_start_while_its_cancel_is_not_durable() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.cancel(2)
    harness.executor.finish(1)
    harness.settle()
    assert harness.statuses() == [Status.COMPLETED, CANCELLED]
    assert [run.id for run in harness.executor.runs] == [1]
    harness.submit()
    assert running(harness) == [3]


def test_cancel_before_the_end_is_durable_is_refused() -> None:
    harness = opened()
    harness.submit()
    harness.executor.finish(1)
    answer = harness.cancel(1)
    harness.settle()
    assert isinstance(error_of(answer), WrongState)
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.executor.signals == []


def test_end_before_the_cancel_is_durable_is_recorded_as_cancelled() -> None:
    harness = opened()
    harness.submit(retries=2)
    answer = harness.cancel(1)
    harness.executor.finish(1, FAILED)
    harness.settle()
    assert result_of(answer).id == 1
    assert harness.statuses() == [CANCELLED]


def test_cancel_ends_a_job_that_waits_for_its_retry() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.finish(1, FAILED)
    harness.cancel(1)
    harness.settle()
    harness.clock.advance(10)
    assert harness.statuses() == [CANCELLED]
    assert len(harness.executor.runs) == 1


@pytest.mark.parametrize("act", [Harness.cancel, Harness.retry])
def test_command_for_an_unknown_job_is_refused(act: Callable[[Harness, int], "Deferred[Job]"]) -> None:
    harness = opened()
    assert isinstance(error_of(act(harness, 1)), NoSuchJob)
    with pytest.raises(NoSuchJob):
        harness.engine.wait(1)


# Cascade.


def chain(harness: Harness) -> None:
    """Submit job 1, 2 and 3 after 1, 4 after 2, 5 after 3 and 4, and 6 without dependencies."""
    for after in ((), (1,), (1,), (2,), (3, 4), ()):
        harness.submit(after=after)


def test_cancel_without_cascade_skips_dependents() -> None:
    harness = opened()
    chain(harness)
    harness.cancel(2)
    harness.settle()
    assert [end(harness, job_id) for job_id in (2, 4, 5)] == [(CANCELLED, Reason.CANCELLED), SKIPPED, SKIPPED]
    assert harness.job(3).status is PENDING


def test_cascade_cancels_direct_and_indirect_dependents_only() -> None:
    harness = opened()
    chain(harness)
    ends = announced_ends(harness)
    answer = harness.cancel(2, cascade=True)
    assert not answer.called
    harness.settle()
    assert result_of(answer) is harness.job(2)
    assert [event.id for event in harness.journal.events if isinstance(event, Cancelled)] == [5, 4, 2]
    assert skips(harness) == []
    assert harness.statuses() == [RUNNING, CANCELLED, PENDING, CANCELLED, CANCELLED, RUNNING]
    assert ends == {2: 1, 4: 1, 5: 1}


def test_cascade_of_a_running_job_signals_it_and_cancels_its_dependents_at_once() -> None:
    harness = opened()
    chain(harness)
    answer = harness.cancel(1, cascade=True)
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert [signalled for signalled, _, _ in harness.executor.signals] == [1]
    assert [harness.job(job_id).status for job_id in (2, 3, 4, 5)] == [CANCELLED] * 4
    harness.finish(1, FAILED)
    assert skips(harness) == []


def test_cascade_includes_arrays() -> None:
    harness = opened()
    harness.submit(hold=True)
    harness.submit(array=Array(1, 2), after=(1,))
    harness.submit(after=(4,))
    harness.submit(after_any=(2,))
    harness.cancel(1, cascade=True)
    harness.settle()
    assert set(harness.statuses()) == {CANCELLED}
    assert skips(harness) == []


def test_cascade_of_an_ended_job_is_refused_and_of_a_cancelled_job_changes_nothing() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    assert isinstance(error_of(harness.cancel(1, cascade=True)), WrongState)
    harness.submit(hold=True)
    harness.submit(after=(2,))
    harness.cancel(2, cascade=True)
    harness.settle()
    assert result_of(harness.cancel(2, cascade=True)).status is CANCELLED
    assert harness.journal.pending == []


def test_cascade_cancels_a_dependent_whose_hold_is_not_durable_yet() -> None:
    harness = opened()
    chain(harness)
    answers: list[Deferred[Any]] = [harness.hold(4), harness.cancel(2, cascade=True)]
    harness.settle()
    for answer in answers:
        result_of(answer)
    assert [harness.job(job_id).status for job_id in (2, 4, 5)] == [CANCELLED] * 3
    assert skips(harness) == []


def cancels(harness: Harness) -> list[int]:
    return [event.id for event in harness.journal.events if isinstance(event, Cancelled)]


def fan(count: int) -> Harness:
    """Return a harness with ``count`` jobs that depend on job 1, which is held."""
    harness = opened()
    harness.submit(hold=True)
    for _ in range(count):
        harness.begin_submit(after=(1,))
    harness.settle()
    return harness


def test_large_cascade_is_recorded_in_one_batch_per_turn() -> None:
    count = 2 * MAX_VISITS_PER_TURN + MAX_JOBS_PER_BATCH // 2
    harness = fan(count)
    answer = harness.cancel(1, cascade=True)
    assert harness.journal.pending == [], "the dependents are collected first, over several turns"
    harness.clock.advance(0)
    done = 0
    while not answer.called:
        assert len(harness.journal.pending) <= MAX_JOBS_PER_BATCH
        harness.settle()
        assert 0 < len(cancels(harness)) - done <= MAX_JOBS_PER_BATCH
        assert harness.journal.pending == [], "the next batch waits for the next turn"
        done = len(cancels(harness))
        assert answer.called == (done == count + 1)
        harness.clock.advance(0)
    assert result_of(answer).status is CANCELLED
    assert cancels(harness) == list(range(count + 1, 0, -1))
    assert skips(harness) == []


@pytest.mark.parametrize("is_cascade", [False, True])
def test_batch_is_limited_by_the_dependencies_of_its_jobs(
    monkeypatch: pytest.MonkeyPatch, is_cascade: bool
) -> None:
    monkeypatch.setattr(dependencies, "MAX_DEPENDENCIES_PER_BATCH", 11)
    harness = opened()
    others = tuple(harness.submit(hold=True) for _ in range(5))
    for _ in range(9):
        harness.begin_submit(after=others)
    harness.settle()
    answer = harness.cancel(1, cascade=is_cascade)
    batches = []
    for _ in range(30):
        harness.clock.advance(0)
        batches.append(len(harness.journal.pending))
        harness.journal.sync(min(batches[-1], 1))
    assert result_of(answer).status is CANCELLED
    assert {harness.job(one).status for one in range(6, 15)} == {CANCELLED if is_cascade else Status.FAILED}
    assert max(batches) == 2


def test_cascade_that_a_crash_interrupted_is_completed_by_a_second_one() -> None:
    harness = fan(MAX_JOBS_PER_BATCH + 150)
    harness.cancel(1, cascade=True)
    harness.settle()
    again = Harness(events=harness.journal.events)
    assert again.queue_state == harness.queue_state
    assert len(cancels(again)) == MAX_JOBS_PER_BATCH
    assert again.job(1).status is PENDING
    answer = again.cancel(1, cascade=True)
    while not answer.called:
        again.settle()
        again.clock.advance(0)
    assert result_of(answer).status is CANCELLED
    assert sorted(cancels(again)) == list(range(1, MAX_JOBS_PER_BATCH + 152))
    assert skips(again) == []


def test_cascade_continues_if_a_dependent_was_removed_meanwhile() -> None:
    harness = fan(MAX_JOBS_PER_BATCH + 2)
    answer = harness.cancel(1, cascade=True)
    harness.settle()
    harness.cancel(3)
    harness.settle()
    harness.remove(3)
    harness.settle()
    while not answer.called:
        harness.clock.advance(0)
        harness.settle()
    assert result_of(answer).status is CANCELLED


def test_cascade_fails_if_the_journal_fails_between_batches() -> None:
    harness = fan(MAX_JOBS_PER_BATCH + 1)
    answer = harness.cancel(1, cascade=True)
    harness.settle()
    harness.clock.advance(0)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.job(1).status is PENDING


def test_cascade_that_cannot_be_recorded_changes_nothing() -> None:
    harness = opened()
    chain(harness)
    answer = harness.cancel(2, cascade=True)
    before = replayed(harness.journal.events)
    harness.journal.fail()
    error_of(answer)
    assert harness.queue_state == before
