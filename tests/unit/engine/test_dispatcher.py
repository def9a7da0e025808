"""What runs: room and order, the recorded start and end, recovery, the stop, and a store that fails."""

import errno
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from taskqd.engine.dispatcher import STOPPED
from taskqd.errors import (
    Draining,
    StartRefused,
)
from taskqd.execution.run import CannotStart, Outcome, Run
from taskqd.model.events import Cancelled, Ended, Event, JobEvent, Skipped, Spawned, Started, Submitted
from taskqd.model.job import Job, Reason, Status, Usage
from taskqd.model.spec import Array, Spec
from taskqd.state.explain import why
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import House, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED
from tests.support.leaks import LeakWatch

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED
INTERRUPTED = Outcome(reason=Reason.INTERRUPTED, signal=15)
TERM = signal.SIGTERM


@pytest.fixture(name="logged")
def the_log() -> Iterator[list[str]]:
    lines: list[str] = []

    @implementer(ILogObserver)
    def note(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)


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


def on_its_way(house: House) -> list[tuple[type, int]]:
    """Return what is on its way to the disk, and of which job."""
    return [(type(event), event.id) for event in house.store.on_its_way if isinstance(event, JobEvent)]


def test_the_next_start_goes_to_the_disk_right_behind_the_end_that_makes_room_for_it() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    house.executor.finish(1)
    assert on_its_way(house) == [(Ended, 1), (Started, 2)]
    assert (house.statuses(), house.dispatcher.busy) == ([Status.RUNNING, Status.PENDING], 1)
    house.settle()
    assert running(house) == [2]


def test_an_end_that_cannot_be_recorded_goes_before_the_start_that_it_makes_room_for() -> None:
    house = opened(1)
    for _ in range(3):
        house.submit()
    house.executor.finish(1)
    house.store.break_down()
    assert (house.statuses(), running(house)) == ([Status.RUNNING, Status.PENDING, Status.PENDING], [])
    house.store.mend()
    assert on_its_way(house) == [(Ended, 1), (Started, 2)]
    house.settle()
    assert running(house) == [2]


def test_a_skip_that_waits_for_the_disk_keeps_no_start_from_following_it() -> None:
    house = opened(1)
    house.submit()
    house.submit(after=(1,))
    house.submit()
    house.executor.finish(1, FAILED)
    house.store.sync(1)
    expected: list[tuple[type, int]] = [(Started, 3), (Skipped, 2)]
    assert on_its_way(house) == expected
    house.store.break_down()
    house.store.mend()
    house.settle()
    assert running(house) == [3]


def test_a_drain_waits_for_the_ends_that_are_on_their_way() -> None:
    house = opened(1)
    house.submit()
    drained = house.dispatcher.drain()
    house.executor.finish(1)
    assert not drained.called
    house.settle()
    assert drained.called


def test_a_job_that_ends_inside_its_spawn_ends_like_any_other() -> None:
    house = opened(1)
    house.executor.at_once = COMPLETED
    for _ in range(50):
        house.asked()
    house.settle()
    assert house.statuses() == [Status.COMPLETED] * 50
    kinds = [type(event) for event in house.store.journal if isinstance(event, JobEvent) and event.id == 7]
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


def test_an_attempt_that_must_not_be_started_has_failed_without_a_start_and_may_be_retried() -> None:
    """Its secrets cannot be read, for instance: it never runs without them."""
    house = opened(1)
    make_run = house.dispatcher._slots._make_run
    flaws = ["no file", "no file"]

    def refuse(job: Job, attempt: int) -> Run:
        if flaws:
            raise CannotStart(flaws.pop())
        return make_run(job, attempt)

    house.dispatcher._slots._make_run = refuse
    house.submit(retries=1, retry_delay=1.0)
    job = house.job(1)
    assert (job.status, job.attempts, house.executor.runs) == (Status.PENDING, 1, [])
    house.clock.advance(1)
    house.settle()
    assert (job.status, job.reason, job.exit_code) == (Status.FAILED, Reason.SPAWN, None)
    assert job.attempt is not None
    assert job.attempt.detail == "could not be started: no file"
    assert house.executor.runs == []
    house.retry(1)
    house.settle()
    assert running(house) == [1]


