"""Recurring jobs: due runs are submitted once, and not beside the last job unless overlap is allowed."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine.clock_jumps import make_record
from taskqd.engine.recurring import MAX_SLEEP, MAX_SUBMISSIONS_PER_TURN, RETRY_INTERVAL, RecurringSubmitter
from taskqd.errors import BadRequest, StoreFailed
from taskqd.model.events import FORMAT, Event, Opened, Submitted
from taskqd.model.job import Status
from taskqd.model.schedule import MAX_SET_BACK
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from tests.fakes.clocks import BOOT, MONOTONIC, START, FakeClocks
from tests.fakes.deferreds import begin, result_of
from tests.fakes.engine import ACTOR, Harness, replayed
from tests.support.leaks import LeakWatch

DAY = 86_400.0
OPENED = Opened(at=START, format=FORMAT, store="s", boot="the last boot", next_id=1, boot_clock=BOOT)


class RecurringHarness:
    """A harness with a recurring submitter; ``events`` are those recorded before."""

    def __init__(
        self,
        events: list[Event] | None = None,
        now: float = START,
        slots: int = 4,
        max_pending: PendingLimit = UNBOUNDED,
    ) -> None:
        clocks = FakeClocks(now)
        if events:
            last = events[-1].at
            clocks.resume(OPENED, "this boot", last, last)
            events = [*events, *([make_record(clocks)] if clocks.ahead else [])]
        self.harness = Harness(slots, events=events, clocks=clocks)
        self.submitter = RecurringSubmitter(self.harness.engine, self.harness.clock, max_pending)
        self.harness.engine.start()
        self.submitter.start()
        self.harness.settle()

    def make(
        self, every: float | None = 60.0, cron: str | None = None, overlap: bool = False, **options: Any
    ) -> int:
        """Make a durable schedule of ada's."""
        spec = Spec(**options)
        made = begin(self.harness.engine.queue_commands.schedule("work", spec, ACTOR, every, cron, overlap))
        self.harness.settle()
        return result_of(made)

    def advance(self, *seconds: float) -> None:
        """Advance the clock in steps, and make everything durable after each."""
        for step in seconds:
            self.harness.clock.advance(step)
            self.harness.settle()

    def set_clock(self, now: float) -> None:
        """Set the time of day, and let the engine detect that."""
        self.harness.clock.set_time(now)
        self.harness.engine.clock_jumps.check()
        self.harness.settle()
        self.advance(0)

    def ran(self, number: int = 1) -> list[float]:
        """Return the times at which a schedule ran, in seconds since START."""
        return [
            event.at - START
            for event in self.harness.journal.events
            if isinstance(event, Submitted) and event.schedule == number
        ]

    def finish(self, number: int = 1) -> None:
        """Finish the latest job of a schedule."""
        self.harness.finish(self.harness.queue_state.schedules.get(number).last_job or 0)

    def run(self, count: int, every: float = 60.0) -> None:
        """Let a schedule run ``count`` times, and finish each job at once."""
        for _ in range(count):
            self.advance(every)
            self.finish()


@pytest.fixture(name="recurring")
def a_recurring_harness() -> RecurringHarness:
    return RecurringHarness()


# Due runs.


def test_job_is_submitted_at_each_regular_time(recurring: RecurringHarness) -> None:
    recurring.make(label="nightly", queue="q")
    recurring.advance(59.0)
    assert recurring.ran() == []
    recurring.advance(1.0)
    assert recurring.ran() == [60.0]
    job = recurring.harness.job(1)
    assert (job.owner, job.schedule, job.command) == ("ada", 1, "work")
    assert job.spec == Spec(label="nightly", queue="q")
    recurring.finish()
    recurring.run(3)
    assert recurring.ran() == [60.0, 120.0, 180.0, 240.0]


