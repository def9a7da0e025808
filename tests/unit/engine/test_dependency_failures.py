"""What comes after a job that did not end as it had to: skipped, all of it, by an event each, told once."""

from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine.engine import MAX_LOOKS_PER_TURN
from taskqd.errors import StoreFailed, WrongState
from taskqd.model.events import Cancelled, Ended, Skipped, Started
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array
from taskqd.state import dependencies
from taskqd.state.dependencies import MAX_ACTS_PER_TURN
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import House, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
SKIPPED = (Status.FAILED, Reason.DEPENDENCY)


def end(house: House, job_id: int) -> tuple[Status, Reason | None]:
    job = house.job(job_id)
    return job.status, job.reason


def skips(house: House) -> list[int]:
    return [event.id for event in house.store.journal if isinstance(event, Skipped)]


def told(house: House) -> "Counter[int]":
    """Return how often each end is told from now on."""
    ends: Counter[int] = Counter()
    house.dispatcher.on_end(lambda job: ends.update([job.id]))
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
    house = opened()
    house.submit()
    options: dict[str, Any] = {kind: (1,)}
    house.submit(**options)
    assert running(house) == [1]
    house.executor.finish(1, outcome)
    house.store.sync()
    kinds = [type(event) for event in house.store.on_its_way]
    assert kinds == ([Started] if starts else [Skipped])
    house.settle()
    assert end(house, 2) == ((RUNNING, None) if starts else SKIPPED)


def test_a_skip_says_because_of_which_job_and_is_told_once_it_is_durable() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    waiting = house.dispatcher.wait(2)
    house.executor.finish(1, FAILED)
    house.store.sync()
    assert house.store.on_its_way == [Skipped(id=2, at=START, because=1)]
    assert not waiting.called
    assert house.job(2).status is PENDING
    house.settle()
    assert result_of(waiting) is house.job(2)
    assert house.dispatcher.counters["failed"] == 2
    assert house.executor.runs[-1].id == 1


def test_what_comes_after_a_skipped_job_is_skipped_too_or_starts() -> None:
    house = opened()
    house.submit()
    for after in (1, 2, 3):
        house.submit(after=(after,))
    house.submit(after_fail=(3,))
    house.submit(after_any=(4,))
    ends = told(house)
    house.finish(1, FAILED)
    assert skips(house) == [2, 3, 4]
    assert running(house) == [5, 6]
    assert ends == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_job_that_comes_after_several_is_skipped_at_the_first_that_fails_and_then_left_alone() -> None:
    house = opened(3)
    for _ in range(3):
        house.submit()
    house.submit(after=(1, 2, 3))
    ends = told(house)
    for job_id, outcome in ((2, FAILED), (1, FAILED), (3, COMPLETED)):
        house.finish(job_id, outcome)
    assert skips(house) == [4]
    assert ends[4] == 1
    assert replayed(house.store.journal) == house.backlog


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("outcome", [COMPLETED, FAILED])
def test_a_job_that_was_cancelled_is_not_skipped_as_well(is_removed: bool, outcome: Any) -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.cancel(2)
    house.settle()
    if is_removed:
        house.remove(2)
        house.settle()
    house.finish(1, outcome)
    assert skips(house) == []
    assert replayed(house.store.journal) == house.backlog


def test_a_job_that_was_cancelled_and_retried_waits_once() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.cancel(2)
    house.retry(2)
    house.settle()
    assert house.job(2).waiting == 1
    house.finish(1)
    assert running(house) == [2]


def test_a_submission_after_a_job_that_has_failed_is_accepted_and_then_skipped() -> None:
    house = opened()
    house.submit()
    house.finish(1, FAILED)
    answer = house.asked(after=(1,))
    house.store.sync()
    assert result_of(answer) == 2
    assert house.job(2).status is PENDING
    house.settle()
    assert end(house, 2) == SKIPPED


def test_a_skipped_job_is_skipped_again_until_the_other_has_ended_as_it_must() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.finish(1, FAILED)
    house.retry(2)
    house.settle()
    assert skips(house) == [2, 2]
    house.retry(1)
    house.settle()
    house.retry(2)
    house.settle()
    assert end(house, 2)[0] is PENDING
    house.finish(1)
    assert running(house) == [2]


# Beside other decisions.


def test_a_cancel_on_its_way_comes_before_the_skip() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.executor.finish(1, FAILED)
    cancelled = house.cancel(2)
    house.settle()
    assert result_of(cancelled).status is CANCELLED
    assert skips(house) == []


