"""A shortage of the machine's: when a start is tried, how many at once, and when it is over."""

import errno
import itertools

import pytest

from taskqd.engine.shortage import FIRST_WAIT, MAX_WAIT, QUIET_TIME, Shortage
from taskqd.errors import is_shortage

NOW = 1000.0


def test_no_shortage_keeps_no_start() -> None:
    shortage = Shortage()
    assert shortage.allows(10_000, NOW)
    assert (shortage.is_paused(NOW), shortage.next_look(NOW), shortage.end(NOW)) == (False, None, False)


def test_after_a_refusal_nothing_starts_for_a_wait_that_doubles_up_to_a_limit() -> None:
    shortage, now = Shortage(), NOW
    waits: list[float] = []
    assert shortage.refuse("no processes", now)
    while not waits or waits[-1] < MAX_WAIT - 0.001:
        assert not shortage.allows(0, now)
        waits.append(shortage.next_try(now))
        assert shortage.next_look(now) == now + waits[-1]
        now += waits[-1] + 0.001
        assert shortage.allows(0, now)
        assert not shortage.refuse("no processes", now), "it goes on, and is not told again"
    assert waits[0] == pytest.approx(FIRST_WAIT)
    assert [round(two / one, 3) for one, two in itertools.pairwise(waits[:-1])] == [2] * (len(waits) - 2)
    assert shortage.next_try(now) == pytest.approx(MAX_WAIT)


def test_refusals_of_what_was_under_way_already_make_the_wait_no_longer() -> None:
    shortage = Shortage()
    shortage.refuse("no processes", NOW)
    for _ in range(100):
        assert not shortage.refuse("no processes", NOW + FIRST_WAIT / 2)
    assert shortage.allows(0, NOW + FIRST_WAIT)


def test_one_start_is_tried_and_one_more_at_once_for_each_that_works() -> None:
    shortage = Shortage()
    shortage.refuse("no processes", NOW)
    now = NOW + FIRST_WAIT
    assert (shortage.allows(0, now), shortage.allows(1, now)) == (True, False)
    shortage.succeed()
    assert (shortage.allows(1, now), shortage.allows(2, now)) == (True, False)
    shortage.refuse("no processes", now)
    shortage.ease(now)
    assert (shortage.allows(0, now), shortage.allows(1, now)) == (True, False)


def test_the_end_of_a_process_lets_a_start_be_tried_at_once() -> None:
    shortage = Shortage()
    shortage.refuse("no processes", NOW)
    shortage.ease(NOW)
    assert (shortage.allows(0, NOW), shortage.next_try(NOW), shortage.next_look(NOW)) == (True, 0.0, None)


def test_it_is_over_when_starts_work_or_nothing_is_left_and_none_was_refused_for_a_while() -> None:
    for improve in (Shortage.succeed, Shortage.idle):
        shortage = Shortage()
        shortage.refuse("no processes", NOW)
        assert not shortage.end(NOW + 10 * QUIET_TIME), "nothing was tried since"
        improve(shortage)
        assert shortage.next_look(NOW) == NOW + QUIET_TIME
        assert not shortage.end(NOW + QUIET_TIME - 0.001)
        assert shortage.end(NOW + QUIET_TIME)
        assert (shortage.detail, shortage.end(NOW + QUIET_TIME)) == (None, False)
        assert shortage.refuse("no memory", NOW + 60), "another one"
        assert shortage.detail == "no memory"
        assert shortage.next_try(NOW + 60) == pytest.approx(FIRST_WAIT)


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
