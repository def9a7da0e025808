"""The one writer: disk before word, keys, cancels, retries, removals, and whoever waits."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from taskqd.engine.end_events import JITTER
from taskqd.engine.submissions import NewJob
from taskqd.errors import (
    BadRequest,
    Gone,
    KeyConflict,
    NoSuchJob,
    StoreFailed,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Cancelled, Ended, Output, Removed, Spawned, Started, Submitted
from taskqd.model.job import Job, Reason, Status
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
INTERRUPTED = Outcome(reason=Reason.INTERRUPTED, signal=15)
TERM = signal.SIGTERM


# Disk before word.


def test_a_submission_is_answered_once_it_is_durable_and_not_before() -> None:
    harness = opened()
    answer: Deferred[int] = harness.asked("true")
    assert not answer.called
    assert harness.queue_state.jobs == {}
    harness.journal.sync()
    assert result_of(answer) == 1
    assert harness.statuses() == [PENDING]


def test_a_job_is_spawned_once_its_start_is_durable_and_not_before() -> None:
    harness = opened()
    harness.asked("true")
    harness.journal.sync()
    assert harness.journal.pending == [Started(id=1, at=START, attempt=1)]
    assert harness.executor.runs == []
    assert harness.statuses() == [PENDING]
    harness.journal.sync()
    assert [run.id for run in harness.executor.runs] == [1]
    assert harness.statuses() == [RUNNING]


def test_an_end_is_told_once_it_is_durable_and_not_before() -> None:
    harness = opened()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.executor.finish(1)
    assert harness.statuses() == [RUNNING]
    assert not waiting.called
    harness.settle()
    assert result_of(waiting).status is Status.COMPLETED


def test_a_cancel_is_answered_and_the_process_signalled_once_it_is_durable_and_not_before() -> None:
    harness = opened()
    harness.submit()
    answer = harness.cancel(1)
    assert not answer.called
    assert harness.executor.signals == []
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert harness.executor.signals == [(1, Reason.CANCELLED, TERM)]


def test_a_retry_is_answered_once_it_is_durable_and_not_before() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, FAILED)
    answer = harness.retry(1)
    assert not answer.called
    assert harness.statuses() == [Status.FAILED]
    harness.journal.sync()
    assert result_of(answer).status is PENDING


def test_the_life_of_a_job_is_recorded_in_its_order() -> None:
    harness = opened()
    harness.submit("echo hello", label="x")
    harness.clock.advance(1.5)
    harness.spool.percentages[1] = 40
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"hello\n")))
    assert harness.journal.events == [
        Submitted(id=1, at=START, owner="ada", command="echo hello", spec=Spec(label="x")),
        Started(id=1, at=START, attempt=1),
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


def test_an_attempt_is_recorded_up_to_the_limit_of_its_job() -> None:
    harness = opened()
    harness.submit(max_output=77)
    assert harness.spool.limits == {1: 77}


def test_ids_go_on_where_the_journal_or_the_store_says() -> None:
    harness = Harness(events=[Submitted(id=7, at=START, owner="ada", command="true")])
    assert harness.submit() == 8
    harness = Harness(next_id=20)
    assert harness.submit() == 20


# Blocks.


def test_a_submission_is_recorded_once_its_blocks_are_durable() -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = harness.asked("", {"script": b"echo 1", "stdin": b"in"}, script=6, stdin=2)
    assert harness.journal.pending == []
    assert harness.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert result_of(answer) == 1


def test_blocks_that_cannot_be_kept_refuse_the_submission() -> None:
    harness = opened()
    harness.spool.error = OSError("no space left")
    answer = harness.asked("cat", {"stdin": b"in"}, stdin=2)
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.journal.events == harness.journal.pending == []
    harness.spool.error = None
    assert harness.submit() == 2


def test_a_bug_in_keeping_blocks_is_not_taken_for_a_full_disk() -> None:
    harness = opened()
    harness.spool.error = ZeroDivisionError()
    assert isinstance(error_of(harness.asked("cat", {"stdin": b"in"}, stdin=2)), ZeroDivisionError)


def test_a_later_submission_does_not_wait_for_the_blocks_of_an_earlier_one() -> None:
    harness = opened()
    harness.spool.is_slow = True
    slow = harness.asked("cat", {"stdin": b"in"}, stdin=2)
    assert harness.submit() == 2
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert result_of(slow) == 1
    assert harness.queue_state.last_id == 2
    assert harness.submit() == 3


# Keys.


def test_the_same_submission_under_a_key_answers_with_the_same_id() -> None:
    harness = opened()
    assert [harness.submit("true", key="k") for _ in range(3)] == [1, 1, 1]
    assert harness.submit("true", key="other") == 2
    assert len(harness.queue_state.jobs) == 2


def test_another_submission_under_a_key_is_refused() -> None:
    harness = opened()
    harness.submit("true", key="k")
    for again in (harness.asked("false", key="k"), harness.asked("true", key="k", retries=1)):
        assert isinstance(error_of(again), KeyConflict)
    assert harness.submit() == 2


def test_a_key_is_known_while_its_first_submission_is_on_its_way() -> None:
    harness = opened()
    first, same, other = (harness.asked(command, key="k") for command in ("true", "true", "false"))
    harness.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)
    assert [type(event) for event in harness.journal.events].count(Submitted) == 1


def test_blocks_belong_to_what_a_key_compares() -> None:
    harness = opened()
    first = harness.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    same = harness.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    other = harness.asked("cat", {"stdin": b"no"}, stdin=2, key="k")
    harness.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)


def with_secret(harness: Harness, value: bytes, **options: Any) -> "Deferred[int]":
    """Return the Deferred of a submission with a secret A."""
    return harness.asked(blocks={"secret": b"A=" + value + b"\0"}, secrets=("A",), **options)


def test_the_values_of_secrets_are_kept_and_never_recorded() -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = with_secret(harness, b"hunter2")
    assert harness.journal.pending == []
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert harness.spool.blocks[result_of(answer)] == {"secret": b"A=hunter2\0"}
    assert harness.job(1).spec == Spec(secrets=("A",))
    assert "hunter2" not in repr(harness.journal.events)


def test_the_hash_of_the_blocks_tells_nothing_of_a_secret() -> None:
    harness = opened()
    blocks = {"stdin": b"in", "secret": b"A=hunter2\0"}
    for each in (blocks, {"stdin": b"in"}):
        harness.asked("cat", each, stdin=2)
    harness.settle()
    assert harness.job(1).spec.blocks == harness.job(2).spec.blocks is not None


@pytest.mark.parametrize("array", [None, Array(1, 3)])
def test_secrets_belong_to_what_a_key_compares(array: Array | None) -> None:
    harness = opened()
    asked = [with_secret(harness, value, key="k", array=array) for value in (b"1", b"1", b"2")]
    without = harness.asked(key="k", array=array)
    harness.settle()
    first, same, other = asked
    assert result_of(first) == result_of(same) == 1
    assert all(isinstance(error_of(each), KeyConflict) for each in (other, without))


def test_a_known_key_whose_secrets_cannot_be_read_is_an_error_of_the_store() -> None:
    harness = opened()
    with_secret(harness, b"1", key="k")
    harness.settle()
    del harness.spool.blocks[1]
    again = with_secret(harness, b"1", key="k")
    assert "cannot be compared with job 1, which has the same key" in str(error_of(again))
    assert isinstance(error_of(with_secret(harness, b"1", key="k")), StoreFailed)


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_secrets_of_a_submission_that_was_refused_do_not_stay(is_kept: bool) -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = with_secret(harness, b"1")
    if is_kept:
        harness.spool.pending_writes[0].callback(None)
        harness.journal.fail()
    else:
        harness.spool.pending_writes[0].errback(OSError("no space"))
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.spool.removed == [(1, 0)]


def test_a_key_whose_first_submission_failed_is_free() -> None:
    harness = opened()
    harness.spool.is_slow = True
    first = harness.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    second = harness.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    harness.spool.pending_writes[0].errback(OSError("no space"))
    harness.spool.pending_writes[1].callback(None)
    harness.settle()
    assert isinstance(error_of(first), StoreFailed)
    assert harness.job(result_of(second)).spec.key == "k"


def test_a_known_key_is_answered_for_a_finished_job_too() -> None:
    harness = opened()
    harness.submit("true", key="k")
    harness.finish(1)
    assert harness.submit("true", key="k") == 1
    assert harness.statuses() == [Status.COMPLETED]


# Cancel.


def test_a_pending_job_ends_at_once_when_it_is_cancelled() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    waiting = harness.engine.wait(2)
    answer = harness.cancel(2)
    harness.settle()
    assert result_of(answer) is result_of(waiting) is harness.job(2)
    assert (harness.job(2).status, harness.job(2).reason) == (CANCELLED, Reason.CANCELLED)
    harness.finish(1)
    assert [run.id for run in harness.executor.runs] == [1]


def test_a_cancelled_running_job_ends_cancelled_however_it_ends() -> None:
    for outcome in (COMPLETED, FAILED, Outcome(reason=Reason.CANCELLED, signal=15)):
        harness = opened()
        harness.submit(retries=3)
        harness.cancel(1, signal.SIGINT)
        harness.settle()
        assert harness.executor.signals == [(1, Reason.CANCELLED, signal.SIGINT)]
        harness.finish(1, outcome)
        assert (harness.job(1).status, harness.job(1).reason) == (CANCELLED, Reason.CANCELLED)


def test_a_cancel_says_who_and_how() -> None:
    harness = opened()
    harness.submit()
    harness.clock.advance(2)
    harness.cancel(1, signal.SIGINT)
    assert harness.journal.pending == [Cancelled(id=1, at=START + 2, by="ada", signal=2)]


def test_cancelling_again_changes_nothing() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    answers = [harness.cancel(job_id) for job_id in (1, 1, 2, 2)]
    harness.settle()
    answers += [harness.cancel(1), harness.cancel(2)]
    assert [result_of(answer).id for answer in answers] == [1, 1, 2, 2, 1, 2]
    assert [type(event) for event in harness.journal.events].count(Cancelled) == 2
    assert len(harness.executor.signals) == 1


def test_a_job_that_has_ended_cannot_be_cancelled() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    assert isinstance(error_of(harness.cancel(1)), WrongState)
    assert harness.journal.pending == []


def test_a_cancel_while_the_start_is_on_its_way_ends_the_process_that_starts() -> None:
    harness = opened()
    harness.asked()
    harness.journal.sync()
    answer = harness.cancel(1)
    assert [type(event) for event in harness.journal.pending] == [Started]
    harness.settle()
    assert result_of(answer).status is RUNNING
    assert len(harness.executor.runs) == 1
    assert harness.executor.signals == [(1, Reason.CANCELLED, TERM)]
    harness.finish(1, FAILED)
    assert harness.statuses() == [CANCELLED]


def test_a_job_whose_cancel_is_on_its_way_does_not_start() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.cancel(2)
    harness.executor.finish(1)
    harness.settle()
    assert harness.statuses() == [Status.COMPLETED, CANCELLED]
    assert [run.id for run in harness.executor.runs] == [1]
    harness.submit()
    assert running(harness) == [3]


def test_a_cancel_while_the_end_is_on_its_way_is_refused_and_the_end_stands() -> None:
    harness = opened()
    harness.submit()
    harness.executor.finish(1)
    answer = harness.cancel(1)
    harness.settle()
    assert isinstance(error_of(answer), WrongState)
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.executor.signals == []


def test_an_end_while_the_cancel_is_on_its_way_is_a_cancelled_end() -> None:
    harness = opened()
    harness.submit(retries=2)
    answer = harness.cancel(1)
    harness.executor.finish(1, FAILED)
    harness.settle()
    assert result_of(answer).id == 1
    assert harness.statuses() == [CANCELLED]


def test_a_delayed_retry_is_cancelled_like_any_pending_job() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.finish(1, FAILED)
    harness.cancel(1)
    harness.settle()
    harness.clock.advance(10)
    assert harness.statuses() == [CANCELLED]
    assert len(harness.executor.runs) == 1


@pytest.mark.parametrize("act", [Harness.cancel, Harness.retry])
def test_there_is_no_job_of_an_unknown_id(act: Callable[[Harness, int], "Deferred[Job]"]) -> None:
    harness = opened()
    assert isinstance(error_of(act(harness, 1)), NoSuchJob)
    with pytest.raises(NoSuchJob):
        harness.engine.wait(1)


# Retries.


def test_a_failed_attempt_is_followed_by_others_until_the_budget_is_spent() -> None:
    harness = opened()
    harness.submit(retries=2, retry_delay=1.0)
    for attempt in (1, 2, 3):
        assert harness.job(1).attempts == attempt
        harness.finish(1, FAILED)
        harness.clock.advance(4)
        harness.settle()
    assert (harness.job(1).status, harness.job(1).reason) == (Status.FAILED, Reason.EXIT)
    assert harness.job(1).exit_code == 3


def test_a_retry_budget_is_not_touched_by_success() -> None:
    harness = opened()
    harness.submit(retries=2)
    harness.finish(1)
    assert harness.statuses() == [Status.COMPLETED]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_delay_doubles_and_its_jitter_is_recorded(chance: float) -> None:
    harness = opened(chance=chance)
    harness.submit(retries=14, retry_delay=1.0)
    delays = []
    for _ in range(14):
        harness.finish(1, FAILED)
        not_before = harness.job(1).not_before
        assert not_before is not None
        delays.append(not_before - harness.clock.elapsed())
        harness.clock.advance(delays[-1] + 0.001)
        harness.settle()
    factor = 1 + JITTER * chance
    assert delays == pytest.approx([min(2.0**n, 3600) * factor for n in range(14)])
    recorded = [event.retry_at for event in harness.journal.events if isinstance(event, Ended)]
    assert len(recorded) == 14
    assert replayed(harness.journal.events) == harness.queue_state


def test_a_job_that_waits_for_its_retry_takes_no_slot_and_starts_when_it_is_due() -> None:
    harness = opened(1)
    harness.submit(retries=1, retry_delay=10.0)
    harness.finish(1, FAILED)
    assert (harness.job(1).status, harness.job(1).reason) == (PENDING, Reason.RETRYING)
    harness.submit()
    assert running(harness) == [2]
    harness.finish(2)
    harness.clock.advance(9.9)
    harness.settle()
    assert running(harness) == []
    harness.clock.advance(0.2)
    harness.settle()
    assert running(harness) == [1]
    assert harness.job(1).attempts == 2


def test_the_earlier_of_two_delayed_jobs_is_not_forgotten() -> None:
    harness = opened(2)
    harness.submit(retries=1, retry_delay=100.0)
    harness.submit(retries=1, retry_delay=10.0)
    harness.finish(1, FAILED)
    harness.finish(2, FAILED)
    assert len(harness.clock.getDelayedCalls()) == 1
    harness.clock.advance(10)
    harness.settle()
    assert running(harness) == [2]
    harness.clock.advance(90)
    harness.settle()
    assert running(harness) == [1, 2]


def test_retry_runs_a_finished_job_again_under_its_id_and_resets_the_budget() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=1.0)
    for _ in range(2):
        harness.finish(1, FAILED)
        harness.clock.advance(1)
        harness.settle()
    assert harness.job(1).status is Status.FAILED
    answer = harness.retry(1)
    harness.settle()
    assert result_of(answer).id == 1
    assert (harness.job(1).attempts, harness.job(1).failures) == (3, 0)
    harness.finish(1, FAILED)
    assert harness.job(1).status is PENDING
    harness.clock.advance(1)
    harness.settle()
    harness.finish(1, COMPLETED)
    assert (harness.job(1).attempts, harness.job(1).status) == (4, Status.COMPLETED)
    assert harness.engine.counters["retried"] == 1


@pytest.mark.parametrize("end", [COMPLETED, FAILED, None])
def test_every_finished_job_can_be_retried(end: Outcome | None) -> None:
    harness = opened()
    harness.submit()
    if end is None:
        harness.cancel(1)
        harness.settle()
    harness.finish(1, end or FAILED)
    harness.retry(1)
    harness.settle()
    assert running(harness) == [1]
    assert harness.job(1).attempts == 2


def test_a_job_that_has_not_ended_cannot_be_retried() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    for job_id in (1, 2):
        assert isinstance(error_of(harness.retry(job_id)), WrongState)


def test_a_second_retry_finds_the_job_pending() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    first, second = harness.retry(1), harness.retry(1)
    harness.settle()
    assert result_of(first).id == 1
    assert isinstance(error_of(second), WrongState)


def test_a_job_retried_while_its_cancel_and_its_start_wait_runs_once_in_one_slot() -> None:
    harness = opened(2)
    for _ in range(3):
        harness.submit()
    harness.cancel(3)
    harness.retry(3)
    harness.executor.finish(1)
    harness.executor.finish(2)
    harness.settle()
    assert running(harness) == [3]
    for _ in range(3):
        harness.submit()
    assert running(harness) == [3, 4]
    stopped = harness.engine.dispatcher.stop(requeue=False)
    assert [signalled for signalled, _, _ in harness.executor.signals] == [3, 4]
    harness.finish(3)
    harness.finish(4)
    result_of(stopped)


# Waiters.


def test_all_who_wait_are_answered_once_and_at_the_end() -> None:
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


def test_a_waiter_who_gave_up_is_forgotten() -> None:
    harness = opened()
    harness.submit()
    gone, stays = harness.engine.wait(1), harness.engine.wait(1)
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    assert harness.engine.waiter_count == 1
    harness.finish(1)
    assert result_of(stays).id == 1
    assert harness.engine.waiter_count == 0


def test_a_waiter_may_give_up_another_when_it_is_told() -> None:
    harness = opened()
    harness.submit()
    waiters = [harness.engine.wait(1) for _ in range(5)]
    told: list[Deferred[Any]] = []
    errors: list[Any] = []

    def tell(job: Job, me: "Deferred[Job]") -> None:
        told.append(me)
        for other in waiters:
            if other is not me:
                other.cancel()

    for waiter in waiters:
        waiter.addCallback(tell, waiter)
        waiter.addErrback(errors.append)
    harness.finish(1)
    assert len(told) == 1
    assert len(errors) == 4
    assert harness.statuses() == [Status.COMPLETED]
    harness.submit()
    assert running(harness) == [2]


# When the store fails.


def test_a_failed_store_refuses_submissions_and_starts_nothing() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    on_its_way = harness.asked()
    harness.journal.fail()
    assert isinstance(error_of(on_its_way), StoreFailed)
    assert isinstance(error_of(harness.asked()), StoreFailed)
    harness.executor.finish(1)
    assert [run.id for run in harness.executor.runs] == [1]
    assert harness.statuses() == [RUNNING, PENDING]
    assert harness.engine.journal_stats() == {"failure": "the disk is full", "segment": 1, "segment_bytes": 4}


def test_a_job_whose_start_could_not_be_recorded_is_not_run_and_not_lost_from_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = opened(1)
    harness.asked()
    harness.journal.sync()
    harness.journal.fail()
    assert harness.executor.runs == []
    assert harness.statuses() == [PENDING]
    assert harness.queue_state.next_job(harness.clock.elapsed()) is harness.job(1)
    assert "job 1 stays PENDING: the disk is full" in caplog.text


def test_an_end_that_could_not_be_recorded_is_told_to_nobody() -> None:
    harness = opened()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.executor.finish(1)
    harness.journal.fail()
    assert not waiting.called
    assert harness.statuses() == [RUNNING]


@pytest.mark.parametrize("act", [Harness.cancel, Harness.retry])
def test_what_a_failed_store_cannot_record_is_refused_and_changes_nothing(
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


def test_a_pid_that_could_not_be_recorded_changes_nothing() -> None:
    harness = opened()
    harness.asked()
    harness.journal.sync(2)
    assert [type(event) for event in harness.journal.pending] == [Spawned]
    harness.journal.fail()
    assert running(harness) == [1]
    attempt = harness.job(1).attempt
    assert attempt is not None
    assert attempt.pid is None


def test_a_stop_with_a_failed_store_fires_all_the_same() -> None:
    harness = opened()
    harness.submit()
    harness.journal.fail()
    stopped = harness.engine.dispatcher.stop(requeue=False)
    harness.executor.finish(1, INTERRUPTED)
    result_of(stopped)


def test_a_bug_in_a_start_frees_the_slot_and_is_logged(logged_errors: Any) -> None:
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


def test_the_counters_count_what_has_happened() -> None:
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


# Removal.


def test_a_removal_is_answered_once_it_is_durable_and_the_files_go_then() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, FAILED)
    harness.clock.advance(1)
    harness.settle()
    harness.finish(1)
    answer = harness.remove(1)
    assert not answer.called
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.spool.removed == []
    harness.settle()
    result_of(answer)
    assert harness.journal.events[-1] == Removed(id=1, at=START + 1, by="ada")
    assert harness.spool.removed == [(1, 2)]
    assert harness.engine.counters["removed"] == 1
    refused: list[Deferred[Any]] = [harness.remove(1), harness.retry(1), harness.cancel(1)]
    assert all(isinstance(error_of(each), Gone) for each in refused)
    with pytest.raises(Gone):
        harness.engine.wait(1)
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize("is_running", [True, False])
def test_what_has_not_ended_is_not_removed(is_running: bool) -> None:
    harness = opened(int(is_running))
    harness.submit()
    assert isinstance(error_of(harness.remove(1)), WrongState)
    assert isinstance(error_of(harness.remove(2)), NoSuchJob)
    assert harness.journal.pending == []


def test_a_removal_waits_for_what_the_job_has_left_behind() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    left = harness.executor.leftovers[1] = Deferred()
    answer = harness.remove(1)
    harness.settle()
    assert not answer.called
    assert harness.statuses() == [Status.COMPLETED]
    left.callback(None)
    harness.settle()
    result_of(answer)
    assert harness.statuses() == []


@pytest.mark.parametrize("second", [Harness.remove, Harness.retry, Harness.cancel])
def test_whoever_asks_while_a_removal_is_on_its_way_finds_the_job_gone(
    second: Callable[[Harness, int], "Deferred[Any]"],
) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answers = [harness.remove(1), second(harness, 1)]
    harness.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), Gone)
    assert [type(event) for event in harness.journal.events].count(Removed) == 1
    assert replayed(harness.journal.events) == harness.queue_state


def test_a_removal_waits_for_a_retry_on_its_way_and_is_refused_then() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answers: list[Deferred[Any]] = [harness.retry(1), harness.remove(1)]
    harness.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), WrongState)
    assert running(harness) == [1]


def test_a_removal_that_cannot_be_recorded_changes_nothing() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    answer = harness.remove(1)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.statuses() == [Status.COMPLETED]
    assert harness.spool.removed == []


def test_files_that_cannot_be_removed_are_left_for_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    harness.spool.error = OSError("it is busy")
    answer = harness.remove(1)
    harness.settle()
    result_of(answer)
    assert "files of job 1 are left for the next start: it is busy" in caplog.text


def test_whoever_looks_after_old_jobs_is_told_of_every_end() -> None:
    harness = opened()
    told: list[list[Status]] = []
    harness.engine.add_end_observer(lambda _: told.append(harness.statuses()))
    harness.submit(retries=1)
    harness.submit()
    harness.finish(1, FAILED)
    harness.finish(2)
    harness.cancel(1)
    harness.settle()
    assert told == [[PENDING, Status.COMPLETED], [CANCELLED, Status.COMPLETED]]


# Order of submission.


@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
def test_a_job_can_come_only_after_jobs_that_are_there(kind: str) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    harness.remove(1)
    harness.settle()
    unknown: dict[str, Any] = {kind: (2,)}
    gone: dict[str, Any] = {kind: (1,)}
    assert isinstance(error_of(harness.asked(**unknown)), NoSuchJob)
    assert isinstance(error_of(harness.asked(**gone)), Gone)
    assert isinstance(error_of(harness.asked(**unknown, key="k")), NoSuchJob)
    assert harness.journal.pending == []
    assert harness.submit(key="k") == 2


def test_a_task_is_named_by_its_array_and_index_and_known_by_its_id() -> None:
    harness = opened()
    harness.submit(array=Array(3, 5))
    harness.submit(after=(TaskId(1, 4), 2))
    assert harness.job(5).spec.after == (3, 2)
    assert isinstance(error_of(harness.asked(after=(TaskId(1, 9),))), NoSuchJob)
    assert isinstance(error_of(harness.asked(after=(TaskId(2, 1),))), BadRequest)


def test_the_same_submission_names_a_task_either_way() -> None:
    harness = opened()
    harness.submit(array=Array(3, 5))
    assert harness.submit(after=(TaskId(1, 4),), key="k") == harness.submit(after=(3,), key="k") == 5


@pytest.mark.parametrize(
    "wish", [{"slots": 3}, {"needs": {"gpu": 2}}, {"needs": {"tape": 1}}, {"queue": "a", "slots": 2}]
)
def test_what_could_never_start_is_refused(wish: dict[str, Any]) -> None:
    harness = opened(2, queues={"a": 1}, resources={"gpu": 1})
    assert isinstance(error_of(harness.asked(**wish)), BadRequest)
    assert isinstance(error_of(harness.asked(key="k", **wish)), BadRequest)
    assert harness.journal.pending == []


def test_the_schedule_that_submits_a_job_is_recorded_with_it() -> None:
    harness = opened()
    harness.schedule()
    harness.settle()
    answer = harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    harness.settle()
    assert harness.job(result_of(answer)).schedule == 1
    assert harness.queue_state.schedules.by_id[1].last_job == 1


# Arrays.


def told(harness: Harness) -> list[tuple[int, Status]]:
    """Return all ends that are told from now on."""
    ends: list[tuple[int, Status]] = []
    harness.engine.add_end_observer(lambda job: ends.append((job.id, job.status)))
    return ends


def test_an_array_is_one_submission_one_record_and_as_many_ids_as_it_has_tasks_and_one() -> None:
    harness = opened(9)
    first, second = harness.asked(array=Array(1, 3)), harness.asked()
    assert len(harness.journal.pending) == 2
    harness.settle()
    assert (result_of(first), result_of(second)) == (1, 5)
    assert running(harness) == [2, 3, 4, 5]
    again = Harness(events=harness.journal.events[:1])
    assert again.submit() == 5


def test_the_end_of_each_task_is_told_and_after_the_last_that_of_the_array() -> None:
    harness = opened()
    harness.submit(array=Array(1, 3))
    ends = told(harness)
    waiting = [harness.engine.wait(job_id) for job_id in (1, 2, 4)]
    harness.finish(2)
    assert [waiter.called for waiter in waiting] == [False, True, False]
    harness.finish(4)
    harness.finish(3, FAILED)
    assert all(waiter.called for waiter in waiting)
    completed, failed = Status.COMPLETED, Status.FAILED
    assert ends == [(2, completed), (4, completed), (3, failed), (1, failed)]


def test_a_cancel_of_an_array_is_one_event_and_each_end_is_told_once() -> None:
    harness = opened(1)
    harness.submit(array=Array(1, 3))
    ends = told(harness)
    answer = harness.cancel(1)
    assert len(harness.journal.pending) == 1
    harness.settle()
    assert result_of(answer) is harness.job(1)
    assert harness.executor.signals == [(2, Reason.CANCELLED, TERM)]
    assert ends == [(3, CANCELLED), (4, CANCELLED)]
    harness.finish(2, FAILED)
    assert ends[2:] == [(2, CANCELLED), (1, CANCELLED)]
    assert harness.engine.counters["cancelled"] == 3


def test_a_cancel_of_an_array_of_which_nothing_runs_ends_it_at_once_and_it_is_told_once() -> None:
    harness = opened()
    harness.submit(array=Array(1, 3), hold=True)
    ends = told(harness)
    waiting = harness.engine.wait(1)
    harness.cancel(1)
    harness.settle()
    assert result_of(waiting).status is CANCELLED
    assert ends == [(2, CANCELLED), (3, CANCELLED), (4, CANCELLED), (1, CANCELLED)]


def test_of_an_array_one_task_may_be_cancelled_retried_and_waited_for() -> None:
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
    ends = told(harness)
    harness.finish(3)
    assert ends == [(3, Status.COMPLETED), (1, Status.COMPLETED)]


def test_a_retry_of_an_array_is_one_of_the_tasks_that_did_not_complete_or_of_all() -> None:
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


def test_an_array_is_removed_with_its_tasks_and_a_task_alone_is_not() -> None:
    harness = opened(2)
    harness.submit(array=Array(1, 3))
    harness.finish(2)
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
    assert harness.spool.removed == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert isinstance(error_of(harness.cancel(3)), Gone)
    assert harness.submit() == 5


def test_who_listens_to_ends_keeps_nobody_from_a_slot_by_a_bug(logged_errors: Any) -> None:
    harness = opened(1)
    ends = told(harness)
    harness.engine.add_end_observer(lambda _: 1 / 0)
    later = told(harness)
    harness.submit()
    harness.submit()
    harness.finish(1)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert ends == later == [(1, Status.COMPLETED)]
    assert running(harness) == [2]
