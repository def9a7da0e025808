"""The commands for pending jobs: hold, release, change; also before a start is durable."""

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
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running
from tests.fakes.processes import FAILED, RUNNER, lost

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED

Act = Callable[[Harness, int], "Deferred[Job]"]


def change(harness: Harness, job_id: int) -> "Deferred[Job]":
    return harness.change(job_id, label="other")


ACTS = pytest.mark.parametrize("act", [Harness.hold, Harness.release, change])


def reason(harness: Harness, job_id: int) -> Reason | None:
    return harness.queue_state.reason(harness.job(job_id), harness.clock.elapsed())


def waiting(**options: Any) -> Harness:
    """Return a harness with one slot, in which job 1 runs and job 2 is pending."""
    harness = opened(1)
    harness.submit()
    harness.submit(**options)
    return harness


# Durable first.


@ACTS
def test_command_fires_when_it_is_durable(act: Act) -> None:
    harness = waiting(hold=act is Harness.release)
    before = replayed(harness.journal.events)
    answer = act(harness, 2)
    assert not answer.called
    assert harness.queue_state == before
    harness.settle()
    assert result_of(answer) is harness.job(2)
    assert harness.queue_state == replayed(harness.journal.events) != before


@ACTS
def test_command_that_cannot_be_recorded_fails_and_changes_nothing(act: Act) -> None:
    harness = waiting(hold=act is Harness.release)
    before = replayed(harness.journal.events)
    answers = [act(harness, 2), act(harness, 2)]
    harness.journal.fail()
    answers.append(act(harness, 2))
    assert all(isinstance(error_of(answer), StoreFailed) for answer in answers)
    assert harness.queue_state == before
    harness.journal.recover()
    again = act(harness, 2)
    harness.settle()
    result_of(again)


def test_command_records_the_user_and_the_time() -> None:
    harness = waiting()
    harness.clock.advance(2)
    harness.hold(2)
    harness.release(2)
    harness.change(2, priority=3)
    harness.settle()
    assert harness.journal.events[-3:] == [
        Held(id=2, at=START + 2, by="ada"),
        Released(id=2, at=START + 2, by="ada"),
        Changed(id=2, at=START + 2, by="ada", command="true", spec=Spec(priority=3)),
    ]


@ACTS
def test_command_for_a_job_that_has_started_is_refused(act: Act) -> None:
    harness = opened()
    harness.submit()
    assert isinstance(error_of(act(harness, 1)), WrongState)
    harness.finish(1)
    assert isinstance(error_of(act(harness, 1)), WrongState)
    assert isinstance(error_of(act(harness, 2)), NoSuchJob)
    harness.remove(1)
    harness.settle()
    assert isinstance(error_of(act(harness, 1)), Gone)
    assert harness.journal.pending == []


# HOLD and RELEASE.


def test_held_job_starts_when_it_is_released() -> None:
    harness = waiting()
    harness.hold(2)
    harness.settle()
    assert reason(harness, 2) is Reason.HELD
    harness.finish(1)
    assert running(harness) == []
    harness.release(2)
    assert running(harness) == []
    harness.settle()
    assert running(harness) == [2]


def test_job_submitted_as_held_starts_when_it_is_released() -> None:
    harness = opened()
    harness.submit(hold=True)
    assert running(harness) == []
    harness.release(1)
    harness.settle()
    assert running(harness) == [1]


def test_release_ends_a_delay_and_the_wait_for_a_retry() -> None:
    harness = opened()
    harness.submit(delay=100.0)
    harness.submit(retries=1, retry_delay=100.0)
    harness.finish(2, FAILED)
    harness.release(1)
    harness.release(2)
    harness.settle()
    assert running(harness) == [1, 2]


def test_command_without_effect_records_nothing() -> None:
    harness = waiting()
    assert result_of(harness.release(2)) is harness.job(2)
    harness.hold(2)
    harness.settle()
    assert result_of(harness.hold(2)) is harness.job(2)
    assert harness.journal.pending == []


