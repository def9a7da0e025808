"""When the memory of an attempt is read, exactly or not, and when it is reported."""

import pytest

from taskqd.execution.messages import AttemptKey
from taskqd.runner.memory_reader import Sum, Target
from taskqd.runner.watched_memory import (
    EXACT_IDLE_FACTOR,
    EXACT_INTERVAL,
    MAX_INTERVAL,
    MIN_INTERVAL,
    PRESSING_IDLE_FACTOR,
    REPORT_INTERVAL,
    SMALL,
    WatchedMemory,
)

MIB = 1024**2
LIMIT = 1024 * MIB
TARGET = Target(AttemptKey(1, 1, "0123456789abcdef"), 5000, "store.1.1.0123456789abcdef", None)


def watched(now: float = 0.0) -> WatchedMemory:
    return WatchedMemory(TARGET, LIMIT, now)


def intervals(memory: WatchedMemory, sizes: list[int]) -> list[float]:
    """Return the time until the next reading after each of several."""
    found, now = [], memory.due
    for size in sizes:
        memory.read(Sum(size, 1), now)
        found.append(memory.due - now)
        now = memory.due
    return found


def test_attempt_that_does_not_grow_is_read_ever_less_often() -> None:
    assert intervals(watched(), [MIB] * 6)[-2:] == [MAX_INTERVAL, MAX_INTERVAL]
    assert watched().due == MIN_INTERVAL


def test_attempt_that_grows_fast_is_read_the_more_often_the_nearer_its_limit_is() -> None:
    found = intervals(watched(), [MIB] * 6 + [400 * MIB, 700 * MIB, 850 * MIB, 1000 * MIB])
    assert found[-4:] == sorted(found[-4:], reverse=True)
    assert found[-1] == MIN_INTERVAL
    assert intervals(watched(), [MIB * each for each in range(8)])[-1] == MAX_INTERVAL, "slow growth"


def test_readings_of_several_attempts_coincide() -> None:
    first, second = watched(10.0), watched(10.3)
    for memory in (first, second):
        intervals(memory, [MIB] * 8)
    assert first.due % MAX_INTERVAL == second.due % MAX_INTERVAL == 0


def test_sum_of_a_single_process_is_what_it_uses() -> None:
    memory = watched()
    memory.read(Sum(500 * MIB, 1), 1.0)
    assert (memory.used, memory.peak) == (500 * MIB, 500 * MIB)
    memory.read(Sum(100 * MIB, 1), 2.0)
    assert (memory.used, memory.peak) == (100 * MIB, 500 * MIB)
    assert not memory.needs_exact(2.0)


def test_small_attempt_is_not_read_exactly() -> None:
    memory = watched()
    memory.read(Sum(SMALL, 10), 1.0)
    assert not memory.needs_exact(1.0)
    assert memory.used == SMALL


def test_large_attempt_of_several_processes_is_read_exactly() -> None:
    memory = watched()
    memory.read(Sum(500 * MIB, 10), 1.0)
    assert memory.needs_exact(1.0)
    assert not memory.is_pressing
    assert memory.used == 0, "what they share is not known"
    memory.read_exactly(100 * MIB, 1.0, cost=0.001)
    assert memory.used == 100 * MIB


def test_exact_reading_is_repeated_after_a_change_at_an_interval() -> None:
    memory = watched()
    memory.read(Sum(500 * MIB, 10), 1.0)
    memory.read_exactly(100 * MIB, 1.0, cost=0.001)
    memory.read(Sum(510 * MIB, 10), 9.0)
    assert not memory.needs_exact(9.0), "it has hardly changed"
    memory.read(Sum(600 * MIB, 10), 1.0)
    assert not memory.needs_exact(1.0 + EXACT_INTERVAL / 2)
    assert memory.needs_exact(1.0 + EXACT_INTERVAL)


def test_exact_reading_that_takes_long_is_repeated_later() -> None:
    memory = watched()
    memory.read(Sum(500 * MIB, 10), 1.0)
    memory.read_exactly(100 * MIB, 1.0, cost=0.25)
    memory.read(Sum(600 * MIB, 10), 2.0)
    assert not memory.needs_exact(EXACT_IDLE_FACTOR * 0.25)
    assert memory.needs_exact(1.0 + EXACT_IDLE_FACTOR * 0.25)


@pytest.mark.parametrize("processes", [1, 10])
def test_limit_is_decided_by_an_exact_reading(processes: int) -> None:
    memory = watched()
    memory.read(Sum(LIMIT + 1, processes), 1.0)
    assert memory.is_pressing
    assert memory.needs_exact(1.0)
    assert not memory.is_over
    memory.read_exactly(LIMIT, 1.0, cost=0.001)
    assert not memory.is_over
    memory.read_exactly(LIMIT + 1, 1.0, cost=0.001)
    assert memory.is_over


def test_attempt_above_its_limit_only_as_a_sum_is_read_exactly_from_time_to_time() -> None:
    """Processes that share pages may each write to them, which the sum does not show."""
    memory = watched()
    memory.read(Sum(10 * LIMIT, 10), 1.0)
    memory.read_exactly(LIMIT // 2, 1.0, cost=0.001)
    memory.read(Sum(10 * LIMIT, 10), 1.5)
    assert not memory.is_pressing
    assert not memory.needs_exact(1.5)
    assert memory.needs_exact(1.0 + EXACT_INTERVAL)


def test_growth_that_may_have_reached_the_limit_is_read_exactly_soon() -> None:
    memory = watched()
    memory.read(Sum(2 * LIMIT, 10), 1.0)
    memory.read_exactly(LIMIT // 2, 1.0, cost=0.01)
    memory.read(Sum(2 * LIMIT + LIMIT // 2 + 1, 10), 1.25)
    assert memory.is_pressing
    assert not memory.needs_exact(1.0)
    assert memory.needs_exact(1.0 + PRESSING_IDLE_FACTOR * 0.01)


def test_use_is_reported_after_a_change_at_most_once_per_interval() -> None:
    memory = watched()
    assert not memory.report(0.0), "it has not been read"
    memory.read(Sum(100 * MIB, 1), 0.5)
    assert memory.report(0.5)
    memory.read(Sum(200 * MIB, 1), 0.75)
    assert not memory.report(0.75)
    assert memory.report(0.5 + REPORT_INTERVAL)
    memory.read(Sum(201 * MIB, 1), 3.0)
    assert not memory.report(3.0)
    memory.read(Sum(100 * MIB, 1), 4.0)
    assert memory.report(4.0)


def test_first_use_of_nothing_is_reported_once() -> None:
    memory = watched()
    memory.read(Sum(0, 0), 0.5)
    assert memory.report(0.5)
    assert not memory.report(5.0)
