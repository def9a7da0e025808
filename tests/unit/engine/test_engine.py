"""The engine: nothing is announced before it is durable, waiting for ends, failures, arrays."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from taskqd.errors import (
    Gone,
    StoreFailed,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Ended, Output, Spawned, Started, Submitted
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, running
from tests.fakes.processes import COMPLETED, FAILED, LARGE, RUNNER

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
INTERRUPTED = Outcome(reason=Reason.INTERRUPTED, signal=15)
TERM = signal.SIGTERM


# Durable first.


def test_submission_fires_when_it_is_durable() -> None:
    harness = opened()
    answer: Deferred[int] = harness.begin_submit("true")
    assert not answer.called
    assert harness.queue_state.jobs == {}
    harness.journal.sync()
    assert result_of(answer) == 1
    assert harness.statuses() == [PENDING]


def test_job_is_spawned_when_its_start_is_durable() -> None:
    harness = opened()
    harness.begin_submit("true")
    harness.journal.sync()
    assert harness.journal.pending == [Started(id=1, at=START, attempt=1, runner=RUNNER)]
    assert harness.executor.runs == []
    assert harness.statuses() == [PENDING]
    harness.journal.sync()
    assert [run.id for run in harness.executor.runs] == [1]
    assert harness.statuses() == [RUNNING]


def test_end_is_announced_when_it_is_durable() -> None:
    harness = opened()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.executor.finish(1)
    assert harness.statuses() == [RUNNING]
    assert not waiting.called
    harness.settle()
    assert result_of(waiting).status is Status.COMPLETED


def test_cancel_fires_and_signals_the_process_when_it_is_durable() -> None:
    harness = opened()
    harness.submit()
    answer = harness.cancel(1)
    assert not answer.called
    assert harness.executor.signals == []
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert harness.executor.signals == [(1, Reason.CANCELLED, TERM)]


def test_retry_fires_when_it_is_durable() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, FAILED)
    answer = harness.retry(1)
    assert not answer.called
    assert harness.statuses() == [Status.FAILED]
    harness.journal.sync()
    assert result_of(answer).status is PENDING


def test_life_of_a_job_is_recorded_in_order() -> None:
    harness = opened()
    harness.submit("echo hello", label="x")
    harness.clock.advance(1.5)
    harness.spool.percentages[1] = 40
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"hello\n")))
    assert harness.journal.events == [
        Submitted(id=1, at=START, owner="ada", command="echo hello", spec=Spec(label="x")),
        Started(id=1, at=START, attempt=1, runner=RUNNER),
        Spawned(id=1, at=START, pid=1001, started=77),
        Ended(
            id=1,
            at=START + 1.5,
            status=Status.COMPLETED,
            exit_code=0,
            progress=40,
            stdout=Output(size=6, text="hello\n"),
        ),
    ]
    assert harness.spool.closed_attempts == [1]


def test_output_limit_of_a_job_is_passed_to_the_runner() -> None:
    harness = opened()
    harness.submit(max_output=77)
    assert [start.max_output for start in harness.executor.runs] == [77]


def test_ids_continue_after_the_journal_s() -> None:
    harness = Harness(events=[Submitted(id=7, at=START, owner="ada", command="true")])
    assert harness.submit() == 8
    harness = Harness(next_id=20)
    assert harness.submit() == 20


# Waiting for ends.


def test_wait_fires_once_when_the_job_has_ended() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    waiting = [harness.engine.wait(1) for _ in range(3)]
    harness.finish(1, FAILED)
    harness.clock.advance(1)
    harness.settle()
    assert not any(waiter.called for waiter in waiting)
    harness.finish(1)
    assert [result_of(waiter).status for waiter in waiting] == [Status.COMPLETED] * 3
    assert result_of(harness.engine.wait(1)) is harness.job(1)


def test_wait_may_be_cancelled() -> None:
    harness = opened()
    harness.submit()
    gone, stays = harness.engine.wait(1), harness.engine.wait(1)
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    assert harness.engine.waiter_count == 1
    harness.finish(1)
    assert result_of(stays).id == 1
    assert harness.engine.waiter_count == 0


def test_waiter_may_cancel_other_waiters() -> None:
    harness = opened()
    harness.submit()
    waiters = [harness.engine.wait(1) for _ in range(5)]
    announced_ends: list[Deferred[Any]] = []
    errors: list[Any] = []

    def tell(job: Job, me: "Deferred[Job]") -> None:
        announced_ends.append(me)
        for other in waiters:
            if other is not me:
                other.cancel()

    for waiter in waiters:
        waiter.addCallback(tell, waiter)
        waiter.addErrback(errors.append)
    harness.finish(1)
    assert len(announced_ends) == 1
    assert len(errors) == 4
    assert harness.statuses() == [Status.COMPLETED]
    harness.submit()
    assert running(harness) == [2]


# A journal that fails.


def test_failed_journal_refuses_submissions_and_starts_nothing() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    pending = harness.begin_submit()
    harness.journal.fail()
    assert isinstance(error_of(pending), StoreFailed)
    assert isinstance(error_of(harness.begin_submit()), StoreFailed)
    harness.executor.finish(1)
    assert [run.id for run in harness.executor.runs] == [1]
    assert harness.statuses() == [RUNNING, PENDING]
    assert harness.engine.journal_stats() == {"failure": "the disk is full", "segment": 1, "segment_bytes": 4}


def test_job_whose_start_could_not_be_recorded_is_not_run_and_stays_in_the_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = opened(1)
    harness.begin_submit()
    harness.journal.sync()
    harness.journal.fail()
    assert harness.executor.runs == []
    assert harness.statuses() == [PENDING]
    assert harness.queue_state.next_job(harness.clock.elapsed()) is harness.job(1)
    assert "job 1 stays PENDING: the disk is full" in caplog.text


def test_end_that_could_not_be_recorded_is_not_announced() -> None:
    harness = opened()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.executor.finish(1)
    harness.journal.fail()
    assert not waiting.called
    assert harness.statuses() == [RUNNING]


@pytest.mark.parametrize("act", [Harness.cancel, Harness.retry])
def test_command_that_cannot_be_recorded_fails_and_changes_nothing(
    act: Callable[[Harness, int], "Deferred[Job]"],
) -> None:
    harness = opened()
    harness.submit()
    if act is Harness.retry:
        harness.finish(1)
    before = harness.job(1).status
    answer = act(harness, 1)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert isinstance(error_of(act(harness, 1)), StoreFailed)
    assert harness.job(1).status is before
    assert harness.executor.signals == []


def test_pid_that_could_not_be_recorded_is_ignored() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync(2)
    assert [type(event) for event in harness.journal.pending] == [Spawned]
    harness.journal.fail()
    assert running(harness) == [1]
    attempt = harness.job(1).attempt
    assert attempt is not None
    assert attempt.pid is None


def test_stop_with_a_failed_journal_fires() -> None:
    harness = opened()
    harness.submit()
    harness.journal.fail()
    stopped = harness.engine.dispatcher.stop(requeue=False)
    harness.executor.finish(1, INTERRUPTED)
    result_of(stopped)


def test_internal_error_in_a_start_releases_the_slot_and_is_logged(logged_errors: Any) -> None:
    harness = opened(1)
    start = harness.executor.start
    harness.executor.start = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    harness.submit()
    [failure] = logged_errors.flush(ZeroDivisionError)
    assert failure.getErrorMessage() == "division by zero"
    harness.executor.start = start  # type: ignore[method-assign]
    harness.submit()
    assert running(harness) == [2]


# Counters.


def test_counters_count_events() -> None:
    harness = opened(4)
    for _ in range(4):
        harness.submit()
    harness.finish(1)
    harness.finish(2, FAILED)
    harness.cancel(3)
    harness.settle()
    harness.finish(3, FAILED)
    harness.retry(1)
    harness.settle()
    assert harness.engine.counters == {
        "submitted": 4,
        "started": 5,
        "retried": 1,
        "removed": 0,
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
    }


# Observers.


def test_end_observer_is_called_for_each_end() -> None:
    harness = opened()
    announced_ends: list[list[Status]] = []
    harness.engine.add_end_observer(lambda _: announced_ends.append(harness.statuses()))
    harness.submit(retries=1)
    harness.submit()
    harness.finish(1, FAILED)
    harness.finish(2)
    harness.cancel(1)
    harness.settle()
    assert announced_ends == [[PENDING, Status.COMPLETED], [CANCELLED, Status.COMPLETED]]


# Arrays.


def announced_ends(harness: Harness) -> list[tuple[int, Status]]:
    """Return a list to which all ends are appended from now on."""
    ends: list[tuple[int, Status]] = []
    harness.engine.add_end_observer(lambda job: ends.append((job.id, job.status)))
    return ends


def test_array_is_one_record_with_an_id_for_each_task() -> None:
    harness = opened(9)
    first, second = harness.begin_submit(array=Array(1, 3)), harness.begin_submit()
    assert len(harness.journal.pending) == 2
    harness.settle()
    assert (result_of(first), result_of(second)) == (1, 5)
    assert running(harness) == [2, 3, 4, 5]
    again = Harness(events=harness.journal.events[:1])
    assert again.submit() == 5


def test_end_of_each_task_is_announced_and_then_that_of_the_array() -> None:
    harness = opened()
    harness.submit(array=Array(1, 3))
    ends = announced_ends(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (1, 2, 4)]
    harness.finish(2)
    assert [waiter.called for waiter in waiting] == [False, True, False]
    harness.finish(4)
    harness.finish(3, FAILED)
    assert all(waiter.called for waiter in waiting)
    completed, failed = Status.COMPLETED, Status.FAILED
    assert ends == [(2, completed), (4, completed), (3, failed), (1, failed)]


def test_cancel_of_an_array_is_one_event_and_each_end_is_counted_and_awaited() -> None:
    harness = opened(1)
    harness.submit(array=Array(1, 3))
    ends = announced_ends(harness)
    waiting = [harness.engine.wait(task) for task in (2, 4)]
    answer = harness.cancel(1)
    assert len(harness.journal.pending) == 1
    harness.settle()
    assert result_of(answer) is harness.job(1)
    assert harness.executor.signals == [(2, Reason.CANCELLED, TERM)]
    assert [waiter.called for waiter in waiting] == [False, True]
    assert (ends, harness.engine.waiter_count) == ([], 1)
    harness.finish(2, FAILED)
    assert waiting[0].called
    assert ends == [(2, CANCELLED), (1, CANCELLED)]
    assert harness.engine.counters["cancelled"] == 3


def test_cancel_of_a_pending_array_ends_it_at_once() -> None:
    harness = opened()
    harness.submit(array=Array(1, 3), hold=True)
    ends = announced_ends(harness)
    waiting = harness.engine.wait(1)
    harness.cancel(1)
    harness.settle()
    assert result_of(waiting).status is CANCELLED
    assert ends == [(1, CANCELLED)]


def test_single_task_may_be_cancelled_and_retried() -> None:
    harness = opened(1)
    harness.submit(array=Array(1, 3))
    harness.cancel(3)
    harness.settle()
    harness.finish(2)
    harness.finish(4)
    assert harness.job(1).status is CANCELLED
    harness.retry(3)
    harness.settle()
    assert running(harness) == [3]
    assert harness.job(1).status is RUNNING
    ends = announced_ends(harness)
    harness.finish(3)
    assert ends == [(3, Status.COMPLETED), (1, Status.COMPLETED)]


def test_retry_of_an_array_retries_the_tasks_that_did_not_complete_or_all() -> None:
    harness = opened(3)
    harness.submit(array=Array(1, 3))
    for task, outcome in ((2, COMPLETED), (3, FAILED), (4, FAILED)):
        harness.finish(task, outcome)
    harness.retry(1)
    assert len(harness.journal.pending) == 1
    harness.settle()
    assert running(harness) == [3, 4]
    assert isinstance(error_of(harness.retry(1)), WrongState)
    harness.finish(3)
    harness.finish(4)
    harness.retry(1)
    harness.settle()
    assert running(harness) == [2, 3, 4]


def test_array_is_removed_with_its_tasks_but_a_task_alone_is_not() -> None:
    harness = opened(2)
    harness.submit(array=Array(1, 3))
    harness.finish(2, LARGE)
    assert isinstance(error_of(harness.remove(2)), WrongState)
    assert isinstance(error_of(harness.remove(1)), WrongState)
    harness.finish(3)
    harness.cancel(4)
    harness.settle()
    harness.finish(4)
    answer = harness.remove(1)
    harness.settle()
    result_of(answer)
    assert harness.queue_state.jobs == {}
    assert harness.spool.removed == [(2, 1), (4, 1)], "the output of task 3 is in the journal"
    assert isinstance(error_of(harness.cancel(3)), Gone)
    assert harness.submit() == 5


def test_internal_error_of_an_end_observer_is_logged_and_releases_the_slot(logged_errors: Any) -> None:
    harness = opened(1)
    ends = announced_ends(harness)
    harness.engine.add_end_observer(lambda _: 1 / 0)
    later = announced_ends(harness)
    harness.submit()
    harness.submit()
    harness.finish(1)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert ends == later == [(1, Status.COMPLETED)]
    assert running(harness) == [2]