def test_held_job_is_held_after_a_restart_and_can_be_cancelled() -> None:
    harness = waiting()
    harness.hold(2)
    harness.settle()
    again = Harness(events=harness.journal.events)
    again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
    again.engine.start()
    again.settle()
    assert running(again) == []
    assert reason(again, 2) is Reason.HELD
    again.cancel(2)
    again.settle()
    assert again.job(2).status is CANCELLED


# SET.


def test_changed_job_runs_with_the_new_options() -> None:
    harness = waiting(command="sleep 1", timeout=3.0)
    harness.change(2, timeout=None, kill_after=7.0)
    harness.settle()
    harness.finish(1)
    run = harness.executor.runs[-1]
    assert (run.id, run.timeout, run.kill_after) == (2, None, 7.0)
    assert "sleep 1" in run.argv[-1]


def test_changed_priority_changes_the_order() -> None:
    harness = waiting()
    for _ in range(2):
        harness.submit()
    harness.change(4, priority=1)
    harness.change(2, priority=-1)
    harness.settle()
    for job_id in (1, 4, 3, 2):
        assert running(harness) == [job_id]
        harness.finish(job_id)


def test_job_changed_to_demand_less_starts_at_once() -> None:
    harness = opened(3)
    harness.submit(slots=2)
    harness.submit(slots=2)
    harness.change(2, slots=1)
    harness.settle()
    assert running(harness) == [1, 2]


def test_job_moved_to_a_queue_with_free_slots_starts_at_once() -> None:
    harness = opened(3, queues={"small": 1})
    harness.submit(queue="small")
    harness.submit(queue="small")
    harness.change(2, queue="other")
    harness.settle()
    assert running(harness) == [1, 2]
    assert harness.queue_state.describe_queue("other")["running"] == 1


def test_change_with_which_the_job_could_never_start_is_refused() -> None:
    harness = waiting()
    assert isinstance(error_of(harness.change(2, slots=2)), BadRequest)
    assert isinstance(error_of(harness.change(2, needs={"gpu": 1})), BadRequest)
    assert harness.journal.pending == []


@pytest.mark.parametrize("values", [{"merge": True}, {"idle_timeout": 1.0}])
def test_change_that_contradicts_the_output_files_is_refused(values: dict[str, Any]) -> None:
    harness = waiting(stdout="/out", stderr="/err")
    assert isinstance(error_of(harness.change(2, **values)), BadRequest)
    assert harness.journal.pending == []


@pytest.mark.parametrize("values", [{"delay": 10.0}, {"at": START + 15.0}])
def test_changed_delay_counts_from_now_and_at_is_absolute(values: dict[str, float]) -> None:
    harness = opened()
    harness.submit(delay=100.0)
    harness.clock.advance(5)
    harness.change(1, **values)
    harness.settle()
    assert (harness.job(1).not_before, reason(harness, 1)) == (START + 15.0, Reason.DELAYED)
    harness.clock.advance(9.9)
    harness.settle()
    assert running(harness) == []
    harness.clock.advance(0.2)
    harness.settle()
    assert running(harness) == [1]


@pytest.mark.parametrize("values", [{"delay": None}, {"at": None}, {"at": START - 5.0}, {"delay": 0.0}])
def test_removed_delay_lets_the_job_start(values: dict[str, float | None]) -> None:
    harness = opened()
    harness.submit(delay=100.0)
    harness.change(1, **values)
    harness.settle()
    assert running(harness) == [1]


def test_time_ended_by_a_release_can_be_set_again() -> None:
    harness = waiting(at=START + 50.0)
    harness.release(2)
    harness.change(2, at=START + 50.0)
    harness.settle()
    assert harness.job(2).not_before == START + 50.0


def test_released_task_is_not_delayed_again_by_another_change_of_its_array() -> None:
    harness = opened(4)
    harness.submit(array=Array(1, 2), at=START + 50.0, hold=True)
    harness.pause()
    harness.settle()
    harness.release(2)
    harness.change(1, priority=3)
    harness.settle()
    assert (harness.job(2).not_before, harness.job(3).not_before) == (None, START + 50.0)
    harness.change(1, at=START + 90.0)
    harness.settle()
    assert (harness.job(2).not_before, harness.job(3).not_before) == (START + 90.0, START + 90.0)