def test_schedules_run_independently(recurring: RecurringHarness) -> None:
    recurring.make(every=100.0)
    recurring.make(every=30.0, overlap=True)
    recurring.make(every=None, cron="* * * * *", overlap=True)
    recurring.advance(*[5.0] * 24)
    assert recurring.ran(1) == [100.0]
    assert recurring.ran(2) == [30.0, 60.0, 90.0, 120.0]
    assert recurring.ran(3) == [40.0, 100.0], "START is at the twentieth second of a minute"


def test_timer_follows_a_new_schedule_that_is_due_first(recurring: RecurringHarness) -> None:
    recurring.make(every=DAY)
    recurring.make(every=10.0)
    recurring.advance(10.0)
    assert recurring.ran(2) == [10.0]


def test_ended_schedule_does_not_run(recurring: RecurringHarness) -> None:
    recurring.make()
    recurring.harness.unschedule(1)
    recurring.advance(0, 600.0)
    assert recurring.ran() == []
    assert recurring.harness.clock.getDelayedCalls() == []


def test_no_timer_is_set_without_a_schedule(recurring: RecurringHarness) -> None:
    assert recurring.harness.clock.getDelayedCalls() == []


def test_many_due_schedules_are_submitted_over_several_turns(recurring: RecurringHarness) -> None:
    for _ in range(MAX_SUBMISSIONS_PER_TURN + 1):
        recurring.make()
    recurring.harness.clock.suspend(60.0)
    recurring.submitter.start()
    assert len(recurring.harness.journal.pending) == MAX_SUBMISSIONS_PER_TURN
    recurring.advance(0)
    assert [recurring.ran(number) for number in range(1, MAX_SUBMISSIONS_PER_TURN + 2)] == [[60.0]] * (
        MAX_SUBMISSIONS_PER_TURN + 1
    )


def test_pause_of_queues_does_not_pause_schedules(recurring: RecurringHarness) -> None:
    recurring.make(overlap=True)
    recurring.harness.pause()
    recurring.harness.pause(queue="default")
    recurring.advance(0, 60.0, 60.0)
    assert recurring.ran() == [60.0, 120.0]
    assert recurring.harness.statuses() == [Status.PENDING] * 2


# Missed runs.


def made_and_ran(recurring: RecurringHarness) -> list[Event]:
    """Return the journal of a schedule that ran after 60 s."""
    recurring.make()
    recurring.run(1)
    recurring.submitter.stop()
    return recurring.harness.journal.events


def test_runs_missed_while_the_daemon_was_stopped_become_one(recurring: RecurringHarness) -> None:
    later = RecurringHarness(made_and_ran(recurring), now=START + 1000.0)
    assert later.ran() == [60.0, 1000.0]
    later.finish()
    later.advance(19.0)
    assert later.ran() == [60.0, 1000.0]
    later.advance(1.0)
    assert later.ran() == [60.0, 1000.0, 1020.0]


def test_restart_without_missed_runs_submits_nothing(recurring: RecurringHarness) -> None:
    later = RecurringHarness(made_and_ran(recurring), now=START + 110.0)
    assert later.ran() == [60.0]
    later.advance(10.0)
    assert later.ran() == [60.0, 120.0]


def test_clock_set_forward_makes_one_run_of_a_cron_schedule(recurring: RecurringHarness) -> None:
    recurring.make(every=None, cron="* * * * *", overlap=True)
    recurring.set_clock(START + 10 * DAY + 5.0)
    assert recurring.ran() == [10 * DAY + 5.0]
    recurring.advance(*[5.0] * 7)
    assert recurring.ran() == [10 * DAY + 5.0, 10 * DAY + 40.0]


@pytest.mark.parametrize("jump", [10 * DAY, 7200.0, -30.0, -10 * DAY])
def test_clock_that_is_set_does_not_move_an_every_schedule(recurring: RecurringHarness, jump: float) -> None:
    recurring.make(overlap=True)
    recurring.advance(30.0)
    recurring.set_clock(START + 30.0 + jump)
    recurring.advance(*[1.0] * 29)
    assert recurring.ran() == []
    recurring.advance(1.0)
    assert recurring.ran() == [60.0 + jump]
    recurring.advance(*[5.0] * 12)
    assert recurring.ran() == [60.0 + jump, 120.0 + jump]


