"""The dispatcher: capacity and order, recorded starts and ends, recovery, stop, failures of the journal."""

import errno
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from taskqd.errors import Draining, StartRefused, WrongState
from taskqd.execution.messages import Start
from taskqd.execution.run import CannotStart, Outcome
from taskqd.model.events import Cancelled, Ended, Event, JobEvent, Skipped, Spawned, Started, Submitted
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array, Spec
from taskqd.state.explain import explain
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED, lost, start_of
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
def test_jobs_start_in_order_of_id_while_slots_are_available(slots: int) -> None:
    harness = opened(slots)
    for _ in range(12):
        harness.submit()
    while harness.executor.running:
        assert len(harness.executor.running) == min(
            slots, harness.queue_state.counts[PENDING] + len(running(harness))
        )
        harness.finish(running(harness)[0])
    assert harness.executor.most == slots
    assert [run.id for run in harness.executor.runs] == list(range(1, 13))
    assert harness.queue_state.counts[Status.COMPLETED] == 12


def test_attempt_starts_with_the_word_and_the_runner_of_its_record() -> None:
    words = iter(["00c0ffee00c0ffee", "0123456789abcdef"])
    harness = Harness(make_word=lambda: next(words))
    harness.executor.runner = "fedcba9876543210"
    harness.engine.start()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, FAILED)
    harness.clock.advance(1)
    harness.settle()
    starts = [event for event in harness.journal.events if isinstance(event, Started)]
    assert [run.word for run in harness.executor.runs] == ["00c0ffee00c0ffee", "0123456789abcdef"]
    assert [event.word for event in starts] == ["00c0ffee00c0ffee", "0123456789abcdef"]
    assert {event.runner for event in starts} == {"fedcba9876543210"}


def test_start_that_is_not_durable_yet_holds_its_slot() -> None:
    harness = opened(2)
    for _ in range(5):
        harness.begin_submit()
    harness.journal.sync(5)
    assert [type(event) for event in harness.journal.pending] == [Started, Started]


def pending_events(harness: Harness) -> list[tuple[type, int]]:
    """Return the type and the job of each event that is not durable yet."""
    return [(type(event), event.id) for event in harness.journal.pending if isinstance(event, JobEvent)]


def test_next_start_is_written_right_behind_the_end_that_releases_its_slot() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.executor.finish(1)
    assert pending_events(harness) == [(Ended, 1), (Started, 2)]
    assert (harness.statuses(), harness.engine.dispatcher.busy) == ([Status.RUNNING, Status.PENDING], 1)
    harness.settle()
    assert running(harness) == [2]


def test_end_that_failed_is_written_again_before_the_next_start() -> None:
    harness = opened(1)
    for _ in range(3):
        harness.submit()
    harness.executor.finish(1)
    harness.journal.fail()
    assert (harness.statuses(), running(harness)) == ([Status.RUNNING, Status.PENDING, Status.PENDING], [])
    harness.journal.recover()
    assert pending_events(harness) == [(Ended, 1), (Started, 2)]
    harness.settle()
    assert running(harness) == [2]


def test_start_follows_a_skip_that_had_to_be_written_again() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit(after=(1,))
    harness.submit()
    harness.executor.finish(1, FAILED)
    harness.journal.sync(1)
    expected: list[tuple[type, int]] = [(Started, 3), (Skipped, 2)]
    assert pending_events(harness) == expected
    harness.journal.fail()
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [3]


def test_drain_waits_for_ends_that_are_not_durable_yet() -> None:
    harness = opened(1)
    harness.submit()
    drained = harness.engine.dispatcher.drain()
    harness.executor.finish(1)
    assert not drained.called
    harness.settle()
    assert drained.called


def test_job_that_ends_during_its_spawn_ends_like_any_other() -> None:
    harness = opened(1)
    harness.executor.at_once = COMPLETED
    for _ in range(50):
        harness.begin_submit()
    harness.settle()
    assert harness.statuses() == [Status.COMPLETED] * 50
    kinds = [type(event) for event in harness.journal.events if isinstance(event, JobEvent) and event.id == 7]
    assert kinds == [Submitted, Started, Spawned, Ended]


