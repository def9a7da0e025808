"""The watch over the memory of attempts: what is read, what it costs, and who hears of it."""

from collections.abc import Iterable, Mapping

import pytest

from taskqd.execution.messages import AttemptKey, MemoryUse
from taskqd.runner.memory_reader import Sum, Target
from taskqd.runner.memory_watch import IDLE_FACTOR, MAX_EXACT, MemoryWatch
from taskqd.runner.watched_memory import EXACT_IDLE_FACTOR
from tests.fakes.clocks import Threads, clock, in_thread
from tests.support.leaks import LeakWatch

MIB = 1024**2
LIMIT = 1024 * MIB


class FakeReader:
    """Has the memory that the test has set, by job; each reading takes the CPU time that it has set."""

    def __init__(self) -> None:
        self.memory: dict[int, Sum] = {}
        self.exactly: dict[int, int] = {}
        self.cost = self.exact_cost = 0.0
        self.used = 0.0
        self.error: OSError | None = None
        self.readings: list[list[int]] = []
        self.exact_readings: list[int] = []
        self.is_clear = False

    def cpu_time(self) -> float:
        return self.used

    def find(self, now: float) -> None:
        self.is_clear = False
        if self.error is not None:
            raise self.error

    def sums(self, targets: Iterable[Target]) -> Mapping[AttemptKey, Sum]:
        self.used += self.cost
        keys = [target.key for target in targets]
        self.readings.append([key.id for key in keys])
        return {key: self.memory.get(key.id, Sum(0, 0)) for key in keys}

    def exact(self, target: Target) -> int:
        self.used += self.exact_cost
        self.exact_readings.append(target.key.id)
        return self.exactly.get(target.key.id, self.memory[target.key.id].size)

    def clear(self) -> None:
        self.is_clear = True


class Harness:
    """A watch over a fake reader; ``over`` has the use of those that are over their limit."""

    def __init__(self) -> None:
        self.clock = clock()
        self.reader = FakeReader()
        self.watch = MemoryWatch(self.clock, in_thread, self.reader, self.reader.cpu_time)
        self.watch.on_measured = self._on_measured
        self.reports: list[list[MemoryUse]] = []
        self.over: list[tuple[int, int]] = []

    def _on_measured(self, uses: list[MemoryUse]) -> None:
        self.reports.append(uses)

    def add(self, job_id: int = 1, size: int = MIB, processes: int = 1) -> None:
        self.reader.memory[job_id] = Sum(size, processes)
        self.watch.add(target(job_id), LIMIT, lambda used: self.over.append((job_id, used)))

    def grow(self, size: int, job_id: int = 1, processes: int = 1) -> None:
        self.reader.memory[job_id] = Sum(size, processes)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.125] * round(seconds * 8))


def target(job_id: int) -> Target:
    return Target(key(job_id), 5000 + job_id, f"store.{job_id}.1.0", None)


def key(job_id: int) -> AttemptKey:
    return AttemptKey(job_id, 1, "0123456789abcdef")


@pytest.fixture(name="harness")
def a_watch() -> Harness:
    return Harness()


def test_nothing_is_read_without_a_limit(harness: Harness) -> None:
    assert harness.clock.getDelayedCalls() == []
    assert harness.watch.remove(key(1)) == 0


def test_attempts_are_read_together_at_least_once_per_second(harness: Harness) -> None:
    for job_id in (1, 2, 3):
        harness.add(job_id)
    harness.pass_time(10)
    harness.reader.readings.clear()
    harness.pass_time(10)
    assert harness.reader.readings == [[1, 2, 3]] * 10


def test_readings_wait_in_proportion_to_their_cpu_time(harness: Harness) -> None:
    harness.add()
    harness.reader.cost = 0.125
    harness.pass_time(10 * IDLE_FACTOR * harness.reader.cost)
    assert 9 <= len(harness.reader.readings) <= 10


def test_attempt_over_its_limit_is_found_within_a_second_whenever_it_begins(harness: Harness) -> None:
    harness.add()
    harness.pass_time(60)
    harness.grow(LIMIT + 1)
    harness.pass_time(1)
    assert harness.over[0] == (1, LIMIT + 1)
    assert harness.reader.exact_readings[0] == 1


