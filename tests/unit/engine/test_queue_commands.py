"""What is decided about queues and schedules: durable before it is told, and in force from then on."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.errors import BadRequest, NoSuchJob, StoreFailed
from taskqd.model.events import Paused, Resized, Resumed, Scheduled, Started, Unscheduled
from taskqd.model.job import Status
from taskqd.model.spec import PLAIN, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import ACTOR, House, opened, replayed, running

Decision = Callable[[House], "Deferred[Any]"]

DECISIONS: dict[str, Decision] = {
    "pause of all": lambda house: house.pause(),
    "pause of a queue": lambda house: house.pause("other"),
    "pause of a schedule": lambda house: house.pause(schedule=1),
    "end of a pause": lambda house: house.resume("paused"),
    "slots": lambda house: house.resize("other", 3),
    "schedule": lambda house: house.schedule(),
    "end of a schedule": lambda house: house.unschedule(1),
}
EVERY_DECISION = pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)


def settled(house: House) -> House:
    """Return a house with a schedule and a paused queue."""
    house.schedule()
    house.pause("paused")
    house.settle()
    return house


# Disk before word.


@EVERY_DECISION
def test_a_decision_is_told_once_it_is_durable_and_not_before(decide: Decision) -> None:
    house = settled(opened())
    before = replayed(house.store.journal)
    answer = decide(house)
    assert not answer.called
    assert house.backlog == before
    house.settle()
    result_of(answer)
    assert house.backlog == replayed(house.store.journal) != before


@EVERY_DECISION
def test_a_decision_that_a_failed_store_cannot_record_is_refused_and_nothing_has_changed(
    decide: Decision,
) -> None:
    house = settled(opened())
    before = replayed(house.store.journal)
    answers = [decide(house)]
    house.store.break_down()
    answers.append(decide(house))
    assert all(isinstance(error_of(answer), StoreFailed) for answer in answers)
    assert house.backlog == before
    house.store.mend()
    again = decide(house)
    house.settle()
    result_of(again)


def test_who_and_when_is_recorded() -> None:
    house = opened()
    house.clock.advance(1)
    house.pause("a")
    house.resume()
    house.resize("a", 0)
    house.schedule(60.0, label="x")
    house.settle()
    house.pause(schedule=1)
    house.unschedule(1)
    house.settle()
    at = START + 1
    assert house.store.journal == [
        Paused(at=at, by="ada", queue="a"),
        Resumed(at=at, by="ada"),
        Resized(at=at, by="ada", queue="a", slots=0),
        Scheduled(schedule=1, at=at, by="ada", command="true", spec=Spec(label="x"), every=60.0),
        Paused(at=at, by="ada", schedule=1),
        Unscheduled(schedule=1, at=at, by="ada"),
    ]


@EVERY_DECISION
def test_a_decision_holds_after_a_restart(decide: Decision) -> None:
    house = settled(opened())
    decide(house)
    house.settle()
    again = House(journal=house.store.journal)
    assert again.backlog == house.backlog
    assert list(again.backlog.describe_queues()) == list(house.backlog.describe_queues())


# Pauses.


def test_of_a_paused_queue_nothing_starts_and_what_runs_goes_on() -> None:
    house = opened(2)
    house.submit(queue="a")
    house.pause("a")
    house.settle()
    house.submit(queue="a")
    house.submit(queue="b")
    assert running(house) == [1, 3]
    house.finish(1)
    assert running(house) == [3]
    answer = house.resume("a")
    assert running(house) == [3]
    house.settle()
    result_of(answer)
    assert running(house) == [2, 3]


def test_the_pause_of_everything_and_that_of_a_queue_do_not_know_each_other() -> None:
    house = opened(2)
    house.pause()
    house.pause("a")
    house.settle()
    house.submit(queue="a")
    house.submit(queue="b")
    house.resume()
    house.settle()
    assert running(house) == [2]
    house.pause()
    house.resume("a")
    house.settle()
    assert running(house) == [2]
    house.resume()
    house.settle()
    assert running(house) == [1, 2]


def test_a_start_that_is_on_its_way_when_the_pause_comes_becomes_true_and_the_next_does_not() -> None:
    house = opened(2)
    house.asked()
    house.store.sync()
    assert house.store.on_its_way == [Started(id=1, at=START, attempt=1)]
    paused = house.pause("default")
    house.asked()
    house.settle()
    result_of(paused)
    assert running(house) == [1]
    house.resume("default")
    house.settle()
    assert running(house) == [1, 2]


def test_no_start_is_recorded_behind_a_pause_that_is_on_its_way() -> None:
    house = opened(2)
    paused = house.pause()
    house.asked()
    house.store.sync(2)
    result_of(paused)
    assert house.store.on_its_way == []
    house.settle()
    assert running(house) == []


def test_a_pause_that_cannot_be_recorded_keeps_nothing_from_its_start() -> None:
    house = opened(2)
    house.asked()
    paused = house.pause("default")
    house.store.sync()
    house.store.break_down()
    assert isinstance(error_of(paused), StoreFailed)
    house.store.mend()
    house.settle()
    assert running(house) == [1]


def test_a_job_that_was_given_room_but_waits_for_its_turn_does_not_start_in_a_pause() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    house.pause("default")
    house.change(2, label="other")
    house.executor.finish(1)
    house.settle()
    assert running(house) == []
    house.resume("default")
    house.settle()
    assert running(house) == [2]


def test_a_delayed_job_that_becomes_due_in_a_pause_starts_after_it() -> None:
    house = opened()
    house.submit(delay=5.0)
    house.pause()
    house.settle()
    house.clock.advance(10)
    house.settle()
    assert running(house) == []
    house.resume()
    house.settle()
    assert running(house) == [1]


# A queue's slots.


def test_fewer_slots_than_jobs_run_end_nothing_and_start_nothing_until_there_is_room() -> None:
    house = opened(4)
    for _ in range(5):
        house.submit(queue="a")
    house.resize("a", 2)
    house.settle()
    assert running(house) == [1, 2, 3, 4]
    assert house.executor.signals == []
    for job_id in (1, 2):
        house.finish(job_id)
    assert running(house) == [3, 4]
    house.finish(3)
    assert running(house) == [4, 5]


@pytest.mark.parametrize("slots, most", [(3, 3), (0, 4), (None, 1)])
def test_more_slots_are_taken_at_once_none_is_no_limit_and_the_settings_may_say_again(
    slots: int | None, most: int
) -> None:
    house = opened(4, queues={"a": 1})
    for _ in range(4):
        house.submit(queue="a")
    assert running(house) == [1]
    house.resize("a", 2)
    house.settle()
    assert len(running(house)) == 2
    house.resize("a", slots)
    house.settle()
    assert len(running(house)) == max(2, most)
    again = House(4, journal=house.store.journal, queues={"a": 1})
    assert again.backlog.describe_queue("a")["slots"] == {3: 3, 0: None, None: 1}[slots]


def test_a_job_that_wants_more_slots_than_its_queue_has_now_waits_for_more_of_them() -> None:
    house = opened(4)
    house.resize("a", 3)
    house.pause("a")
    house.settle()
    house.submit(queue="a", slots=3)
    house.resize("a", 2)
    house.resume("a")
    house.settle()
    assert running(house) == []
    assert isinstance(error_of(house.asked(queue="a", slots=3)), BadRequest)
    house.resize("a", 0)
    house.settle()
    assert running(house) == [1]


# Schedules.


def test_every_schedule_has_a_number_of_its_own_also_while_others_are_on_their_way() -> None:
    house = opened()
    answers = [house.schedule() for _ in range(3)]
    house.settle()
    assert [result_of(answer) for answer in answers] == [1, 2, 3]
    assert list(house.backlog.schedules.by_id) == [1, 2, 3]


def test_a_number_is_never_used_twice() -> None:
    house = opened()
    for number in (1, 2):
        house.schedule()
        house.settle()
        house.unschedule(number)
        house.settle()
    again = House(journal=house.store.journal)
    third = again.schedule()
    again.settle()
    assert result_of(third) == 3


def test_a_number_that_a_failed_store_refused_is_not_given_to_two() -> None:
    house = opened()
    refused = house.schedule()
    house.store.break_down()
    assert isinstance(error_of(refused), StoreFailed)
    house.store.mend()
    answers = [house.schedule() for _ in range(2)]
    house.settle()
    assert len({result_of(answer) for answer in answers}) == 2


@pytest.mark.parametrize("act", [House.unschedule, lambda house, number: house.pause(schedule=number)])
def test_what_is_asked_of_a_schedule_that_ends_just_now_finds_none(
    act: Callable[[House, int], "Deferred[None]"],
) -> None:
    house = settled(opened())
    ended, second = house.unschedule(1), act(house, 1)
    house.settle()
    result_of(ended)
    assert isinstance(error_of(second), NoSuchJob)
    assert isinstance(error_of(act(house, 7)), NoSuchJob)
    assert house.store.on_its_way == []


def test_a_schedule_of_what_could_never_start_is_refused() -> None:
    house = opened(2)
    assert isinstance(error_of(house.schedule(slots=3)), BadRequest)
    assert house.store.on_its_way == []


@pytest.mark.parametrize("every, cron", [(0.5, None), (None, "61 * * * *")])
def test_a_schedule_that_cannot_be_is_refused_before_it_is_recorded(
    every: float | None, cron: str | None
) -> None:
    house = opened()
    made = begin(house.dispatcher.controls.schedule("true", PLAIN, ACTOR, every, cron, False))
    assert house.store.on_its_way == []
    assert isinstance(error_of(made), BadRequest)


def test_who_looks_after_schedules_is_told_of_each_change_once_it_is_true() -> None:
    house = opened()
    told: list[tuple[int, ...]] = []
    schedules = house.backlog.schedules.by_id
    house.dispatcher.controls.on_schedules(lambda: told.append(tuple(schedules)))
    house.schedule()
    house.settle()
    house.pause(schedule=1)
    house.resume(schedule=1)
    house.unschedule(1)
    assert told == [(1,)]
    house.settle()
    assert told == [(1,), (1,), (1,), ()]


def test_what_a_schedule_has_submitted_goes_on_when_it_ends() -> None:
    house = settled(opened())
    answer = house.dispatcher.submit("true", PLAIN, ACTOR, {}, schedule=1)
    house.settle()
    job_id = result_of(answer)
    assert house.job(job_id).schedule == 1
    house.unschedule(1)
    house.settle()
    house.finish(job_id)
    assert house.job(job_id).status is Status.COMPLETED
    assert replayed(house.store.journal) == house.backlog


def test_a_run_of_a_schedule_that_has_just_ended_is_a_job_like_any_other() -> None:
    house = settled(opened())
    house.unschedule(1)
    answer = house.dispatcher.submit("true", PLAIN, ACTOR, {}, schedule=1)
    house.settle()
    assert running(house) == [result_of(answer)]
    assert replayed(house.store.journal) == house.backlog