def test_job_that_cannot_be_spawned_fails_with_the_reason() -> None:
    harness = opened(1)
    harness.executor.at_once = Outcome(reason=Reason.SPAWN, detail="no such file")
    harness.submit()
    job = harness.job(1)
    assert (job.status, job.reason, job.exit_code) == (Status.FAILED, Reason.SPAWN, None)
    assert job.attempt is not None
    assert job.attempt.detail == "no such file"
    assert job.attempt.pid is None


def test_job_that_cannot_be_built_fails_without_a_process_and_may_be_retried() -> None:
    """For example because its secrets cannot be read: it must not run without them."""
    flaws = ["no file", "no file"]

    def refuse(job: Job, attempt: int, word: str) -> Start:
        if flaws:
            raise CannotStart(flaws.pop())
        return start_of(job, attempt, word)

    harness = opened(1, make_start=refuse)
    harness.submit(retries=1, retry_delay=1.0)
    job = harness.job(1)
    assert (job.status, job.attempts, harness.executor.runs) == (Status.PENDING, 1, [])
    harness.clock.advance(1)
    harness.settle()
    assert (job.status, job.reason, job.exit_code) == (Status.FAILED, Reason.SPAWN, None)
    assert job.attempt is not None
    assert job.attempt.detail == "could not be started: no file"
    assert harness.executor.runs == []
    harness.retry(1)
    harness.settle()
    assert running(harness) == [1]


# Shortages of the machine.

LACK = Outcome(reason=Reason.SPAWN, detail="no more processes", is_shortage=True)


class ShortMachine:
    """A harness on a machine that can run only some processes."""

    def __init__(self, max_processes: int, slots: int = 50) -> None:
        self.harness = opened(slots)
        self.max_processes = max_processes
        self._start = self.harness.executor.start
        cast("Any", self.harness.executor).start = self._try

    def _try(self, start: Start, runner: str, spawned: Any) -> "Deferred[Outcome]":
        if len(self.harness.executor.running) >= self.max_processes:
            return succeed(LACK)
        return self._start(start, runner, spawned)

    def submit(self, count: int, **options: Any) -> None:
        for _ in range(count):
            self.harness.begin_submit(**options)
        self.harness.settle()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 8)):
            self.harness.clock.advance(0.125)
            self.harness.settle()

    def starts(self) -> int:
        return sum(isinstance(event, Started) for event in self.harness.journal.events)


def test_shortage_fails_no_job_and_takes_refused_starts_back() -> None:
    short = ShortMachine(max_processes=3)
    short.submit(300)
    harness = short.harness
    assert len(running(harness)) == 3
    assert harness.queue_state.counts[Status.PENDING] == 297
    for job in harness.queue_state.walk(1):
        attempts = 1 if job.status is Status.RUNNING else 0
        assert (job.attempts, job.failures, job.past) == (attempts, 0, ())
        assert (job.attempt is not None) == bool(attempts)
    assert replayed(harness.journal.events) == harness.queue_state


def test_start_that_is_taken_back_is_not_counted() -> None:
    short = ShortMachine(max_processes=3)
    short.submit(300)
    assert short.starts() > 3
    assert short.harness.engine.counters["started"] == 3
    short.max_processes = 0
    short.harness.executor.finish(1)
    short.pass_time(30)
    assert short.harness.engine.counters["started"] == 3


def test_attempt_that_ends_without_a_process_is_counted() -> None:
    harness = opened(1)
    harness.executor.at_once = Outcome(reason=Reason.SPAWN, detail="no such directory")
    harness.submit(retries=1, retry_delay=1.0)
    harness.clock.advance(2)
    harness.settle()
    assert (harness.job(1).attempts, harness.engine.counters["started"]) == (2, 2)


def test_lasting_shortage_costs_an_occasional_try_of_one_job() -> None:
    short = ShortMachine(max_processes=0)
    short.submit(300)
    assert short.starts() <= 50, "no more than there are slots"
    before = short.starts()
    short.pass_time(600)
    assert 60 <= short.starts() - before < 80
    assert short.harness.queue_state.counts[Status.PENDING] == 300
    assert replayed(short.harness.journal.events) == short.harness.queue_state