def test_attempt_just_below_its_limit_lives(harness: Harness) -> None:
    harness.add(size=LIMIT)
    harness.pass_time(10)
    assert harness.over == []


def test_memory_that_processes_share_counts_once(harness: Harness) -> None:
    harness.add(size=10 * LIMIT, processes=10)
    harness.reader.exactly[1] = LIMIT - 1
    harness.pass_time(10)
    assert harness.over == []
    harness.reader.exactly[1] = LIMIT + 1
    harness.pass_time(2)
    assert harness.over[0] == (1, LIMIT + 1)


def test_exact_readings_wait_in_proportion_to_their_cpu_time(harness: Harness) -> None:
    harness.reader.exact_cost = 0.0625
    for job_id in range(1, 9):
        harness.add(job_id, size=10 * LIMIT, processes=10)
        harness.reader.exactly[job_id] = 100 * MIB
    harness.pass_time(1)
    harness.reader.exact_readings.clear()
    harness.pass_time(4 * EXACT_IDLE_FACTOR * harness.reader.exact_cost * 8)
    assert 3 * 8 <= len(harness.reader.exact_readings) <= 4 * 8


def test_exact_readings_that_are_not_urgent_are_few_at_a_time_and_serve_all(harness: Harness) -> None:
    count = 2 * MAX_EXACT
    for job_id in range(1, count + 1):
        harness.add(job_id, size=LIMIT // 2, processes=10)
    harness.pass_time(0.125)
    assert len(harness.reader.exact_readings) == MAX_EXACT
    harness.pass_time(10)
    assert sorted(harness.reader.exact_readings) == list(range(1, count + 1))


def test_uses_are_reported_together_when_they_change(harness: Harness) -> None:
    harness.add(1)
    harness.add(2)
    harness.pass_time(5)
    assert harness.reports == [[MemoryUse(*key(1), MIB, MIB), MemoryUse(*key(2), MIB, MIB)]]
    harness.grow(3 * MIB)
    harness.pass_time(1)
    assert harness.reports[1:] == [[MemoryUse(*key(1), 3 * MIB, 3 * MIB)]]
    assert harness.watch.uses() == [MemoryUse(*key(1), 3 * MIB, 3 * MIB), MemoryUse(*key(2), MIB, MIB)]


def test_peak_is_known_at_the_end_and_nothing_is_read_afterwards(harness: Harness) -> None:
    harness.add(size=5 * MIB)
    assert harness.watch.uses() == []
    harness.pass_time(1)
    harness.grow(MIB)
    harness.pass_time(5)
    assert harness.watch.remove(key(1)) == 5 * MIB
    assert harness.clock.getDelayedCalls() == []
    assert harness.reader.is_clear, "the files of processes are closed"


def test_attempt_that_ends_during_a_reading_is_forgotten() -> None:
    harness, threads = Harness(), Threads()
    harness.watch = MemoryWatch(harness.clock, threads, harness.reader, harness.reader.cpu_time)
    harness.add(size=2 * LIMIT)
    harness.pass_time(0.125)
    threads.waiting.pop(0)()
    harness.watch.remove(key(1))
    threads.run()
    assert harness.over == []
    assert harness.clock.getDelayedCalls() == []
    assert harness.reader.is_clear


def test_attempt_that_starts_during_a_reading_is_read_after_it() -> None:
    harness, threads = Harness(), Threads()
    harness.watch = MemoryWatch(harness.clock, threads, harness.reader, harness.reader.cpu_time)
    harness.add(1)
    harness.pass_time(0.125)
    harness.add(2)
    threads.run()
    harness.pass_time(0.25)
    threads.run()
    assert harness.reader.readings == [[1], [1, 2]]


def test_failed_reading_is_logged_once_and_repeated(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add()
    harness.reader.error = OSError(24, "Too many open files")
    harness.pass_time(10)
    assert caplog.text.count("the memory of jobs cannot be read: [Errno 24] Too many open files") == 1
    harness.reader.error = None
    harness.grow(LIMIT + 1)
    harness.pass_time(1)
    assert harness.over


def test_error_of_a_callback_is_logged_and_readings_go_on(harness: Harness, logged_errors: LeakWatch) -> None:
    harness.watch.on_measured = lambda _: 1 // 0
    harness.add()
    harness.pass_time(5)
    assert len(harness.reader.readings) > 5
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
