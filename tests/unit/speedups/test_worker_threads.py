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


class Bench:
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


@pytest.fixture(name="bench")
def a_bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.workers.stop()
    assert (bench.threads(), bench.reactor.readers) == (0, [])


def test_worker_threads_implement_their_interface(bench: Bench) -> None:
    verifyObject(IReadDescriptor, bench.workers)
    assert bench.workers.logPrefix() == NAME
    bench.workers.connectionLost(Failure(ConnectionDone()))


def test_call_runs_in_a_thread_and_its_result_is_reported_in_the_reactor_s(bench: Bench) -> None:
    assert bench.threads() == 0, "none is started before the first call"
    bench.workers.call(lambda: threading.current_thread().name, bench.results.append)
    assert bench.results == []
    bench.reactor.turn()
    assert bench.results == [BEGIN, NAME, END]


def test_results_that_have_arrived_are_one_batch(bench: Bench) -> None:
    for number in range(5):
        bench.workers.call(lambda number=number: str(number), bench.results.append)  # type: ignore[misc]
    bench.workers.stop()
    assert sorted(map(str, bench.results[1:-1])) == list("01234")
    assert (bench.results[0], bench.results[-1]) == (BEGIN, END)


def test_error_in_a_callback_is_logged_and_affects_no_other(bench: Bench, logged_errors: Any) -> None:
    def fail(_: str | Exception) -> None:
        raise ZeroDivisionError("a bug")

    bench.workers.call(lambda: "", fail)
    bench.workers.call(lambda: "fine", bench.results.append)
    bench.workers.stop()
    assert bench.results == [BEGIN, "fine", END]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_error_of_a_call_is_reported_and_the_next_call_runs(bench: Bench) -> None:
    def fail() -> str:
        raise ZeroDivisionError("a bug")

    for _ in range(3):
        bench.workers.call(fail, bench.results.append)
    bench.workers.call(lambda: "fine", bench.results.append)
    bench.return_all(4)
    assert sorted(map(str, bench.results)) == ["a bug"] * 3 + ["fine"]


def test_calls_use_no_more_than_the_maximum_of_threads(bench: Bench) -> None:
    is_let_go = threading.Event()
    is_begun = threading.Semaphore(0)

    def wait() -> str:
        is_begun.release()
        return str(is_let_go.wait(10))

    for _ in range(5):
        bench.workers.call(wait, bench.results.append)
    assert is_begun.acquire(timeout=10)
    assert is_begun.acquire(timeout=10)
    assert bench.threads() == 2
    is_let_go.set()
    bench.return_all(5)
    assert bench.results == ["True"] * 5


def test_stop_waits_for_calls_in_flight(bench: Bench) -> None:
    for number in range(5):
        bench.workers.call(lambda number=number: str(number), bench.results.append)  # type: ignore[misc]
    bench.workers.stop()
    assert bench.threads() == 0
    assert sorted(map(str, bench.results[1:-1])) == list("01234")


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
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoThreads(monkeypatch, room=1)
    for number in range(3):
        bench.workers.call(lambda number=number: str(number), bench.results.append)  # type: ignore[misc]
    bench.return_all(3)
    assert (sorted(map(str, bench.results)), bench.threads()) == (["0", "1", "2"], 1)


def test_call_without_any_thread_raises_eagain_and_works_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = NoThreads(monkeypatch, room=0)
    for _ in range(2):
        with pytest.raises(OSError, match="can't start new thread") as raised:
            bench.workers.call(lambda: "never", bench.results.append)
        assert raised.value.errno == errno.EAGAIN
    threads.room = 9
    bench.workers.call(lambda: "now", bench.results.append)
    bench.return_all(1)
    assert bench.results == ["now"]


def test_unused_worker_threads_can_be_stopped(bench: Bench) -> None:
    bench.workers.stop()


def _descriptors() -> str:
    return " ".join(sorted(os.listdir("/proc/thread-self/fd"), key=int))


def test_worker_thread_has_its_own_descriptor_table(bench: Bench) -> None:
    pipe = os.pipe()
    bench.workers.call(_descriptors, bench.results.append)
    bench.return_all(1)
    assert bench.results == ["0 1 2 3 4"], "3 is the eventfd, and 4 the directory that is listed"
    for descriptor in pipe:
        os.close(descriptor)


def test_refused_unshare_is_logged_once_and_the_table_is_shared(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(descriptor_table, "unshare", refuse)
    pipe = os.pipe()
    with capturedLogs() as logged:
        for _ in range(2):
            bench.workers.call(_descriptors, bench.results.append)
        bench.workers.stop()  # once both threads have ended, the first one has logged
    results = [result for result in bench.results if result not in (BEGIN, END)]
    assert len(results) == 2
    assert ["Operation not permitted" in str(event["why"]) for event in logged] == [True]
    assert all(str(descriptor) in str(result).split() for result in results for descriptor in pipe)
    for descriptor in pipe:
        os.close(descriptor)


def test_stop_before_a_thread_has_started_loses_no_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
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
    bench.workers.call(lambda: "done", bench.results.append)
    bench.workers.stop()
    assert bench.results == [BEGIN, "done", END]