def test_end_of_a_shortage_starts_all_jobs_and_is_logged_once(logged: list[str]) -> None:
    short = ShortMachine(max_processes=3)
    short.submit(40)
    short.pass_time(30)
    assert [line for line in logged if "no job starts for now" in line] == logged
    assert len(logged) == 1
    assert "no more processes" in logged[0]
    short.max_processes = 100
    short.pass_time(20)
    assert len(running(short.harness)) == 40
    assert len(logged) == 2
    assert "jobs start again" in logged[1]
    assert short.harness.clock.getDelayedCalls() == []


def test_end_of_a_job_in_a_shortage_tries_the_next_start_at_once() -> None:
    short = ShortMachine(max_processes=2)
    short.submit(10)
    short.pass_time(60)
    first = running(short.harness)[0]
    short.harness.finish(first)
    assert len(running(short.harness)) == 2
    for _ in range(9):
        short.harness.finish(running(short.harness)[0])
    assert short.harness.queue_state.counts[Status.COMPLETED] == 10


def test_very_short_jobs_end_a_shortage() -> None:
    short = ShortMachine(max_processes=0)
    short.submit(100)
    short.max_processes = 100
    short.harness.executor.at_once = COMPLETED
    short.pass_time(0.25)
    assert short.harness.queue_state.counts[Status.COMPLETED] == 100


def test_job_that_is_cancelled_during_a_refused_start_is_cancelled() -> None:
    harness = opened(1)
    waiting: Deferred[Outcome] = Deferred()
    cast("Any", harness.executor).start = lambda *_: waiting
    harness.submit()
    harness.cancel(1)
    harness.settle()
    waiting.callback(LACK)
    harness.settle()
    assert harness.statuses() == [CANCELLED]


def test_shortage_does_not_delay_drain_or_stop() -> None:
    short = ShortMachine(max_processes=0)
    short.submit(5)
    drained = short.harness.engine.dispatcher.drain()
    result_of(drained)
    stopped = short.harness.engine.dispatcher.stop(False)
    short.harness.settle()
    result_of(stopped)
    assert short.harness.queue_state.counts[Status.PENDING] == 5
    assert short.harness.clock.getDelayedCalls() == []


def test_attempt_without_descriptors_for_its_files_is_taken_back() -> None:
    def refuse(job: Job, attempt: int, word: str) -> Start:
        raise CannotStart("its files cannot be handed over", OSError(errno.EMFILE, "too many"))

    harness = opened(1, make_start=refuse)
    harness.submit(retries=1)
    assert (harness.job(1).status, harness.job(1).attempts) == (PENDING, 0)


def test_shortage_is_shown_by_stats_and_why() -> None:
    short = ShortMachine(max_processes=1)
    short.submit(3)
    harness = short.harness
    stats = harness.engine.dispatcher.shortage.stats(harness.clock.elapsed())
    assert stats is not None
    assert (stats["detail"], stats["next_try_in"] > 0) == ("no more processes", True)
    shortage, now = harness.engine.dispatcher.shortage, harness.clock.elapsed()
    text = explain(harness.queue_state, harness.job(3), now, shortage.explain(now))
    assert "the machine lacks what a start needs (no more processes)" in text
    short.max_processes = 10
    short.pass_time(10)
    assert (shortage.stats(now), shortage.explain(now)) == (None, None)


def test_start_that_is_taken_back_leaves_earlier_attempts_unchanged() -> None:
    harness = opened(1)
    harness.executor.at_once = FAILED
    harness.submit(retries=2, retry_delay=1.0)
    before = harness.job(1).attempt
    harness.executor.at_once = LACK
    harness.clock.advance(2)
    harness.settle()
    job = harness.job(1)
    assert (job.status, job.attempts, job.failures, job.attempt, job.past) == (PENDING, 1, 1, before, ())
    assert replayed(harness.journal.events) == harness.queue_state


# After a crash.


def crashed(*events: Event, **spec: Any) -> Harness:
    journal: list[Event] = [Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(**spec))]
    harness = Harness(events=[*journal, Started(id=1, at=START, attempt=1), *events])
    harness.engine.dispatcher.recover(lost(harness.engine, "the daemon was killed"))
    return harness


def test_attempt_that_a_crash_interrupted_is_not_run_again() -> None:
    harness = crashed()
    harness.spool.leftovers = {}
    assert (harness.job(1).status, harness.job(1).reason, harness.job(1).exit_code) == (
        Status.FAILED,
        Reason.INTERRUPTED,
        None,
    )
    harness.engine.start()
    harness.settle()
    assert harness.executor.runs == []
    assert harness.spool.closed_attempts == [1]


