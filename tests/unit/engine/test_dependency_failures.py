"""What comes after a job that did not end as it had to: skipped, all of it, by an event each, told once."""

from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine.job_commands import MAX_VISITS_PER_TURN
from taskqd.errors import StoreFailed, WrongState
from taskqd.model.events import Cancelled, Ended, Skipped, Started
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array
from taskqd.state import dependencies
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
SKIPPED = (Status.FAILED, Reason.DEPENDENCY)


def end(harness: Harness, job_id: int) -> tuple[Status, Reason | None]:
    job = harness.job(job_id)
    return job.status, job.reason


def skips(harness: Harness) -> list[int]:
    return [event.id for event in harness.journal.events if isinstance(event, Skipped)]


def told(harness: Harness) -> "Counter[int]":
    """Return how often each end is told from now on."""
    ends: Counter[int] = Counter()
    harness.engine.add_end_observer(lambda job: ends.update([job.id]))
    return ends


# In order.


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
def test_a_job_starts_right_after_the_one_it_comes_after_or_is_skipped(
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


def test_a_skip_says_because_of_which_job_and_is_told_once_it_is_durable() -> None:
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


def test_what_comes_after_a_skipped_job_is_skipped_too_or_starts() -> None:
    harness = opened()
    harness.submit()
    for after in (1, 2, 3):
        harness.submit(after=(after,))
    harness.submit(after_fail=(3,))
    harness.submit(after_any=(4,))
    ends = told(harness)
    harness.finish(1, FAILED)
    assert skips(harness) == [2, 3, 4]
    assert running(harness) == [5, 6]
    assert ends == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_job_that_comes_after_several_is_skipped_at_the_first_that_fails_and_then_left_alone() -> None:
    harness = opened(3)
    for _ in range(3):
        harness.submit()
    harness.submit(after=(1, 2, 3))
    ends = told(harness)
    for job_id, outcome in ((2, FAILED), (1, FAILED), (3, COMPLETED)):
        harness.finish(job_id, outcome)
    assert skips(harness) == [4]
    assert ends[4] == 1
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("outcome", [COMPLETED, FAILED])
def test_a_job_that_was_cancelled_is_not_skipped_as_well(is_removed: bool, outcome: Any) -> None:
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


def test_a_job_that_was_cancelled_and_retried_waits_once() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.cancel(2)
    harness.retry(2)
    harness.settle()
    assert harness.job(2).waiting == 1
    harness.finish(1)
    assert running(harness) == [2]


def test_a_submission_after_a_job_that_has_failed_is_accepted_and_then_skipped() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, FAILED)
    answer = harness.asked(after=(1,))
    harness.journal.sync()
    assert result_of(answer) == 2
    assert harness.job(2).status is PENDING
    harness.settle()
    assert end(harness, 2) == SKIPPED


def test_a_skipped_job_is_skipped_again_until_the_other_has_ended_as_it_must() -> None:
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


# Beside other decisions.


def test_a_cancel_on_its_way_comes_before_the_skip() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    cancelled = harness.cancel(2)
    harness.settle()
    assert result_of(cancelled).status is CANCELLED
    assert skips(harness) == []


def test_a_cancel_while_the_skip_is_on_its_way_comes_too_late() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    cancelled = harness.cancel(2)
    harness.settle()
    assert isinstance(error_of(cancelled), WrongState)
    assert end(harness, 2) == SKIPPED


def test_a_retry_of_the_other_while_the_skip_is_on_its_way_does_not_undo_it() -> None:
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


def test_a_held_or_delayed_job_is_skipped_all_the_same() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,), hold=True)
    harness.submit(after=(1,), delay=100.0)
    harness.finish(1, FAILED)
    assert [end(harness, job_id) for job_id in (2, 3)] == [SKIPPED, SKIPPED]


def test_the_job_because_of_which_others_are_skipped_stays_until_they_are() -> None:
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


# Thousands.


def many(count: int) -> Harness:
    """Return a house whose job 1 has failed, and on which so many others wait."""
    harness = opened()
    harness.submit()
    answers = [harness.asked(after=(1,)) for _ in range(count)]
    harness.settle()
    assert all(answer.called for answer in answers)
    harness.executor.finish(1, FAILED)
    harness.journal.sync()
    return harness


def test_thousands_are_skipped_some_at_a_time_and_others_get_in_between() -> None:
    harness = many(3000)
    ends = told(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (2, 1500, 3001)]
    assert len(harness.journal.pending) == MAX_JOBS_PER_BATCH
    between = harness.asked()
    harness.journal.sync(MAX_JOBS_PER_BATCH + 1)
    assert result_of(between) == 3002
    assert len(harness.journal.pending) == MAX_JOBS_PER_BATCH + 1
    harness.settle()
    assert skips(harness) == list(range(2, 3002))
    assert all(waiter.called for waiter in waiting)
    assert set(ends.values()) == {1}
    assert running(harness) == [3002]
    assert replayed(harness.journal.events) == harness.queue_state


