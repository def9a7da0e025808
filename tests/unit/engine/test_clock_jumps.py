"""Jumps of the time of day: each is a record, and moves nothing but what waits for a time of day."""

import random

import pytest

from taskqd.daemon.clocks import Clocks
from taskqd.engine.clock_jumps import LOOK_INTERVAL, RECORD_INTERVAL
from taskqd.engine.dispatcher import LONGEST_SLEEP
from taskqd.model.events import Clocked, Event, Opened
from taskqd.model.job import Reason
from taskqd.model.spec import Array
from tests.fakes.clocks import BOOT, START, FakeClocks
from tests.fakes.deferreds import result_of
from tests.fakes.engine import House, opened, replayed, running
from tests.fakes.processes import FAILED

DAY = 86_400.0
JUMPS = [7200.0, 8 * DAY, -7200.0, -8 * DAY, 50 * 365 * DAY]


def started(slots: int = 2) -> House:
    """Return a house that has started and compares its clocks."""
    house = opened(slots)
    house.dispatcher.jumps.start()
    return house


def set_time(house: House, jump: float) -> None:
    """Set the time of day, and let it be noticed."""
    house.clock.set_time(house.clock.now() + jump)
    advance(house, LOOK_INTERVAL)


def advance(house: House, seconds: float) -> None:
    """Let time pass, a few seconds at a time, and all that comes of it be durable."""
    while seconds > 0:
        house.clock.advance(min(seconds, 2.5))
        house.settle()
        seconds -= 2.5


def clocked(house: House) -> list[Event]:
    return [event for event in house.store.journal if isinstance(event, Clocked)]


def check(house: House) -> None:
    """The backlog is what the journal says."""
    assert replayed(house.store.journal) == house.backlog