def test_attempt_that_a_crash_interrupted_is_run_again_if_it_has_retries() -> None:
    harness = crashed(retries=1, retry_delay=2.0)
    assert (harness.job(1).status, harness.job(1).reason, harness.job(1).failures) == (
        PENDING,
        Reason.RETRYING,
        1,
    )
    harness.engine.start()
    harness.clock.advance(2)
    harness.settle()
    assert running(harness) == [1]
    assert harness.job(1).attempts == 2
    assert replayed(harness.journal.events) == harness.queue_state


def test_job_that_was_cancelled_before_a_crash_is_cancelled() -> None:
    harness = crashed(Cancelled(id=1, at=START, by="ada", signal=15), retries=5)
    assert (harness.job(1).status, harness.job(1).reason) == (CANCELLED, Reason.CANCELLED)


def test_output_of_an_interrupted_attempt_is_kept() -> None:
    harness = Harness(
        events=[
            Submitted(id=1, at=START, owner="ada", command="true"),
            Started(id=1, at=START, attempt=1),
            Spawned(id=1, at=START, pid=99, started=3),
        ]
    )
    harness.spool.leftovers[1, 1] = (b"so far", b"")
    assert harness.engine.dispatcher.recover(lost(harness.engine, "the daemon was killed")) == [
        harness.job(1)
    ]
    attempt = harness.job(1).attempt
    assert attempt is not None
    assert (attempt.stdout_bytes, attempt.stdout_inline, attempt.stderr_bytes) == (6, False, 0)
    assert attempt.detail
    assert result_of(begin(harness.job_view.read_both_streams(harness.job(1)))) == (b"so far", b"")


def test_recovery_that_cannot_be_recorded_refuses_the_start() -> None:
    harness = Harness(
        events=[
            Submitted(id=1, at=START, owner="ada", command="true"),
            Started(id=1, at=START, attempt=1),
        ]
    )
    harness.journal.failure = "the disk is full"
    with pytest.raises(StartRefused):
        harness.engine.dispatcher.recover(lost(harness.engine, "the daemon was killed"))


def test_pending_jobs_start_after_a_restart() -> None:
    harness = Harness(
        1,
        events=[
            Submitted(id=1, at=START, owner="ada", command="true"),
            Submitted(id=2, at=START, owner="ada", command="true"),
        ],
    )
    assert harness.engine.dispatcher.recover(lost(harness.engine, "the daemon was killed")) == []
    assert harness.executor.runs == []
    harness.engine.start()
    harness.settle()
    assert running(harness) == [1]


# Stop.


def test_stop_ends_running_jobs_starts_no_others_and_fires_when_all_is_recorded() -> None:
    harness = opened(2)
    for _ in range(4):
        harness.submit()
    stopped = harness.engine.dispatcher.stop(requeue=False)
    assert harness.executor.signals == [(1, Reason.INTERRUPTED, TERM), (2, Reason.INTERRUPTED, TERM)]
    harness.finish(1, INTERRUPTED)
    harness.executor.finish(2, INTERRUPTED)
    assert not stopped.called
    harness.settle()
    result_of(stopped)
    assert harness.statuses() == [Status.FAILED, Status.FAILED, PENDING, PENDING]
    assert harness.job(1).reason is Reason.INTERRUPTED
    assert len(harness.executor.runs) == 2


def test_stop_of_an_idle_dispatcher_fires_at_once() -> None:
    harness = opened()
    result_of(harness.engine.dispatcher.stop(requeue=False))
    result_of(harness.engine.dispatcher.stop(requeue=False))


def test_two_stops_fire_together() -> None:
    harness = opened()
    harness.submit()
    stops = [harness.engine.dispatcher.stop(requeue=False), harness.engine.dispatcher.stop(requeue=False)]
    harness.finish(1, INTERRUPTED)
    for stop in stops:
        result_of(stop)


def test_submission_during_a_stop_is_refused() -> None:
    harness = opened()
    result_of(harness.engine.dispatcher.stop(requeue=False))
    assert isinstance(error_of(harness.begin_submit()), Draining)
    assert isinstance(error_of(harness.begin_submit(key="k")), Draining)
    assert harness.journal.pending == []


