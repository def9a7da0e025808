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


class Clockwork:
    """A harness with a recurring submitter; ``journal`` are events recorded before."""

    def __init__(
        self,
        journal: list[Event] | None = None,
        now: float = START,
        slots: int = 4,
        most_pending: PendingLimit = UNBOUNDED,
    ) -> None:
        clocks = FakeClocks(now)
        if journal:
            last = journal[-1].at
            clocks.resume(OPENED, "this boot", last, last)
            journal = [*journal, *([make_record(clocks)] if clocks.ahead else [])]
        self.harness = Harness(slots, events=journal, clocks=clocks)
        self.scheduler = RecurringSubmitter(self.harness.engine, self.harness.clock, most_pending)
        self.harness.engine.start()
        self.scheduler.start()
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


@pytest.fixture(name="works")
def a_clockwork() -> Clockwork:
    return Clockwork()


# Due runs.


def test_job_is_submitted_at_each_regular_time(works: Clockwork) -> None:
    works.make(label="nightly", queue="q")
    works.advance(59.0)
    assert works.ran() == []
    works.advance(1.0)
    assert works.ran() == [60.0]
    job = works.harness.job(1)
    assert (job.owner, job.schedule, job.command) == ("ada", 1, "work")
    assert job.spec == Spec(label="nightly", queue="q")
    works.finish()
    works.run(3)
    assert works.ran() == [60.0, 120.0, 180.0, 240.0]


def test_schedules_run_independently(works: Clockwork) -> None:
    works.make(every=100.0)
    works.make(every=30.0, overlap=True)
    works.make(every=None, cron="* * * * *", overlap=True)
    works.advance(*[5.0] * 24)
    assert works.ran(1) == [100.0]
    assert works.ran(2) == [30.0, 60.0, 90.0, 120.0]
    assert works.ran(3) == [40.0, 100.0], "START is at the twentieth second of a minute"


def test_timer_follows_a_new_schedule_that_is_due_first(works: Clockwork) -> None:
    works.make(every=DAY)
    works.make(every=10.0)
    works.advance(10.0)
    assert works.ran(2) == [10.0]


def test_ended_schedule_does_not_run(works: Clockwork) -> None:
    works.make()
    works.harness.unschedule(1)
    works.advance(0, 600.0)
    assert works.ran() == []
    assert works.harness.clock.getDelayedCalls() == []


def test_no_timer_is_set_without_a_schedule(works: Clockwork) -> None:
    assert works.harness.clock.getDelayedCalls() == []


def test_many_due_schedules_are_submitted_over_several_turns(works: Clockwork) -> None:
    for _ in range(MAX_SUBMISSIONS_PER_TURN + 1):
        works.make()
    works.harness.clock.suspend(60.0)
    works.scheduler.start()
    assert len(works.harness.journal.pending) == MAX_SUBMISSIONS_PER_TURN
    works.advance(0)
    assert [works.ran(number) for number in range(1, MAX_SUBMISSIONS_PER_TURN + 2)] == [[60.0]] * (
        MAX_SUBMISSIONS_PER_TURN + 1
    )


def test_pause_of_queues_does_not_pause_schedules(works: Clockwork) -> None:
    works.make(overlap=True)
    works.harness.pause()
    works.harness.pause(queue="default")
    works.advance(0, 60.0, 60.0)
    assert works.ran() == [60.0, 120.0]
    assert works.harness.statuses() == [Status.PENDING] * 2


# Missed runs.


def made_and_ran(works: Clockwork) -> list[Event]:
    """Return the journal of a schedule that ran after 60 s."""
    works.make()
    works.run(1)
    works.scheduler.stop()
    return works.harness.journal.events


def test_runs_missed_while_the_daemon_was_stopped_become_one(works: Clockwork) -> None:
    later = Clockwork(made_and_ran(works), now=START + 1000.0)
    assert later.ran() == [60.0, 1000.0]
    later.finish()
    later.advance(19.0)
    assert later.ran() == [60.0, 1000.0]
    later.advance(1.0)
    assert later.ran() == [60.0, 1000.0, 1020.0]


