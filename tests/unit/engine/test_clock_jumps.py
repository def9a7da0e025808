"""Jumps of the time of day: each is recorded, and moves only what waits for a time of day."""

import random

import pytest

from taskqd.daemon.clocks import Clocks
from taskqd.engine.clock_jumps import CHECK_INTERVAL, RECORD_INTERVAL
from taskqd.engine.dispatcher import MAX_SLEEP
from taskqd.model.events import Clocked, Event, Opened
from taskqd.model.job import Reason
from taskqd.model.spec import Array
from tests.fakes.clocks import BOOT, START, FakeClocks
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import FAILED

DAY = 86_400.0
JUMPS = [7200.0, 8 * DAY, -7200.0, -8 * DAY, 50 * 365 * DAY]


def started(slots: int = 2) -> Harness:
    """Return a started harness that compares its clocks."""
    harness = opened(slots)
    harness.engine.clock_jumps.start()
    return harness


def set_time(harness: Harness, jump: float) -> None:
    """Set the time of day, and let the engine detect that."""
    harness.clock.set_time(harness.clock.now() + jump)
    advance(harness, CHECK_INTERVAL)


def advance(harness: Harness, seconds: float) -> None:
    """Advance the clock a few seconds at a time, and make everything durable after each."""
    while seconds > 0:
        harness.clock.advance(min(seconds, 2.5))
        harness.settle()
        seconds -= 2.5


def clocked(harness: Harness) -> list[Event]:
    return [event for event in harness.journal.events if isinstance(event, Clocked)]


def check(harness: Harness) -> None:
    """Check that the state equals a replay of the journal."""
    assert replayed(harness.journal.events) == harness.queue_state