def test_start_that_is_not_durable_at_a_stop_is_not_spawned() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync()
    stopped = harness.engine.dispatcher.stop(requeue=False)
    harness.settle()
    result_of(stopped)
    assert harness.executor.runs == []
    assert (harness.job(1).status, harness.job(1).reason) == (Status.FAILED, Reason.INTERRUPTED)


def test_attempt_that_a_stop_interrupted_is_run_again_after_a_restart_if_it_has_retries() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.engine.dispatcher.stop(requeue=False)
    harness.finish(1, INTERRUPTED)
    harness.clock.advance(5)
    harness.settle()
    assert running(harness) == []
    again = Harness(events=harness.journal.events)
    again.engine.start()
    again.settle()
    assert running(again) == [1]


def test_job_that_completes_during_a_stop_is_completed() -> None:
    harness = opened()
    harness.submit()
    stopped = harness.engine.dispatcher.stop(requeue=False)
    harness.finish(1, COMPLETED)
    result_of(stopped)
    assert harness.statuses() == [Status.COMPLETED]


def test_stop_leaves_no_timer() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.finish(1, FAILED)
    assert harness.clock.getDelayedCalls()
    harness.engine.dispatcher.stop(requeue=False)
    assert harness.clock.getDelayedCalls() == []


# Drain.


def test_drain_refuses_submissions_starts_nothing_and_lets_running_jobs_end() -> None:
    harness = opened(1)
    for _ in range(3):
        harness.submit()
    drained = harness.engine.dispatcher.drain()
    assert isinstance(error_of(harness.begin_submit()), Draining)
    assert isinstance(error_of(harness.begin_submit(key="k")), Draining)
    assert not drained.called
    assert harness.executor.signals == []
    harness.finish(1)
    result_of(drained)
    assert harness.statuses() == [Status.COMPLETED, PENDING, PENDING]
    assert (harness.engine.dispatcher.is_draining, harness.engine.dispatcher.busy) == (True, 0)
    cancelled = harness.cancel(2)
    harness.settle()
    result_of(cancelled)
    retried = harness.retry(1)
    harness.settle()
    result_of(retried)
    assert running(harness) == []


def test_end_of_a_drain_starts_jobs_again_and_calls_observers() -> None:
    harness = opened(1)
    dispatcher = harness.engine.dispatcher
    ends: list[str] = []
    dispatcher.add_drain_end_observer(lambda: ends.append("ended"))
    dispatcher.end_drain()
    assert ends == []
    dispatcher.drain()
    dispatcher.end_drain()
    harness.submit()
    assert running(harness) == [1]
    assert ends == ["ended"]
    assert not dispatcher.is_draining


def test_job_that_waited_during_a_drain_starts_at_its_end() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.engine.dispatcher.drain()
    harness.finish(1)
    assert running(harness) == []
    harness.engine.dispatcher.end_drain()
    harness.settle()
    assert running(harness) == [2]


@pytest.mark.parametrize("stop", ["drain", "stop", "leave"])
def test_drain_of_a_stop_does_not_end(stop: str) -> None:
    dispatcher = opened(1).engine.dispatcher
    {
        "drain": lambda: dispatcher.drain(is_stopping=True),
        "stop": lambda: dispatcher.stop(requeue=False),
        "leave": dispatcher.leave,
    }[stop]()
    with pytest.raises(WrongState, match="the daemon is stopping"):
        dispatcher.end_drain()
    assert dispatcher.is_draining


def test_drain_waits_for_a_start_that_is_not_durable_yet() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync()
    drained = harness.engine.dispatcher.drain()
    assert harness.engine.dispatcher.busy == 1
    harness.settle()
    assert not drained.called
    harness.finish(1)
    result_of(drained)


def test_drain_of_an_idle_dispatcher_fires_at_once_and_may_be_cancelled() -> None:
    harness = opened()
    result_of(harness.engine.dispatcher.drain())
    harness = opened()
    harness.submit()
    gone, stays = harness.engine.dispatcher.drain(), harness.engine.dispatcher.drain()
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    harness.finish(1)
    result_of(stays)


