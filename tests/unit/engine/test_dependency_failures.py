"""Jobs whose dependency has failed: each is skipped by one event and announced once."""

from collections import Counter
from typing import Any

import pytest

from taskqd.errors import WrongState
from taskqd.model.events import Ended, Skipped, Started
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED, lost

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
SKIPPED = (Status.FAILED, Reason.DEPENDENCY)


def end(harness: Harness, job_id: int) -> tuple[Status, Reason | None]:
    job = harness.job(job_id)
    return job.status, job.reason


def skips(harness: Harness) -> list[int]:
    return [event.id for event in harness.journal.events if isinstance(event, Skipped)]


def announced_ends(harness: Harness) -> "Counter[int]":
    """Return a counter of the ends that are announced from now on."""
    ends: Counter[int] = Counter()
    harness.engine.add_end_observer(lambda job: ends.update([job.id]))
    return ends


# Skips.


@pytest.mark.parametrize(
    "kind, outcome, starts",
    [
        ("after", COMPLETED, True),
        ("after", FAILED, False),
        ("after_fail", FAILED, True),
        ("after_fail", COMPLETED, False),
        ("after_any", COMPLETED, True),
        ("after_any", FAILED, True),
    ],
)
def test_dependent_starts_or_is_skipped_when_its_dependency_has_ended(
    kind: str, outcome: Any, starts: bool
) -> None:
    harness = opened()
    harness.submit()
    options: dict[str, Any] = {kind: (1,)}
    harness.submit(**options)
    assert running(harness) == [1]
    harness.executor.finish(1, outcome)
    harness.journal.sync()
    kinds = [type(event) for event in harness.journal.pending]
    assert kinds == ([Started] if starts else [Skipped])
    harness.settle()
    assert end(harness, 2) == ((RUNNING, None) if starts else SKIPPED)


def test_skip_names_the_dependency_and_is_announced_when_it_is_durable() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    waiting = harness.engine.wait(2)
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    assert harness.journal.pending == [Skipped(id=2, at=START, dependency=1)]
    assert not waiting.called
    assert harness.job(2).status is PENDING
    harness.settle()
    assert result_of(waiting) is harness.job(2)
    assert harness.engine.counters["failed"] == 2
    assert harness.executor.runs[-1].id == 1


def test_dependents_of_a_skipped_job_are_skipped_or_start() -> None:
    harness = opened()
    harness.submit()
    for after in (1, 2, 3):
        harness.submit(after=(after,))
    harness.submit(after_fail=(3,))
    harness.submit(after_any=(4,))
    ends = announced_ends(harness)
    harness.finish(1, FAILED)
    assert skips(harness) == [2, 3, 4]
    assert running(harness) == [5, 6]
    assert ends == {1: 1, 2: 1, 3: 1, 4: 1}


def test_job_with_several_dependencies_is_skipped_once() -> None:
    harness = opened(3)
    for _ in range(3):
        harness.submit()
    harness.submit(after=(1, 2, 3))
    ends = announced_ends(harness)
    for job_id, outcome in ((2, FAILED), (1, FAILED), (3, COMPLETED)):
        harness.finish(job_id, outcome)
    assert skips(harness) == [4]
    assert ends[4] == 1
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("outcome", [COMPLETED, FAILED])
def test_cancelled_job_is_not_skipped(is_removed: bool, outcome: Any) -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.cancel(2)
    harness.settle()
    if is_removed:
        harness.remove(2)
        harness.settle()
    harness.finish(1, outcome)
    assert skips(harness) == []
    assert replayed(harness.journal.events) == harness.queue_state


def test_job_that_was_cancelled_and_retried_waits_for_its_dependency() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.cancel(2)
    harness.retry(2)
    harness.settle()
    assert harness.job(2).unmet_dependencies == 1
    harness.finish(1)
    assert running(harness) == [2]


def test_submission_that_depends_on_a_failed_job_is_accepted_and_then_skipped() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, FAILED)
    answer = harness.begin_submit(after=(1,))
    harness.journal.sync()
    assert result_of(answer) == 2
    assert harness.job(2).status is PENDING
    harness.settle()
    assert end(harness, 2) == SKIPPED


def test_retried_job_is_skipped_again_until_its_dependency_is_met() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.finish(1, FAILED)
    harness.retry(2)
    harness.settle()
    assert skips(harness) == [2, 2]
    harness.retry(1)
    harness.settle()
    harness.retry(2)
    harness.settle()
    assert end(harness, 2)[0] is PENDING
    harness.finish(1)
    assert running(harness) == [2]


# Concurrent commands.


def test_cancel_that_is_not_durable_yet_precedes_the_skip() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    cancelled = harness.cancel(2)
    harness.settle()
    assert result_of(cancelled).status is CANCELLED
    assert skips(harness) == []


def test_cancel_before_the_skip_is_durable_is_refused() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    cancelled = harness.cancel(2)
    harness.settle()
    assert isinstance(error_of(cancelled), WrongState)
    assert end(harness, 2) == SKIPPED


def test_retry_of_the_dependency_does_not_undo_a_skip() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    harness.retry(1)
    harness.settle()
    assert end(harness, 2) == SKIPPED
    harness.finish(1)
    assert replayed(harness.journal.events) == harness.queue_state
    assert running(harness) == []


def test_held_or_delayed_job_is_skipped() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,), hold=True)
    harness.submit(after=(1,), delay=100.0)
    harness.finish(1, FAILED)
    assert [end(harness, job_id) for job_id in (2, 3)] == [SKIPPED, SKIPPED]


