"""A shortage of the machine's: when a start is tried, how many at once, and when it is over."""

import errno
import itertools

import pytest

from taskqd.engine.shortage import MAX_DELAY, MIN_DELAY, QUIET_TIME, Shortage
from taskqd.errors import is_shortage

NOW = 1000.0


def test_no_shortage_keeps_no_start() -> None:
    shortage = Shortage()
    assert shortage.allows_start(10_000, NOW)
    assert (shortage.is_paused(NOW), shortage.next_wakeup(NOW), shortage.end_if_over(NOW)) == (
        False,
        None,
        False,
    )


def test_after_a_refusal_nothing_starts_for_a_wait_that_doubles_up_to_a_limit() -> None:
    shortage, now = Shortage(), NOW
    waits: list[float] = []
    assert shortage.record_refusal("no processes", now)
    while not waits or waits[-1] < MAX_DELAY - 0.001:
        assert not shortage.allows_start(0, now)
        waits.append(shortage.seconds_to_next_try(now))
        assert shortage.next_wakeup(now) == now + waits[-1]
        now += waits[-1] + 0.001
        assert shortage.allows_start(0, now)
        assert not shortage.record_refusal("no processes", now), "it goes on, and is not told again"
    assert waits[0] == pytest.approx(MIN_DELAY)
    assert [round(two / one, 3) for one, two in itertools.pairwise(waits[:-1])] == [2] * (len(waits) - 2)
    assert shortage.seconds_to_next_try(now) == pytest.approx(MAX_DELAY)


def test_refusals_of_what_was_under_way_already_make_the_wait_no_longer() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    for _ in range(100):
        assert not shortage.record_refusal("no processes", NOW + MIN_DELAY / 2)
    assert shortage.allows_start(0, NOW + MIN_DELAY)


def test_one_start_is_tried_and_one_more_at_once_for_each_that_works() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    now = NOW + MIN_DELAY
    assert (shortage.allows_start(0, now), shortage.allows_start(1, now)) == (True, False)
    shortage.record_success()
    assert (shortage.allows_start(1, now), shortage.allows_start(2, now)) == (True, False)
    shortage.record_refusal("no processes", now)
    shortage.record_process_end(now)
    assert (shortage.allows_start(0, now), shortage.allows_start(1, now)) == (True, False)


def test_the_end_of_a_process_lets_a_start_be_tried_at_once() -> None:
    shortage = Shortage()
    shortage.record_refusal("no processes", NOW)
    shortage.record_process_end(NOW)
    assert (shortage.allows_start(0, NOW), shortage.seconds_to_next_try(NOW), shortage.next_wakeup(NOW)) == (
        True,
        0.0,
        None,
    )


def test_it_is_over_when_starts_work_or_nothing_is_left_and_none_was_refused_for_a_while() -> None:
    for improve in (Shortage.record_success, Shortage.record_idle):
        shortage = Shortage()
        shortage.record_refusal("no processes", NOW)
        assert not shortage.end_if_over(NOW + 10 * QUIET_TIME), "nothing was tried since"
        improve(shortage)
        assert shortage.next_wakeup(NOW) == NOW + QUIET_TIME
        assert not shortage.end_if_over(NOW + QUIET_TIME - 0.001)
        assert shortage.end_if_over(NOW + QUIET_TIME)
        assert (shortage.detail, shortage.end_if_over(NOW + QUIET_TIME)) == (None, False)
        assert shortage.record_refusal("no memory", NOW + 60), "another one"
        assert shortage.detail == "no memory"
        assert shortage.seconds_to_next_try(NOW + 60) == pytest.approx(MIN_DELAY)


@pytest.mark.parametrize(
    "error, is_it",
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
def test_the_machine_s_fault_is_told_from_that_of_a_job(error: BaseException | None, is_it: bool) -> None:
    assert is_shortage(error) == is_it