def test_a_cancel_while_the_skip_is_on_its_way_comes_too_late() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.executor.finish(1, FAILED)
    house.store.sync()
    cancelled = house.cancel(2)
    house.settle()
    assert isinstance(error_of(cancelled), WrongState)
    assert end(house, 2) == SKIPPED


def test_a_retry_of_the_other_while_the_skip_is_on_its_way_does_not_undo_it() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.executor.finish(1, FAILED)
    house.store.sync()
    house.retry(1)
    house.settle()
    assert end(house, 2) == SKIPPED
    house.finish(1)
    assert replayed(house.store.journal) == house.backlog
    assert running(house) == []


def test_a_held_or_delayed_job_is_skipped_all_the_same() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,), hold=True)
    house.submit(after=(1,), delay=100.0)
    house.finish(1, FAILED)
    assert [end(house, job_id) for job_id in (2, 3)] == [SKIPPED, SKIPPED]


def test_the_job_because_of_which_others_are_skipped_stays_until_they_are() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.executor.finish(1, FAILED)
    house.store.sync()
    assert isinstance(error_of(house.remove(1)), WrongState)
    house.settle()
    removed = house.remove(1)
    house.settle()
    result_of(removed)


# Thousands.


def many(count: int) -> House:
    """Return a house whose job 1 has failed, and on which so many others wait."""
    house = opened()
    house.submit()
    answers = [house.asked(after=(1,)) for _ in range(count)]
    house.settle()
    assert all(answer.called for answer in answers)
    house.executor.finish(1, FAILED)
    house.store.sync()
    return house


def test_thousands_are_skipped_some_at_a_time_and_others_get_in_between() -> None:
    house = many(3000)
    ends = told(house)
    waiting = [house.dispatcher.wait(job_id) for job_id in (2, 1500, 3001)]
    assert len(house.store.on_its_way) == MAX_ACTS_PER_TURN
    between = house.asked()
    house.store.sync(MAX_ACTS_PER_TURN + 1)
    assert result_of(between) == 3002
    assert len(house.store.on_its_way) == MAX_ACTS_PER_TURN + 1
    house.settle()
    assert skips(house) == list(range(2, 3002))
    assert all(waiter.called for waiter in waiting)
    assert set(ends.values()) == {1}
    assert running(house) == [3002]
    assert replayed(house.store.journal) == house.backlog


def test_a_store_that_fails_in_between_leaves_nothing_unskipped() -> None:
    house = many(250)
    ends = told(house)
    house.store.sync(130)
    for _ in range(2):
        house.store.break_down()
        house.clock.advance(1)
        house.store.mend()
        house.store.sync(10)
    house.settle()
    assert sorted(skips(house)) == list(range(2, 252))
    assert set(ends.values()) == {1}


def test_a_stop_in_between_leaves_the_rest_to_the_next_start() -> None:
    house = many(250)
    house.store.sync(30)
    house.store.break_down()
    result_of(house.dispatcher.stop(requeue=False))
    assert len(skips(house)) == 30
    again = House(journal=house.store.journal)
    assert again.dispatcher.recover("it was killed") == []
    again.dispatcher.start()
    again.settle()
    assert sorted(skips(again)) == list(range(2, 252))
    assert again.executor.runs == []


def test_what_a_crash_has_left_unskipped_is_skipped_at_the_start_and_never_starts() -> None:
    house = many(5)
    house.settle()
    [ended] = [number for number, event in enumerate(house.store.journal) if isinstance(event, Ended)]
    for cut in range(ended + 1, len(house.store.journal) + 1):
        again = House(journal=house.store.journal[:cut])
        again.dispatcher.recover("it was killed")
        again.dispatcher.start()
        again.settle()
        assert [end(again, job_id) for job_id in range(2, 7)] == [SKIPPED] * 5
        assert again.executor.runs == []
        assert replayed(again.store.journal) == again.backlog


def test_after_an_attempt_that_a_crash_cut_off_comes_what_was_to_come_after_it() -> None:
    house = opened()
    house.submit()
    house.submit(after=(1,))
    house.submit(after_fail=(1,))
    again = House(journal=house.store.journal)
    again.dispatcher.recover("it was killed")
    again.dispatcher.start()
    again.settle()
    assert end(again, 2) == SKIPPED
    assert running(again) == [3]


# Arrays.


