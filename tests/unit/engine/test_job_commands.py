"""Changes of mind about jobs that have not started: HOLD, RELEASE and SET, also beside a start on its way."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.errors import BadRequest, Gone, NoSuchJob, StoreFailed, TaskqError, WrongState
from taskqd.model.events import Changed, Held, Released, Started
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import House, opened, replayed, running
from tests.fakes.processes import FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED

Act = Callable[[House, int], "Deferred[Job]"]


def change(house: House, job_id: int) -> "Deferred[Job]":
    return house.change(job_id, label="other")


ACTS = pytest.mark.parametrize("act", [House.hold, House.release, change])


def reason(house: House, job_id: int) -> Reason | None:
    return house.backlog.reason(house.job(job_id), house.clock.elapsed())


def waiting(**options: Any) -> House:
    """Return a house whose one slot has job 1, so that job 2 is pending."""
    house = opened(1)
    house.submit()
    house.submit(**options)
    return house


# Disk before word.


@ACTS
def test_a_change_is_told_once_it_is_durable_and_not_before(act: Act) -> None:
    house = waiting(hold=act is House.release)
    before = replayed(house.store.journal)
    answer = act(house, 2)
    assert not answer.called
    assert house.backlog == before
    house.settle()
    assert result_of(answer) is house.job(2)
    assert house.backlog == replayed(house.store.journal) != before


@ACTS
def test_a_change_that_a_failed_store_cannot_record_is_refused_and_nothing_has_changed(act: Act) -> None:
    house = waiting(hold=act is House.release)
    before = replayed(house.store.journal)
    answers = [act(house, 2), act(house, 2)]
    house.store.break_down()
    answers.append(act(house, 2))
    assert all(isinstance(error_of(answer), StoreFailed) for answer in answers)
    assert house.backlog == before
    house.store.mend()
    again = act(house, 2)
    house.settle()
    result_of(again)


def test_who_and_when_is_recorded() -> None:
    house = waiting()
    house.clock.advance(2)
    house.hold(2)
    house.release(2)
    house.change(2, priority=3)
    house.settle()
    assert house.store.journal[-3:] == [
        Held(id=2, at=START + 2, by="ada"),
        Released(id=2, at=START + 2, by="ada"),
        Changed(id=2, at=START + 2, by="ada", command="true", spec=Spec(priority=3)),
    ]


@ACTS
def test_only_what_has_not_started_can_be_changed(act: Act) -> None:
    house = opened()
    house.submit()
    assert isinstance(error_of(act(house, 1)), WrongState)
    house.finish(1)
    assert isinstance(error_of(act(house, 1)), WrongState)
    assert isinstance(error_of(act(house, 2)), NoSuchJob)
    house.remove(1)
    house.settle()
    assert isinstance(error_of(act(house, 1)), Gone)
    assert house.store.on_its_way == []


# HOLD and RELEASE.


def test_a_held_job_does_not_start_until_it_is_released() -> None:
    house = waiting()
    house.hold(2)
    house.settle()
    assert reason(house, 2) is Reason.HELD
    house.finish(1)
    assert running(house) == []
    house.release(2)
    assert running(house) == []
    house.settle()
    assert running(house) == [2]


def test_a_job_that_is_submitted_held_starts_when_it_is_released() -> None:
    house = opened()
    house.submit(hold=True)
    assert running(house) == []
    house.release(1)
    house.settle()
    assert running(house) == [1]


def test_a_release_ends_a_delay_and_a_wait_for_a_retry() -> None:
    house = opened()
    house.submit(delay=100.0)
    house.submit(retries=1, retry_delay=100.0)
    house.finish(2, FAILED)
    house.release(1)
    house.release(2)
    house.settle()
    assert running(house) == [1, 2]


def test_asking_for_what_is_so_already_records_nothing() -> None:
    house = waiting()
    assert result_of(house.release(2)) is house.job(2)
    house.hold(2)
    house.settle()
    assert result_of(house.hold(2)) is house.job(2)
    assert house.store.on_its_way == []


def test_a_held_job_stays_so_through_a_restart_and_can_be_cancelled() -> None:
    house = waiting()
    house.hold(2)
    house.settle()
    again = House(journal=house.store.journal)
    again.dispatcher.recover("it was killed")
    again.dispatcher.start()
    again.settle()
    assert running(again) == []
    assert reason(again, 2) is Reason.HELD
    again.cancel(2)
    again.settle()
    assert again.job(2).status is CANCELLED


# SET.


def test_a_job_runs_as_it_was_changed() -> None:
    house = waiting(command="sleep 1", timeout=3.0)
    house.change(2, timeout=None, kill_after=7.0)
    house.settle()
    house.finish(1)
    run = house.executor.runs[-1]
    assert (run.id, run.command, run.timeout, run.kill_after) == (2, "sleep 1", None, 7.0)


def test_a_priority_puts_a_job_before_others_and_behind_them() -> None:
    house = waiting()
    for _ in range(2):
        house.submit()
    house.change(4, priority=1)
    house.change(2, priority=-1)
    house.settle()
    for job_id in (1, 4, 3, 2):
        assert running(house) == [job_id]
        house.finish(job_id)


def test_a_job_that_wants_less_now_starts_at_once() -> None:
    house = opened(3)
    house.submit(slots=2)
    house.submit(slots=2)
    house.change(2, slots=1)
    house.settle()
    assert running(house) == [1, 2]


def test_a_job_that_is_put_into_a_queue_with_room_starts_at_once() -> None:
    house = opened(3, queues={"small": 1})
    house.submit(queue="small")
    house.submit(queue="small")
    house.change(2, queue="other")
    house.settle()
    assert running(house) == [1, 2]
    assert house.backlog.describe_queue("other")["running"] == 1


def test_what_could_never_start_is_refused() -> None:
    house = waiting()
    assert isinstance(error_of(house.change(2, slots=2)), BadRequest)
    assert isinstance(error_of(house.change(2, needs={"gpu": 1})), BadRequest)
    assert house.store.on_its_way == []


@pytest.mark.parametrize("values", [{"delay": 10.0}, {"at": START + 15.0}])
def test_a_delay_counts_from_now_and_a_time_is_a_time(values: dict[str, float]) -> None:
    house = opened()
    house.submit(delay=100.0)
    house.clock.advance(5)
    house.change(1, **values)
    house.settle()
    assert (house.job(1).not_before, reason(house, 1)) == (START + 15.0, Reason.DELAYED)
    house.clock.advance(9.9)
    house.settle()
    assert running(house) == []
    house.clock.advance(0.2)
    house.settle()
    assert running(house) == [1]


@pytest.mark.parametrize("values", [{"delay": None}, {"at": None}, {"at": START - 5.0}, {"delay": 0.0}])
def test_a_delay_that_is_taken_back_is_over(values: dict[str, float | None]) -> None:
    house = opened()
    house.submit(delay=100.0)
    house.change(1, **values)
    house.settle()
    assert running(house) == [1]


def test_a_time_that_a_release_has_ended_can_be_set_again() -> None:
    house = waiting(at=START + 50.0)
    house.release(2)
    house.change(2, at=START + 50.0)
    house.settle()
    assert house.job(2).not_before == START + 50.0


def test_a_task_that_was_released_by_itself_is_not_delayed_again_by_a_change_of_something_else() -> None:
    house = opened(4)
    house.submit(array=Array(1, 2), at=START + 50.0, hold=True)
    house.pause()
    house.settle()
    house.release(2)
    house.change(1, priority=3)
    house.settle()
    assert (house.job(2).not_before, house.job(3).not_before) == (None, START + 50.0)
    house.change(1, at=START + 90.0)
    house.settle()
    assert (house.job(2).not_before, house.job(3).not_before) == (START + 90.0, START + 90.0)


def test_a_time_takes_the_place_of_a_delay_and_the_other_way_round() -> None:
    house = opened()
    house.submit(delay=100.0)
    house.change(1, at=START + 50.0)
    house.settle()
    assert (house.job(1).spec.at, house.job(1).spec.delay) == (START + 50.0, None)
    house.change(1, delay=20.0)
    house.settle()
    assert house.job(1).not_before == START + 20.0


def test_whatever_else_is_changed_leaves_the_time_alone() -> None:
    house = opened()
    house.submit(delay=10.0)
    house.submit(retries=1, retry_delay=10.0)
    house.finish(2, FAILED)
    for job_id in (1, 2):
        house.change(job_id, priority=1)
    house.settle()
    assert [house.job(job_id).not_before for job_id in (1, 2)] == [START + 10.0] * 2
    house.clock.advance(10)
    house.settle()
    assert running(house) == [1, 2]


def test_an_earlier_time_is_not_slept_over() -> None:
    house = opened()
    house.submit(delay=100.0)
    house.change(1, delay=1.0)
    house.settle()
    house.clock.advance(1)
    house.settle()
    assert running(house) == [1]


def test_a_key_stands_for_what_was_submitted_whatever_has_become_of_it() -> None:
    house = opened()
    house.submit("true", key="k", hold=True)
    for priority in (1, 2):
        house.change(1, priority=priority)
        house.settle()
    assert house.submit("true", key="k", hold=True) == 1
    again = House(journal=house.store.journal)
    assert again.submit("true", key="k", hold=True) == 1
    other = again.asked("true", key="k", hold=True, priority=2)
    assert isinstance(error_of(other), TaskqError)


# A start on its way.


@ACTS
def test_a_change_while_the_start_is_on_its_way_comes_too_late(act: Act) -> None:
    house = opened()
    house.asked(hold=False)
    house.store.sync()
    assert [type(event) for event in house.store.on_its_way] == [Started]
    answer = act(house, 1)
    house.settle()
    assert isinstance(error_of(answer), WrongState)
    assert running(house) == [1]
    assert house.job(1).spec.label is None


def test_a_job_whose_hold_is_on_its_way_when_there_is_room_does_not_start_and_the_next_does() -> None:
    house = waiting()
    house.submit()
    held = house.hold(2)
    house.executor.finish(1)
    house.settle()
    assert result_of(held).is_held
    assert running(house) == [3]
    house.finish(3)
    house.release(2)
    house.settle()
    assert running(house) == [2]
    assert house.job(2).attempts == 1


@pytest.mark.parametrize("values", [{"label": "other"}, {"priority": 5}, {"timeout": 3.0}])
def test_a_job_whose_change_is_on_its_way_when_there_is_room_starts_changed(values: dict[str, Any]) -> None:
    house = waiting()
    house.change(2, **values)
    house.executor.finish(1)
    house.settle()
    assert running(house) == [2]
    [(name, value)] = values.items()
    assert getattr(house.job(2).spec, name) == value
    kinds = [type(event) for event in house.store.journal if getattr(event, "id", None) == 2]
    assert kinds.index(Changed) < kinds.index(Started)


def test_a_job_that_comes_to_want_more_than_is_free_gives_up_what_it_had() -> None:
    house = opened(2)
    for _ in range(3):
        house.submit()
    house.change(3, slots=2)
    house.executor.finish(1)
    house.settle()
    assert running(house) == [2]
    house.submit()
    assert running(house) == [2, 4]
    house.finish(2)
    house.finish(4)
    assert running(house) == [3]


def test_a_job_whose_delay_is_on_its_way_when_there_is_room_waits_for_it() -> None:
    house = waiting()
    house.change(2, delay=10.0)
    house.executor.finish(1)
    house.settle()
    assert running(house) == []
    house.clock.advance(10)
    house.settle()
    assert running(house) == [2]


def test_a_hold_and_a_cancel_in_either_order() -> None:
    house = waiting()
    first, second = house.hold(2), house.cancel(2)
    house.settle()
    assert (result_of(first).status, result_of(second).status) == (CANCELLED, CANCELLED)
    house = waiting()
    first, second = house.cancel(2), house.hold(2)
    house.settle()
    assert result_of(first).status is CANCELLED
    assert isinstance(error_of(second), WrongState)


# Arrays.


def array(slots: int = 1, **options: Any) -> House:
    house = opened(slots)
    house.submit(array=Array(1, 3), **options)
    return house


def test_an_array_is_held_and_released_as_a_whole_but_for_what_has_started() -> None:
    house = array()
    house.hold(1)
    house.settle()
    house.finish(2)
    assert running(house) == []
    house.release(1)
    house.settle()
    assert running(house) == [3]


def test_of_an_array_one_task_may_be_held_and_released() -> None:
    house = array()
    house.hold(3)
    house.settle()
    house.finish(2)
    assert running(house) == [4]
    house.finish(4)
    house.release(3)
    house.settle()
    assert running(house) == [3]


def test_of_a_held_array_one_task_may_be_released() -> None:
    house = array(hold=True)
    house.release(3)
    house.settle()
    assert running(house) == [3]
    house.finish(3)
    assert running(house) == []
    again = house.hold(1)
    assert result_of(again).is_held
    assert house.store.on_its_way == []


def test_a_change_of_an_array_is_one_of_all_tasks_that_have_not_started() -> None:
    house = array()
    house.change(1, label="other")
    house.settle()
    assert [house.job(job_id).spec.label for job_id in (1, 2, 3, 4)] == ["other", None, "other", "other"]
    assert [type(event) for event in house.store.journal].count(Changed) == 1


def test_one_task_cannot_be_changed() -> None:
    house = array()
    assert isinstance(error_of(house.change(3, label="other")), WrongState)


@ACTS
def test_an_array_all_of_whose_tasks_have_started_cannot_be_changed(act: Act) -> None:
    house = array(3)
    assert isinstance(error_of(act(house, 1)), WrongState)


def test_a_change_of_an_array_waits_for_the_start_of_a_task_that_is_on_its_way() -> None:
    house = opened(1)
    house.asked(array=Array(1, 2))
    house.store.sync()
    assert house.store.on_its_way == [Started(id=2, at=START, attempt=1)]
    house.hold(1)
    assert len(house.store.on_its_way) == 1
    house.settle()
    assert [house.job(job_id).is_held for job_id in (2, 3)] == [False, True]


def test_a_released_array_is_not_delayed_any_more() -> None:
    house = array(delay=100.0)
    assert reason(house, 1) is Reason.DELAYED
    house.release(1)
    house.settle()
    assert running(house) == [2]
    assert house.job(1).not_before is None
    house = array(0, delay=100.0)
    house.change(1, delay=50.0)
    house.settle()
    assert house.job(1).not_before == START + 50.0