def test_schedules_continue_after_the_machine_was_suspended(recurring: RecurringHarness) -> None:
    recurring.make(overlap=True)
    recurring.make(every=None, cron="* * * * *", overlap=True)
    recurring.harness.clock.suspend(90.0)
    recurring.advance(MAX_SLEEP)
    assert recurring.ran(1) == recurring.ran(2) == [90.0 + MAX_SLEEP]


def test_runs_skipped_by_a_pause_of_the_schedule_are_not_made_up_for(recurring: RecurringHarness) -> None:
    recurring.make()
    recurring.harness.pause(schedule=1)
    recurring.advance(0, 600.0)
    recurring.harness.resume(schedule=1)
    recurring.advance(0, 59.0)
    assert recurring.ran() == []
    recurring.advance(1.0)
    assert recurring.ran() == [660.0]


# Overlap.


def test_run_is_left_out_while_a_job_has_the_label_of_its_unless(recurring: RecurringHarness) -> None:
    recurring.harness.submit(label="x")
    recurring.make(unless="x")
    recurring.advance(60.0)
    assert recurring.ran() == []
    recurring.harness.finish(1)
    recurring.advance(30.0, 30.0)
    assert recurring.ran() == [120.0]


def test_run_is_left_out_while_the_last_job_has_not_ended(recurring: RecurringHarness) -> None:
    recurring.make()
    recurring.advance(60.0, 60.0)
    assert recurring.ran() == [60.0]
    recurring.advance(30.0)
    recurring.finish()
    recurring.advance(20.0)
    assert recurring.ran() == [60.0], "what was left out does not come when the job ends"
    recurring.advance(10.0)
    assert recurring.ran() == [60.0, 180.0]


def test_pending_job_and_job_that_waits_for_a_retry_have_not_ended(recurring: RecurringHarness) -> None:
    recurring.make(hold=True)
    recurring.advance(60.0, 60.0)
    assert recurring.ran() == [60.0]
    recurring.harness.release(1)
    recurring.advance(0)
    recurring.finish()
    recurring.harness.retry(1)
    recurring.advance(0, 60.0)
    assert recurring.ran() == [60.0]


def test_array_has_ended_when_its_last_task_has_ended(recurring: RecurringHarness) -> None:
    recurring.make(array=Array(1, 2))
    recurring.advance(60.0)
    recurring.harness.finish(2)
    recurring.advance(60.0)
    assert recurring.ran() == [60.0]
    recurring.harness.finish(3)
    recurring.advance(60.0)
    assert recurring.ran() == [60.0, 180.0]


def test_overlap_makes_every_run(recurring: RecurringHarness) -> None:
    recurring.make(overlap=True)
    recurring.advance(60.0, 60.0)
    assert recurring.ran() == [60.0, 120.0]


def test_run_is_left_out_while_the_last_submission_is_not_durable(recurring: RecurringHarness) -> None:
    recurring.make(overlap=True)
    recurring.harness.clock.advance(60.0)
    recurring.harness.clock.advance(60.0)
    recurring.harness.settle()
    assert recurring.ran() == [60.0]
    recurring.advance(60.0)
    assert recurring.ran() == [60.0, 180.0]


# Failures.


def test_run_that_cannot_be_recorded_is_made_up_for_later(
    recurring: RecurringHarness, caplog: pytest.LogCaptureFixture
) -> None:
    recurring.make()
    recurring.make()
    recurring.harness.journal.fail("the disk is full")
    recurring.advance(60.0, *[RETRY_INTERVAL] * 200)
    assert recurring.ran() == []
    assert caplog.messages == ["schedule 1 could not submit: the disk is full"]
    recurring.harness.journal.recover()
    recurring.advance(RETRY_INTERVAL)
    assert recurring.ran(1) == recurring.ran(2) == [261.0]
    recurring.finish(1)
    recurring.finish(2)
    recurring.advance(39.0)
    assert recurring.ran(1) == recurring.ran(2) == [261.0, 300.0]