def test_time_replaces_a_delay_and_a_delay_replaces_a_time() -> None:
    harness = opened()
    harness.submit(delay=100.0)
    harness.change(1, at=START + 50.0)
    harness.settle()
    assert (harness.job(1).spec.at, harness.job(1).spec.delay) == (START + 50.0, None)
    harness.change(1, delay=20.0)
    harness.settle()
    assert harness.job(1).not_before == START + 20.0


def test_other_changes_keep_the_time() -> None:
    harness = opened()
    harness.submit(delay=10.0)
    harness.submit(retries=1, retry_delay=10.0)
    harness.finish(2, FAILED)
    for job_id in (1, 2):
        harness.change(job_id, priority=1)
    harness.settle()
    assert [harness.job(job_id).not_before for job_id in (1, 2)] == [START + 10.0] * 2
    harness.clock.advance(10)
    harness.settle()
    assert running(harness) == [1, 2]


def test_timer_follows_a_time_that_is_changed_to_an_earlier_one() -> None:
    harness = opened()
    harness.submit(delay=100.0)
    harness.change(1, delay=1.0)
    harness.settle()
    harness.clock.advance(1)
    harness.settle()
    assert running(harness) == [1]


def test_key_compares_the_submission_before_changes() -> None:
    harness = opened()
    harness.submit("true", key="k", hold=True)
    for priority in (1, 2):
        harness.change(1, priority=priority)
        harness.settle()
    assert harness.submit("true", key="k", hold=True) == 1
    again = Harness(events=harness.journal.events)
    assert again.submit("true", key="k", hold=True) == 1
    other = again.begin_submit("true", key="k", hold=True, priority=2)
    assert isinstance(error_of(other), TaskqError)


# A start that is not durable yet.


@ACTS
def test_command_before_the_start_is_durable_is_refused(act: Act) -> None:
    harness = opened()
    harness.begin_submit(hold=False)
    harness.journal.sync()
    assert [type(event) for event in harness.journal.pending] == [Started]
    answer = act(harness, 1)
    harness.settle()
    assert isinstance(error_of(answer), WrongState)
    assert running(harness) == [1]
    assert harness.job(1).spec.label is None


def test_job_does_not_start_while_its_hold_is_not_durable() -> None:
    harness = waiting()
    harness.submit()
    held = harness.hold(2)
    harness.executor.finish(1)
    harness.settle()
    assert result_of(held).is_held
    assert running(harness) == [3]
    harness.finish(3)
    harness.release(2)
    harness.settle()
    assert running(harness) == [2]
    assert harness.job(2).attempts == 1


@pytest.mark.parametrize("values", [{"label": "other"}, {"priority": 5}, {"timeout": 3.0}])
def test_job_starts_with_a_change_that_was_not_durable_yet(values: dict[str, Any]) -> None:
    harness = waiting()
    harness.change(2, **values)
    harness.executor.finish(1)
    harness.settle()
    assert running(harness) == [2]
    [(name, value)] = values.items()
    assert getattr(harness.job(2).spec, name) == value
    kinds = [type(event) for event in harness.journal.events if getattr(event, "id", None) == 2]
    assert kinds.index(Changed) < kinds.index(Started)


def test_job_changed_to_demand_more_releases_its_allocation() -> None:
    harness = opened(2)
    for _ in range(3):
        harness.submit()
    harness.change(3, slots=2)
    harness.executor.finish(1)
    harness.settle()
    assert running(harness) == [2]
    harness.submit()
    assert running(harness) == [2, 4]
    harness.finish(2)
    harness.finish(4)
    assert running(harness) == [3]


def test_job_does_not_start_while_its_delay_is_not_durable() -> None:
    harness = waiting()
    harness.change(2, delay=10.0)
    harness.executor.finish(1)
    harness.settle()
    assert running(harness) == []
    harness.clock.advance(10)
    harness.settle()
    assert running(harness) == [2]