def test_delayed_job_does_not_start_during_a_drain() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=1.0)
    harness.finish(1, FAILED)
    harness.engine.dispatcher.drain()
    assert harness.clock.getDelayedCalls() == []
    harness.clock.advance(5)
    harness.settle()
    assert harness.executor.runs == harness.executor.runs[:1]


# A journal that fails.


def test_end_that_could_not_be_recorded_is_recorded_when_the_journal_is_writable() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.journal.fail()
    harness.executor.finish(1)
    assert not waiting.called
    assert running(harness) == []
    harness.journal.recover()
    harness.settle()
    assert result_of(waiting).status is Status.COMPLETED
    assert running(harness) == [2]


def test_end_is_recorded_after_several_failures() -> None:
    harness = opened(1)
    harness.submit()
    harness.executor.finish(1)
    for _ in range(3):
        harness.journal.fail()
        harness.journal.recover()
        assert [type(event) for event in harness.journal.pending] == [Ended]
    harness.settle()
    assert harness.statuses() == [Status.COMPLETED]


def test_job_whose_start_could_not_be_recorded_starts_when_the_journal_is_writable() -> None:
    harness = opened(2)
    harness.begin_submit()
    harness.begin_submit()
    harness.journal.sync(2)
    harness.journal.fail()
    assert harness.executor.runs == []
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1, 2]
    assert [job.attempts for job in harness.queue_state.walk(1)] == [1, 1]


def test_job_that_becomes_due_during_a_failure_starts_afterwards() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=1.0)
    harness.finish(1, FAILED)
    harness.journal.fail()
    harness.clock.advance(5)
    assert running(harness) == []
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1]


def test_job_that_becomes_due_while_an_end_is_not_recorded_starts_afterwards() -> None:
    harness = opened(2)
    harness.submit(retries=1, retry_delay=1.0)
    harness.submit()
    harness.finish(1, FAILED)
    harness.journal.fail()
    harness.executor.finish(2)
    harness.clock.advance(5)
    assert running(harness) == []
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1]
    assert harness.statuses()[1] is Status.COMPLETED


def test_job_accepted_just_before_a_failure_starts_afterwards() -> None:
    harness = opened()
    answer = harness.begin_submit()
    harness.journal.failure = "the disk is full"  # a journal fails first, and then reports what was durable
    harness.journal.sync()
    result_of(answer)
    harness.journal.recover()
    harness.settle()
    assert running(harness) == [1]


def test_stop_does_not_wait_for_a_failed_journal() -> None:
    harness = opened()
    harness.submit()
    harness.journal.fail()
    harness.executor.finish(1)
    stopped = harness.engine.dispatcher.stop(requeue=False)
    result_of(stopped)
    assert harness.statuses() == [RUNNING]
    harness.journal.recover()
    harness.settle()
    assert harness.statuses() == [RUNNING], "the next start records the end"


def test_wait_for_the_journal_may_be_cancelled() -> None:
    harness = opened()
    harness.begin_submit()
    harness.journal.sync()
    harness.journal.fail()
    harness.journal.writable_waiters[0].cancel()
    assert harness.statuses() == [PENDING]


# Capacity.


def test_job_allocates_slots_in_total_and_of_its_queue() -> None:
    harness = opened(4, queues={"small": 2})
    harness.submit(queue="small", slots=2)
    harness.submit(queue="small")
    harness.submit(slots=2)
    harness.submit()
    assert running(harness) == [1, 3]
    harness.finish(3)
    assert running(harness) == [1, 4]
    harness.finish(1)
    assert running(harness) == [2, 4]


def test_resource_is_shared_by_all_queues() -> None:
    harness = opened(9, resources={"gpu": 2, "disk": 1})
    harness.submit(needs={"gpu": 1}, queue="a")
    harness.submit(needs={"gpu": 1, "disk": 1}, queue="b")
    harness.submit(needs={"disk": 1})
    harness.submit(needs={"gpu": 1})
    harness.submit()
    assert running(harness) == [1, 2, 5]
    harness.finish(2)
    assert running(harness) == [1, 3, 4, 5]