def test_a_store_that_fails_in_between_leaves_nothing_unskipped() -> None:
    harness = many(250)
    ends = told(harness)
    harness.journal.sync(130)
    for _ in range(2):
        harness.journal.fail()
        harness.clock.advance(1)
        harness.journal.recover()
        harness.journal.sync(10)
    harness.settle()
    assert sorted(skips(harness)) == list(range(2, 252))
    assert set(ends.values()) == {1}


def test_a_stop_in_between_leaves_the_rest_to_the_next_start() -> None:
    harness = many(250)
    harness.journal.sync(30)
    harness.journal.fail()
    result_of(harness.engine.dispatcher.stop(requeue=False))
    assert len(skips(harness)) == 30
    again = Harness(events=harness.journal.events)
    assert again.engine.dispatcher.recover("it was killed") == []
    again.engine.start()
    again.settle()
    assert sorted(skips(again)) == list(range(2, 252))
    assert again.executor.runs == []


def test_what_a_crash_has_left_unskipped_is_skipped_at_the_start_and_never_starts() -> None:
    harness = many(5)
    harness.settle()
    [ended] = [number for number, event in enumerate(harness.journal.events) if isinstance(event, Ended)]
    for cut in range(ended + 1, len(harness.journal.events) + 1):
        again = Harness(events=harness.journal.events[:cut])
        again.engine.dispatcher.recover("it was killed")
        again.engine.start()
        again.settle()
        assert [end(again, job_id) for job_id in range(2, 7)] == [SKIPPED] * 5
        assert again.executor.runs == []
        assert replayed(again.journal.events) == again.queue_state


def test_after_an_attempt_that_a_crash_cut_off_comes_what_was_to_come_after_it() -> None:
    harness = opened()
    harness.submit()
    harness.submit(after=(1,))
    harness.submit(after_fail=(1,))
    again = Harness(events=harness.journal.events)
    again.engine.dispatcher.recover("it was killed")
    again.engine.start()
    again.settle()
    assert end(again, 2) == SKIPPED
    assert running(again) == [3]


# Arrays.


def test_an_array_is_skipped_as_a_whole_and_each_end_is_told_once() -> None:
    harness = opened()
    harness.submit()
    harness.submit(array=Array(1, 3), after=(1,))
    harness.cancel(4)
    harness.settle()
    ends = told(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (2, 3)]
    harness.finish(1, FAILED)
    assert skips(harness) == [2]
    assert [end(harness, job_id) for job_id in (3, 4, 5)] == [SKIPPED, (CANCELLED, Reason.CANCELLED), SKIPPED]
    assert end(harness, 2)[0] is Status.FAILED
    assert all(waiter.called for waiter in waiting)
    assert ends == {1: 1, 2: 1, 3: 1, 5: 1}
    assert (harness.engine.counters["failed"], harness.engine.counters["cancelled"]) == (3, 1)


def test_an_array_all_of_whose_tasks_were_cancelled_is_not_skipped() -> None:
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
def test_a_job_may_come_after_an_array_or_one_of_its_tasks(
    which: int, outcomes: tuple[Any, Any], starts: bool
) -> None:
    harness = opened()
    harness.submit(array=Array(1, 2))
    harness.submit(after=(which,))
    for job_id, outcome in zip((2, 3), outcomes, strict=True):
        harness.finish(job_id, outcome)
    assert end(harness, 4) == ((RUNNING, None) if starts else SKIPPED)


# CANCEL --cascade.


def chain(harness: Harness) -> None:
    """Submit job 1, 2 and 3 after 1, 4 after 2, 5 after 3 and 4; 6 is free."""
    for after in ((), (1,), (1,), (2,), (3, 4), ()):
        harness.submit(after=after)


def test_without_cascade_what_comes_after_a_cancelled_job_is_skipped() -> None:
    harness = opened()
    chain(harness)
    harness.cancel(2)
    harness.settle()
    assert [end(harness, job_id) for job_id in (2, 4, 5)] == [(CANCELLED, Reason.CANCELLED), SKIPPED, SKIPPED]
    assert harness.job(3).status is PENDING


def test_a_cascade_cancels_all_that_waits_for_a_job_directly_or_not_and_nothing_else() -> None:
    harness = opened()
    chain(harness)
    ends = told(harness)
    answer = harness.cancel(2, cascade=True)
    assert not answer.called
    harness.settle()
    assert result_of(answer) is harness.job(2)
    assert [event.id for event in harness.journal.events if isinstance(event, Cancelled)] == [5, 4, 2]
    assert skips(harness) == []
    assert harness.statuses() == [RUNNING, CANCELLED, PENDING, CANCELLED, CANCELLED, RUNNING]
    assert ends == {2: 1, 4: 1, 5: 1}


