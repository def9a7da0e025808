"""What is decided about queues and schedules: durable before it is told, and in force from then on."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine.submissions import NewJob
from taskqd.errors import BadRequest, NoSuchJob, StoreFailed
from taskqd.model.events import Paused, Resized, Resumed, Scheduled, Started, Unscheduled
from taskqd.model.job import Status
from taskqd.model.spec import DEFAULT_SPEC, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running

Decision = Callable[[Harness], "Deferred[Any]"]

DECISIONS: dict[str, Decision] = {
    "pause of all": lambda harness: harness.pause(),
    "pause of a queue": lambda harness: harness.pause("other"),
    "pause of a schedule": lambda harness: harness.pause(schedule=1),
    "end of a pause": lambda harness: harness.resume("paused"),
    "slots": lambda harness: harness.resize("other", 3),
    "schedule": lambda harness: harness.schedule(),
    "end of a schedule": lambda harness: harness.unschedule(1),
}
EVERY_DECISION = pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)


def settled(harness: Harness) -> Harness:
    """Return a house with a schedule and a paused queue."""
    harness.schedule()
    harness.pause("paused")
    harness.settle()
    return harness


# Disk before word.


@EVERY_DECISION
def test_a_decision_is_told_once_it_is_durable_and_not_before(decide: Decision) -> None:
    harness = settled(opened())
    before = replayed(harness.journal.events)
    answer = decide(harness)
    assert not answer.called
    assert harness.queue_state == before
    harness.settle()
    result_of(answer)
    assert harness.queue_state == replayed(harness.journal.events) != before


@EVERY_DECISION
def test_a_decision_that_a_failed_store_cannot_record_is_refused_and_nothing_has_changed(
    decide: Decision,
) -> None:
    harness = settled(opened())
    before = replayed(harness.journal.events)
    answers = [decide(harness)]
    harness.journal.fail()
    answers.append(decide(harness))
    assert all(isinstance(error_of(answer), StoreFailed) for answer in answers)
    assert harness.queue_state == before
    harness.journal.recover()
    again = decide(harness)
    harness.settle()
    result_of(again)


def test_who_and_when_is_recorded() -> None:
    harness = opened()
    harness.clock.advance(1)
    harness.pause("a")
    harness.resume()
    harness.resize("a", 0)
    harness.schedule(60.0, label="x")
    harness.settle()
    harness.pause(schedule=1)
    harness.unschedule(1)
    harness.settle()
    at = START + 1
    assert harness.journal.events == [
        Paused(at=at, by="ada", queue="a"),
        Resumed(at=at, by="ada"),
        Resized(at=at, by="ada", queue="a", slots=0),
        Scheduled(schedule=1, at=at, by="ada", command="true", spec=Spec(label="x"), every=60.0),
        Paused(at=at, by="ada", schedule=1),
        Unscheduled(schedule=1, at=at, by="ada"),
    ]


@EVERY_DECISION
def test_a_decision_holds_after_a_restart(decide: Decision) -> None:
    harness = settled(opened())
    decide(harness)
    harness.settle()
    again = Harness(events=harness.journal.events)
    assert again.queue_state == harness.queue_state
    assert list(again.queue_state.describe_queues()) == list(harness.queue_state.describe_queues())


# Pauses.


def test_of_a_paused_queue_nothing_starts_and_what_runs_goes_on() -> None:
    harness = opened(2)
    harness.submit(queue="a")
    harness.pause("a")
    harness.settle()
    harness.submit(queue="a")
    harness.submit(queue="b")
    assert running(harness) == [1, 3]
    harness.finish(1)
    assert running(harness) == [3]
    answer = harness.resume("a")
    assert running(harness) == [3]
    harness.settle()
    result_of(answer)
    assert running(harness) == [2, 3]


def test_the_pause_of_everything_and_that_of_a_queue_do_not_know_each_other() -> None:
    harness = opened(2)
    harness.pause()
    harness.pause("a")
    harness.settle()
    harness.submit(queue="a")
    harness.submit(queue="b")
    harness.resume()
    harness.settle()
    assert running(harness) == [2]
    harness.pause()
    harness.resume("a")
    harness.settle()
    assert running(harness) == [2]
    harness.resume()
    harness.settle()
    assert running(harness) == [1, 2]


def test_a_start_that_is_on_its_way_when_the_pause_comes_becomes_true_and_the_next_does_not() -> None:
    harness = opened(2)
    harness.asked()
    harness.journal.sync()
    assert harness.journal.pending == [Started(id=1, at=START, attempt=1)]
    paused = harness.pause("default")
    harness.asked()
    harness.settle()
    result_of(paused)
    assert running(harness) == [1]
    harness.resume("default")
    harness.settle()
    assert running(harness) == [1, 2]


def test_no_start_is_recorded_behind_a_pause_that_is_on_its_way() -> None:
    harness = opened(2)
    paused = harness.pause()
    harness.asked()
    harness.journal.sync(2)
    result_of(paused)
    assert harness.journal.pending == []
    harness.settle()
    assert running(harness) == []


def test_a_pause_that_cannot_be_recorded_keeps_nothing_from_its_start() -> None:
    harness = opened(2)
    harness.asked()
    paused = harness.pause("default")
    harness.journal.sync()
    harness.journal.fail()
    assert isinstance(error_of(paused), StoreFailed)
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1]


def test_a_job_that_was_given_room_but_waits_for_its_turn_does_not_start_in_a_pause() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.pause("default")
    harness.change(2, label="other")
    harness.executor.finish(1)
    harness.settle()
    assert running(harness) == []
    harness.resume("default")
    harness.settle()
    assert running(harness) == [2]


def test_a_delayed_job_that_becomes_due_in_a_pause_starts_after_it() -> None:
    harness = opened()
    harness.submit(delay=5.0)
    harness.pause()
    harness.settle()
    harness.clock.advance(10)
    harness.settle()
    assert running(harness) == []
    harness.resume()
    harness.settle()
    assert running(harness) == [1]


# A queue's slots.


def test_fewer_slots_than_jobs_run_end_nothing_and_start_nothing_until_there_is_room() -> None:
    harness = opened(4)
    for _ in range(5):
        harness.submit(queue="a")
    harness.resize("a", 2)
    harness.settle()
    assert running(harness) == [1, 2, 3, 4]
    assert harness.executor.signals == []
    for job_id in (1, 2):
        harness.finish(job_id)
    assert running(harness) == [3, 4]
    harness.finish(3)
    assert running(harness) == [4, 5]


@pytest.mark.parametrize("slots, most", [(3, 3), (0, 4), (None, 1)])
def test_more_slots_are_taken_at_once_none_is_no_limit_and_the_settings_may_say_again(
    slots: int | None, most: int
) -> None:
    harness = opened(4, queues={"a": 1})
    for _ in range(4):
        harness.submit(queue="a")
    assert running(harness) == [1]
    harness.resize("a", 2)
    harness.settle()
    assert len(running(harness)) == 2
    harness.resize("a", slots)
    harness.settle()
    assert len(running(harness)) == max(2, most)
    again = Harness(4, events=harness.journal.events, queues={"a": 1})
    assert again.queue_state.describe_queue("a")["slots"] == {3: 3, 0: None, None: 1}[slots]


def test_a_job_that_wants_more_slots_than_its_queue_has_now_waits_for_more_of_them() -> None:
    harness = opened(4)
    harness.resize("a", 3)
    harness.pause("a")
    harness.settle()
    harness.submit(queue="a", slots=3)
    harness.resize("a", 2)
    harness.resume("a")
    harness.settle()
    assert running(harness) == []
    assert isinstance(error_of(harness.asked(queue="a", slots=3)), BadRequest)
    harness.resize("a", 0)
    harness.settle()
    assert running(harness) == [1]


# Schedules.


def test_every_schedule_has_a_number_of_its_own_also_while_others_are_on_their_way() -> None:
    harness = opened()
    answers = [harness.schedule() for _ in range(3)]
    harness.settle()
    assert [result_of(answer) for answer in answers] == [1, 2, 3]
    assert list(harness.queue_state.schedules.by_id) == [1, 2, 3]


def test_a_number_is_never_used_twice() -> None:
    harness = opened()
    for number in (1, 2):
        harness.schedule()
        harness.settle()
        harness.unschedule(number)
        harness.settle()
    again = Harness(events=harness.journal.events)
    third = again.schedule()
    again.settle()
    assert result_of(third) == 3


def test_a_number_that_a_failed_store_refused_is_not_given_to_two() -> None:
    harness = opened()
    refused = harness.schedule()
    harness.journal.fail()
    assert isinstance(error_of(refused), StoreFailed)
    harness.journal.recover()
    answers = [harness.schedule() for _ in range(2)]
    harness.settle()
    assert len({result_of(answer) for answer in answers}) == 2


@pytest.mark.parametrize("act", [Harness.unschedule, lambda harness, number: harness.pause(schedule=number)])
def test_what_is_asked_of_a_schedule_that_ends_just_now_finds_none(
    act: Callable[[Harness, int], "Deferred[None]"],
) -> None:
    harness = settled(opened())
    ended, second = harness.unschedule(1), act(harness, 1)
    harness.settle()
    result_of(ended)
    assert isinstance(error_of(second), NoSuchJob)
    assert isinstance(error_of(act(harness, 7)), NoSuchJob)
    assert harness.journal.pending == []


def test_a_schedule_of_what_could_never_start_is_refused() -> None:
    harness = opened(2)
    assert isinstance(error_of(harness.schedule(slots=3)), BadRequest)
    assert harness.journal.pending == []


@pytest.mark.parametrize("every, cron", [(0.5, None), (None, "61 * * * *")])
def test_a_schedule_that_cannot_be_is_refused_before_it_is_recorded(
    every: float | None, cron: str | None
) -> None:
    harness = opened()
    made = begin(harness.engine.queue_commands.schedule("true", DEFAULT_SPEC, ACTOR, every, cron, False))
    assert harness.journal.pending == []
    assert isinstance(error_of(made), BadRequest)


def test_who_looks_after_schedules_is_told_of_each_change_once_it_is_true() -> None:
    harness = opened()
    told: list[tuple[int, ...]] = []
    schedules = harness.queue_state.schedules.by_id
    harness.engine.queue_commands.add_schedule_observer(lambda: told.append(tuple(schedules)))
    harness.schedule()
    harness.settle()
    harness.pause(schedule=1)
    harness.resume(schedule=1)
    harness.unschedule(1)
    assert told == [(1,)]
    harness.settle()
    assert told == [(1,), (1,), (1,), ()]


def test_what_a_schedule_has_submitted_goes_on_when_it_ends() -> None:
    harness = settled(opened())
    answer = harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    harness.settle()
    job_id = result_of(answer)
    assert harness.job(job_id).schedule == 1
    harness.unschedule(1)
    harness.settle()
    harness.finish(job_id)
    assert harness.job(job_id).status is Status.COMPLETED
    assert replayed(harness.journal.events) == harness.queue_state


def test_a_run_of_a_schedule_that_has_just_ended_is_a_job_like_any_other() -> None:
    harness = settled(opened())
    harness.unschedule(1)
    answer = harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    harness.settle()
    assert running(harness) == [result_of(answer)]
    assert replayed(harness.journal.events) == harness.queue_state
