"""The one writer: disk before word, keys, cancels, retries, removals, and whoever waits."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from taskqd.engine.dispatcher import JITTER
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
from taskqd.model.spec import PLAIN, Array, Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, House, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
INTERRUPTED = Outcome(reason=Reason.INTERRUPTED, signal=15)
TERM = signal.SIGTERM


# Disk before word.


def test_a_submission_is_answered_once_it_is_durable_and_not_before() -> None:
    house = opened()
    answer: Deferred[int] = house.asked("true")
    assert not answer.called
    assert house.backlog.jobs == {}
    house.store.sync()
    assert result_of(answer) == 1
    assert house.statuses() == [PENDING]


def test_a_job_is_spawned_once_its_start_is_durable_and_not_before() -> None:
    house = opened()
    house.asked("true")
    house.store.sync()
    assert house.store.on_its_way == [Started(id=1, at=START, attempt=1)]
    assert house.executor.runs == []
    assert house.statuses() == [PENDING]
    house.store.sync()
    assert [run.id for run in house.executor.runs] == [1]
    assert house.statuses() == [RUNNING]


def test_an_end_is_told_once_it_is_durable_and_not_before() -> None:
    house = opened()
    house.submit()
    waiting = house.dispatcher.wait(1)
    house.executor.finish(1)
    assert house.statuses() == [RUNNING]
    assert not waiting.called
    house.settle()
    assert result_of(waiting).status is Status.COMPLETED


def test_a_cancel_is_answered_and_the_process_signalled_once_it_is_durable_and_not_before() -> None:
    house = opened()
    house.submit()
    answer = house.cancel(1)
    assert not answer.called
    assert house.executor.signals == []
    house.settle()
    assert result_of(answer).status is RUNNING
    assert house.executor.signals == [(1, Reason.CANCELLED, TERM)]


def test_a_retry_is_answered_once_it_is_durable_and_not_before() -> None:
    house = opened()
    house.submit()
    house.finish(1, FAILED)
    answer = house.retry(1)
    assert not answer.called
    assert house.statuses() == [Status.FAILED]
    house.store.sync()
    assert result_of(answer).status is PENDING


def test_the_life_of_a_job_is_recorded_in_its_order() -> None:
    house = opened()
    house.submit("echo hello", label="x")
    house.clock.advance(1.5)
    house.spool.percentages[1] = 40
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"hello\n")))
    assert house.store.journal == [
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
    assert house.spool.released == [1]


def test_an_attempt_is_recorded_up_to_the_limit_of_its_job() -> None:
    house = opened()
    house.submit(max_output=77)
    assert house.spool.limits == {1: 77}


def test_ids_go_on_where_the_journal_or_the_store_says() -> None:
    house = House(journal=[Submitted(id=7, at=START, owner="ada", command="true")])
    assert house.submit() == 8
    house = House(next_id=20)
    assert house.submit() == 20


# Blocks.


def test_a_submission_is_recorded_once_its_blocks_are_durable() -> None:
    house = opened()
    house.spool.is_slow = True
    answer = house.asked("", {"script": b"echo 1", "stdin": b"in"}, script=6, stdin=2)
    assert house.store.on_its_way == []
    assert house.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    house.spool.keeping[0].callback(None)
    house.settle()
    assert result_of(answer) == 1


def test_blocks_that_cannot_be_kept_refuse_the_submission() -> None:
    house = opened()
    house.spool.error = OSError("no space left")
    answer = house.asked("cat", {"stdin": b"in"}, stdin=2)
    assert isinstance(error_of(answer), StoreFailed)
    assert house.store.journal == house.store.on_its_way == []
    house.spool.error = None
    assert house.submit() == 2


def test_a_bug_in_keeping_blocks_is_not_taken_for_a_full_disk() -> None:
    house = opened()
    house.spool.error = ZeroDivisionError()
    assert isinstance(error_of(house.asked("cat", {"stdin": b"in"}, stdin=2)), ZeroDivisionError)


def test_a_later_submission_does_not_wait_for_the_blocks_of_an_earlier_one() -> None:
    house = opened()
    house.spool.is_slow = True
    slow = house.asked("cat", {"stdin": b"in"}, stdin=2)
    assert house.submit() == 2
    house.spool.keeping[0].callback(None)
    house.settle()
    assert result_of(slow) == 1
    assert house.backlog.last_id == 2
    assert house.submit() == 3


# Keys.


def test_the_same_submission_under_a_key_answers_with_the_same_id() -> None:
    house = opened()
    assert [house.submit("true", key="k") for _ in range(3)] == [1, 1, 1]
    assert house.submit("true", key="other") == 2
    assert len(house.backlog.jobs) == 2


def test_another_submission_under_a_key_is_refused() -> None:
    house = opened()
    house.submit("true", key="k")
    for again in (house.asked("false", key="k"), house.asked("true", key="k", retries=1)):
        assert isinstance(error_of(again), KeyConflict)
    assert house.submit() == 2


def test_a_key_is_known_while_its_first_submission_is_on_its_way() -> None:
    house = opened()
    first, same, other = (house.asked(command, key="k") for command in ("true", "true", "false"))
    house.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)
    assert [type(event) for event in house.store.journal].count(Submitted) == 1


def test_blocks_belong_to_what_a_key_compares() -> None:
    house = opened()
    first = house.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    same = house.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    other = house.asked("cat", {"stdin": b"no"}, stdin=2, key="k")
    house.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)


def with_secret(house: House, value: bytes, **options: Any) -> "Deferred[int]":
    """Return the Deferred of a submission with a secret A."""
    return house.asked(blocks={"secret": b"A=" + value + b"\0"}, secrets=("A",), **options)


def test_the_values_of_secrets_are_kept_and_never_recorded() -> None:
    house = opened()
    house.spool.is_slow = True
    answer = with_secret(house, b"hunter2")
    assert house.store.on_its_way == []
    house.spool.keeping[0].callback(None)
    house.settle()
    assert house.spool.blocks[result_of(answer)] == {"secret": b"A=hunter2\0"}
    assert house.job(1).spec == Spec(secrets=("A",))
    assert "hunter2" not in repr(house.store.journal)


def test_the_hash_of_the_blocks_tells_nothing_of_a_secret() -> None:
    house = opened()
    blocks = {"stdin": b"in", "secret": b"A=hunter2\0"}
    for each in (blocks, {"stdin": b"in"}):
        house.asked("cat", each, stdin=2)
    house.settle()
    assert house.job(1).spec.blocks == house.job(2).spec.blocks is not None


@pytest.mark.parametrize("array", [None, Array(1, 3)])
def test_secrets_belong_to_what_a_key_compares(array: Array | None) -> None:
    house = opened()
    asked = [with_secret(house, value, key="k", array=array) for value in (b"1", b"1", b"2")]
    without = house.asked(key="k", array=array)
    house.settle()
    first, same, other = asked
    assert result_of(first) == result_of(same) == 1
    assert all(isinstance(error_of(each), KeyConflict) for each in (other, without))


def test_a_known_key_whose_secrets_cannot_be_read_is_an_error_of_the_store() -> None:
    house = opened()
    with_secret(house, b"1", key="k")
    house.settle()
    del house.spool.blocks[1]
    again = with_secret(house, b"1", key="k")
    assert "whether this is the same as job 1 cannot be told" in str(error_of(again))
    assert isinstance(error_of(with_secret(house, b"1", key="k")), StoreFailed)


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_secrets_of_a_submission_that_was_refused_do_not_stay(is_kept: bool) -> None:
    house = opened()
    house.spool.is_slow = True
    answer = with_secret(house, b"1")
    if is_kept:
        house.spool.keeping[0].callback(None)
        house.store.break_down()
    else:
        house.spool.keeping[0].errback(OSError("no space"))
    assert isinstance(error_of(answer), StoreFailed)
    assert house.spool.purged == [(1, 0)]


def test_a_key_whose_first_submission_failed_is_free() -> None:
    house = opened()
    house.spool.is_slow = True
    first = house.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    second = house.asked("cat", {"stdin": b"in"}, stdin=2, key="k")
    house.spool.keeping[0].errback(OSError("no space"))
    house.spool.keeping[1].callback(None)
    house.settle()
    assert isinstance(error_of(first), StoreFailed)
    assert house.job(result_of(second)).spec.key == "k"


def test_a_known_key_is_answered_for_a_finished_job_too() -> None:
    house = opened()
    house.submit("true", key="k")
    house.finish(1)
    assert house.submit("true", key="k") == 1
    assert house.statuses() == [Status.COMPLETED]


# Cancel.


def test_a_pending_job_ends_at_once_when_it_is_cancelled() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    waiting = house.dispatcher.wait(2)
    answer = house.cancel(2)
    house.settle()
    assert result_of(answer) is result_of(waiting) is house.job(2)
    assert (house.job(2).status, house.job(2).reason) == (CANCELLED, Reason.CANCELLED)
    house.finish(1)
    assert [run.id for run in house.executor.runs] == [1]


def test_a_cancelled_running_job_ends_cancelled_however_it_ends() -> None:
    for outcome in (COMPLETED, FAILED, Outcome(reason=Reason.CANCELLED, signal=15)):
        house = opened()
        house.submit(retries=3)
        house.cancel(1, signal.SIGINT)
        house.settle()
        assert house.executor.signals == [(1, Reason.CANCELLED, signal.SIGINT)]
        house.finish(1, outcome)
        assert (house.job(1).status, house.job(1).reason) == (CANCELLED, Reason.CANCELLED)


def test_a_cancel_says_who_and_how() -> None:
    house = opened()
    house.submit()
    house.clock.advance(2)
    house.cancel(1, signal.SIGINT)
    assert house.store.on_its_way == [Cancelled(id=1, at=START + 2, by="ada", signal=2)]


def test_cancelling_again_changes_nothing() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    answers = [house.cancel(job_id) for job_id in (1, 1, 2, 2)]
    house.settle()
    answers += [house.cancel(1), house.cancel(2)]
    assert [result_of(answer).id for answer in answers] == [1, 1, 2, 2, 1, 2]
    assert [type(event) for event in house.store.journal].count(Cancelled) == 2
    assert len(house.executor.signals) == 1


def test_a_job_that_has_ended_cannot_be_cancelled() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    assert isinstance(error_of(house.cancel(1)), WrongState)
    assert house.store.on_its_way == []


def test_a_cancel_while_the_start_is_on_its_way_ends_the_process_that_starts() -> None:
    house = opened()
    house.asked()
    house.store.sync()
    answer = house.cancel(1)
    assert [type(event) for event in house.store.on_its_way] == [Started]
    house.settle()
    assert result_of(answer).status is RUNNING
    assert len(house.executor.runs) == 1
    assert house.executor.signals == [(1, Reason.CANCELLED, TERM)]
    house.finish(1, FAILED)
    assert house.statuses() == [CANCELLED]


def test_a_job_whose_cancel_is_on_its_way_does_not_start() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    house.cancel(2)
    house.executor.finish(1)
    house.settle()
    assert house.statuses() == [Status.COMPLETED, CANCELLED]
    assert [run.id for run in house.executor.runs] == [1]
    house.submit()
    assert running(house) == [3]


def test_a_cancel_while_the_end_is_on_its_way_is_refused_and_the_end_stands() -> None:
    house = opened()
    house.submit()
    house.executor.finish(1)
    answer = house.cancel(1)
    house.settle()
    assert isinstance(error_of(answer), WrongState)
    assert house.statuses() == [Status.COMPLETED]
    assert house.executor.signals == []


def test_an_end_while_the_cancel_is_on_its_way_is_a_cancelled_end() -> None:
    house = opened()
    house.submit(retries=2)
    answer = house.cancel(1)
    house.executor.finish(1, FAILED)
    house.settle()
    assert result_of(answer).id == 1
    assert house.statuses() == [CANCELLED]


def test_a_delayed_retry_is_cancelled_like_any_pending_job() -> None:
    house = opened()
    house.submit(retries=1)
    house.finish(1, FAILED)
    house.cancel(1)
    house.settle()
    house.clock.advance(10)
    assert house.statuses() == [CANCELLED]
    assert len(house.executor.runs) == 1


@pytest.mark.parametrize("act", [House.cancel, House.retry])
def test_there_is_no_job_of_an_unknown_id(act: Callable[[House, int], "Deferred[Job]"]) -> None:
    house = opened()
    assert isinstance(error_of(act(house, 1)), NoSuchJob)
    with pytest.raises(NoSuchJob):
        house.dispatcher.wait(1)


# Retries.


def test_a_failed_attempt_is_followed_by_others_until_the_budget_is_spent() -> None:
    house = opened()
    house.submit(retries=2, retry_delay=1.0)
    for attempt in (1, 2, 3):
        assert house.job(1).attempts == attempt
        house.finish(1, FAILED)
        house.clock.advance(4)
        house.settle()
    assert (house.job(1).status, house.job(1).reason) == (Status.FAILED, Reason.EXIT)
    assert house.job(1).exit_code == 3


def test_a_retry_budget_is_not_touched_by_success() -> None:
    house = opened()
    house.submit(retries=2)
    house.finish(1)
    assert house.statuses() == [Status.COMPLETED]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_delay_doubles_and_its_jitter_is_recorded(chance: float) -> None:
    house = opened(chance=chance)
    house.submit(retries=14, retry_delay=1.0)
    delays = []
    for _ in range(14):
        house.finish(1, FAILED)
        not_before = house.job(1).not_before
        assert not_before is not None
        delays.append(not_before - house.clock.elapsed())
        house.clock.advance(delays[-1] + 0.001)
        house.settle()
    factor = 1 + JITTER * chance
    assert delays == pytest.approx([min(2.0**n, 3600) * factor for n in range(14)])
    recorded = [event.retry_at for event in house.store.journal if isinstance(event, Ended)]
    assert len(recorded) == 14
    assert replayed(house.store.journal) == house.backlog


def test_a_job_that_waits_for_its_retry_takes_no_slot_and_starts_when_it_is_due() -> None:
    house = opened(1)
    house.submit(retries=1, retry_delay=10.0)
    house.finish(1, FAILED)
    assert (house.job(1).status, house.job(1).reason) == (PENDING, Reason.RETRYING)
    house.submit()
    assert running(house) == [2]
    house.finish(2)
    house.clock.advance(9.9)
    house.settle()
    assert running(house) == []
    house.clock.advance(0.2)
    house.settle()
    assert running(house) == [1]
    assert house.job(1).attempts == 2


def test_the_earlier_of_two_delayed_jobs_is_not_forgotten() -> None:
    house = opened(2)
    house.submit(retries=1, retry_delay=100.0)
    house.submit(retries=1, retry_delay=10.0)
    house.finish(1, FAILED)
    house.finish(2, FAILED)
    assert len(house.clock.getDelayedCalls()) == 1
    house.clock.advance(10)
    house.settle()
    assert running(house) == [2]
    house.clock.advance(90)
    house.settle()
    assert running(house) == [1, 2]


def test_retry_runs_a_finished_job_again_under_its_id_and_resets_the_budget() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=1.0)
    for _ in range(2):
        house.finish(1, FAILED)
        house.clock.advance(1)
        house.settle()
    assert house.job(1).status is Status.FAILED
    answer = house.retry(1)
    house.settle()
    assert result_of(answer).id == 1
    assert (house.job(1).attempts, house.job(1).failures) == (3, 0)
    house.finish(1, FAILED)
    assert house.job(1).status is PENDING
    house.clock.advance(1)
    house.settle()
    house.finish(1, COMPLETED)
    assert (house.job(1).attempts, house.job(1).status) == (4, Status.COMPLETED)
    assert house.dispatcher.counters["retried"] == 1


@pytest.mark.parametrize("end", [COMPLETED, FAILED, None])
def test_every_finished_job_can_be_retried(end: Outcome | None) -> None:
    house = opened()
    house.submit()
    if end is None:
        house.cancel(1)
        house.settle()
    house.finish(1, end or FAILED)
    house.retry(1)
    house.settle()
    assert running(house) == [1]
    assert house.job(1).attempts == 2


def test_a_job_that_has_not_ended_cannot_be_retried() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    for job_id in (1, 2):
        assert isinstance(error_of(house.retry(job_id)), WrongState)


def test_a_second_retry_finds_the_job_pending() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    first, second = house.retry(1), house.retry(1)
    house.settle()
    assert result_of(first).id == 1
    assert isinstance(error_of(second), WrongState)


def test_a_job_retried_while_its_cancel_and_its_start_wait_runs_once_in_one_slot() -> None:
    house = opened(2)
    for _ in range(3):
        house.submit()
    house.cancel(3)
    house.retry(3)
    house.executor.finish(1)
    house.executor.finish(2)
    house.settle()
    assert running(house) == [3]
    for _ in range(3):
        house.submit()
    assert running(house) == [3, 4]
    stopped = house.dispatcher.stop(requeue=False)
    assert [signalled for signalled, _, _ in house.executor.signals] == [3, 4]
    house.finish(3)
    house.finish(4)
    result_of(stopped)


# Waiters.


def test_all_who_wait_are_answered_once_and_at_the_end() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=0.0)
    waiting = [house.dispatcher.wait(1) for _ in range(3)]
    house.finish(1, FAILED)
    house.clock.advance(1)
    house.settle()
    assert not any(waiter.called for waiter in waiting)
    house.finish(1)
    assert [result_of(waiter).status for waiter in waiting] == [Status.COMPLETED] * 3
    assert result_of(house.dispatcher.wait(1)) is house.job(1)


def test_a_waiter_who_gave_up_is_forgotten() -> None:
    house = opened()
    house.submit()
    gone, stays = house.dispatcher.wait(1), house.dispatcher.wait(1)
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    assert house.dispatcher._waiters == {1: {stays.callback}}
    house.finish(1)
    assert result_of(stays).id == 1
    assert house.dispatcher._waiters == {}


def test_a_waiter_may_give_up_another_when_it_is_told() -> None:
    house = opened()
    house.submit()
    waiters = [house.dispatcher.wait(1) for _ in range(5)]
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
    house.finish(1)
    assert len(told) == 1
    assert len(errors) == 4
    assert house.statuses() == [Status.COMPLETED]
    house.submit()
    assert running(house) == [2]


# When the store fails.


def test_a_failed_store_refuses_submissions_and_starts_nothing() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    on_its_way = house.asked()
    house.store.break_down()
    assert isinstance(error_of(on_its_way), StoreFailed)
    assert isinstance(error_of(house.asked()), StoreFailed)
    house.executor.finish(1)
    assert [run.id for run in house.executor.runs] == [1]
    assert house.statuses() == [RUNNING, PENDING]
    assert house.dispatcher.store_state() == {"failure": "the disk is full", "segment": 1, "segment_bytes": 4}


def test_a_job_whose_start_could_not_be_recorded_is_not_run_and_not_lost_from_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = opened(1)
    house.asked()
    house.store.sync()
    house.store.break_down()
    assert house.executor.runs == []
    assert house.statuses() == [PENDING]
    assert house.backlog.take(house.clock.elapsed()) is house.job(1)
    assert "job 1 stays PENDING: the disk is full" in caplog.text


def test_an_end_that_could_not_be_recorded_is_told_to_nobody() -> None:
    house = opened()
    house.submit()
    waiting = house.dispatcher.wait(1)
    house.executor.finish(1)
    house.store.break_down()
    assert not waiting.called
    assert house.statuses() == [RUNNING]


@pytest.mark.parametrize("act", [House.cancel, House.retry])
def test_what_a_failed_store_cannot_record_is_refused_and_changes_nothing(
    act: Callable[[House, int], "Deferred[Job]"],
) -> None:
    house = opened()
    house.submit()
    if act is House.retry:
        house.finish(1)
    before = house.job(1).status
    answer = act(house, 1)
    house.store.break_down()
    assert isinstance(error_of(answer), StoreFailed)
    assert isinstance(error_of(act(house, 1)), StoreFailed)
    assert house.job(1).status is before
    assert house.executor.signals == []


def test_a_pid_that_could_not_be_recorded_changes_nothing() -> None:
    house = opened()
    house.asked()
    house.store.sync(2)
    assert [type(event) for event in house.store.on_its_way] == [Spawned]
    house.store.break_down()
    assert running(house) == [1]
    attempt = house.job(1).attempt
    assert attempt is not None
    assert attempt.pid is None


def test_a_stop_with_a_failed_store_fires_all_the_same() -> None:
    house = opened()
    house.submit()
    house.store.break_down()
    stopped = house.dispatcher.stop(requeue=False)
    house.executor.finish(1, INTERRUPTED)
    result_of(stopped)


def test_a_bug_in_a_start_frees_the_slot_and_is_logged(logged_errors: Any) -> None:
    house = opened(1)
    start = house.executor.start
    house.executor.start = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    house.submit()
    [failure] = logged_errors.flush(ZeroDivisionError)
    assert failure.getErrorMessage() == "division by zero"
    house.executor.start = start  # type: ignore[method-assign]
    house.submit()
    assert running(house) == [2]


# Counters.


def test_the_counters_count_what_has_happened() -> None:
    house = opened(4)
    for _ in range(4):
        house.submit()
    house.finish(1)
    house.finish(2, FAILED)
    house.cancel(3)
    house.settle()
    house.finish(3, FAILED)
    house.retry(1)
    house.settle()
    assert house.dispatcher.counters == {
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
    house = opened()
    house.submit(retries=1, retry_delay=0.0)
    house.finish(1, FAILED)
    house.clock.advance(1)
    house.settle()
    house.finish(1)
    answer = house.remove(1)
    assert not answer.called
    assert house.statuses() == [Status.COMPLETED]
    assert house.spool.purged == []
    house.settle()
    result_of(answer)
    assert house.store.journal[-1] == Removed(id=1, at=START + 1, by="ada")
    assert house.spool.purged == [(1, 2)]
    assert house.dispatcher.counters["removed"] == 1
    refused: list[Deferred[Any]] = [house.remove(1), house.retry(1), house.cancel(1)]
    assert all(isinstance(error_of(each), Gone) for each in refused)
    with pytest.raises(Gone):
        house.dispatcher.wait(1)
    assert replayed(house.store.journal) == house.backlog


@pytest.mark.parametrize("is_running", [True, False])
def test_what_has_not_ended_is_not_removed(is_running: bool) -> None:
    house = opened(int(is_running))
    house.submit()
    assert isinstance(error_of(house.remove(1)), WrongState)
    assert isinstance(error_of(house.remove(2)), NoSuchJob)
    assert house.store.on_its_way == []


def test_a_removal_waits_for_what_the_job_has_left_behind() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    left = house.executor.leftovers[1] = Deferred()
    answer = house.remove(1)
    house.settle()
    assert not answer.called
    assert house.statuses() == [Status.COMPLETED]
    left.callback(None)
    house.settle()
    result_of(answer)
    assert house.statuses() == []


@pytest.mark.parametrize("second", [House.remove, House.retry, House.cancel])
def test_whoever_asks_while_a_removal_is_on_its_way_finds_the_job_gone(
    second: Callable[[House, int], "Deferred[Any]"],
) -> None:
    house = opened()
    house.submit()
    house.finish(1)
    answers = [house.remove(1), second(house, 1)]
    house.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), Gone)
    assert [type(event) for event in house.store.journal].count(Removed) == 1
    assert replayed(house.store.journal) == house.backlog


def test_a_removal_waits_for_a_retry_on_its_way_and_is_refused_then() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    answers: list[Deferred[Any]] = [house.retry(1), house.remove(1)]
    house.settle()
    result_of(answers[0])
    assert isinstance(error_of(answers[1]), WrongState)
    assert running(house) == [1]


def test_a_removal_that_cannot_be_recorded_changes_nothing() -> None:
    house = opened()
    house.submit()
    house.finish(1)
    answer = house.remove(1)
    house.store.break_down()
    assert isinstance(error_of(answer), StoreFailed)
    assert house.statuses() == [Status.COMPLETED]
    assert house.spool.purged == []


def test_files_that_cannot_be_removed_are_left_for_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    house = opened()
    house.submit()
    house.finish(1)
    house.spool.error = OSError("it is busy")
    answer = house.remove(1)
    house.settle()
    result_of(answer)
    assert "files of job 1 are left for the next start: it is busy" in caplog.text


def test_whoever_looks_after_old_jobs_is_told_of_every_end() -> None:
    house = opened()
    told: list[list[Status]] = []
    house.dispatcher.on_end(lambda _: told.append(house.statuses()))
    house.submit(retries=1)
    house.submit()
    house.finish(1, FAILED)
    house.finish(2)
    house.cancel(1)
    house.settle()
    assert told == [[PENDING, Status.COMPLETED], [CANCELLED, Status.COMPLETED]]


# Order of submission.


@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
def test_a_job_can_come_only_after_jobs_that_are_there(kind: str) -> None:
    house = opened()
    house.submit()
    house.finish(1)
    house.remove(1)
    house.settle()
    unknown: dict[str, Any] = {kind: (2,)}
    gone: dict[str, Any] = {kind: (1,)}
    assert isinstance(error_of(house.asked(**unknown)), NoSuchJob)
    assert isinstance(error_of(house.asked(**gone)), Gone)
    assert isinstance(error_of(house.asked(**unknown, key="k")), NoSuchJob)
    assert house.store.on_its_way == []
    assert house.submit(key="k") == 2


def test_a_task_is_named_by_its_array_and_index_and_known_by_its_id() -> None:
    house = opened()
    house.submit(array=Array(3, 5))
    house.submit(after=(TaskId(1, 4), 2))
    assert house.job(5).spec.after == (3, 2)
    assert isinstance(error_of(house.asked(after=(TaskId(1, 9),))), NoSuchJob)
    assert isinstance(error_of(house.asked(after=(TaskId(2, 1),))), BadRequest)


def test_the_same_submission_names_a_task_either_way() -> None:
    house = opened()
    house.submit(array=Array(3, 5))
    assert house.submit(after=(TaskId(1, 4),), key="k") == house.submit(after=(3,), key="k") == 5


@pytest.mark.parametrize(
    "wish", [{"slots": 3}, {"needs": {"gpu": 2}}, {"needs": {"tape": 1}}, {"queue": "a", "slots": 2}]
)
def test_what_could_never_start_is_refused(wish: dict[str, Any]) -> None:
    house = opened(2, queues={"a": 1}, resources={"gpu": 1})
    assert isinstance(error_of(house.asked(**wish)), BadRequest)
    assert isinstance(error_of(house.asked(key="k", **wish)), BadRequest)
    assert house.store.on_its_way == []


def test_the_schedule_that_submits_a_job_is_recorded_with_it() -> None:
    house = opened()
    house.schedule()
    house.settle()
    answer = house.dispatcher.submit("true", PLAIN, ACTOR, {}, schedule=1)
    house.settle()
    assert house.job(result_of(answer)).schedule == 1
    assert house.backlog.schedules.by_id[1].last_job == 1


# Arrays.


def told(house: House) -> list[tuple[int, Status]]:
    """Return all ends that are told from now on."""
    ends: list[tuple[int, Status]] = []
    house.dispatcher.on_end(lambda job: ends.append((job.id, job.status)))
    return ends


def test_an_array_is_one_submission_one_record_and_as_many_ids_as_it_has_tasks_and_one() -> None:
    house = opened(9)
    first, second = house.asked(array=Array(1, 3)), house.asked()
    assert len(house.store.on_its_way) == 2
    house.settle()
    assert (result_of(first), result_of(second)) == (1, 5)
    assert running(house) == [2, 3, 4, 5]
    again = House(journal=house.store.journal[:1])
    assert again.submit() == 5


def test_the_end_of_each_task_is_told_and_after_the_last_that_of_the_array() -> None:
    house = opened()
    house.submit(array=Array(1, 3))
    ends = told(house)
    waiting = [house.dispatcher.wait(job_id) for job_id in (1, 2, 4)]
    house.finish(2)
    assert [waiter.called for waiter in waiting] == [False, True, False]
    house.finish(4)
    house.finish(3, FAILED)
    assert all(waiter.called for waiter in waiting)
    completed, failed = Status.COMPLETED, Status.FAILED
    assert ends == [(2, completed), (4, completed), (3, failed), (1, failed)]


def test_a_cancel_of_an_array_is_one_event_and_each_end_is_told_once() -> None:
    house = opened(1)
    house.submit(array=Array(1, 3))
    ends = told(house)
    answer = house.cancel(1)
    assert len(house.store.on_its_way) == 1
    house.settle()
    assert result_of(answer) is house.job(1)
    assert house.executor.signals == [(2, Reason.CANCELLED, TERM)]
    assert ends == [(3, CANCELLED), (4, CANCELLED)]
    house.finish(2, FAILED)
    assert ends[2:] == [(2, CANCELLED), (1, CANCELLED)]
    assert house.dispatcher.counters["cancelled"] == 3


def test_a_cancel_of_an_array_of_which_nothing_runs_ends_it_at_once_and_it_is_told_once() -> None:
    house = opened()
    house.submit(array=Array(1, 3), hold=True)
    ends = told(house)
    waiting = house.dispatcher.wait(1)
    house.cancel(1)
    house.settle()
    assert result_of(waiting).status is CANCELLED
    assert ends == [(2, CANCELLED), (3, CANCELLED), (4, CANCELLED), (1, CANCELLED)]


def test_of_an_array_one_task_may_be_cancelled_retried_and_waited_for() -> None:
    house = opened(1)
    house.submit(array=Array(1, 3))
    house.cancel(3)
    house.settle()
    house.finish(2)
    house.finish(4)
    assert house.job(1).status is CANCELLED
    house.retry(3)
    house.settle()
    assert running(house) == [3]
    assert house.job(1).status is RUNNING
    ends = told(house)
    house.finish(3)
    assert ends == [(3, Status.COMPLETED), (1, Status.COMPLETED)]


def test_a_retry_of_an_array_is_one_of_the_tasks_that_did_not_complete_or_of_all() -> None:
    house = opened(3)
    house.submit(array=Array(1, 3))
    for task, outcome in ((2, COMPLETED), (3, FAILED), (4, FAILED)):
        house.finish(task, outcome)
    house.retry(1)
    assert len(house.store.on_its_way) == 1
    house.settle()
    assert running(house) == [3, 4]
    assert isinstance(error_of(house.retry(1)), WrongState)
    house.finish(3)
    house.finish(4)
    house.retry(1)
    house.settle()
    assert running(house) == [2, 3, 4]


def test_an_array_is_removed_with_its_tasks_and_a_task_alone_is_not() -> None:
    house = opened(2)
    house.submit(array=Array(1, 3))
    house.finish(2)
    assert isinstance(error_of(house.remove(2)), WrongState)
    assert isinstance(error_of(house.remove(1)), WrongState)
    house.finish(3)
    house.cancel(4)
    house.settle()
    house.finish(4)
    answer = house.remove(1)
    house.settle()
    result_of(answer)
    assert house.backlog.jobs == {}
    assert house.spool.purged == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert isinstance(error_of(house.cancel(3)), Gone)
    assert house.submit() == 5


def test_who_listens_to_ends_keeps_nobody_from_a_slot_by_a_bug(logged_errors: Any) -> None:
    house = opened(1)
    ends = told(house)
    house.dispatcher.on_end(lambda _: 1 / 0)
    later = told(house)
    house.submit()
    house.submit()
    house.finish(1)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert ends == later == [(1, Status.COMPLETED)]
    assert running(house) == [2]