def test_restart_without_missed_runs_submits_nothing(works: Clockwork) -> None:
    later = Clockwork(made_and_ran(works), now=START + 110.0)
    assert later.ran() == [60.0]
    later.advance(10.0)
    assert later.ran() == [60.0, 120.0]


def test_clock_set_forward_makes_one_run_of_a_cron_schedule(works: Clockwork) -> None:
    works.make(every=None, cron="* * * * *", overlap=True)
    works.set_clock(START + 10 * DAY + 5.0)
    assert works.ran() == [10 * DAY + 5.0]
    works.advance(*[5.0] * 7)
    assert works.ran() == [10 * DAY + 5.0, 10 * DAY + 40.0]


@pytest.mark.parametrize("jump", [10 * DAY, 7200.0, -30.0, -10 * DAY])
def test_clock_that_is_set_does_not_move_an_every_schedule(works: Clockwork, jump: float) -> None:
    works.make(overlap=True)
    works.advance(30.0)
    works.set_clock(START + 30.0 + jump)
    works.advance(*[1.0] * 29)
    assert works.ran() == []
    works.advance(1.0)
    assert works.ran() == [60.0 + jump]
    works.advance(*[5.0] * 12)
    assert works.ran() == [60.0 + jump, 120.0 + jump]


def test_schedules_continue_after_the_machine_was_suspended(works: Clockwork) -> None:
    works.make(overlap=True)
    works.make(every=None, cron="* * * * *", overlap=True)
    works.harness.clock.suspend(90.0)
    works.advance(MAX_SLEEP)
    assert works.ran(1) == works.ran(2) == [90.0 + MAX_SLEEP]


def test_runs_skipped_by_a_pause_of_the_schedule_are_not_made_up_for(works: Clockwork) -> None:
    works.make()
    works.harness.pause(schedule=1)
    works.advance(0, 600.0)
    works.harness.resume(schedule=1)
    works.advance(0, 59.0)
    assert works.ran() == []
    works.advance(1.0)
    assert works.ran() == [660.0]


# Overlap.


def test_run_is_left_out_while_the_last_job_has_not_ended(works: Clockwork) -> None:
    works.make()
    works.advance(60.0, 60.0)
    assert works.ran() == [60.0]
    works.advance(30.0)
    works.finish()
    works.advance(20.0)
    assert works.ran() == [60.0], "what was left out does not come when the job ends"
    works.advance(10.0)
    assert works.ran() == [60.0, 180.0]


def test_pending_job_and_job_that_waits_for_a_retry_have_not_ended(works: Clockwork) -> None:
    works.make(hold=True)
    works.advance(60.0, 60.0)
    assert works.ran() == [60.0]
    works.harness.release(1)
    works.advance(0)
    works.finish()
    works.harness.retry(1)
    works.advance(0, 60.0)
    assert works.ran() == [60.0]


def test_array_has_ended_when_its_last_task_has_ended(works: Clockwork) -> None:
    works.make(array=Array(1, 2))
    works.advance(60.0)
    works.harness.finish(2)
    works.advance(60.0)
    assert works.ran() == [60.0]
    works.harness.finish(3)
    works.advance(60.0)
    assert works.ran() == [60.0, 180.0]


def test_overlap_makes_every_run(works: Clockwork) -> None:
    works.make(overlap=True)
    works.advance(60.0, 60.0)
    assert works.ran() == [60.0, 120.0]


def test_run_is_left_out_while_the_last_submission_is_not_durable(works: Clockwork) -> None:
    works.make(overlap=True)
    works.harness.clock.advance(60.0)
    works.harness.clock.advance(60.0)
    works.harness.settle()
    assert works.ran() == [60.0]
    works.advance(60.0)
    assert works.ran() == [60.0, 180.0]


# Failures.