@pytest.mark.parametrize("jump", JUMPS)
def test_jump_of_the_time_of_day_is_one_record_and_one_log_line(
    jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    house = started()
    set_time(house, jump)
    advance(house, 5.0)
    way = "forward" if jump > 0 else "back"
    assert [record.getMessage() for record in caplog.records] == [
        f"the time of day was set {way} by {abs(jump):.1f} s; only --at and --cron follow it"
    ]
    at = START + LOOK_INTERVAL + jump
    assert clocked(house) == [Clocked(at=at, boot_clock=BOOT + LOOK_INTERVAL, ahead=jump)]
    assert house.backlog.ahead == jump
    check(house)


def test_time_of_day_that_is_slewed_or_a_machine_that_is_suspended_is_no_jump() -> None:
    house = started()
    set_time(house, 0.4)
    set_time(house, -0.4)
    house.clock.suspend(10 * DAY)
    set_time(house, 0.0)
    assert [event.ahead for event in clocked(house) if isinstance(event, Clocked)] == [0.0]  # the hour's


def test_clocks_are_recorded_every_hour() -> None:
    house = started()
    advance(house, 2 * RECORD_INTERVAL + 10.0)
    assert [event.at - START for event in clocked(house)] == pytest.approx([3600.0, 7200.0], abs=5.0)
    check(house)


def test_stop_ends_the_comparison() -> None:
    house = started()
    house.dispatcher.jumps.stop()
    assert house.clock.getDelayedCalls() == []
    opened().dispatcher.jumps.stop()


def test_time_stamps_go_by_the_old_time_of_day_until_a_jump_can_be_recorded() -> None:
    house = started()
    house.clock.set_time(START + 8 * DAY)
    house.clock.advance(LOOK_INTERVAL)
    assert house.clock.now() == START + 8 * DAY + LOOK_INTERVAL
    house.store.break_down()
    assert house.clock.now() == START + LOOK_INTERVAL
    advance(house, 5.0)
    assert (house.clock.now(), house.backlog.ahead) == (START + 6.0, 0.0)
    house.store.mend()
    advance(house, 2.0)
    assert (house.clock.now(), house.backlog.ahead) == (START + 8.0 + 8 * DAY, 8 * DAY)
    check(house)


@pytest.mark.parametrize("jump", [8 * DAY, -8 * DAY])
def test_end_that_could_not_be_recorded_before_a_jump_keeps_its_age(jump: float) -> None:
    house = started()
    job = house.submit(retries=1, retry_delay=100.0)
    house.store.break_down()
    house.executor.finish(job, FAILED)
    house.clock.set_time(START + jump)
    house.store._waiting, waiting = [], house.store._waiting
    house.store.failure = None
    advance(house, LOOK_INTERVAL)  # the jump is recorded before the end is
    for each in waiting:
        each.callback(None)
    house.settle()
    assert house.backlog.wait(house.job(job), house.clock.elapsed()) == pytest.approx(100.0 - LOOK_INTERVAL)
    check(house)


@pytest.mark.parametrize("jump", JUMPS)
def test_delay_and_retry_are_as_long_as_was_asked(jump: float) -> None:
    house = started(slots=4)
    delayed = house.submit(delay=100.0)
    array = house.submit(delay=100.0, array=Array(0, 0))
    failing = house.submit(retries=1, retry_delay=100.0)
    house.finish(failing, FAILED)
    shown = house.results.describe(house.job(delayed))["not_before"]
    set_time(house, jump)
    assert house.results.describe(house.job(delayed))["not_before"] != shown
    advance(house, 98.0)
    assert running(house) == []
    assert house.backlog.reason(house.job(delayed), house.clock.elapsed()) is Reason.DELAYED
    advance(house, 1.5 + LONGEST_SLEEP)
    assert running(house) == [delayed, array + 1, failing]
    check(house)


@pytest.mark.parametrize("jump", JUMPS)
def test_set_with_a_delay_is_not_moved(jump: float) -> None:
    house = started()
    job = house.submit(delay=5.0)
    changing = house.change(job, delay=100.0)
    house.settle()
    result_of(changing)
    set_time(house, jump)
    advance(house, 98.0)
    assert running(house) == []
    advance(house, 1.5 + LONGEST_SLEEP)
    assert running(house) == [job]
    check(house)


def test_at_follows_the_time_of_day_both_ways() -> None:
    house = started(slots=4)
    near, far = house.submit(at=START + 3600.0), house.submit(at=START + 2 * DAY)
    set_time(house, 3600.0)
    assert running(house) == [near]
    set_time(house, -DAY)
    advance(house, 10.0)
    assert running(house) == [near]
    assert house.backlog.reason(house.job(far), house.clock.elapsed()) is Reason.DELAYED
    set_time(house, 3 * DAY)
    assert running(house) == [near, far]
    check(house)


def test_at_that_was_due_and_could_not_start_waits_again_once_the_time_of_day_is_set_back() -> None:
    house = started(slots=1)
    first, dated = house.submit(), house.submit(at=START + 3600.0)
    set_time(house, 3600.0)
    set_time(house, -7200.0)
    house.finish(first)
    assert running(house) == []
    advance(house, 7200.0)
    assert running(house) == [dated]
    check(house)


def test_suspended_machine_has_delays_go_on() -> None:
    house = started()
    job = house.submit(delay=3600.0)
    house.clock.suspend(3600.0)
    advance(house, LONGEST_SLEEP)
    assert running(house) == [job]


@pytest.mark.parametrize("jump", JUMPS)
def test_ended_job_is_as_old_as_the_boot_clock_says(jump: float) -> None:
    house = started()
    job, array = house.submit(), house.submit(array=Array(0, 0))
    house.finish(job)
    house.finish(array + 1)
    set_time(house, jump)
    house.backlog.expiry.keep(job)
    advance(house, 10.0)
    now = house.clock.elapsed()
    assert house.backlog.expiry.take(now - 11.5, 1000) == []
    assert house.backlog.expiry.take(now - 10.9, 1000) == [job, array]
    assert replayed(house.store.journal).expiry.take(now - 10.9, 1000) == [job, array]


def test_run_that_lasted_over_a_jump_is_estimated_by_what_passed() -> None:
    house = started()
    for jump in JUMPS:
        job = house.submit()
        set_time(house, jump)
        house.finish(job)
    assert house.backlog.queues.latest("default") == pytest.approx([LOOK_INTERVAL] * len(JUMPS))
    check(house)


def test_walk_of_jumps_leaves_what_the_journal_says() -> None:
    chance = random.Random(11)
    house = started(slots=2)
    for _ in range(300):
        act = chance.randrange(7)
        if act == 0:
            set_time(house, chance.choice(JUMPS) * chance.random())
        elif act == 1:
            house.submit(delay=chance.random() * 100.0)
        elif act == 2:
            house.submit(at=house.clock.now() + chance.choice([-1, 1]) * chance.random() * DAY)
        elif act == 3:
            house.submit(retries=3)
        elif act == 4 and running(house):
            house.finish(chance.choice(running(house)), FAILED)
        elif act == 5:
            house.schedule(every=10.0 + 100 * chance.random())
        else:
            house.clock.suspend(chance.random() * 10.0)
            advance(house, chance.random() * 20.0)
        check(house)


OPENED = Opened(
    at=START + 50.0, format=5, store="s", boot="this", next_id=1, boot_clock=BOOT + 50.0, ahead=0.0
)
LAST = START + 100.0
"""The last record before the daemon stopped."""


def elapsed_at(time_of_day: float, boot_clock: float, boot: str) -> tuple[float, float]:
    """Return what has passed since the last record when the daemon is back, and how far ahead time is."""
    clocks = House().clock
    clocks.suspend(boot_clock - BOOT)
    clocks.set_time(time_of_day)
    clocks.resume(OPENED, boot, LAST, LAST)
    return clocks.elapsed() - LAST, clocks.ahead


@pytest.mark.parametrize("jump", [0.0, *JUMPS])
def test_restart_within_the_boot_counts_what_the_boot_clock_says(jump: float) -> None:
    assert elapsed_at(START + 1100.0 + jump, BOOT + 1100.0, "this") == (1000.0, jump)


@pytest.mark.parametrize(
    "time_of_day, passed",
    [
        (LAST + 1000.0, 1000.0),
        (LAST + 50 * 365 * DAY, DAY),
        (0.0, 0.0),
    ],
)
def test_restart_in_another_boot_counts_a_day_at_most(time_of_day: float, passed: float) -> None:
    assert elapsed_at(time_of_day, 30.0, "another") == (passed, time_of_day - LAST - passed)


def test_time_of_day_that_is_set_right_after_a_boot_in_1970_moves_no_wait() -> None:
    clocks = House().clock
    clocks.set_time(30.0)
    clocks.resume(OPENED, "another", LAST, LAST)
    elapsed = clocks.elapsed()
    clocks.set_time(LAST + 3600.0)
    clocks.ahead = clocks.measured()
    assert (clocks.elapsed(), clocks.ahead, clocks.now()) == (elapsed, 3600.0, LAST + 3600.0)


def test_restart_behind_an_older_format_in_the_same_boot_goes_by_the_time_of_day() -> None:
    clocks = House().clock
    clocks.set_time(LAST + 3 * DAY)
    clocks.resume(Opened(at=START, format=4, store="s", boot="this", next_id=1), "this", LAST, LAST)
    assert (clocks.elapsed(), clocks.ahead) == (LAST + 3 * DAY, 0.0)


def test_restart_counts_from_the_beginning_of_the_last_segment_if_nothing_came_after_it() -> None:
    clocks = House().clock
    clocks.set_time(START + 60.0)
    clocks.resume(OPENED, "another", START + 10.0, START + 10.0)
    assert clocks.elapsed() == START + 60.0


def test_first_start_begins_at_the_time_of_day() -> None:
    clocks = House().clock
    clocks.resume(None, "this", 0.0, 0.0)
    assert (clocks.elapsed(), clocks.ahead) == (START, 0.0)


def test_clocks_that_cannot_be_read_together_show_no_jump() -> None:
    fake = FakeClocks()

    def slow() -> float:
        fake.advance(1.0)
        return START + 100.0

    assert Clocks(fake, fake.boot, slow).measured() == 0.0
