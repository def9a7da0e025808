"""Shortages of the machine: when a start is tried, how many at once, and when it is over."""

import errno
import itertools

import pytest

from taskqd.engine.shortage import MAX_DELAY, MIN_DELAY, QUIET_TIME, Shortage
from taskqd.errors import is_shortage

NOW = 1000.0


def test_start_is_allowed_without_a_shortage() -> None:
    shortage = Shortage()
    assert shortage.allows_start(10_000, NOW)
    assert (shortage.is_paused(NOW), shortage.next_wakeup(NOW), shortage.end_if_over(NOW)) == (
        False,
        None,
        False,
    )


def test_refusal_pauses_starts_for_a_delay_that_doubles_up_to_a_limit() -> None:
    shortage, now = Shortage(), NOW
    delays: list[float] = []
    assert shortage.record_refusal("no processes", now)
    while not delays or delays[-1] < MAX_DELAY - 0.001:
        assert not shortage.allows_start(0, now)
        delays.append(shortage.seconds_to_next_try(now))
        assert shortage.next_wakeup(now) == now + delays[-1]
        now += delays[-1] + 0.001
        assert shortage.allows_start(0, now)
        assert not shortage.record_refusal("no processes", now), "the shortage continues"
    assert delays[0] == pytest.approx(MIN_DELAY)
    assert [round(two / one, 3) for one, two in itertools.pairwise(delays[:-1])] == [2] * (len(delays) - 2)
    assert shortage.seconds_to_next_try(now) == pytest.approx(MAX_DELAY)


def test_refusals_of_starts_already_under_way_do_not_extend_the_delay() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    for _ in range(100):
        assert not shortage.record_refusal("no processes", NOW + MIN_DELAY / 2)
    assert shortage.allows_start(0, NOW + MIN_DELAY)


def test_each_successful_start_allows_one_more_at_the_same_time() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    now = NOW + MIN_DELAY
    assert (shortage.allows_start(0, now), shortage.allows_start(1, now)) == (True, False)
    shortage.record_success()
    assert (shortage.allows_start(1, now), shortage.allows_start(2, now)) == (True, False)
    shortage.record_refusal("no processes", now)
    shortage.record_process_end(now)
    assert (shortage.allows_start(0, now), shortage.allows_start(1, now)) == (True, False)


def test_end_of_a_process_allows_a_start_at_once() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    shortage.record_process_end(NOW)
    assert (shortage.allows_start(0, NOW), shortage.seconds_to_next_try(NOW), shortage.next_wakeup(NOW)) == (
        True,
        0.0,
        None,
    )


def test_shortage_ends_after_a_quiet_time_with_success_or_nothing_to_start() -> None:
    for improve in (Shortage.record_success, Shortage.record_idle):
        shortage = Shortage()
        shortage.record_refusal("no processes", NOW)
        assert not shortage.end_if_over(NOW + 10 * QUIET_TIME), "nothing was tried since"
        improve(shortage)
        assert shortage.next_wakeup(NOW) == NOW + QUIET_TIME
        assert not shortage.end_if_over(NOW + QUIET_TIME - 0.001)
        assert shortage.end_if_over(NOW + QUIET_TIME)
        assert (shortage.detail, shortage.end_if_over(NOW + QUIET_TIME)) == (None, False)
        assert shortage.record_refusal("no memory", NOW + 60), "a new shortage"
        assert shortage.detail == "no memory"
        assert shortage.seconds_to_next_try(NOW + 60) == pytest.approx(MIN_DELAY)


@pytest.mark.parametrize(
    "error, is_of_machine",
    [
        (OSError(errno.EAGAIN, "no processes"), True),
        (OSError(errno.EMFILE, "no descriptors"), True),
        (OSError(errno.ENFILE, "no descriptors"), True),
        (OSError(errno.ENOMEM, "no memory"), True),
        (MemoryError(), True),
        (OSError(errno.ENOSPC, "the disk is full"), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (ValueError(), False),
        (None, False),
    ],
)
def test_errors_of_the_machine_are_distinguished_from_those_of_a_job(
    error: BaseException | None, is_of_machine: bool
) -> None:
    assert is_shortage(error) == is_of_machine