# A machine that lacks what a start takes.

LACK = Outcome(reason=Reason.SPAWN, detail="no more processes", is_shortage=True)


class Short:
    """A house whose machine has room for some processes and no more."""

    def __init__(self, room: int, slots: int = 50) -> None:
        self.house = opened(slots)
        self.room = room
        self._start = self.house.executor.start
        cast("Any", self.house.executor).start = self._try

    def _try(self, run: Run, recording: Any, spawned: Any) -> "Deferred[Outcome]":
        if len(self.house.executor.running) >= self.room:
            return succeed(LACK)
        return self._start(run, recording, spawned)

    def submit(self, count: int, **options: Any) -> None:
        for _ in range(count):
            self.house.asked(**options)
        self.house.settle()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 8)):
            self.house.clock.advance(0.125)
            self.house.settle()

    def starts(self) -> int:
        return sum(isinstance(event, Started) for event in self.house.store.journal)


def test_a_shortage_fails_no_job_and_takes_back_what_it_has_refused() -> None:
    short = Short(room=3)
    short.submit(300)
    house = short.house
    assert len(running(house)) == 3
    assert house.backlog.counts[Status.PENDING] == 297
    for job in house.backlog.walk(1):
        attempts = 1 if job.status is Status.RUNNING else 0
        assert (job.attempts, job.failures, job.past) == (attempts, 0, ())
        assert (job.attempt is not None) == bool(attempts)
    assert replayed(house.store.journal) == house.backlog


def test_a_start_that_is_taken_back_is_not_counted_as_started() -> None:
    short = Short(room=3)
    short.submit(300)
    assert short.starts() > 3
    assert short.house.dispatcher.counters["started"] == 3
    short.room = 0
    short.house.executor.finish(1)
    short.pass_time(30)
    assert short.house.dispatcher.counters["started"] == 3


def test_an_attempt_that_ends_without_a_process_is_counted_as_started() -> None:
    house = opened(1)
    house.executor.at_once = Outcome(reason=Reason.SPAWN, detail="no such directory")
    house.submit(retries=1, retry_delay=1.0)
    house.clock.advance(2)
    house.settle()
    assert (house.job(1).attempts, house.dispatcher.counters["started"]) == (2, 2)


def test_a_shortage_that_lasts_costs_a_try_of_one_job_now_and_then() -> None:
    short = Short(room=0)
    short.submit(300)
    assert short.starts() <= 50, "no more than there are slots"
    before = short.starts()
    short.pass_time(600)
    assert 60 <= short.starts() - before < 80
    assert short.house.backlog.counts[Status.PENDING] == 300
    assert replayed(short.house.store.journal) == short.house.backlog


def test_after_a_shortage_all_goes_on_by_itself_and_that_is_logged_once(logged: list[str]) -> None:
    short = Short(room=3)
    short.submit(40)
    short.pass_time(30)
    assert [line for line in logged if "no job starts for now" in line] == logged
    assert len(logged) == 1
    assert "no more processes" in logged[0]
    short.room = 100
    short.pass_time(20)
    assert len(running(short.house)) == 40
    assert len(logged) == 2
    assert "jobs start again" in logged[1]
    assert short.house.clock.getDelayedCalls() == []


def test_the_end_of_a_job_lets_another_be_tried_at_once() -> None:
    short = Short(room=2)
    short.submit(10)
    short.pass_time(60)
    first = running(short.house)[0]
    short.house.finish(first)
    assert len(running(short.house)) == 2
    for _ in range(9):
        short.house.finish(running(short.house)[0])
    assert short.house.backlog.counts[Status.COMPLETED] == 10


def test_jobs_that_are_gone_in_no_time_go_on_beside_a_shortage() -> None:
    short = Short(room=0)
    short.submit(100)
    short.room = 100
    short.house.executor.at_once = COMPLETED
    short.pass_time(0.25)
    assert short.house.backlog.counts[Status.COMPLETED] == 100


def test_a_job_that_is_cancelled_while_the_machine_refuses_it_is_cancelled() -> None:
    house = opened(1)
    waiting: Deferred[Outcome] = Deferred()
    cast("Any", house.executor).start = lambda *_: waiting
    house.submit()
    house.cancel(1)
    house.settle()
    waiting.callback(LACK)
    house.settle()
    assert house.statuses() == [CANCELLED]