def test_an_array_is_skipped_as_a_whole_and_each_end_is_told_once() -> None:
    house = opened()
    house.submit()
    house.submit(array=Array(1, 3), after=(1,))
    house.cancel(4)
    house.settle()
    ends = told(house)
    waiting = [house.dispatcher.wait(job_id) for job_id in (2, 3)]
    house.finish(1, FAILED)
    assert skips(house) == [2]
    assert [end(house, job_id) for job_id in (3, 4, 5)] == [SKIPPED, (CANCELLED, Reason.CANCELLED), SKIPPED]
    assert end(house, 2)[0] is Status.FAILED
    assert all(waiter.called for waiter in waiting)
    assert ends == {1: 1, 2: 1, 3: 1, 5: 1}
    assert (house.dispatcher.counters["failed"], house.dispatcher.counters["cancelled"]) == (3, 1)


def test_an_array_all_of_whose_tasks_were_cancelled_is_not_skipped() -> None:
    house = opened()
    house.submit()
    house.submit(array=Array(1, 2), after=(1,))
    house.cancel(3)
    house.cancel(4)
    house.settle()
    assert end(house, 2)[0] is CANCELLED
    house.finish(1, FAILED)
    assert skips(house) == []
    assert replayed(house.store.journal) == house.backlog


@pytest.mark.parametrize(
    "which, outcomes, starts", [(1, (COMPLETED, FAILED), False), (2, (COMPLETED, FAILED), True)]
)
def test_a_job_may_come_after_an_array_or_one_of_its_tasks(
    which: int, outcomes: tuple[Any, Any], starts: bool
) -> None:
    house = opened()
    house.submit(array=Array(1, 2))
    house.submit(after=(which,))
    for job_id, outcome in zip((2, 3), outcomes, strict=True):
        house.finish(job_id, outcome)
    assert end(house, 4) == ((RUNNING, None) if starts else SKIPPED)


# CANCEL --cascade.


def chain(house: House) -> None:
    """Submit job 1, 2 and 3 after 1, 4 after 2, 5 after 3 and 4; 6 is free."""
    for after in ((), (1,), (1,), (2,), (3, 4), ()):
        house.submit(after=after)


def test_without_cascade_what_comes_after_a_cancelled_job_is_skipped() -> None:
    house = opened()
    chain(house)
    house.cancel(2)
    house.settle()
    assert [end(house, job_id) for job_id in (2, 4, 5)] == [(CANCELLED, Reason.CANCELLED), SKIPPED, SKIPPED]
    assert house.job(3).status is PENDING


def test_a_cascade_cancels_all_that_waits_for_a_job_directly_or_not_and_nothing_else() -> None:
    house = opened()
    chain(house)
    ends = told(house)
    answer = house.cancel(2, cascade=True)
    assert not answer.called
    house.settle()
    assert result_of(answer) is house.job(2)
    assert [event.id for event in house.store.journal if isinstance(event, Cancelled)] == [5, 4, 2]
    assert skips(house) == []
    assert house.statuses() == [RUNNING, CANCELLED, PENDING, CANCELLED, CANCELLED, RUNNING]
    assert ends == {2: 1, 4: 1, 5: 1}


def test_a_cascade_of_a_running_job_ends_its_process_and_cancels_the_rest_at_once() -> None:
    house = opened()
    chain(house)
    answer = house.cancel(1, cascade=True)
    house.settle()
    assert result_of(answer).status is RUNNING
    assert [signalled for signalled, _, _ in house.executor.signals] == [1]
    assert [house.job(job_id).status for job_id in (2, 3, 4, 5)] == [CANCELLED] * 4
    house.finish(1, FAILED)
    assert skips(house) == []


def test_a_cascade_goes_through_arrays() -> None:
    house = opened()
    house.submit(hold=True)
    house.submit(array=Array(1, 2), after=(1,))
    house.submit(after=(4,))
    house.submit(after_any=(2,))
    house.cancel(1, cascade=True)
    house.settle()
    assert set(house.statuses()) == {CANCELLED}
    assert skips(house) == []


def test_a_cascade_of_a_job_that_has_ended_is_refused_and_one_of_a_cancelled_job_changes_nothing() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    assert isinstance(error_of(house.cancel(1, cascade=True)), WrongState)
    house.submit(hold=True)
    house.submit(after=(2,))
    house.cancel(2, cascade=True)
    house.settle()
    assert result_of(house.cancel(2, cascade=True)).status is CANCELLED
    assert house.store.on_its_way == []


def test_a_cascade_beside_a_hold_on_its_way_cancels_that_job_too() -> None:
    house = opened()
    chain(house)
    answers: list[Deferred[Any]] = [house.hold(4), house.cancel(2, cascade=True)]
    house.settle()
    for answer in answers:
        result_of(answer)
    assert [house.job(job_id).status for job_id in (2, 4, 5)] == [CANCELLED] * 3
    assert skips(house) == []


