"""Group commit: what gathers is committed together, in order, and whoever stops waits for it."""

import threading
from typing import Any

import pytest

from taskqd.committer import Committer
from tests.fakes import ThreadReactor, result_of


class Bench:
    """A committer, what it has committed and in which thread, and what it was told afterwards."""

    def __init__(self) -> None:
        self.reactor = ThreadReactor()
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.done: list[tuple[list[int], Any]] = []
        self.error: Exception | None = None
        self.committer = Committer[int](
            self.reactor, self._commit, lambda batch, error: self.done.append((batch, error))
        )
        self.committer.start()

    def _commit(self, batch: list[int]) -> None:
        self.threads.append(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        self.batches.append(batch)

    def stop(self) -> None:
        self.reactor.until(self.committer.stop())


def test_the_first_item_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    bench = Bench()
    for item in range(5):
        bench.committer.put(item)
    assert bench.done == []
    bench.reactor.turn()
    assert bench.done == [([0], None)]
    bench.committer.put(5)
    bench.reactor.turn()
    assert bench.done == [([0], None), ([1, 2, 3, 4], None)]
    bench.reactor.turn()
    assert bench.batches == [[0], [1, 2, 3, 4], [5]]
    bench.stop()


def test_it_commits_in_a_thread_of_its_own() -> None:
    bench = Bench()
    bench.committer.put(1)
    bench.reactor.turn()
    assert bench.threads == ["taskqd-journal"]
    bench.stop()


def test_an_item_put_while_it_is_told_of_others_is_not_forgotten() -> None:
    bench = Bench()
    bench.committer._done = lambda batch, _: bench.committer.put(batch[0] + 1) if batch[0] < 3 else None
    bench.committer.put(1)
    for _ in range(3):
        bench.reactor.turn()
    assert bench.batches == [[1], [2], [3]]
    bench.stop()


@pytest.mark.parametrize("error", [OSError("no space"), MemoryError(), ZeroDivisionError()])
def test_whatever_goes_wrong_is_told_and_the_next_batch_is_tried(error: Exception) -> None:
    bench = Bench()
    bench.error = error
    bench.committer.put(1)
    bench.committer.put(2)
    bench.reactor.turn()
    bench.reactor.turn()
    assert bench.done == [([1], error), ([2], error)]
    bench.stop()


def test_a_stop_waits_for_what_is_under_way_and_for_what_has_gathered() -> None:
    bench = Bench()
    for item in range(3):
        bench.committer.put(item)
    stopped = bench.committer.stop()
    bench.reactor.turn()
    assert not stopped.called
    bench.reactor.turn()
    result_of(stopped)
    assert bench.batches == [[0], [1, 2]]
    assert "taskqd-journal" not in {thread.name for thread in threading.enumerate()}


def test_a_stop_of_an_idle_committer_fires_at_once() -> None:
    bench = Bench()
    result_of(bench.committer.stop())
    assert "taskqd-journal" not in {thread.name for thread in threading.enumerate()}


def test_a_committer_that_was_never_started_can_be_stopped() -> None:
    result_of(Committer[int](ThreadReactor(), lambda _: None, lambda *_: None).stop())