def test_a_shortage_keeps_no_drain_and_no_stop_waiting() -> None:
    short = Short(room=0)
    short.submit(5)
    drained = short.house.dispatcher.drain()
    result_of(drained)
    stopped = short.house.dispatcher.stop(False)
    short.house.settle()
    result_of(stopped)
    assert short.house.backlog.counts[Status.PENDING] == 5
    assert short.house.clock.getDelayedCalls() == []


def test_an_attempt_whose_files_cannot_be_made_for_want_of_descriptors_is_taken_back_too() -> None:
    house = opened(1)

    def refuse(job: Job, attempt: int) -> Run:
        raise CannotStart("its files cannot be handed over", OSError(errno.EMFILE, "too many"))

    house.dispatcher._slots._make_run = refuse
    house.submit(retries=1)
    assert (house.job(1).status, house.job(1).attempts) == (PENDING, 0)


def test_a_shortage_is_told_by_stats_and_why() -> None:
    short = Short(room=1)
    short.submit(3)
    house = short.house
    told = house.dispatcher.shortage()
    assert told is not None
    assert (told["detail"], told["next_try_in"] > 0) == ("no more processes", True)
    text = why(house.backlog, house.job(3), house.clock.elapsed(), house.dispatcher.lack())
    assert "the machine lacks what a start takes (no more processes)" in text
    short.room = 10
    short.pass_time(10)
    assert (house.dispatcher.shortage(), house.dispatcher.lack()) == (None, None)


def test_what_had_run_before_is_as_it_was_once_a_start_is_taken_back() -> None:
    house = opened(1)
    house.executor.at_once = FAILED
    house.submit(retries=2, retry_delay=1.0)
    before = house.job(1).attempt
    house.executor.at_once = LACK
    house.clock.advance(2)
    house.settle()
    job = house.job(1)
    assert (job.status, job.attempts, job.failures, job.attempt, job.past) == (PENDING, 1, 1, before, ())
    assert replayed(house.store.journal) == house.backlog


# After a crash.


def crashed(*events: Event, **spec: Any) -> House:
    journal: list[Event] = [Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(**spec))]
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
            Submitted(id=1, at=START, owner="ada", command="true"),
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
            Submitted(id=1, at=START, owner="ada", command="true"),
            Started(id=1, at=START, attempt=1),
        ]
    )
    house.store.failure = "the disk is full"
    with pytest.raises(StartRefused):
        house.dispatcher.recover("the daemon was killed")


