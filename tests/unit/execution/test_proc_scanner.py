"""When /proc is scanned, for whom, and what happens if a scan fails."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskqd.execution import proc_scanner
from taskqd.execution.proc import Process
from taskqd.execution.proc_scanner import BACKOFF_FACTOR, ProcScanner
from tests.fakes.clocks import Threads, clock
from tests.fakes.processes import FakeGroups
from tests.support.leaks import LeakWatch

ONE = Process(7, 50, 7, 7)


class Bench:
    """A scanner with a fake thread pool; ``found`` has what the callbacks got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock()
        self.threads = Threads()
        self.groups = FakeGroups()
        self.groups.others = [ONE]
        self.scanner = ProcScanner(self.clock, self.threads)
        self.found: list[list[Process] | None] = []
        self.used = self.cost = 0.0
        monkeypatch.setattr(proc_scanner, "proc", self.groups)
        monkeypatch.setattr(proc_scanner, "thread_time", self._thread_time)

    def _thread_time(self) -> float:
        """Return the CPU time of the thread; each scan uses the time that the test has set."""
        self.used += self.cost
        return self.used

    def ask(self, delay: float = 0.0, since: int | None = None) -> None:
        self.scanner.request(self.found.append, since, delay)

    def scan(self, seconds: float = 0.0, waits: float = 0.0) -> None:
        """Run a scan that uses so much CPU time and waits for the rest, in seconds."""
        self.cost = seconds
        self.clock.advance(seconds + waits)
        self.threads.run()


@pytest.fixture(name="bench")
def a_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    yield bench
    assert bench.clock.getDelayedCalls() == []
    assert bench.threads.waiting == []


def test_scan_serves_all_requests_with_the_earliest_since(bench: Bench) -> None:
    bench.ask(delay=60.0, since=9)
    bench.ask(delay=60.0)
    bench.ask(since=5)
    bench.clock.advance(0)
    bench.scan()
    assert (bench.found, bench.groups.scans) == ([[ONE]] * 3, [5])


def test_request_during_a_scan_is_served_by_the_next(bench: Bench) -> None:
    bench.ask()
    bench.clock.advance(0)
    bench.ask()
    bench.scan()
    assert len(bench.found) == 1
    bench.clock.advance(0)
    bench.scan()
    assert (len(bench.found), bench.groups.scans) == (2, [None, None])


def test_long_scan_delays_the_next_one(bench: Bench) -> None:
    bench.ask()
    bench.clock.advance(0)
    bench.scan(seconds=0.5)
    bench.ask()
    bench.clock.advance(BACKOFF_FACTOR * 0.5 - 0.125)
    assert bench.threads.waiting == []
    bench.clock.advance(0.125)
    bench.scan()
    assert len(bench.found) == 2


def test_scan_that_used_little_cpu_time_delays_none(bench: Bench) -> None:
    bench.ask()
    bench.clock.advance(0)
    bench.scan(seconds=0.0078125, waits=2.0)
    bench.ask()
    bench.clock.advance(BACKOFF_FACTOR * 0.0078125)
    bench.scan()
    assert len(bench.found) == 2


def test_scan_now_uses_no_thread(bench: Bench) -> None:
    bench.scanner.scan_now()
    bench.ask(delay=60.0)
    bench.scanner.scan_now()
    assert (bench.found, len(bench.groups.scans)) == ([[ONE]], 1)


@pytest.mark.parametrize("is_needed_at_once", [False, True])
def test_failed_scan_is_reported_and_logged_once(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_needed_at_once: bool,
) -> None:
    def refuse(_: Any) -> list[Process]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(bench.groups, "scan", refuse)
    for _ in range(2):
        bench.ask()
        if is_needed_at_once:
            bench.scanner.scan_now()
        bench.clock.advance(0)
        bench.scan()
    assert bench.found == [None, None]
    assert caplog.text.count("the processes in /proc cannot be read") == 1


def test_error_in_a_callback_does_not_affect_the_others(bench: Bench, logged_errors: LeakWatch) -> None:
    def has_a_bug(_: object) -> None:
        raise ZeroDivisionError

    bench.scanner.request(has_a_bug, None)
    bench.ask()
    bench.clock.advance(0)
    bench.scan()
    assert bench.found == [[ONE]]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