def test_failed_dependency_cannot_be_removed_before_its_dependents_are_skipped() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    assert isinstance(error_of(harness.remove(1)), WrongState)
    harness.settle()
    removed = harness.remove(1)
    harness.settle()
    result_of(removed)


# Large numbers.


def many(count: int) -> Harness:
    """Return a harness with ``count`` jobs that depend on job 1, which has failed."""
    harness = opened()
    harness.submit()
    answers = [harness.begin_submit(after=(1,)) for _ in range(count)]
    harness.settle()
    assert all(answer.called for answer in answers)
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    harness.clock.advance(0)
    return harness


def test_many_jobs_are_skipped_in_batches_between_other_events() -> None:
    harness = many(3000)
    ends = announced_ends(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (2, 1500, 3001)]
    assert len(harness.journal.pending) == MAX_JOBS_PER_BATCH
    between = harness.begin_submit()
    harness.journal.sync(2)
    assert result_of(between) == 3002
    assert len(harness.journal.pending) == MAX_JOBS_PER_BATCH + 1
    harness.settle()
    assert skips(harness) == list(range(2, 3002))
    assert all(waiter.called for waiter in waiting)
    assert set(ends.values()) == {1}
    assert running(harness) == [3002]
    assert replayed(harness.journal.events) == harness.queue_state


def test_journal_failure_between_batches_leaves_no_job_unskipped() -> None:
    harness = many(4 * MAX_JOBS_PER_BATCH)
    ends = announced_ends(harness)
    harness.journal.sync()
    for _ in range(2):
        harness.journal.fail()
        harness.clock.advance(1)
        harness.journal.recover()
        harness.journal.sync()
    harness.settle()
    assert sorted(skips(harness)) == list(range(2, 4 * MAX_JOBS_PER_BATCH + 2))
    assert set(ends.values()) == {1}


def test_stop_between_batches_leaves_the_rest_to_the_next_start() -> None:
    harness = many(MAX_JOBS_PER_BATCH + 150)
    harness.journal.sync()
    harness.journal.fail()
    result_of(harness.engine.dispatcher.stop(requeue=False))
    assert len(skips(harness)) == MAX_JOBS_PER_BATCH
    again = Harness(events=harness.journal.events)
    assert again.engine.dispatcher.recover(lost(again.engine, "it was killed")) == []
    again.engine.start()
    again.settle()
    assert sorted(skips(again)) == list(range(2, MAX_JOBS_PER_BATCH + 152))
    assert again.executor.runs == []


def test_jobs_that_a_crash_left_unskipped_are_skipped_at_the_start() -> None:
    harness = many(5)
    harness.settle()
    [ended] = [number for number, event in enumerate(harness.journal.events) if isinstance(event, Ended)]
    for cut in range(ended + 1, len(harness.journal.events) + 1):
        again = Harness(events=harness.journal.events[:cut])
        again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
        again.engine.start()
        again.settle()
        assert [end(again, job_id) for job_id in range(2, 7)] == [SKIPPED] * 5
        assert again.executor.runs == []
        assert replayed(again.journal.events) == again.queue_state


def test_job_that_a_crash_interrupted_skips_or_starts_its_dependents() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.submit(after_fail=(1,))
    again = Harness(events=harness.journal.events)
    again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
    again.engine.start()
    again.settle()
    assert end(again, 2) == SKIPPED
    assert running(again) == [3]


# Arrays.


def test_array_is_skipped_by_one_event_and_its_end_announced_once() -> None:
    harness = opened()
    harness.submit()
    harness.submit(array=Array(1, 3), after=(1,))
    harness.cancel(4)
    harness.settle()
    ends = announced_ends(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (2, 3)]
    harness.finish(1, FAILED)
    assert skips(harness) == [2]
    assert [end(harness, job_id) for job_id in (3, 4, 5)] == [SKIPPED, (CANCELLED, Reason.CANCELLED), SKIPPED]
    assert end(harness, 2)[0] is Status.FAILED
    assert all(waiter.called for waiter in waiting)
    assert ends == {1: 1, 2: 1}
    assert harness.engine.counters["failed"] == 3
    assert (harness.engine.counters["failed"], harness.engine.counters["cancelled"]) == (3, 1)


def test_array_with_only_cancelled_tasks_is_not_skipped() -> None:
    harness = opened()
    harness.submit()
    harness.submit(array=Array(1, 2), after=(1,))
    harness.cancel(3)
    harness.cancel(4)
    harness.settle()
    assert end(harness, 2)[0] is CANCELLED
    harness.finish(1, FAILED)
    assert skips(harness) == []
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize(
    "which, outcomes, starts", [(1, (COMPLETED, FAILED), False), (2, (COMPLETED, FAILED), True)]
)
def test_job_may_depend_on_an_array_or_on_one_task(
    which: int, outcomes: tuple[Any, Any], starts: bool
) -> None:
    harness = opened()
    harness.submit(array=Array(1, 2))
    harness.submit(after=(which,))
    for job_id, outcome in zip((2, 3), outcomes, strict=True):
        harness.finish(job_id, outcome)
    assert end(harness, 4) == ((RUNNING, None) if starts else SKIPPED)


# Internal errors.


def test_internal_error_in_announcing_a_skip_is_logged_and_later_jobs_are_skipped(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = many(3)
    with monkeypatch.context() as patched:
        patched.setattr(harness.engine._dependency_failures, "_on_ended", lambda *_: 1 / 0)
        harness.journal.sync()
    assert logged_errors.flush(ZeroDivisionError)
    assert len(skips(harness)) == 3
    harness.submit()
    harness.submit(after_fail=(harness.submit(hold=True),))
    harness.cancel(6)
    harness.settle()
    assert skips(harness)[3:] == [7]