def test_named_units_are_recorded_with_each_start_and_given_back_at_its_end() -> None:
    harness = opened(9, units={"gpu": ("a", "b", "c")}, resources={"disk": 4})
    harness.submit(needs={"gpu": 2, "disk": 1}, retries=1, retry_delay=0.0)
    harness.submit(needs={"gpu": 1})
    harness.submit(needs={"gpu": 1, "disk": 1})
    harness.submit(needs={"disk": 1})
    assert running(harness) == [1, 2, 4]
    harness.finish(1, FAILED)
    assert running(harness) == [2, 3, 4], "job 1 needs two units again"
    harness.finish(2)
    harness.clock.advance(1)
    harness.settle()
    starts = [event for event in harness.journal.events if isinstance(event, Started)]
    assert [(event.id, event.attempt, event.units) for event in starts] == [
        (1, 1, {"gpu": ("a", "b")}),
        (2, 1, {"gpu": ("c",)}),
        (4, 1, {}),
        (3, 1, {"gpu": ("a",)}),
        (1, 2, {"gpu": ("b", "c")}),
    ]
    assert harness.queue_state.capacity.resources()["gpu"] == {
        "total": 3,
        "busy": 3,
        "units": {"a": 3, "b": 1, "c": 1},
    }
    assert harness.queue_state == replayed(harness.journal.events)


def test_units_of_a_start_that_is_undone_are_given_back() -> None:
    harness = opened(9, units={"gpu": ("a",)})
    harness.submit(needs={"gpu": 1})
    harness.finish(1, Outcome(reason=Reason.SPAWN, detail="no processes", is_shortage=True))
    assert harness.job(1).attempts == 0
    assert harness.queue_state.capacity.units.describe("gpu") == {"a": None}


def test_higher_priority_starts_first_then_the_lower_id() -> None:
    harness = opened(1)
    for priority in (0, 0, 5, -1, 5):
        harness.submit(priority=priority)
    order = []
    while running(harness):
        order += running(harness)
        harness.finish(order[-1])
    assert order == [1, 3, 5, 2, 4]


def test_array_runs_up_to_its_limit_of_tasks() -> None:
    harness = opened(9)
    harness.submit(array=Array(1, 5, 2))
    harness.submit()
    assert running(harness) == [2, 3, 7]
    harness.finish(3)
    assert running(harness) == [2, 4, 7]


def test_capacity_is_reserved_for_a_big_job_after_a_while_and_for_a_while() -> None:
    harness = opened(2)
    harness.submit()
    harness.submit(slots=2)
    harness.submit()
    assert running(harness) == [1, 3]
    harness.clock.advance(61)
    harness.finish(3)
    harness.submit()
    assert running(harness) == [1], "capacity is reserved for job 2"
    harness.clock.advance(61)
    harness.settle()
    assert running(harness) == [1, 4], "the reservation has ended"


# Jobs that wait during a stop.


@pytest.mark.parametrize("is_stop", [False, True])
@pytest.mark.parametrize(
    "options", [{"delay": 5.0}, {"hold": True}, {"after": (1,)}, {"after_any": (1,)}, {"array": Array(1, 3)}]
)
def test_stop_or_drain_starts_no_waiting_job(options: dict[str, Any], is_stop: bool) -> None:
    harness = opened(1)
    harness.submit()
    job_id = harness.submit(**options)
    stopped = harness.engine.dispatcher.stop(requeue=False) if is_stop else harness.engine.dispatcher.drain()
    harness.release(job_id)
    harness.resize("default", 5)
    harness.settle()
    harness.finish(1)
    harness.clock.advance(10)
    harness.settle()
    result_of(stopped)
    assert [run.id for run in harness.executor.runs] == [1]
    assert harness.job(job_id).status is PENDING
    assert harness.clock.getDelayedCalls() == []
    again = Harness(4, events=harness.journal.events)
    again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
    again.engine.start()
    again.settle()
    again.clock.advance(10)
    again.settle()
    assert min(running(again)) >= job_id


def test_job_that_fails_during_a_drain_fails_its_dependents() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit(after=(1,))
    drained = harness.engine.dispatcher.drain()
    harness.finish(1, FAILED)
    result_of(drained)
    assert (harness.job(2).status, harness.job(2).reason) == (Status.FAILED, Reason.DEPENDENCY)


# Arrays.