def test_run_that_cannot_be_recorded_is_made_up_for_later(
    works: Clockwork, caplog: pytest.LogCaptureFixture
) -> None:
    works.make()
    works.make()
    works.harness.journal.fail("the disk is full")
    works.advance(60.0, *[RETRY_INTERVAL] * 200)
    assert works.ran() == []
    assert caplog.messages == ["schedule 1 could not submit: the disk is full"]
    works.harness.journal.recover()
    works.advance(RETRY_INTERVAL)
    assert works.ran(1) == works.ran(2) == [261.0]
    works.finish(1)
    works.finish(2)
    works.advance(39.0)
    assert works.ran(1) == works.ran(2) == [261.0, 300.0]


def test_one_run_per_second_is_tried_while_nothing_can_be_recorded(
    works: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        works.make()
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> "Deferred[int]":
        asked.append(args)
        return fail(StoreFailed("the disk is full"))

    monkeypatch.setattr(works.harness.engine.submissions, "submit", refuse)
    works.advance(60.0, *[RETRY_INTERVAL / 4] * 20)
    assert len(asked) == 6


def test_runs_that_failed_before_they_were_durable_are_tried_again(
    works: Clockwork, caplog: pytest.LogCaptureFixture
) -> None:
    works.make()
    works.make()
    works.harness.clock.advance(60.0)
    works.harness.journal.fail("no room")
    works.harness.journal.recover()
    works.advance(RETRY_INTERVAL)
    assert works.ran(1) == works.ran(2) == [61.0]
    assert caplog.messages == [f"schedule {number} could not submit: no room" for number in (1, 2)]


def test_same_reason_is_logged_again_after_a_successful_submission(
    works: Clockwork, caplog: pytest.LogCaptureFixture
) -> None:
    works.make(overlap=True)
    for _ in range(2):
        works.harness.journal.fail("no room")
        works.advance(60.0)
        works.harness.journal.recover()
        works.advance(RETRY_INTERVAL)
    assert len(caplog.messages) == 2
    assert len(works.ran()) == 2


def test_refused_run_is_left_out(
    works: Clockwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    works.make()
    monkeypatch.setattr(
        works.harness.engine.submissions, "submit", lambda *_, **__: fail(BadRequest("too much"))
    )
    works.advance(60.0, 60.0, 30.0)
    assert caplog.messages == ["schedule 1 could not submit: too much"]
    monkeypatch.undo()
    works.advance(20.0)
    assert works.ran() == []
    works.advance(10.0)
    assert works.ran() == [180.0]


def test_owner_at_the_limit_of_pending_jobs_gets_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    works = Clockwork(slots=1, most_pending=PendingLimit(2))
    works.make(overlap=True)
    works.advance(60.0, 60.0, 60.0, 60.0, 60.0)
    assert works.ran() == [60.0, 120.0, 180.0]
    assert len(caplog.messages) == 1, "it is said once"
    assert caplog.messages[0].startswith("schedule 1 could not submit: cannot add 1 job: ada has 2 pending")
    works.harness.finish(1)
    works.advance(60.0, 60.0)
    assert works.ran() == [60.0, 120.0, 180.0, 360.0]
    assert len(caplog.messages) == 2, "it has worked meanwhile"


def test_array_of_a_schedule_counts_with_all_its_tasks() -> None:
    works = Clockwork(slots=1, most_pending=PendingLimit(3))
    works.make(array=Array(1, 4))
    works.make(array=Array(1, 3))
    works.advance(60.0)
    assert (works.ran(1), works.ran(2)) == ([], [60.0])


def test_internal_error_is_logged_and_the_schedule_continues(
    works: Clockwork, logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    works.make()
    monkeypatch.setattr(
        works.harness.engine.submissions, "submit", lambda *_, **__: fail(ZeroDivisionError())
    )
    works.advance(60.0)
    monkeypatch.undo()
    works.advance(60.0)
    assert works.ran() == [120.0]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_nothing_is_submitted_during_a_drain(works: Clockwork, caplog: pytest.LogCaptureFixture) -> None:
    works.make(overlap=True)
    works.advance(60.0)
    works.harness.engine.dispatcher.drain()
    works.advance(60.0, 60.0, 60.0)
    assert works.ran() == [60.0]
    assert caplog.messages == []
    assert works.harness.clock.getDelayedCalls() == []


def test_stop_leaves_no_timer(works: Clockwork) -> None:
    works.make(overlap=True)
    works.make(overlap=True)
    works.advance(60.0)
    works.harness.clock.advance(60.0)
    works.scheduler.stop()
    works.harness.journal.sync()
    works.harness.journal.fail("no room")
    assert works.harness.clock.getDelayedCalls() == []
    assert works.ran(1) == [60.0, 120.0]
    begin(
        works.harness.engine.queue_commands.schedule("x", DEFAULT_SPEC, ACTOR, 1.0, None, False)
    ).addErrback(lambda failure: failure.trap(StoreFailed))
    assert works.harness.clock.getDelayedCalls() == []


def test_stop_without_a_schedule_is_accepted(works: Clockwork) -> None:
    works.scheduler.stop()
    assert works.harness.clock.getDelayedCalls() == []


# A clock that is set back.


def test_clock_set_back_a_little_runs_no_cron_schedule_twice(works: Clockwork) -> None:
    works.make(every=None, cron="* * * * *", overlap=True)
    works.advance(*[5.0] * 8)
    works.set_clock(START + 40.0 - MAX_SET_BACK / 2)
    works.advance(*[5.0] * 17)
    assert works.ran() == [40.0]
    works.advance(5.0)
    assert works.ran() == [40.0, 100.0]


def test_clock_set_back_a_lot_neither_stops_a_schedule_nor_floods_it(
    works: Clockwork,
) -> None:
    works.make(every=None, cron="* * * * *", overlap=True)
    works.advance(*[5.0] * 8)
    works.set_clock(START - DAY)
    assert works.ran() == [40.0]
    works.advance(*[5.0] * 8)
    assert works.ran() == [40.0, 40.0 - DAY]
    works.advance(*[5.0] * 12)
    assert works.ran() == [40.0, 40.0 - DAY, 100.0 - DAY]
    assert replayed(works.harness.journal.events).schedules == works.harness.queue_state.schedules


def test_run_under_way_when_the_clock_is_set_back_does_not_delay_the_next(works: Clockwork) -> None:
    works.make(every=None, cron="* * * * *")
    works.advance(*[5.0] * 20)  # its job of 40 s has not ended, so the run of 100 s is left out
    works.set_clock(START - DAY)
    works.finish()
    works.advance(*[5.0] * 8)
    assert works.ran() == [40.0, 40.0 - DAY]


def test_clock_set_back_while_the_daemon_was_stopped_stops_no_schedule(works: Clockwork) -> None:
    later = Clockwork(made_and_ran(works), now=START - DAY)
    assert later.ran() == [60.0]
    later.advance(60.0)
    assert later.ran() == [60.0, 60.0 - DAY]
    later.finish()
    later.advance(60.0)
    assert later.ran() == [60.0, 60.0 - DAY, 120.0 - DAY]


def test_timer_is_limited_for_a_distant_run(works: Clockwork) -> None:
    works.make(every=DAY)
    [alarm] = works.harness.clock.getDelayedCalls()
    assert alarm.getTime() - MONOTONIC == MAX_SLEEP
    works.advance(MAX_SLEEP)
    [alarm] = works.harness.clock.getDelayedCalls()
    assert alarm.getTime() - MONOTONIC == 2 * MAX_SLEEP


def test_state_equals_a_replay_after_runs_were_left_out(works: Clockwork) -> None:
    works.make()
    works.make(overlap=True)
    works.harness.pause(schedule=2)
    works.advance(0, 60.0, 60.0)
    works.harness.resume(schedule=2)
    works.advance(0, 60.0, 60.0)
    assert works.ran(1) == [60.0]
    assert works.ran(2) == [180.0, 240.0]
    assert replayed(works.harness.journal.events).schedules == works.harness.queue_state.schedules
