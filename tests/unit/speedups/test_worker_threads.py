"""Calls in worker threads, and their results in the reactor's thread."""

import errno
import os
import select
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from taskqd.speedups import descriptor_table
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.worker_threads import WorkerThreads

NAME = "taskqd-test"
BEGIN, END = "a batch starts", "a batch ends"


class Reactor:
    """Reads what can be read when the test lets it turn."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.addReader, self.removeReader = self.readers.append, self.readers.remove

    def turn(self) -> None:
        """Wait until something can be read, and have it read."""
        ready, _, _ = select.select(self.readers, [], [], 10)
        assert ready
        for reader in ready:
            reader.doRead()


class Harness:
    """Up to two threads, and their results in the order of arrival."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.results: list[str | Exception] = []
        self.workers: WorkerThreads[str] = WorkerThreads(cast("Any", self.reactor), 2, NAME, BatchScope(self))

    def batch_started(self) -> None:
        self.results.append(BEGIN)

    def batch_ended(self) -> None:
        self.results.append(END)

    def return_all(self, count: int) -> None:
        """Run the reactor until this number of results has arrived."""
        while len(self.results) - self.results.count(BEGIN) - self.results.count(END) < count:
            self.reactor.turn()
        self.results = [result for result in self.results if result not in (BEGIN, END)]

    def threads(self) -> int:
        """Return the number of worker threads."""
        return sum(thread.name == NAME for thread in threading.enumerate())


@pytest.fixture(name="harness")
def a_harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.workers.stop()
    assert (harness.threads(), harness.reactor.readers) == (0, [])


def test_worker_threads_implement_their_interface(harness: Harness) -> None:
    verifyObject(IReadDescriptor, harness.workers)
    assert harness.workers.logPrefix() == NAME
    harness.workers.connectionLost(Failure(ConnectionDone()))


def test_call_runs_in_a_thread_and_its_result_is_reported_in_the_reactor_s(harness: Harness) -> None:
    assert harness.threads() == 0, "none is started before the first call"
    harness.workers.call(lambda: threading.current_thread().name, harness.results.append)
    assert harness.results == []
    harness.reactor.turn()
    assert harness.results == [BEGIN, NAME, END]


def test_results_that_have_arrived_are_one_batch(harness: Harness) -> None:
    for number in range(5):
        harness.workers.call(lambda number=number: str(number), harness.results.append)  # type: ignore[misc]
    harness.workers.stop()
    assert sorted(map(str, harness.results[1:-1])) == list("01234")
    assert (harness.results[0], harness.results[-1]) == (BEGIN, END)


def test_error_in_a_callback_is_logged_and_affects_no_other(harness: Harness, logged_errors: Any) -> None:
    def fail(_: str | Exception) -> None:
        raise ZeroDivisionError("a bug")

    harness.workers.call(lambda: "", fail)
    harness.workers.call(lambda: "fine", harness.results.append)
    harness.workers.stop()
    assert harness.results == [BEGIN, "fine", END]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_error_of_a_call_is_reported_and_the_next_call_runs(harness: Harness) -> None:
    def fail() -> str:
        raise ZeroDivisionError("a bug")

    for _ in range(3):
        harness.workers.call(fail, harness.results.append)
    harness.workers.call(lambda: "fine", harness.results.append)
    harness.return_all(4)
    assert sorted(map(str, harness.results)) == ["a bug"] * 3 + ["fine"]


def test_calls_use_no_more_than_the_maximum_of_threads(harness: Harness) -> None:
    is_let_go = threading.Event()
    is_begun = threading.Semaphore(0)

    def wait() -> str:
        is_begun.release()
        return str(is_let_go.wait(10))

    for _ in range(5):
        harness.workers.call(wait, harness.results.append)
    assert is_begun.acquire(timeout=10)
    assert is_begun.acquire(timeout=10)
    assert harness.threads() == 2
    is_let_go.set()
    harness.return_all(5)
    assert harness.results == ["True"] * 5


def test_stop_waits_for_calls_in_flight(harness: Harness) -> None:
    for number in range(5):
        harness.workers.call(lambda number=number: str(number), harness.results.append)  # type: ignore[misc]
    harness.workers.stop()
    assert harness.threads() == 0
    assert sorted(map(str, harness.results[1:-1])) == list("01234")


class NoThreads:
    """A machine that can start ``room`` more threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        start = threading.Thread.start

        def try_to_start(thread: threading.Thread) -> None:
            if self.room == 0:
                raise RuntimeError("can't start new thread")
            self.room -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", try_to_start)


def test_other_threads_do_the_work_if_one_cannot_be_started(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoThreads(monkeypatch, room=1)
    for number in range(3):
        harness.workers.call(lambda number=number: str(number), harness.results.append)  # type: ignore[misc]
    harness.return_all(3)
    assert (sorted(map(str, harness.results)), harness.threads()) == (["0", "1", "2"], 1)


def test_call_without_any_thread_raises_eagain_and_works_later(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = NoThreads(monkeypatch, room=0)
    for _ in range(2):
        with pytest.raises(OSError, match="can't start new thread") as raised:
            harness.workers.call(lambda: "never", harness.results.append)
        assert raised.value.errno == errno.EAGAIN
    threads.room = 9
    harness.workers.call(lambda: "now", harness.results.append)
    harness.return_all(1)
    assert harness.results == ["now"]


def test_unused_worker_threads_can_be_stopped(harness: Harness) -> None:
    harness.workers.stop()


def _descriptors() -> str:
    return " ".join(sorted(os.listdir("/proc/thread-self/fd"), key=int))


def test_worker_thread_has_its_own_descriptor_table(harness: Harness) -> None:
    pipe = os.pipe()
    harness.workers.call(_descriptors, harness.results.append)
    harness.return_all(1)
    assert harness.results == ["0 1 2 3 4"], "3 is the eventfd, and 4 the directory that is listed"
    for descriptor in pipe:
        os.close(descriptor)


def test_refused_unshare_is_logged_once_and_the_table_is_shared(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(descriptor_table, "unshare", refuse)
    pipe = os.pipe()
    with capturedLogs() as logged:
        for _ in range(2):
            harness.workers.call(_descriptors, harness.results.append)
        harness.workers.stop()  # once both threads have ended, the first one has logged
    results = [result for result in harness.results if result not in (BEGIN, END)]
    assert len(results) == 2
    assert ["Operation not permitted" in str(event["why"]) for event in logged] == [True]
    assert all(str(descriptor) in str(result).split() for result in results for descriptor in pipe)
    for descriptor in pipe:
        os.close(descriptor)


def test_stop_before_a_thread_has_started_loses_no_call(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_stopping = threading.Event()
    join = threading.Thread.join

    def joining(thread: threading.Thread) -> None:
        is_stopping.set()
        join(thread)

    def refuse(_: int) -> int:
        is_stopping.wait(10)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(descriptor_table, "unshare", refuse)
    monkeypatch.setattr(threading.Thread, "join", joining)
    harness.workers.call(lambda: "done", harness.results.append)
    harness.workers.stop()
    assert harness.results == [BEGIN, "done", END]
