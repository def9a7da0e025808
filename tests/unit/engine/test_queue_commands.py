"""The commands for queues and schedules: durable first, then in effect."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.config.limits import UNBOUNDED
from taskqd.engine.submissions import NewJob
from taskqd.errors import BadRequest, NoSuchJob, StoreFailed
from taskqd.model.events import Paused, Resized, Resumed, Scheduled, Started, Unscheduled
from taskqd.model.job import Status
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.state.capacity import SLOTS
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running
from tests.fakes.processes import RUNNER

Command = Callable[[Harness], "Deferred[Any]"]

DECISIONS: dict[str, Command] = {
    "pause of all": lambda harness: harness.pause(),
    "pause of a queue": lambda harness: harness.pause("other"),
    "pause of a schedule": lambda harness: harness.pause(schedule=1),
    "end of a pause": lambda harness: harness.resume("paused"),
    "slots": lambda harness: harness.resize("other", 3),
    "slots of the daemon": lambda harness: harness.set_slots(3),
    "schedule": lambda harness: harness.schedule(),
    "change of a schedule": lambda harness: harness.reschedule(command="false", every=90.0),
    "end of a schedule": lambda harness: harness.unschedule(1),
}
EVERY_DECISION = pytest.mark.parametrize("command", DECISIONS.values(), ids=DECISIONS)


def settled(harness: Harness) -> Harness:
    """Return a harness with a schedule and a paused queue."""
    harness.schedule()
    harness.pause("paused")
    harness.settle()
    return harness


# Durable first.


@EVERY_DECISION
def test_command_fires_when_it_is_durable(command: Command) -> None:
    harness = settled(opened())
    before = replayed(harness.journal.events)
    answer = command(harness)
    assert not answer.called
    assert harness.queue_state == before
    harness.settle()
    result_of(answer)
    assert harness.queue_state == replayed(harness.journal.events) != before


@EVERY_DECISION
def test_command_that_cannot_be_recorded_fails_and_changes_nothing(
    command: Command,
) -> None:
    harness = settled(opened())
    before = replayed(harness.journal.events)
    answers = [command(harness)]
    harness.journal.fail()
    answers.append(command(harness))
    assert all(isinstance(error_of(answer), StoreFailed) for answer in answers)
    assert harness.queue_state == before
    harness.journal.recover()
    again = command(harness)
    harness.settle()
    result_of(again)


def test_command_records_the_user_and_the_time() -> None:
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
def test_command_is_in_effect_after_a_restart(command: Command) -> None:
    harness = settled(opened())
    command(harness)
    harness.settle()
    again = Harness(events=harness.journal.events)
    assert again.queue_state == harness.queue_state
    assert list(again.queue_state.describe_queues()) == list(harness.queue_state.describe_queues())


# Slots of the daemon.


def test_more_slots_start_waiting_jobs_at_once_and_fewer_end_none() -> None:
    harness = Harness(1)
    harness.engine.start()
    for _ in range(4):
        harness.submit()
    harness.settle()
    assert len(harness.executor.runs) == 1
    answer = harness.set_slots(3)
    harness.settle()
    assert (result_of(answer), len(harness.executor.runs)) == (3, 3)
    harness.set_slots(1)
    harness.settle()
    assert harness.queue_state.capacity.available(SLOTS) == -2
    answer = harness.set_slots(None)
    harness.settle()
    assert (result_of(answer), harness.queue_state.capacity.set_slots) == (1, None)


def test_slots_beyond_the_descriptors_are_refused_with_the_bound() -> None:
    harness = opened()
    error = error_of(harness.set_slots(10_001))
    assert isinstance(error, BadRequest)
    assert "LimitNOFILE of the unit) allows 10000 slots" in str(error)
    assert harness.journal.events == []


# Changes of schedules.


def test_reschedule_keeps_what_is_not_named_and_the_last_job() -> None:
    harness = opened()
    harness.schedule(60.0, label="x", retries=2, timeout=9.0)
    harness.settle()
    harness.engine.run_schedule(1, None, UNBOUNDED)
    harness.settle()
    harness.pause(schedule=1)
    harness.reschedule(values={"timeout": None, "queue": "q"}, overlap=True)
    harness.settle()
    schedule = harness.queue_state.schedules.get(1)
    assert (schedule.command, schedule.every, schedule.overlap) == ("true", 60.0, True)
    assert schedule.spec == Spec(label="x", retries=2, queue="q")
    assert (schedule.last_job, schedule.is_paused, schedule.owner) == (1, True, "ada")
    assert harness.queue_state == replayed(harness.journal.events)


def test_reschedule_that_contradicts_the_output_files_is_refused() -> None:
    harness = opened()
    harness.schedule(60.0, stderr="/err")
    harness.settle()
    assert isinstance(error_of(harness.reschedule(values={"merge": True})), BadRequest)
    harness.reschedule(values={"merge": True, "stderr": None})
    harness.settle()
    assert harness.queue_state.schedules.get(1).spec == Spec(merge=True)


def test_reschedule_replaces_an_interval_by_cron_fields() -> None:
    harness = opened()
    harness.schedule(60.0)
    harness.settle()
    harness.reschedule(cron="0 0 1 1 *", command="false")
    harness.settle()
    schedule = harness.queue_state.schedules.get(1)
    assert (schedule.every, schedule.cron, schedule.command) == (None, "0 0 1 1 *", "false")


def test_reschedule_that_is_not_accepted_changes_nothing() -> None:
    harness = opened()
    harness.schedule(60.0)
    harness.settle()
    before = list(harness.journal.events)
    assert isinstance(error_of(harness.reschedule(values={"slots": 9000})), BadRequest)
    assert isinstance(error_of(harness.reschedule(7, command="false")), NoSuchJob)
    assert harness.journal.events == before


# Pauses.


def test_paused_queue_starts_nothing_and_its_running_jobs_continue() -> None:
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


def test_pause_of_all_queues_and_of_one_queue_are_independent() -> None:
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


def test_start_recorded_before_a_pause_takes_effect_and_the_next_does_not() -> None:
    harness = opened(2)
    harness.begin_submit()
    harness.journal.sync()
    assert harness.journal.pending == [Started(id=1, at=START, attempt=1, runner=RUNNER)]
    paused = harness.pause("default")
    harness.begin_submit()
    harness.settle()
    result_of(paused)
    assert running(harness) == [1]
    harness.resume("default")
    harness.settle()
    assert running(harness) == [1, 2]


def test_no_start_is_recorded_after_a_pause_that_is_not_durable_yet() -> None:
    harness = opened(2)
    paused = harness.pause()
    harness.begin_submit()
    harness.journal.sync(2)
    result_of(paused)
    assert harness.journal.pending == []
    harness.settle()
    assert running(harness) == []


def test_pause_that_cannot_be_recorded_has_no_effect() -> None:
    harness = opened(2)
    harness.begin_submit()
    paused = harness.pause("default")
    harness.journal.sync()
    harness.journal.fail()
    assert isinstance(error_of(paused), StoreFailed)
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1]


def test_job_with_capacity_that_waits_for_its_lock_does_not_start_in_a_pause() -> None:
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


def test_delayed_job_that_becomes_due_in_a_pause_starts_after_it() -> None:
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


# Slots of a queue.


def test_fewer_slots_end_no_running_job_and_start_none_until_slots_are_free() -> None:
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
def test_more_slots_no_limit_and_the_configured_slots_take_effect_at_once(
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


def test_job_that_demands_more_slots_than_its_queue_has_waits() -> None:
    harness = opened(4)
    harness.resize("a", 3)
    harness.pause("a")
    harness.settle()
    harness.submit(queue="a", slots=3)
    harness.resize("a", 2)
    harness.resume("a")
    harness.settle()
    assert running(harness) == []
    assert isinstance(error_of(harness.begin_submit(queue="a", slots=3)), BadRequest)
    harness.resize("a", 0)
    harness.settle()
    assert running(harness) == [1]


# Schedules.


def test_each_schedule_has_a_different_number_before_others_are_durable() -> None:
    harness = opened()
    answers = [harness.schedule() for _ in range(3)]
    harness.settle()
    assert [result_of(answer) for answer in answers] == [1, 2, 3]
    assert list(harness.queue_state.schedules.by_id) == [1, 2, 3]


def test_number_of_a_schedule_is_not_reused() -> None:
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


def test_number_of_a_schedule_that_could_not_be_recorded_is_not_given_twice() -> None:
    harness = opened()
    refused = harness.schedule()
    harness.journal.fail()
    assert isinstance(error_of(refused), StoreFailed)
    harness.journal.recover()
    answers = [harness.schedule() for _ in range(2)]
    harness.settle()
    assert len({result_of(answer) for answer in answers}) == 2


@pytest.mark.parametrize("act", [Harness.unschedule, lambda harness, number: harness.pause(schedule=number)])
def test_command_after_an_unschedule_finds_no_schedule(
    act: Callable[[Harness, int], "Deferred[None]"],
) -> None:
    harness = settled(opened())
    ended, second = harness.unschedule(1), act(harness, 1)
    harness.settle()
    result_of(ended)
    assert isinstance(error_of(second), NoSuchJob)
    assert isinstance(error_of(act(harness, 7)), NoSuchJob)
    assert harness.journal.pending == []


def test_schedule_of_a_job_that_could_never_start_is_refused() -> None:
    harness = opened(2)
    assert isinstance(error_of(harness.schedule(slots=3)), BadRequest)
    assert harness.journal.pending == []


@pytest.mark.parametrize("every, cron", [(0.5, None), (None, "61 * * * *")])
def test_invalid_schedule_is_refused(every: float | None, cron: str | None) -> None:
    harness = opened()
    made = begin(harness.engine.queue_commands.schedule("true", DEFAULT_SPEC, ACTOR, every, cron, False))
    assert harness.journal.pending == []
    assert isinstance(error_of(made), BadRequest)


def test_schedule_observer_is_called_after_each_change() -> None:
    harness = opened()
    observed: list[tuple[int, ...]] = []
    schedules = harness.queue_state.schedules.by_id
    harness.engine.queue_commands.add_schedule_observer(lambda: observed.append(tuple(schedules)))
    harness.schedule()
    harness.settle()
    harness.pause(schedule=1)
    harness.resume(schedule=1)
    harness.unschedule(1)
    assert observed == [(1,)]
    harness.settle()
    assert observed == [(1,), (1,), (1,), ()]


def test_unschedule_leaves_submitted_jobs_alone() -> None:
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


def test_job_of_a_schedule_that_has_just_ended_is_accepted() -> None:
    harness = settled(opened())
    harness.unschedule(1)
    answer = harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    harness.settle()
    assert running(harness) == [result_of(answer)]
    assert replayed(harness.journal.events) == harness.queue_state