@pytest.mark.parametrize("jump", JUMPS)
def test_jump_of_the_time_of_day_is_one_record_and_one_log_line(
    jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    harness = started()
    set_time(harness, jump)
    advance(harness, 5.0)
    way = "forward" if jump > 0 else "back"
    assert [record.getMessage() for record in caplog.records] == [
        f"the time of day was set {way} by {abs(jump):.1f} s; only --at and --cron follow it"
    ]
    at = START + CHECK_INTERVAL + jump
    assert clocked(harness) == [Clocked(at=at, boot_clock=BOOT + CHECK_INTERVAL, ahead=jump)]
    assert harness.queue_state.ahead == jump
    check(harness)


def test_slewed_clock_or_suspended_machine_is_no_jump() -> None:
    harness = started()
    set_time(harness, 0.4)
    set_time(harness, -0.4)
    harness.clock.suspend(10 * DAY)
    set_time(harness, 0.0)
    assert [event.ahead for event in clocked(harness) if isinstance(event, Clocked)] == [0.0]  # the hour's


def test_clocks_are_recorded_every_hour() -> None:
    harness = started()
    advance(harness, 2 * RECORD_INTERVAL + 10.0)
    assert [event.at - START for event in clocked(harness)] == pytest.approx([3600.0, 7200.0], abs=5.0)
    check(harness)


def test_stop_ends_the_comparison() -> None:
    harness = started()
    harness.engine.clock_jumps.stop()
    assert harness.clock.getDelayedCalls() == []
    opened().engine.clock_jumps.stop()


def test_time_stamps_ignore_a_jump_until_it_is_recorded() -> None:
    harness = started()
    harness.clock.set_time(START + 8 * DAY)
    harness.clock.advance(CHECK_INTERVAL)
    assert harness.clock.now() == START + 8 * DAY + CHECK_INTERVAL
    harness.journal.fail()
    assert harness.clock.now() == START + CHECK_INTERVAL
    advance(harness, 5.0)
    assert (harness.clock.now(), harness.queue_state.ahead) == (START + 6.0, 0.0)
    harness.journal.recover()
    advance(harness, 2.0)
    assert (harness.clock.now(), harness.queue_state.ahead) == (START + 8.0 + 8 * DAY, 8 * DAY)
    check(harness)


@pytest.mark.parametrize("jump", [8 * DAY, -8 * DAY])
def test_end_that_could_not_be_recorded_before_a_jump_keeps_its_age(jump: float) -> None:
    harness = started()
    job = harness.submit(retries=1, retry_delay=100.0)
    harness.journal.fail()
    harness.executor.finish(job, FAILED)
    harness.clock.set_time(START + jump)
    harness.journal.writable_waiters, waiting = [], harness.journal.writable_waiters
    harness.journal.failure = None
    advance(harness, CHECK_INTERVAL)  # the jump is recorded before the end is
    for each in waiting:
        each.callback(None)
    harness.settle()
    assert harness.queue_state.remaining_delay(harness.job(job), harness.clock.elapsed()) == pytest.approx(
        100.0 - CHECK_INTERVAL
    )
    check(harness)


@pytest.mark.parametrize("jump", JUMPS)
def test_jump_does_not_move_a_delay_or_a_retry(jump: float) -> None:
    harness = started(slots=4)
    delayed = harness.submit(delay=100.0)
    array = harness.submit(delay=100.0, array=Array(0, 0))
    failing = harness.submit(retries=1, retry_delay=100.0)
    harness.finish(failing, FAILED)
    shown = harness.job_view.describe(harness.job(delayed))["not_before"]
    set_time(harness, jump)
    assert harness.job_view.describe(harness.job(delayed))["not_before"] != shown
    advance(harness, 98.0)
    assert running(harness) == []
    assert harness.queue_state.reason(harness.job(delayed), harness.clock.elapsed()) is Reason.DELAYED
    advance(harness, 1.5 + MAX_SLEEP)
    assert running(harness) == [delayed, array + 1, failing]
    check(harness)


@pytest.mark.parametrize("jump", JUMPS)
def test_jump_does_not_move_a_changed_delay(jump: float) -> None:
    harness = started()
    job = harness.submit(delay=5.0)
    changing = harness.change(job, delay=100.0)
    harness.settle()
    result_of(changing)
    set_time(harness, jump)
    advance(harness, 98.0)
    assert running(harness) == []
    advance(harness, 1.5 + MAX_SLEEP)
    assert running(harness) == [job]
    check(harness)


def test_at_follows_the_time_of_day_both_ways() -> None:
    harness = started(slots=4)
    near, far = harness.submit(at=START + 3600.0), harness.submit(at=START + 2 * DAY)
    set_time(harness, 3600.0)
    assert running(harness) == [near]
    set_time(harness, -DAY)
    advance(harness, 10.0)
    assert running(harness) == [near]
    assert harness.queue_state.reason(harness.job(far), harness.clock.elapsed()) is Reason.DELAYED
    set_time(harness, 3 * DAY)
    assert running(harness) == [near, far]
    check(harness)


def test_due_at_waits_again_after_the_time_of_day_is_set_back() -> None:
    harness = started(slots=1)
    first, dated = harness.submit(), harness.submit(at=START + 3600.0)
    set_time(harness, 3600.0)
    set_time(harness, -7200.0)
    harness.finish(first)
    assert running(harness) == []
    advance(harness, 7200.0)
    assert running(harness) == [dated]
    check(harness)


def test_delay_continues_while_the_machine_is_suspended() -> None:
    harness = started()
    job = harness.submit(delay=3600.0)
    harness.clock.suspend(3600.0)
    advance(harness, MAX_SLEEP)
    assert running(harness) == [job]


@pytest.mark.parametrize("jump", JUMPS)
def test_age_of_an_ended_job_follows_the_boot_clock(jump: float) -> None:
    harness = started()
    job, array = harness.submit(), harness.submit(array=Array(0, 0))
    harness.finish(job)
    harness.finish(array + 1)
    set_time(harness, jump)
    harness.queue_state.retention_index.retain(job)
    advance(harness, 10.0)
    now = harness.clock.elapsed()
    assert harness.queue_state.retention_index.pop_expired(now - 11.5, 1000) == []
    assert harness.queue_state.retention_index.pop_expired(now - 10.9, 1000) == [job, array]
    assert replayed(harness.journal.events).retention_index.pop_expired(now - 10.9, 1000) == [job, array]


def test_duration_of_a_run_ignores_a_jump() -> None:
    harness = started()
    for jump in JUMPS:
        job = harness.submit()
        set_time(harness, jump)
        harness.finish(job)
    assert harness.queue_state.queues.recent_durations("default") == pytest.approx(
        [CHECK_INTERVAL] * len(JUMPS)
    )
    check(harness)


def test_walk_with_jumps_equals_a_replay() -> None:
    chance = random.Random(11)
    harness = started(slots=2)
    for _ in range(300):
        act = chance.randrange(7)
        if act == 0:
            set_time(harness, chance.choice(JUMPS) * chance.random())
        elif act == 1:
            harness.submit(delay=chance.random() * 100.0)
        elif act == 2:
            harness.submit(at=harness.clock.now() + chance.choice([-1, 1]) * chance.random() * DAY)
        elif act == 3:
            harness.submit(retries=3)
        elif act == 4 and running(harness):
            harness.finish(chance.choice(running(harness)), FAILED)
        elif act == 5:
            harness.schedule(every=10.0 + 100 * chance.random())
        else:
            harness.clock.suspend(chance.random() * 10.0)
            advance(harness, chance.random() * 20.0)
        check(harness)


OPENED = Opened(
    at=START + 50.0, format=5, store="s", boot="this", next_id=1, boot_clock=BOOT + 50.0, ahead=0.0
)
LAST = START + 100.0
"""The last record before the daemon stopped."""


def elapsed_at(time_of_day: float, boot_clock: float, boot: str) -> tuple[float, float]:
    """Return the time elapsed since the last record at a restart, and ``ahead``."""
    clocks = Harness().clock
    clocks.suspend(boot_clock - BOOT)
    clocks.set_time(time_of_day)
    clocks.resume(OPENED, boot, LAST, LAST)
    return clocks.elapsed() - LAST, clocks.ahead


@pytest.mark.parametrize("jump", [0.0, *JUMPS])
def test_restart_within_a_boot_counts_by_the_boot_clock(jump: float) -> None:
    assert elapsed_at(START + 1100.0 + jump, BOOT + 1100.0, "this") == (1000.0, jump)


@pytest.mark.parametrize(
    "time_of_day, passed",
    [
        (LAST + 1000.0, 1000.0),
        (LAST + 50 * 365 * DAY, DAY),
        (0.0, 0.0),
    ],
)
def test_restart_in_another_boot_counts_up_to_a_day(time_of_day: float, passed: float) -> None:
    assert elapsed_at(time_of_day, 30.0, "another") == (passed, time_of_day - LAST - passed)


def test_clock_corrected_after_a_boot_in_1970_moves_no_wait() -> None:
    clocks = Harness().clock
    clocks.set_time(30.0)
    clocks.resume(OPENED, "another", LAST, LAST)
    elapsed = clocks.elapsed()
    clocks.set_time(LAST + 3600.0)
    clocks.ahead = clocks.measured()
    assert (clocks.elapsed(), clocks.ahead, clocks.now()) == (elapsed, 3600.0, LAST + 3600.0)


def test_restart_after_an_older_format_counts_by_the_time_of_day() -> None:
    clocks = Harness().clock
    clocks.set_time(LAST + 3 * DAY)
    clocks.resume(Opened(at=START, format=4, store="s", boot="this", next_id=1), "this", LAST, LAST)
    assert (clocks.elapsed(), clocks.ahead) == (LAST + 3 * DAY, 0.0)


def test_restart_counts_from_the_last_segment_if_it_is_empty() -> None:
    clocks = Harness().clock
    clocks.set_time(START + 60.0)
    clocks.resume(OPENED, "another", START + 10.0, START + 10.0)
    assert clocks.elapsed() == START + 60.0


def test_first_start_begins_at_the_time_of_day() -> None:
    clocks = Harness().clock
    clocks.resume(None, "this", 0.0, 0.0)
    assert (clocks.elapsed(), clocks.ahead) == (START, 0.0)


def test_clocks_that_cannot_be_read_together_show_no_jump() -> None:
    fake = FakeClocks()

    def slow() -> float:
        fake.advance(1.0)
        return START + 100.0

    assert Clocks(fake, fake.boot, slow).measured() == 0.0