def test_pending_jobs_start_after_a_restart_and_nothing_else_is_touched() -> None:
    house = House(
        1,
        journal=[
            Submitted(id=1, at=START, owner="ada", command="true"),
            Submitted(id=2, at=START, owner="ada", command="true"),
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


def test_a_job_that_comes_due_while_an_end_waits_for_the_store_starts_afterwards() -> None:
    house = opened(2)
    house.submit(retries=1, retry_delay=1.0)
    house.submit()
    house.finish(1, FAILED)
    house.store.break_down()
    house.executor.finish(2)
    house.clock.advance(5)
    assert running(house) == []
    house.store.mend()
    house.settle()
    assert running(house) == [1]
    assert house.statuses()[1] is Status.COMPLETED


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


# Room.


def test_a_job_takes_the_slots_that_it_wants_of_all_and_of_its_queue() -> None:
    house = opened(4, queues={"small": 2})
    house.submit(queue="small", slots=2)
    house.submit(queue="small")
    house.submit(slots=2)
    house.submit()
    assert running(house) == [1, 3]
    house.finish(3)
    assert running(house) == [1, 4]
    house.finish(1)
    assert running(house) == [2, 4]


def test_no_more_of_a_resource_is_in_use_than_there_is_whatever_the_queue() -> None:
    house = opened(9, resources={"gpu": 2, "disk": 1})
    house.submit(needs={"gpu": 1}, queue="a")
    house.submit(needs={"gpu": 1, "disk": 1}, queue="b")
    house.submit(needs={"disk": 1})
    house.submit(needs={"gpu": 1})
    house.submit()
    assert running(house) == [1, 2, 5]
    house.finish(2)
    assert running(house) == [1, 3, 4, 5]


def test_the_higher_priority_goes_first_and_of_one_priority_the_lower_id() -> None:
    house = opened(1)
    for priority in (0, 0, 5, -1, 5):
        house.submit(priority=priority)
    order = []
    while running(house):
        order += running(house)
        house.finish(order[-1])
    assert order == [1, 3, 5, 2, 4]


def test_so_many_tasks_of_an_array_run_at_once_as_it_says() -> None:
    house = opened(9)
    house.submit(array=Array(1, 5, 2))
    house.submit()
    assert running(house) == [2, 3, 7]
    house.finish(3)
    assert running(house) == [2, 4, 7]


def test_room_for_a_big_job_is_kept_after_a_while_and_the_alarm_lets_go_of_it_again() -> None:
    house = opened(2)
    house.submit()
    house.submit(slots=2)
    house.submit()
    assert running(house) == [1, 3]
    house.clock.advance(61)
    house.finish(3)
    house.submit()
    assert running(house) == [1], "what job 2 wants is kept for it"
    house.clock.advance(61)
    house.settle()
    assert running(house) == [1, 4], "and not for ever"


# Nothing new at a stop.


@pytest.mark.parametrize("is_stop", [False, True])
@pytest.mark.parametrize(
    "options", [{"delay": 5.0}, {"hold": True}, {"after": (1,)}, {"after_any": (1,)}, {"array": Array(1, 3)}]
)
def test_a_daemon_that_stops_starts_nothing_that_waits_for_anything(
    options: dict[str, Any], is_stop: bool
) -> None:
    house = opened(1)
    house.submit()
    job_id = house.submit(**options)
    stopped = house.dispatcher.stop(requeue=False) if is_stop else house.dispatcher.drain()
    house.release(job_id)
    house.resize("default", 5)
    house.settle()
    house.finish(1)
    house.clock.advance(10)
    house.settle()
    result_of(stopped)
    assert [run.id for run in house.executor.runs] == [1]
    assert house.job(job_id).status is PENDING
    assert house.clock.getDelayedCalls() == []
    again = House(4, journal=house.store.journal)
    again.dispatcher.recover("it was killed")
    again.dispatcher.start()
    again.settle()
    again.clock.advance(10)
    again.settle()
    assert min(running(again)) >= job_id


def test_what_fails_while_the_daemon_drains_still_has_its_consequences() -> None:
    house = opened(1)
    house.submit()
    house.submit(after=(1,))
    drained = house.dispatcher.drain()
    house.finish(1, FAILED)
    result_of(drained)
    assert (house.job(2).status, house.job(2).reason) == (Status.FAILED, Reason.DEPENDENCY)


# Tasks of arrays.


def test_the_tasks_of_an_array_run_like_jobs_and_the_array_never_does() -> None:
    house = opened(2)
    house.submit("run", array=Array(5, 7))
    assert [(run.id, run.command) for run in house.executor.runs] == [(2, "run"), (3, "run")]
    assert house.dispatcher.busy == 2
    for task in (2, 3, 4):
        house.finish(task)
    assert house.job(1).status is Status.COMPLETED
    assert house.job(1).attempts == 0


def test_a_stop_ends_the_tasks_and_requeues_them_if_it_is_to() -> None:
    house = opened(2)
    house.submit(array=Array(1, 3))
    stopped = house.dispatcher.stop(requeue=True)
    assert [signalled for signalled, _, _ in house.executor.signals] == [2, 3]
    for task in (2, 3):
        house.finish(task, INTERRUPTED)
    result_of(stopped)
    assert set(house.statuses()) == {PENDING}


def test_tasks_that_a_crash_cut_off_were_interrupted_and_the_array_goes_on() -> None:
    house = opened(2)
    house.submit(array=Array(1, 3), retries=0)
    house.submit(array=Array(1, 1), retries=1, retry_delay=0.0)
    house.finish(2)
    again = House(2, journal=house.store.journal)
    interrupted = again.dispatcher.recover("it was killed")
    assert [job.id for job in interrupted] == [3, 4]
    assert [again.job(task).status for task in (1, 2, 3, 4)] == [
        Status.FAILED,
        Status.COMPLETED,
        Status.FAILED,
        Status.FAILED,
    ]
    again.dispatcher.start()
    again.settle()
    assert running(again) == [6]
    assert replayed(again.store.journal) == again.backlog


def test_interrupted_tasks_run_again_if_their_retries_allow() -> None:
    house = opened(2)
    house.submit(array=Array(1, 2), retries=1, retry_delay=0.0)
    again = House(2, journal=house.store.journal)
    again.dispatcher.recover("it was killed")
    assert (again.job(1).status, again.job(2).reason) == (PENDING, Reason.RETRYING)
    again.dispatcher.start()
    again.settle()
    assert running(again) == [2, 3]
    assert again.job(2).attempts == 2


# What is retried.


@pytest.mark.parametrize(
    "options, outcome, is_retried",
    [
        ({"retry_on": ("exit:3",)}, FAILED, True),
        ({"retry_on": ("exit:4", "timeout")}, FAILED, False),
        ({"no_retry_on": ("exit:3",)}, FAILED, False),
        ({"retry_on": ("signal:KILL",)}, Outcome(reason=Reason.SIGNAL, signal=9), True),
        ({"retry_on": ("timeout",)}, Outcome(reason=Reason.TIMEOUT, signal=15), True),
        ({"no_retry_on": ("spawn",)}, Outcome(reason=Reason.SPAWN), False),
    ],
)
def test_an_attempt_is_followed_by_another_if_its_end_is_one_that_the_job_retries(
    options: dict[str, Any], outcome: Outcome, is_retried: bool
) -> None:
    house = opened()
    house.submit(retries=1, **options)
    house.finish(1, outcome)
    assert house.job(1).status is (PENDING if is_retried else Status.FAILED)


def test_no_retry_waits_longer_than_the_job_says() -> None:
    house = opened()
    house.submit(retries=9, retry_delay=1.0, retry_delay_max=5.0)
    delays = []
    for _ in range(5):
        house.finish(1, FAILED)
        delays.append((house.job(1).not_before or 0.0) - house.clock.elapsed())
        house.clock.advance(5)
        house.settle()
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_an_attempt_has_used_is_recorded_with_its_end() -> None:
    house = opened()
    house.submit()
    usage = Usage(user=1.5, system=0.5, memory=4096)
    house.finish(1, Outcome(reason=None, exit_code=0, usage=usage))
    end = house.store.journal[-1]
    assert isinstance(end, Ended)
    assert end.usage == usage


# Whatever fails between a recorded start and a recorded end.


def _break(*_: object) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("place", ["_make_run", "_told_started"])
def test_a_bug_between_the_recorded_start_and_the_process_ends_the_attempt(
    logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    house = opened(1)
    with monkeypatch.context() as patched:
        patched.setattr(house.dispatcher._slots, place, _break)
        house.submit()
    job = house.job(1)
    assert (job.status, job.reason, job.attempt and job.attempt.detail) == (
        *(Status.FAILED, Reason.SPAWN),
        "could not be started: a bug",
    )
    house.submit()
    assert running(house) == [2], "the slot came back"
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_an_end_that_the_executor_cannot_tell_is_an_end(logged_errors: LeakWatch) -> None:
    house = opened(1)
    house.submit()
    house.submit()
    house.executor.running.pop(1).errback(ZeroDivisionError("a bug"))
    house.settle()
    job = house.job(1)
    assert (job.status, job.reason, job.attempt and job.attempt.detail) == (
        *(Status.FAILED, Reason.OUTPUT),
        "its end could not be handled: a bug",
    )
    assert running(house) == [2]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_end_that_cannot_be_recorded_as_it_was_is_recorded_without_that(
    logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    house = opened(1)
    house.submit()
    house.submit()
    if is_cancelled:
        house.cancel(1)
        house.settle()
    monkeypatch.setattr(house.spool, "progress", _break)
    house.executor.finish(1, Outcome(reason=Reason.EXIT, exit_code=7))
    monkeypatch.undo()
    house.settle()
    job = house.job(1)
    assert (job.status, job.exit_code) == (CANCELLED if is_cancelled else Status.FAILED, 7)
    assert running(house) == [2]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