def test_one_run_per_second_is_tried_while_nothing_can_be_recorded(
    recurring: RecurringHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        recurring.make()
    tried: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> "Deferred[int]":
        tried.append(args)
        return fail(StoreFailed("the disk is full"))

    monkeypatch.setattr(recurring.harness.engine.submissions, "submit", refuse)
    recurring.advance(60.0, *[RETRY_INTERVAL / 4] * 20)
    assert len(tried) == 6


def test_runs_that_failed_before_they_were_durable_are_tried_again(
    recurring: RecurringHarness, caplog: pytest.LogCaptureFixture
) -> None:
    recurring.make()
    recurring.make()
    recurring.harness.clock.advance(60.0)
    recurring.harness.journal.fail("no space")
    recurring.harness.journal.recover()
    recurring.advance(RETRY_INTERVAL)
    assert recurring.ran(1) == recurring.ran(2) == [61.0]
    assert caplog.messages == [f"schedule {number} could not submit: no space" for number in (1, 2)]


def test_same_reason_is_logged_again_after_a_successful_submission(
    recurring: RecurringHarness, caplog: pytest.LogCaptureFixture
) -> None:
    recurring.make(overlap=True)
    for _ in range(2):
        recurring.harness.journal.fail("no space")
        recurring.advance(60.0)
        recurring.harness.journal.recover()
        recurring.advance(RETRY_INTERVAL)
    assert len(caplog.messages) == 2
    assert len(recurring.ran()) == 2


def test_refused_run_is_left_out(
    recurring: RecurringHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurring.make()
    monkeypatch.setattr(
        recurring.harness.engine.submissions, "submit", lambda *_, **__: fail(BadRequest("too much"))
    )
    recurring.advance(60.0, 60.0, 30.0)
    assert caplog.messages == ["schedule 1 could not submit: too much"]
    monkeypatch.undo()
    recurring.advance(20.0)
    assert recurring.ran() == []
    recurring.advance(10.0)
    assert recurring.ran() == [180.0]


def test_owner_at_the_limit_of_pending_jobs_gets_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recurring = RecurringHarness(slots=1, max_pending=PendingLimit(2))
    recurring.make(overlap=True)
    recurring.advance(60.0, 60.0, 60.0, 60.0, 60.0)
    assert recurring.ran() == [60.0, 120.0, 180.0]
    assert len(caplog.messages) == 1, "it is said once"
    assert caplog.messages[0].startswith("schedule 1 could not submit: cannot add 1 job: ada has 2 pending")
    recurring.harness.finish(1)
    recurring.advance(60.0, 60.0)
    assert recurring.ran() == [60.0, 120.0, 180.0, 360.0]
    assert len(caplog.messages) == 2, "it has worked meanwhile"


def test_array_of_a_schedule_counts_with_all_its_tasks() -> None:
    recurring = RecurringHarness(slots=1, max_pending=PendingLimit(3))
    recurring.make(array=Array(1, 4))
    recurring.make(array=Array(1, 3))
    recurring.advance(60.0)
    assert (recurring.ran(1), recurring.ran(2)) == ([], [60.0])


def test_internal_error_is_logged_and_the_schedule_continues(
    recurring: RecurringHarness, logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurring.make()
    monkeypatch.setattr(
        recurring.harness.engine.submissions, "submit", lambda *_, **__: fail(ZeroDivisionError())
    )
    recurring.advance(60.0)
    monkeypatch.undo()
    recurring.advance(60.0)
    assert recurring.ran() == [120.0]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_nothing_is_submitted_during_a_drain(
    recurring: RecurringHarness, caplog: pytest.LogCaptureFixture
) -> None:
    recurring.make(overlap=True)
    recurring.advance(60.0)
    recurring.harness.engine.dispatcher.drain()
    recurring.advance(60.0, 60.0, 60.0)
    assert recurring.ran() == [60.0]
    assert caplog.messages == []
    assert recurring.harness.clock.getDelayedCalls() == []


def test_stop_leaves_no_timer(recurring: RecurringHarness) -> None:
    recurring.make(overlap=True)
    recurring.make(overlap=True)
    recurring.advance(60.0)
    recurring.harness.clock.advance(60.0)
    recurring.submitter.stop()
    recurring.harness.journal.sync()
    recurring.harness.journal.fail("no space")
    assert recurring.harness.clock.getDelayedCalls() == []
    assert recurring.ran(1) == [60.0, 120.0]
    begin(
        recurring.harness.engine.queue_commands.schedule("x", DEFAULT_SPEC, ACTOR, 1.0, None, False)
    ).addErrback(lambda failure: failure.trap(StoreFailed))
    assert recurring.harness.clock.getDelayedCalls() == []


def test_stop_without_a_schedule_is_accepted(recurring: RecurringHarness) -> None:
    recurring.submitter.stop()
    assert recurring.harness.clock.getDelayedCalls() == []


# A clock that is set back.


def test_clock_set_back_a_little_runs_no_cron_schedule_twice(recurring: RecurringHarness) -> None:
    recurring.make(every=None, cron="* * * * *", overlap=True)
    recurring.advance(*[5.0] * 8)
    recurring.set_clock(START + 40.0 - MAX_SET_BACK / 2)
    recurring.advance(*[5.0] * 17)
    assert recurring.ran() == [40.0]
    recurring.advance(5.0)
    assert recurring.ran() == [40.0, 100.0]


def test_clock_set_back_a_lot_neither_stops_a_schedule_nor_floods_it(
    recurring: RecurringHarness,
) -> None:
    recurring.make(every=None, cron="* * * * *", overlap=True)
    recurring.advance(*[5.0] * 8)
    recurring.set_clock(START - DAY)
    assert recurring.ran() == [40.0]
    recurring.advance(*[5.0] * 8)
    assert recurring.ran() == [40.0, 40.0 - DAY]
    recurring.advance(*[5.0] * 12)
    assert recurring.ran() == [40.0, 40.0 - DAY, 100.0 - DAY]
    assert replayed(recurring.harness.journal.events).schedules == recurring.harness.queue_state.schedules


def test_run_under_way_when_the_clock_is_set_back_does_not_delay_the_next(
    recurring: RecurringHarness,
) -> None:
    recurring.make(every=None, cron="* * * * *")
    recurring.advance(*[5.0] * 20)  # its job of 40 s has not ended, so the run of 100 s is left out
    recurring.set_clock(START - DAY)
    recurring.finish()
    recurring.advance(*[5.0] * 8)
    assert recurring.ran() == [40.0, 40.0 - DAY]


def test_clock_set_back_while_the_daemon_was_stopped_stops_no_schedule(recurring: RecurringHarness) -> None:
    later = RecurringHarness(made_and_ran(recurring), now=START - DAY)
    assert later.ran() == [60.0]
    later.advance(60.0)
    assert later.ran() == [60.0, 60.0 - DAY]
    later.finish()
    later.advance(60.0)
    assert later.ran() == [60.0, 60.0 - DAY, 120.0 - DAY]


def test_timer_is_limited_for_a_distant_run(recurring: RecurringHarness) -> None:
    recurring.make(every=DAY)
    [alarm] = recurring.harness.clock.getDelayedCalls()
    assert alarm.getTime() - MONOTONIC == MAX_SLEEP
    recurring.advance(MAX_SLEEP)
    [alarm] = recurring.harness.clock.getDelayedCalls()
    assert alarm.getTime() - MONOTONIC == 2 * MAX_SLEEP


def test_state_equals_a_replay_after_runs_were_left_out(recurring: RecurringHarness) -> None:
    recurring.make()
    recurring.make(overlap=True)
    recurring.harness.pause(schedule=2)
    recurring.advance(0, 60.0, 60.0)
    recurring.harness.resume(schedule=2)
    recurring.advance(0, 60.0, 60.0)
    assert recurring.ran(1) == [60.0]
    assert recurring.ran(2) == [180.0, 240.0]
    assert replayed(recurring.harness.journal.events).schedules == recurring.harness.queue_state.schedules
