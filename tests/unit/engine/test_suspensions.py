"""SUSPEND and CONTINUE: durable before any signal, refused with advice, and repeated after a restart."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.errors import StoreFailed, WrongState
from taskqd.execution.run import Outcome
from taskqd.model.events import Cancelled, Continued, Ended, Event, Started, Submitted, Suspended
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, running
from tests.fakes.processes import COMPLETED, RUNNER

Act = Callable[[Harness, int], "Deferred[Job]"]
ACTS = pytest.mark.parametrize("act", [Harness.suspend, Harness.continue_])


def changed(harness: Harness) -> list[Event]:
    """Return the suspensions and continuations that are recorded."""
    return [event for event in harness.journal.events if isinstance(event, Suspended | Continued)]


def refusal(answer: "Deferred[Job]") -> str:
    error = error_of(answer)
    assert isinstance(error, WrongState)
    return str(error)


# Durable first.


def test_signal_is_sent_when_the_suspension_is_durable() -> None:
    harness = opened()
    harness.submit()
    answer = harness.suspend(1)
    assert (harness.executor.suspensions, answer.called) == ([], False)
    harness.settle()
    assert harness.executor.suspensions == [(1, True)]
    assert result_of(answer).suspended_at == START
    harness.continue_(1)
    assert harness.executor.suspensions == [(1, True)]
    harness.settle()
    assert harness.executor.suspensions == [(1, True), (1, False)]
    assert changed(harness) == [Suspended(id=1, at=START, by="ada"), Continued(id=1, at=START, by="ada")]


def test_suspension_that_cannot_be_recorded_fails_and_signals_nothing() -> None:
    harness = opened()
    harness.submit()
    answer = harness.suspend(1)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert (harness.executor.suspensions, harness.job(1).suspended_at) == ([], None)


def test_repeated_suspension_and_continuation_record_nothing() -> None:
    harness = opened()
    harness.submit()
    assert result_of(harness.continue_(1)) is harness.job(1)
    harness.suspend(1)
    harness.settle()
    assert result_of(harness.suspend(1)) is harness.job(1)
    assert len(changed(harness)) == 1
    assert harness.journal.pending == []


# Refusals.


def test_pending_job_is_refused_with_advice() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.submit(hold=True)
    text = refusal(harness.suspend(2))
    assert text == (
        "job 2 is PENDING; `taskq suspend` is only for jobs that run; `taskq hold 2` keeps it from starting"
    )
    assert refusal(harness.continue_(2)) == "job 2 is PENDING; `taskq continue` is only for jobs that run"
    assert refusal(harness.continue_(3)).endswith("; `taskq release 3` lets it start")


@ACTS
def test_ended_job_is_refused(act: Act) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    assert "job 1 is COMPLETED" in refusal(act(harness, 1))


def test_job_that_is_being_cancelled_is_not_suspended() -> None:
    harness = opened()
    harness.submit()
    harness.cancel(1)
    harness.settle()
    assert refusal(harness.suspend(1)) == "job 1 cannot be suspended: it is being cancelled"


@pytest.mark.parametrize("options", [{}, {"array": Array(1, 2)}])
def test_job_whose_runner_cannot_suspend_is_refused_with_the_reason(options: dict[str, Any]) -> None:
    harness = opened()
    harness.submit(**options)
    job_id = running(harness)[-1]
    harness.executor.obstacles[job_id] = "its runner is of release 0.9.0"
    text = refusal(harness.suspend(1))
    assert text == f"job {job_id} cannot be suspended: its runner is of release 0.9.0"
    assert harness.executor.suspensions == []


# Slots, cancels and ends.


def test_suspended_job_keeps_its_slot() -> None:
    harness = opened(1)
    harness.submit()
    harness.suspend(1)
    harness.settle()
    harness.submit()
    assert (running(harness), harness.engine.dispatcher.busy) == ([1], 1)


def test_cancel_of_a_suspended_job_signals_it_and_ends_the_suspension() -> None:
    harness = opened()
    harness.submit()
    harness.suspend(1)
    harness.settle()
    harness.cancel(1)
    harness.settle()
    assert harness.executor.signals == [(1, Reason.CANCELLED, 15)]
    assert harness.job(1).suspended_at is None


def test_retry_of_a_suspended_job_runs() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.suspend(1)
    harness.settle()
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, suspended=7.5))
    harness.clock.advance(2)
    harness.settle()
    assert (running(harness), harness.job(1).attempts, harness.job(1).suspended_at) == ([1], 2, None)
    [end] = [event for event in harness.journal.events if isinstance(event, Ended)]
    assert end.suspended == 7.5


def test_lost_attempt_was_suspended_from_its_suspension_on() -> None:
    harness = opened()
    harness.submit()
    harness.clock.advance(2)
    harness.suspend(1)
    harness.settle()
    harness.clock.advance(5)
    harness.finish(1, Outcome(reason=Reason.INTERRUPTED, is_lost=True))
    [end] = [event for event in harness.journal.events if isinstance(event, Ended)]
    assert end.suspended == 5.0


# Arrays.


def array(slots: int = 2, count: int = 4) -> Harness:
    """Return a harness in which the first tasks of array 1 run."""
    harness = opened(slots)
    harness.submit(array=Array(1, count))
    return harness


def test_suspended_array_stops_its_running_tasks_and_starts_no_other() -> None:
    harness = array()
    assert running(harness) == [2, 3]
    harness.suspend(1)
    harness.settle()
    assert harness.executor.suspensions == [(2, True), (3, True)]
    harness.finish(2)
    assert running(harness) == [3]
    harness.continue_(1)
    harness.settle()
    assert harness.executor.suspensions[2:] == [(3, False)]
    assert running(harness) == [3, 4]


def test_array_that_has_not_started_is_refused() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit(array=Array(1, 2))
    assert "`taskq hold 2` keeps it from starting" in refusal(harness.suspend(2))


def test_array_of_which_no_task_runs_now_is_suspended() -> None:
    harness = opened(1)
    harness.submit(array=Array(1, 2), retries=1, retry_delay=600.0)
    harness.finish(2)
    harness.finish(3, Outcome(reason=Reason.EXIT, exit_code=1))
    assert running(harness) == []
    harness.suspend(1)
    harness.settle()
    harness.clock.advance(1200)
    harness.settle()
    assert running(harness) == []
    assert refusal(harness.continue_(3)).endswith("; `taskq continue 1` lets its array go on")
    harness.continue_(1)
    harness.settle()
    assert running(harness) == [3]


def test_task_that_was_continued_alone_is_suspended_with_its_array_again() -> None:
    harness = array()
    harness.suspend(1)
    harness.settle()
    harness.continue_(2)
    harness.settle()
    assert result_of(harness.suspend(3)) is harness.job(3)
    harness.suspend(1)
    harness.settle()
    assert [harness.job(each).suspended_at for each in (1, 2, 3)] == [START] * 3
    assert result_of(harness.suspend(1)) is harness.job(1)
    assert len(changed(harness)) == 3


def test_single_task_is_suspended_alone() -> None:
    harness = array()
    harness.suspend(3)
    harness.settle()
    harness.finish(2)
    assert running(harness) == [3, 4]
    harness.continue_(1)
    harness.settle()
    assert harness.executor.suspensions == [(3, True), (3, False)]


# Restarts.


def restarted(*events: Event) -> Harness:
    before: list[Event] = [
        Submitted(id=1, at=START, owner="ada", command="true"),
        Started(id=1, at=START, attempt=1, word="00c0ffee00c0ffee", runner=RUNNER),
        *events,
    ]
    harness = Harness(1, events=before)
    harness.engine.dispatcher.adopt_running()
    harness.engine.start()
    return harness


def test_suspension_is_repeated_after_a_restart() -> None:
    harness = restarted(Suspended(id=1, at=START, by="ada"))
    assert harness.executor.suspensions == [(1, True)]
    harness.finish(1, COMPLETED)
    assert harness.job(1).status is Status.COMPLETED


def test_cancel_of_a_suspended_job_is_repeated_after_a_restart_without_the_suspension() -> None:
    harness = restarted(Suspended(id=1, at=START, by="ada"), Cancelled(id=1, at=START, by="ada", signal=15))
    assert (harness.executor.suspensions, harness.executor.signals) == ([], [(1, Reason.CANCELLED, 15)])


def test_continued_job_is_not_suspended_after_a_restart() -> None:
    harness = restarted(Suspended(id=1, at=START, by="ada"), Continued(id=1, at=START, by="ada"))
    assert harness.executor.suspensions == []


# Many jobs.


def test_suspension_of_many_jobs_leaves_those_alone_that_do_not_run() -> None:
    harness = opened(2)
    for _ in range(3):
        harness.submit()
    commands = harness.engine.job_commands
    outcome = begin(commands.carry_out_all([1, 2, 3], commands.acts.suspend(ACTOR)))
    harness.settle()
    changed_count, refusals = result_of(outcome)
    assert (changed_count, list(refusals)) == (2, [3])
    assert harness.executor.suspensions == [(1, True), (2, True)]
