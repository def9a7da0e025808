"""The one writer: disk before word, slots, order, keys, cancels, retries, recovery and the stop."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed

from taskqd.errors import (
    Draining,
    Gone,
    KeyConflict,
    NoSuchJob,
    StartRefused,
    StoreFailed,
    TaskqError,
    WrongState,
)
from taskqd.events import Cancelled, Ended, Event, Output, Removed, Retried, Spawned, Started, Submitted
from taskqd.job import Job, Reason, Spec, Status
from taskqd.launch import Outcome
from taskqd.slots import JITTER, STOPPED
from tests.fakes import COMPLETED, FAILED, START, House, begin, error_of, replayed, result_of

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
INTERRUPTED = Outcome(reason=Reason.INTERRUPTED, signal=15)
TERM = signal.SIGTERM


def opened(slots: int = 2, **options: Any) -> House:
    house = House(slots, **options)
    house.dispatcher.start()
    return house


def running(house: House) -> list[int]:
    return sorted(house.executor.running)


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
        Submitted(id=1, at=START, owner="ada", spec=Spec(command="echo hello", label="x")),
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


# Slots and order.


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_more_jobs_run_than_there_are_slots_and_they_start_by_id(slots: int) -> None:
    house = opened(slots)
    for _ in range(12):
        house.submit()
    while house.executor.running:
        assert len(house.executor.running) == min(slots, house.backlog.counts[PENDING] + len(running(house)))
        house.finish(running(house)[0])
    assert house.executor.most == slots
    assert [run.id for run in house.executor.runs] == list(range(1, 13))
    assert house.backlog.counts[Status.COMPLETED] == 12


def test_starts_on_their_way_to_the_disk_count_against_the_slots() -> None:
    house = opened(2)
    for _ in range(5):
        house.asked()
    house.store.sync(5)
    assert [type(event) for event in house.store.on_its_way] == [Started, Started]


def test_an_end_on_its_way_to_the_disk_keeps_its_slot() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    house.executor.finish(1)
    assert [type(event) for event in house.store.on_its_way] == [Ended]
    house.settle()
    assert running(house) == [2]


def test_a_job_that_ends_inside_its_spawn_ends_like_any_other() -> None:
    house = opened(1)
    house.executor.at_once = COMPLETED
    for _ in range(50):
        house.asked()
    house.settle()
    assert house.statuses() == [Status.COMPLETED] * 50
    kinds = [type(event) for event in house.store.journal if event.id == 7]
    assert kinds == [Submitted, Started, Spawned, Ended]


def test_a_job_that_cannot_be_spawned_has_failed_with_the_reason() -> None:
    house = opened(1)
    house.executor.at_once = Outcome(reason=Reason.SPAWN, detail="no such file")
    house.submit()
    job = house.job(1)
    assert (job.status, job.reason, job.exit_code) == (Status.FAILED, Reason.SPAWN, None)
    assert job.attempt is not None
    assert job.attempt.detail == "no such file"
    assert job.attempt.pid is None


def test_ids_go_on_where_the_journal_or_the_store_says() -> None:
    house = House(journal=[Submitted(id=7, at=START, owner="ada", spec=Spec(command="true"))])
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


@pytest.mark.parametrize("is_first_freed", [True, False])
def test_a_job_whose_cancel_is_on_its_way_does_not_start(is_first_freed: bool) -> None:
    house = opened(1)
    house.submit()
    house.submit()
    if is_first_freed:
        house.executor.finish(1)
    house.cancel(2)
    if not is_first_freed:
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
        delays.append(not_before - house.clock.seconds())
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
    house.executor.finish(1)
    house.executor.finish(2)
    house.cancel(3)
    house.retry(3)
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
    assert house.dispatcher._waiters == {1: {stays}}
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


# After a crash.


def crashed(*events: Event, **spec: Any) -> House:
    journal: list[Event] = [Submitted(id=1, at=START, owner="ada", spec=Spec(command="true", **spec))]
    house = House(journal=[*journal, Started(id=1, at=START, attempt=1), *events])
    house.dispatcher.recover("the daemon was killed")
    return house


def test_an_attempt_that_a_crash_cut_off_was_interrupted_and_does_not_run_again_unasked() -> None:
    house = crashed()
    house.spool.on_disk = {}
    assert (house.job(1).status, house.job(1).reason, house.job(1).exit_code) == (
        Status.FAILED,
        Reason.INTERRUPTED,
        None,
    )
    house.dispatcher.start()
    house.settle()
    assert house.executor.runs == []
    assert house.spool.released == [1]


def test_an_interrupted_attempt_is_followed_by_another_only_if_its_retries_allow() -> None:
    house = crashed(retries=1, retry_delay=2.0)
    assert (house.job(1).status, house.job(1).reason, house.job(1).failures) == (PENDING, Reason.RETRYING, 1)
    house.dispatcher.start()
    house.clock.advance(2)
    house.settle()
    assert running(house) == [1]
    assert house.job(1).attempts == 2
    assert replayed(house.store.journal) == house.backlog


def test_a_running_job_that_was_cancelled_before_the_crash_is_cancelled() -> None:
    house = crashed(Cancelled(id=1, at=START, by="ada", signal=15), retries=5)
    assert (house.job(1).status, house.job(1).reason) == (CANCELLED, Reason.CANCELLED)


def test_what_an_interrupted_attempt_had_printed_is_kept() -> None:
    house = House(
        journal=[
            Submitted(id=1, at=START, owner="ada", spec=Spec(command="true")),
            Started(id=1, at=START, attempt=1),
            Spawned(id=1, at=START, pid=99, started=3),
        ]
    )
    house.spool.on_disk[1, 1] = (b"so far", b"")
    assert house.dispatcher.recover("the daemon was killed") == [house.job(1)]
    attempt = house.job(1).attempt
    assert attempt is not None
    assert (attempt.stdout_bytes, attempt.stdout_inline, attempt.stderr_bytes) == (6, False, 0)
    assert attempt.detail
    assert result_of(begin(house.results.both(house.job(1)))) == (b"so far", b"")


def test_the_interruption_is_durable_before_anything_else_happens_or_the_start_is_refused() -> None:
    house = House(
        journal=[
            Submitted(id=1, at=START, owner="ada", spec=Spec(command="true")),
            Started(id=1, at=START, attempt=1),
        ]
    )
    house.store.failure = "the disk is full"
    with pytest.raises(StartRefused):
        house.dispatcher.recover("the daemon was killed")


def test_pending_jobs_start_after_a_restart_and_nothing_else_is_touched() -> None:
    spec = Spec(command="true")
    house = House(
        1,
        journal=[
            Submitted(id=1, at=START, owner="ada", spec=spec),
            Submitted(id=2, at=START, owner="ada", spec=spec),
        ],
    )
    assert house.dispatcher.recover("the daemon was killed") == []
    assert house.executor.runs == []
    house.dispatcher.start()
    house.settle()
    assert running(house) == [1]


# The stop.


def test_a_stop_ends_what_runs_starts_nothing_and_fires_when_all_is_recorded() -> None:
    house = opened(2)
    for _ in range(4):
        house.submit()
    stopped = house.dispatcher.stop(requeue=False)
    assert house.executor.signals == [(1, Reason.INTERRUPTED, TERM), (2, Reason.INTERRUPTED, TERM)]
    house.finish(1, INTERRUPTED)
    house.executor.finish(2, INTERRUPTED)
    assert not stopped.called
    house.settle()
    result_of(stopped)
    assert house.statuses() == [Status.FAILED, Status.FAILED, PENDING, PENDING]
    assert house.job(1).reason is Reason.INTERRUPTED
    assert len(house.executor.runs) == 2


def test_a_stop_of_an_idle_dispatcher_fires_at_once_and_so_does_another() -> None:
    house = opened()
    result_of(house.dispatcher.stop(requeue=False))
    result_of(house.dispatcher.stop(requeue=False))


def test_two_stops_fire_together() -> None:
    house = opened()
    house.submit()
    stops = [house.dispatcher.stop(requeue=False), house.dispatcher.stop(requeue=False)]
    house.finish(1, INTERRUPTED)
    for stop in stops:
        result_of(stop)


def test_a_stopping_dispatcher_takes_nothing_new() -> None:
    house = opened()
    result_of(house.dispatcher.stop(requeue=False))
    assert isinstance(error_of(house.asked()), Draining)
    assert isinstance(error_of(house.asked(key="k")), Draining)
    assert house.store.on_its_way == []


def test_a_start_on_its_way_when_the_stop_comes_is_not_spawned_and_ends_interrupted() -> None:
    house = opened()
    house.asked()
    house.store.sync()
    stopped = house.dispatcher.stop(requeue=False)
    house.settle()
    result_of(stopped)
    assert house.executor.runs == []
    assert (house.job(1).status, house.job(1).reason) == (Status.FAILED, Reason.INTERRUPTED)


def test_an_attempt_that_a_stop_interrupted_runs_again_after_the_restart_if_its_retries_allow() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=0.0)
    house.dispatcher.stop(requeue=False)
    house.finish(1, INTERRUPTED)
    house.clock.advance(5)
    house.settle()
    assert running(house) == []
    again = House(journal=house.store.journal)
    again.dispatcher.start()
    again.settle()
    assert running(again) == [1]


def test_a_job_that_ends_by_itself_during_the_stop_has_its_own_end() -> None:
    house = opened()
    house.submit()
    stopped = house.dispatcher.stop(requeue=False)
    house.finish(1, COMPLETED)
    result_of(stopped)
    assert house.statuses() == [Status.COMPLETED]


def test_a_stop_leaves_no_alarm() -> None:
    house = opened()
    house.submit(retries=1)
    house.finish(1, FAILED)
    assert house.clock.getDelayedCalls()
    house.dispatcher.stop(requeue=False)
    assert house.clock.getDelayedCalls() == []


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
    assert house.backlog.take(house.clock.seconds()) is house.job(1)
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


# Whatever happens.

STEPS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 2)),
    st.tuples(st.just("keyed"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["cancel", "retry", "remove"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["complete", "fail"]), st.integers(0, 2)),
    st.tuples(st.just("sync"), st.integers(1, 4)),
    st.tuples(st.just("advance"), st.sampled_from([1, 5])),
)


def allowed(answer: "Deferred[Any]") -> "Deferred[Any]":
    """Return an answer that may be a refusal."""
    return answer.addErrback(lambda failure: failure.trap(TaskqError))


def step(house: House, act: str, number: int) -> "Deferred[Any]":
    ids = list(house.backlog.jobs)
    if act == "submit":
        return house.asked(retries=number)
    if act == "keyed":
        return house.asked(f"echo {number // 2}", key=f"k{number % 2}")
    moves: dict[str, Callable[[int], Deferred[Any]]] = {
        "cancel": house.cancel,
        "retry": house.retry,
        "remove": house.remove,
    }
    if act in moves and ids:
        return moves[act](ids[number % len(ids)])
    if act in ("complete", "fail") and running(house):
        job_id = running(house)[number % len(running(house))]
        house.executor.finish(job_id, COMPLETED if act == "complete" else FAILED)
    if act == "sync":
        house.store.sync(min(number, len(house.store.on_its_way)))
    if act == "advance":
        house.clock.advance(number)
    return succeed(None)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(1, 3))
def test_the_backlog_is_a_fold_of_the_journal_and_slots_hold_at_every_step(
    steps: list[tuple[str, int]], slots: int
) -> None:
    house = opened(slots)
    answers = []
    for act, number in steps:
        answers.append(allowed(step(house, act, number)))
        assert house.backlog == replayed(house.store.journal)
        assert len(house.executor.running) <= slots
        assert all(house.job(job_id).status is RUNNING for job_id in house.executor.running)
    while True:
        house.settle()
        house.clock.advance(3600)
        house.settle()
        if not house.executor.running:
            break
        house.finish(running(house)[0])
    assert all(answer.called for answer in answers)
    assert all(status.is_final for status in house.statuses())
    assert house.backlog == replayed(house.store.journal)
    starts = [(event.id, event.attempt) for event in house.store.journal if isinstance(event, Started)]
    assert len(set(starts)) == len(starts) == len(house.executor.runs)
    assert (
        sum(isinstance(event, Retried) for event in house.store.journal)
        == house.dispatcher.counters["retried"]
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=30), st.lists(STEPS, max_size=10))
def test_a_failed_store_changes_nothing_any_more(before: list[Any], after: list[Any]) -> None:
    house = opened()
    for act, number in before:
        allowed(step(house, act, number))
    house.store.break_down()
    starts = len(house.executor.runs)
    known = replayed(house.store.journal)
    assert house.backlog == known
    for act, number in after:
        allowed(step(house, act, number))
    assert house.backlog == known
    assert len(house.executor.runs) == starts


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
    house.dispatcher.on_end(lambda: told.append(house.statuses()))
    house.submit(retries=1)
    house.submit()
    house.finish(1, FAILED)
    house.finish(2)
    house.cancel(1)
    house.settle()
    assert told == [[PENDING, Status.COMPLETED], [CANCELLED, Status.COMPLETED]]


# Draining.


def test_a_draining_dispatcher_takes_nothing_starts_nothing_and_lets_what_runs_end() -> None:
    house = opened(1)
    for _ in range(3):
        house.submit()
    drained = house.dispatcher.drain()
    assert isinstance(error_of(house.asked()), Draining)
    assert isinstance(error_of(house.asked(key="k")), Draining)
    assert not drained.called
    assert house.executor.signals == []
    house.finish(1)
    result_of(drained)
    assert house.statuses() == [Status.COMPLETED, PENDING, PENDING]
    assert (house.dispatcher.is_draining, house.dispatcher.busy) == (True, 0)
    cancelled = house.cancel(2)
    house.settle()
    result_of(cancelled)
    retried = house.retry(1)
    house.settle()
    result_of(retried)
    assert running(house) == []


def test_a_start_on_its_way_when_the_drain_comes_still_counts() -> None:
    house = opened()
    house.asked()
    house.store.sync()
    drained = house.dispatcher.drain()
    assert house.dispatcher.busy == 1
    house.settle()
    assert not drained.called
    house.finish(1)
    result_of(drained)


def test_an_idle_dispatcher_is_drained_at_once_and_whoever_gave_up_is_not_told() -> None:
    house = opened()
    result_of(house.dispatcher.drain())
    house = opened()
    house.submit()
    gone, stays = house.dispatcher.drain(), house.dispatcher.drain()
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    house.finish(1)
    result_of(stays)


def test_a_delayed_job_does_not_start_while_draining() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=1.0)
    house.finish(1, FAILED)
    house.dispatcher.drain()
    assert house.clock.getDelayedCalls() == []
    house.clock.advance(5)
    house.settle()
    assert house.executor.runs == house.executor.runs[:1]


# A stop that requeues.


def test_with_requeue_what_a_stop_interrupts_is_pending_again_and_has_spent_no_retry() -> None:
    house = opened()
    house.submit(retries=1)
    stopped = house.dispatcher.stop(requeue=True)
    house.finish(1, INTERRUPTED)
    result_of(stopped)
    job = house.job(1)
    assert (job.status, job.reason, job.failures, job.attempts) == (PENDING, Reason.RETRYING, 0, 1)
    end = house.store.journal[-1]
    assert isinstance(end, Ended)
    assert (end.is_free, end.retry_at, end.reason, end.detail) == (True, START, Reason.INTERRUPTED, STOPPED)
    again = House(journal=house.store.journal)
    again.dispatcher.start()
    again.settle()
    assert running(again) == [1]
    assert again.job(1).attempts == 2


def test_with_requeue_what_ends_by_itself_or_was_cancelled_is_not_requeued() -> None:
    house = opened(3)
    for _ in range(3):
        house.submit()
    house.cancel(2)
    house.settle()
    house.dispatcher.stop(requeue=True)
    house.finish(1, COMPLETED)
    house.finish(2, INTERRUPTED)
    house.finish(3, FAILED)
    assert house.statuses() == [Status.COMPLETED, CANCELLED, Status.FAILED]


def test_with_requeue_a_start_on_its_way_is_requeued_too() -> None:
    house = opened()
    house.asked()
    house.store.sync()
    house.dispatcher.stop(requeue=True)
    house.settle()
    assert (house.statuses(), house.job(1).failures) == ([PENDING], 0)


def test_a_stop_is_told_from_a_crash() -> None:
    house = opened()
    house.submit()
    house.dispatcher.stop(requeue=False)
    house.finish(1, INTERRUPTED)
    attempt = house.job(1).attempt
    assert attempt is not None
    assert attempt.detail == STOPPED
    attempt = crashed().job(1).attempt
    assert attempt is not None
    assert attempt.detail == "the daemon was killed"


# When the store works again.


def test_an_end_that_could_not_be_recorded_is_recorded_when_the_store_works_again() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    waiting = house.dispatcher.wait(1)
    house.store.break_down()
    house.executor.finish(1)
    assert not waiting.called
    assert running(house) == []
    house.store.mend()
    house.settle()
    assert result_of(waiting).status is Status.COMPLETED
    assert running(house) == [2]


def test_an_end_waits_through_one_failure_after_the_other() -> None:
    house = opened(1)
    house.submit()
    house.executor.finish(1)
    for _ in range(3):
        house.store.break_down()
        house.store.mend()
        assert [type(event) for event in house.store.on_its_way] == [Ended]
    house.settle()
    assert house.statuses() == [Status.COMPLETED]


def test_a_job_whose_start_was_refused_starts_when_the_store_works_again() -> None:
    house = opened(2)
    house.asked()
    house.asked()
    house.store.sync(2)
    house.store.break_down()
    assert house.executor.runs == []
    house.store.mend()
    house.settle()
    assert running(house) == [1, 2]
    assert [job.attempts for job in house.backlog.walk(1)] == [1, 1]


def test_a_job_that_comes_due_while_the_store_has_failed_starts_afterwards() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=1.0)
    house.finish(1, FAILED)
    house.store.break_down()
    house.clock.advance(5)
    assert running(house) == []
    house.store.mend()
    house.settle()
    assert running(house) == [1]


def test_a_submission_that_was_durable_just_before_the_failure_starts_afterwards() -> None:
    house = opened()
    answer = house.asked()
    house.store.failure = "the disk is full"  # a store tells first of its failure, then of what was durable
    house.store.sync()
    result_of(answer)
    house.store.mend()
    house.settle()
    assert running(house) == [1]


def test_a_stop_does_not_wait_for_the_store() -> None:
    house = opened()
    house.submit()
    house.store.break_down()
    house.executor.finish(1)
    stopped = house.dispatcher.stop(requeue=False)
    result_of(stopped)
    assert house.statuses() == [RUNNING]
    house.store.mend()
    house.settle()
    assert house.statuses() == [RUNNING], "the next start says what became of it"


def test_who_waits_for_the_store_to_go_on_may_be_given_up() -> None:
    house = opened()
    house.asked()
    house.store.sync()
    house.store.break_down()
    house.store._waiting[0].cancel()
    assert house.statuses() == [PENDING]