def test_a_cascade_of_a_running_job_ends_its_process_and_cancels_the_rest_at_once() -> None:
    harness = opened()
    chain(harness)
    answer = harness.cancel(1, cascade=True)
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert [signalled for signalled, _, _ in harness.executor.signals] == [1]
    assert [harness.job(job_id).status for job_id in (2, 3, 4, 5)] == [CANCELLED] * 4
    harness.finish(1, FAILED)
    assert skips(harness) == []


def test_a_cascade_goes_through_arrays() -> None:
    harness = opened()
    harness.submit(hold=True)
    harness.submit(array=Array(1, 2), after=(1,))
    harness.submit(after=(4,))
    harness.submit(after_any=(2,))
    harness.cancel(1, cascade=True)
    harness.settle()
    assert set(harness.statuses()) == {CANCELLED}
    assert skips(harness) == []


def test_a_cascade_of_a_job_that_has_ended_is_refused_and_one_of_a_cancelled_job_changes_nothing() -> None:
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


def test_a_cascade_beside_a_hold_on_its_way_cancels_that_job_too() -> None:
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
    """Return a house in which this many jobs wait for job 1, which is held."""
    harness = opened()
    harness.submit(hold=True)
    for _ in range(count):
        harness.asked(after=(1,))
    harness.settle()
    return harness


def test_a_cascade_over_thousands_is_recorded_a_portion_per_turn_and_answered_after_the_last() -> None:
    count = 2 * MAX_VISITS_PER_TURN + MAX_JOBS_PER_BATCH // 2
    harness = fan(count)
    answer = harness.cancel(1, cascade=True)
    assert harness.journal.pending == [], "the jobs after it are looked for, a portion per turn"
    harness.clock.advance(0)
    done = 0
    while not answer.called:
        assert len(harness.journal.pending) <= MAX_JOBS_PER_BATCH
        harness.settle()
        assert 0 < len(cancels(harness)) - done <= MAX_JOBS_PER_BATCH
        assert harness.journal.pending == [], "the next portion waits for the next turn"
        done = len(cancels(harness))
        assert answer.called == (done == count + 1)
        harness.clock.advance(0)
    assert result_of(answer).status is CANCELLED
    assert cancels(harness) == list(range(count + 1, 0, -1))
    assert skips(harness) == []


@pytest.mark.parametrize("is_cascade", [False, True])
def test_jobs_that_come_after_many_others_are_ended_so_many_a_turn_as_they_have_links(
    monkeypatch: pytest.MonkeyPatch, is_cascade: bool
) -> None:
    monkeypatch.setattr(dependencies, "MAX_DEPENDENCIES_PER_BATCH", 11)
    harness = opened()
    others = tuple(harness.submit(hold=True) for _ in range(5))
    for _ in range(9):
        harness.asked(after=others)
    harness.settle()
    answer = harness.cancel(1, cascade=is_cascade)
    portions = []
    for _ in range(30):
        harness.clock.advance(0)
        portions.append(len(harness.journal.pending))
        harness.journal.sync(portions[-1])
    assert result_of(answer).status is CANCELLED
    assert {harness.job(one).status for one in range(6, 15)} == {CANCELLED if is_cascade else Status.FAILED}
    assert max(portions) == 2


def test_a_cascade_that_a_crash_cuts_off_is_a_beginning_and_asking_again_does_the_rest() -> None:
    harness = fan(250)
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
    assert sorted(cancels(again)) == list(range(1, 252))
    assert skips(again) == []


def test_a_cascade_goes_on_where_a_job_was_cancelled_and_removed_before_its_portion_came() -> None:
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


def test_a_cascade_whose_store_fails_between_portions_is_told_so() -> None:
    harness = fan(MAX_JOBS_PER_BATCH + 1)
    answer = harness.cancel(1, cascade=True)
    harness.settle()
    harness.clock.advance(0)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.job(1).status is PENDING


def test_a_cascade_that_a_failed_store_cannot_record_changes_nothing() -> None:
    harness = opened()
    chain(harness)
    answer = harness.cancel(2, cascade=True)
    before = replayed(harness.journal.events)
    harness.journal.fail()
    error_of(answer)
    assert harness.queue_state == before


def test_a_bug_in_telling_of_a_skip_is_logged_and_the_rest_is_skipped_at_the_next_chance(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = many(3)
    with monkeypatch.context() as patched:
        patched.setattr(harness.engine._dependency_failures, "_on_ended", lambda *_: 1 / 0)
        harness.journal.sync(3)
    assert logged_errors.flush(ZeroDivisionError)
    assert len(skips(harness)) == 3
    harness.submit()
    harness.submit(after_fail=(harness.submit(hold=True),))
    harness.cancel(6)
    harness.settle()
    assert skips(harness)[3:] == [7]
