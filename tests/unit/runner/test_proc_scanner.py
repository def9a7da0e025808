"""When /proc is scanned, for whom, and what happens if a scan fails."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskqd.execution.proc import Process
from taskqd.runner import proc_scanner
from taskqd.runner.proc_scanner import BACKOFF_FACTOR, ProcScanner
from tests.fakes.clocks import Threads, clock
from tests.fakes.processes import FakeGroups
from tests.support.leaks import LeakWatch

ONE = Process(7, 50, 7, 7)


class Harness:
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


@pytest.fixture(name="harness")
def a_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(monkeypatch)
    yield harness
    assert harness.clock.getDelayedCalls() == []
    assert harness.threads.waiting == []


def test_scan_serves_all_requests_with_the_earliest_since(harness: Harness) -> None:
    harness.ask(delay=60.0, since=9)
    harness.ask(delay=60.0)
    harness.ask(since=5)
    harness.clock.advance(0)
    harness.scan()
    assert (harness.found, harness.groups.scans) == ([[ONE]] * 3, [5])


def test_request_during_a_scan_is_served_by_the_next(harness: Harness) -> None:
    harness.ask()
    harness.clock.advance(0)
    harness.ask()
    harness.scan()
    assert len(harness.found) == 1
    harness.clock.advance(0)
    harness.scan()
    assert (len(harness.found), harness.groups.scans) == (2, [None, None])


def test_long_scan_delays_the_next_one(harness: Harness) -> None:
    harness.ask()
    harness.clock.advance(0)
    harness.scan(seconds=0.5)
    harness.ask()
    harness.clock.advance(BACKOFF_FACTOR * 0.5 - 0.125)
    assert harness.threads.waiting == []
    harness.clock.advance(0.125)
    harness.scan()
    assert len(harness.found) == 2


def test_scan_that_used_little_cpu_time_delays_none(harness: Harness) -> None:
    harness.ask()
    harness.clock.advance(0)
    harness.scan(seconds=0.0078125, waits=2.0)
    harness.ask()
    harness.clock.advance(BACKOFF_FACTOR * 0.0078125)
    harness.scan()
    assert len(harness.found) == 2


def test_scan_now_uses_no_thread(harness: Harness) -> None:
    harness.scanner.scan_now()
    harness.ask(delay=60.0)
    harness.scanner.scan_now()
    assert (harness.found, len(harness.groups.scans)) == ([[ONE]], 1)


@pytest.mark.parametrize("is_needed_at_once", [False, True])
def test_failed_scan_is_reported_and_logged_once(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_needed_at_once: bool,
) -> None:
    def refuse(_: Any) -> list[Process]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(harness.groups, "scan", refuse)
    for _ in range(2):
        harness.ask()
        if is_needed_at_once:
            harness.scanner.scan_now()
        harness.clock.advance(0)
        harness.scan()
    assert harness.found == [None, None]
    assert caplog.text.count("the processes in /proc cannot be read") == 1


def test_error_in_a_callback_does_not_affect_the_others(harness: Harness, logged_errors: LeakWatch) -> None:
    def has_a_bug(_: object) -> None:
        raise ZeroDivisionError

    harness.scanner.request(has_a_bug, None)
    harness.ask()
    harness.clock.advance(0)
    harness.scan()
    assert harness.found == [[ONE]]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