def test_hold_and_cancel_in_either_order() -> None:
    harness = waiting()
    first, second = harness.hold(2), harness.cancel(2)
    harness.settle()
    assert (result_of(first).status, result_of(second).status) == (CANCELLED, CANCELLED)
    harness = waiting()
    first, second = harness.cancel(2), harness.hold(2)
    harness.settle()
    assert result_of(first).status is CANCELLED
    assert isinstance(error_of(second), WrongState)


# Arrays.


def array(slots: int = 1, **options: Any) -> Harness:
    harness = opened(slots)
    harness.submit(array=Array(1, 3), **options)
    return harness


def test_array_is_held_and_released_except_for_started_tasks() -> None:
    harness = array()
    harness.hold(1)
    harness.settle()
    harness.finish(2)
    assert running(harness) == []
    harness.release(1)
    harness.settle()
    assert running(harness) == [3]


def test_single_task_may_be_held_and_released() -> None:
    harness = array()
    harness.hold(3)
    harness.settle()
    harness.finish(2)
    assert running(harness) == [4]
    harness.finish(4)
    harness.release(3)
    harness.settle()
    assert running(harness) == [3]


def test_single_task_of_a_held_array_may_be_released() -> None:
    harness = array(hold=True)
    harness.release(3)
    harness.settle()
    assert running(harness) == [3]
    harness.finish(3)
    assert running(harness) == []
    again = harness.hold(1)
    assert result_of(again).is_held
    assert harness.journal.pending == []


def test_change_of_an_array_changes_all_pending_tasks() -> None:
    harness = array()
    harness.change(1, label="other")
    harness.settle()
    assert [harness.job(job_id).spec.label for job_id in (1, 2, 3, 4)] == ["other", None, "other", "other"]
    assert [type(event) for event in harness.journal.events].count(Changed) == 1


def test_change_of_a_single_task_is_refused() -> None:
    harness = array()
    assert isinstance(error_of(harness.change(3, label="other")), WrongState)


@pytest.mark.parametrize(
    "act, command", [(Harness.hold, "hold"), (Harness.release, "release"), (change, "set")]
)
def test_refusal_names_the_command_that_the_user_called(act: Act, command: str) -> None:
    harness = waiting()
    assert str(error_of(act(harness, 1))) == (
        f"job 1 is RUNNING; `taskq {command}` is only for jobs that have not started"
    )


@pytest.mark.parametrize(
    "job_id, text",
    [
        (2, "job 2 is RUNNING; `taskq move` is only for jobs that have not started"),
        (3, "job 3 cannot be changed: it is a task of array 1; `taskq move 1` changes all tasks"),
    ],
)
def test_change_by_another_command_names_that_in_its_refusal(job_id: int, text: str) -> None:
    commands = array().engine.job_commands
    change = commands.change(job_id, ACTOR, {"label": "other"}, command="move")
    assert str(error_of(Deferred.fromCoroutine(change))) == text


@ACTS
def test_command_for_an_array_without_pending_tasks_is_refused(act: Act) -> None:
    harness = array(3)
    assert isinstance(error_of(act(harness, 1)), WrongState)


def test_hold_of_an_array_waits_for_a_start_that_is_not_durable() -> None:
    harness = opened(1)
    harness.begin_submit(array=Array(1, 2))
    harness.journal.sync()
    assert harness.journal.pending == [Started(id=2, at=START, attempt=1, runner=RUNNER)]
    harness.hold(1)
    assert len(harness.journal.pending) == 1
    harness.settle()
    assert [harness.job(job_id).is_held for job_id in (2, 3)] == [False, True]


def test_release_of_an_array_ends_its_delay() -> None:
    harness = array(delay=100.0)
    assert reason(harness, 1) is Reason.DELAYED
    harness.release(1)
    harness.settle()
    assert running(harness) == [2]
    assert harness.job(1).not_before is None
    harness = array(0, delay=100.0)
    harness.change(1, delay=50.0)
    harness.settle()
    assert harness.job(1).not_before == START + 50.0