def cancels(house: House) -> list[int]:
    return [event.id for event in house.store.journal if isinstance(event, Cancelled)]


def fan(count: int) -> House:
    """Return a house in which this many jobs wait for job 1, which is held."""
    house = opened()
    house.submit(hold=True)
    for _ in range(count):
        house.asked(after=(1,))
    house.settle()
    return house


def test_a_cascade_over_thousands_is_recorded_a_portion_per_turn_and_answered_after_the_last() -> None:
    count = 2 * MAX_LOOKS_PER_TURN + MAX_ACTS_PER_TURN // 2
    house = fan(count)
    answer = house.cancel(1, cascade=True)
    assert house.store.on_its_way == [], "the jobs after it are looked for, a portion per turn"
    house.clock.advance(0)
    done = 0
    while not answer.called:
        assert len(house.store.on_its_way) <= MAX_ACTS_PER_TURN
        house.settle()
        assert 0 < len(cancels(house)) - done <= MAX_ACTS_PER_TURN
        assert house.store.on_its_way == [], "the next portion waits for the next turn"
        done = len(cancels(house))
        assert answer.called == (done == count + 1)
        house.clock.advance(0)
    assert result_of(answer).status is CANCELLED
    assert cancels(house) == list(range(count + 1, 0, -1))
    assert skips(house) == []


@pytest.mark.parametrize("is_cascade", [False, True])
def test_jobs_that_come_after_many_others_are_ended_so_many_a_turn_as_they_have_links(
    monkeypatch: pytest.MonkeyPatch, is_cascade: bool
) -> None:
    monkeypatch.setattr(dependencies, "MAX_LINKS_PER_TURN", 11)
    house = opened()
    others = tuple(house.submit(hold=True) for _ in range(5))
    for _ in range(9):
        house.asked(after=others)
    house.settle()
    answer = house.cancel(1, cascade=is_cascade)
    portions = []
    for _ in range(30):
        house.clock.advance(0)
        portions.append(len(house.store.on_its_way))
        house.store.sync(portions[-1])
    assert result_of(answer).status is CANCELLED
    assert {house.job(one).status for one in range(6, 15)} == {CANCELLED if is_cascade else Status.FAILED}
    assert max(portions) == 2


def test_a_cascade_that_a_crash_cuts_off_is_a_beginning_and_asking_again_does_the_rest() -> None:
    house = fan(250)
    house.cancel(1, cascade=True)
    house.settle()
    again = House(journal=house.store.journal)
    assert again.backlog == house.backlog
    assert len(cancels(again)) == MAX_ACTS_PER_TURN
    assert again.job(1).status is PENDING
    answer = again.cancel(1, cascade=True)
    while not answer.called:
        again.settle()
        again.clock.advance(0)
    assert result_of(answer).status is CANCELLED
    assert sorted(cancels(again)) == list(range(1, 252))
    assert skips(again) == []


def test_a_cascade_goes_on_where_a_job_was_cancelled_and_removed_before_its_portion_came() -> None:
    house = fan(MAX_ACTS_PER_TURN + 2)
    answer = house.cancel(1, cascade=True)
    house.settle()
    house.cancel(3)
    house.settle()
    house.remove(3)
    house.settle()
    while not answer.called:
        house.clock.advance(0)
        house.settle()
    assert result_of(answer).status is CANCELLED


def test_a_cascade_whose_store_fails_between_portions_is_told_so() -> None:
    house = fan(MAX_ACTS_PER_TURN + 1)
    answer = house.cancel(1, cascade=True)
    house.settle()
    house.clock.advance(0)
    house.store.break_down()
    assert isinstance(error_of(answer), StoreFailed)
    assert house.job(1).status is PENDING


def test_a_cascade_that_a_failed_store_cannot_record_changes_nothing() -> None:
    house = opened()
    chain(house)
    answer = house.cancel(2, cascade=True)
    before = replayed(house.store.journal)
    house.store.break_down()
    error_of(answer)
    assert house.backlog == before


def test_a_bug_in_telling_of_a_skip_is_logged_and_the_rest_is_skipped_at_the_next_chance(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = many(3)
    with monkeypatch.context() as patched:
        patched.setattr(house.dispatcher._skipping, "_told_ended", lambda *_: 1 / 0)
        house.store.sync(3)
    assert logged_errors.flush(ZeroDivisionError)
    assert len(skips(house)) == 3
    house.submit()
    house.submit(after_fail=(house.submit(hold=True),))
    house.cancel(6)
    house.settle()
    assert skips(house)[3:] == [7]