def test_tasks_run_and_their_array_does_not() -> None:
    harness = opened(2)
    harness.submit("run", array=Array(5, 7))
    assert [(run.id, run.argv[-1]) for run in harness.executor.runs] == [(2, "run"), (3, "run")]
    assert harness.engine.dispatcher.busy == 2
    for task in (2, 3, 4):
        harness.finish(task)
    assert harness.job(1).status is Status.COMPLETED
    assert harness.job(1).attempts == 0


def test_stop_with_requeue_requeues_tasks() -> None:
    harness = opened(2)
    harness.submit(array=Array(1, 3))
    stopped = harness.engine.dispatcher.stop(requeue=True)
    assert [signalled for signalled, _, _ in harness.executor.signals] == [2, 3]
    for task in (2, 3):
        harness.finish(task, INTERRUPTED)
    result_of(stopped)
    assert set(harness.statuses()) == {PENDING}


def test_tasks_that_a_crash_interrupted_fail_and_the_other_tasks_run() -> None:
    harness = opened(2)
    harness.submit(array=Array(1, 3), retries=0)
    harness.submit(array=Array(1, 1), retries=1, retry_delay=0.0)
    harness.finish(2)
    again = Harness(2, events=harness.journal.events)
    interrupted = again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
    assert [job.id for job in interrupted] == [3, 4]
    assert [again.job(task).status for task in (1, 2, 3, 4)] == [
        Status.FAILED,
        Status.COMPLETED,
        Status.FAILED,
        Status.FAILED,
    ]
    again.engine.start()
    again.settle()
    assert running(again) == [6]
    assert replayed(again.journal.events) == again.queue_state


def test_tasks_that_a_crash_interrupted_are_run_again_if_they_have_retries() -> None:
    harness = opened(2)
    harness.submit(array=Array(1, 2), retries=1, retry_delay=0.0)
    again = Harness(2, events=harness.journal.events)
    again.engine.dispatcher.recover(lost(again.engine, "it was killed"))
    assert (again.job(1).status, again.job(2).reason) == (PENDING, Reason.RETRYING)
    again.engine.start()
    again.settle()
    assert running(again) == [2, 3]
    assert again.job(2).attempts == 2


# Internal errors between a recorded start and a recorded end.


def _break(*_: object) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("place", ["_make_start", "_on_started"])
def test_internal_error_before_the_spawn_ends_the_attempt(
    logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    harness = opened(1)
    with monkeypatch.context() as patched:
        patched.setattr(harness.engine.dispatcher, place, _break)
        harness.submit()
    job = harness.job(1)
    assert (job.status, job.reason, job.attempt and job.attempt.detail) == (
        *(Status.FAILED, Reason.SPAWN),
        "could not be started: a bug",
    )
    harness.submit()
    assert running(harness) == [2], "the slot was released"
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_internal_error_of_the_executor_ends_the_attempt(logged_errors: LeakWatch) -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.executor.running.pop(1).errback(ZeroDivisionError("a bug"))
    harness.settle()
    job = harness.job(1)
    assert (job.status, job.reason, job.attempt and job.attempt.detail) == (
        *(Status.FAILED, Reason.OUTPUT),
        "its end could not be handled: a bug",
    )
    assert running(harness) == [2]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_internal_error_while_recording_the_end_records_a_minimal_end(
    logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    if is_cancelled:
        harness.cancel(1)
        harness.settle()
    monkeypatch.setattr(harness.spool, "read_progress", _break)
    harness.executor.finish(1, Outcome(reason=Reason.EXIT, exit_code=7))
    monkeypatch.undo()
    harness.settle()
    job = harness.job(1)
    assert (job.status, job.exit_code) == (CANCELLED if is_cancelled else Status.FAILED, 7)
    assert running(harness) == [2]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_jobs_start_before_the_ends_of_the_same_commit_are_announced() -> None:
    harness = opened(slots=1)
    harness.submit()
    harness.submit()
    waiting = harness.engine.wait(1)
    harness.executor.finish(1)
    harness.engine.dispatcher.commit_started()
    harness.journal.sync(2)  # the end of one job, and the start of the other
    assert running(harness) == [2]
    assert (harness.executor.acknowledged, waiting.called) == ([], False)
    harness.engine.dispatcher.commit_ended()
    assert (harness.executor.acknowledged, result_of(waiting).id) == ([1], 1)
