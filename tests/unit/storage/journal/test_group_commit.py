"""Items are committed together and in order, and the reactor does not wait for a slow disk."""

import threading
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest

from taskqd.storage.journal import commit_thread
from taskqd.storage.journal.group_commit import (
    BACKOFF_FACTOR,
    MAX_DELAY,
    SLOW_SYNC,
    STALLED_SYNC,
    GroupCommit,
)
from tests.fakes.clocks import ThreadReactor
from tests.fakes.deferreds import result_of

THREAD = "taskqd-journal"


class Bench:
    """A group commit; ``batches`` were committed in ``threads``, ``done`` were reported.

    A commit takes ``took`` seconds of the clock ``now``. The reactor may wait for it while ``may_block``.
    """

    def __init__(self, may_block: bool) -> None:
        self.reactor = ThreadReactor()
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.done: list[tuple[list[int], Any]] = []
        self.error: Exception | None = None
        self.may_block = may_block
        self.now = 1000.0
        self.took = 0.0
        self.before_commit: Callable[[list[int]], None] = lambda _: None
        self.after_commit: Callable[[list[int]], None] = lambda _: None
        self.group_commit = GroupCommit[int](
            self.reactor, self._commit, self._on_committed, lambda _: self.may_block, lambda: self.now
        )
        self.group_commit.start()

    def _commit(self, batch: list[int]) -> None:
        self.before_commit(batch)
        self.threads.append(threading.current_thread().name)
        self.now += self.took
        if self.error is not None:
            raise self.error
        self.batches.append(batch)

    def _on_committed(self, batch: list[int], error: Exception | None) -> None:
        self.done.append((batch, error))
        self.after_commit(batch)

    def is_waited_for(self) -> bool:
        """Commit a batch and return whether the reactor waited for it."""
        self.group_commit.submit(0)
        self.reactor.turn()
        is_waited_for = not self.group_commit.is_committing
        self.turn()
        return is_waited_for

    def turn(self) -> None:
        """Run the reactor until no commit is in progress."""
        while self.group_commit.is_committing:
            self.reactor.turn()


@pytest.fixture(name="bench", params=[True, False], ids=["waiting", "not waiting"])
def make_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.reactor.until(bench.group_commit.stop())


@pytest.fixture(name="thread")
def make_bench_that_may_not_block() -> Iterator[Bench]:
    bench = Bench(False)
    yield bench
    bench.reactor.until(bench.group_commit.stop())


def test_items_of_one_reactor_turn_are_committed_together(bench: Bench) -> None:
    for item in range(5):
        bench.group_commit.submit(item)
    assert bench.batches == []
    assert bench.done == []
    bench.turn()
    assert bench.batches == [[0, 1, 2, 3, 4]]
    assert bench.done == [([0, 1, 2, 3, 4], None)]


def test_one_item_is_committed_after_its_turn_and_several_after_the_next(bench: Bench) -> None:
    bench.group_commit.submit(0)
    bench.reactor.turn()
    bench.group_commit.submit(1)  # if the reactor waits, the first is durable now
    bench.turn()
    assert bench.batches == [[0], [1]]
    bench.group_commit.submit(2)
    bench.group_commit.submit(3)
    bench.reactor.turn()
    bench.group_commit.submit(4)
    bench.reactor.turn()
    bench.group_commit.submit(5)
    bench.turn()
    assert bench.batches[2:] == [[2, 3, 4], [5]]


def test_has_pending_is_true_until_the_items_are_committed(bench: Bench) -> None:
    assert not bench.group_commit.has_pending
    bench.group_commit.submit(0)
    assert bench.group_commit.has_pending
    bench.turn()
    assert not bench.group_commit.has_pending


def test_has_pending_excludes_the_batch_in_progress(thread: Bench) -> None:
    thread.group_commit.submit(0)
    thread.reactor.turn()
    assert thread.group_commit.is_committing
    assert not thread.group_commit.has_pending
    thread.group_commit.submit(1)
    thread.turn()
    assert thread.batches == [[0], [1]]


def test_items_of_a_poll_cycle_are_committed_at_its_end(bench: Bench) -> None:
    bench.group_commit.batch_started()
    for item in range(3):
        bench.group_commit.submit(item)
    assert bench.batches == []
    assert not bench.group_commit.is_committing
    bench.group_commit.batch_ended()
    assert bench.group_commit.is_committing is not bench.may_block, (
        "if the reactor waits, the commit has finished"
    )
    bench.turn()
    assert bench.done == [([0, 1, 2], None)]


def test_poll_cycle_without_items_commits_nothing(bench: Bench) -> None:
    bench.group_commit.batch_started()
    bench.group_commit.batch_ended()
    assert not bench.group_commit.is_committing
    assert bench.done == []


def test_items_from_before_a_poll_cycle_are_committed_with_its_items(bench: Bench) -> None:
    bench.group_commit.submit(0)
    bench.group_commit.batch_started()
    bench.group_commit.submit(1)
    bench.group_commit.batch_ended()
    assert bench.batches == []
    bench.turn()
    assert bench.batches == [[0, 1]]


def test_items_of_a_poll_cycle_follow_the_batch_in_progress(thread: Bench) -> None:
    thread.group_commit.submit(0)
    thread.reactor.turn()
    thread.group_commit.batch_started()
    thread.group_commit.submit(1)
    thread.group_commit.batch_ended()
    thread.turn()
    assert thread.batches == [[0], [1]]


def test_item_submitted_by_the_callback_of_a_poll_cycle_is_in_the_next_batch() -> None:
    bench = Bench(True)

    def submit_next(batch: list[int]) -> None:
        if batch == [1]:
            bench.group_commit.submit(2)

    bench.after_commit = submit_next
    bench.group_commit.batch_started()
    bench.group_commit.submit(1)
    bench.group_commit.batch_ended()
    assert bench.batches == [[1]]
    bench.turn()
    assert bench.batches == [[1], [2]]
    bench.reactor.until(bench.group_commit.stop())


def test_items_submitted_during_a_commit_form_the_next_batch(thread: Bench) -> None:
    thread.group_commit.submit(0)
    thread.reactor.turn()
    for item in (1, 2, 3):
        thread.group_commit.submit(item)
    thread.turn()
    assert thread.batches == [[0], [1, 2, 3]]
    assert thread.done == [([0], None), ([1, 2, 3], None)]


def test_item_submitted_by_the_callback_is_in_the_next_batch(bench: Bench) -> None:
    def submit_next(batch: list[int]) -> None:
        committed = len(bench.batches)
        if batch[0] < 3:
            bench.group_commit.submit(batch[0] + 1)
        assert len(bench.batches) == committed

    bench.after_commit = submit_next
    bench.group_commit.submit(1)
    bench.turn()
    assert bench.batches == [[1], [2], [3]]


@pytest.mark.parametrize("error", [OSError("no space"), MemoryError(), ZeroDivisionError()])
def test_error_of_a_commit_is_reported_and_the_next_batch_is_committed(
    bench: Bench, error: Exception
) -> None:
    bench.error = error
    for item in (1, 2):
        bench.group_commit.submit(item)
        bench.turn()
    assert bench.done == [([1], error), ([2], error)]


# Waiting for the thread.


def test_reactor_waits_for_the_thread_only_if_it_may_block(bench: Bench) -> None:
    for may_block in (bench.may_block, not bench.may_block, bench.may_block):
        bench.may_block = may_block
        assert bench.is_waited_for() is may_block
    assert bench.threads == [THREAD] * 3


def test_frozen_disk_blocks_the_reactor_for_max_wait_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit_thread, "MAX_WAIT", 0.001)
    bench = Bench(True)
    disk_responds = threading.Event()

    def wait(batch: list[int]) -> None:
        assert disk_responds.wait(10.0), "the reactor did not return while the disk was frozen"

    bench.before_commit = wait
    bench.group_commit.submit(1)
    bench.reactor.turn()
    assert bench.group_commit.is_committing
    bench.now += 1.0
    bench.group_commit.submit(2)
    assert bench.done == []
    disk_responds.set()
    bench.turn()
    assert bench.done == [([1], None), ([2], None)]
    bench.reactor.until(bench.group_commit.stop())


def test_outcome_that_arrives_as_the_wait_times_out_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(True)
    outcomes = bench.group_commit.thread._outcomes

    class Late:
        """A queue whose first `get` times out just as the outcome arrives."""

        def __init__(self) -> None:
            self.found: list[Any] = []

        def get(self, timeout: float | None = None) -> Any:
            if timeout is None:
                return self.found.pop()
            self.found.append(outcomes.get(timeout=10.0))
            raise Empty

        def put(self, outcome: Any) -> None:
            outcomes.put(outcome)

    monkeypatch.setattr(bench.group_commit.thread, "_outcomes", Late())
    assert bench.is_waited_for()
    assert bench.done == [([0], None)]
    bench.reactor.until(bench.group_commit.stop())


def test_may_block_is_asked_at_the_end_of_the_turn() -> None:
    bench = Bench(True)
    bench.group_commit.submit(1)
    bench.may_block = False
    bench.turn()
    assert bench.threads == [THREAD]
    bench.reactor.until(bench.group_commit.stop())


def test_later_items_never_overtake_the_batch_in_progress(thread: Bench) -> None:
    first = threading.Event()

    def wait(batch: list[int]) -> None:
        if batch == [1]:
            assert first.wait(10.0)

    thread.before_commit = wait
    thread.group_commit.submit(1)
    thread.reactor.turn()
    thread.may_block = True
    thread.group_commit.submit(2)
    assert thread.batches == []
    first.set()
    thread.turn()
    assert thread.batches == [[1], [2]]


@pytest.mark.parametrize("error", [None, OSError("a disk that fails slowly")])
def test_reactor_backs_off_after_two_slow_syncs_or_one_stalled_sync(
    error: Exception | None,
) -> None:
    bench = Bench(True)
    bench.error = error
    for took in (1.1 * SLOW_SYNC, 1.1 * STALLED_SYNC, 0.25):
        if took < STALLED_SYNC:
            bench.took = 1.1 * SLOW_SYNC
            assert bench.is_waited_for()
        bench.took = took
        assert bench.is_waited_for()
        bench.took = 0.0
        bench.now += BACKOFF_FACTOR * took - 0.001
        assert not bench.is_waited_for()
        bench.now += 0.002
        assert bench.is_waited_for()
    bench.reactor.until(bench.group_commit.stop())


def test_reactor_does_not_back_off_after_one_slow_sync() -> None:
    bench = Bench(True)
    for took in (0.9 * SLOW_SYNC, 0.9 * SLOW_SYNC, 0.9 * STALLED_SYNC, 0.9 * SLOW_SYNC, 1.1 * SLOW_SYNC, 0.0):
        bench.took = took
        assert bench.is_waited_for()
    bench.reactor.until(bench.group_commit.stop())


def test_duration_of_a_commit_without_waiting_causes_no_backoff(thread: Bench) -> None:
    thread.took = 5.0  # which may have been spent waiting for a processor
    assert not thread.is_waited_for()
    thread.took, thread.may_block = 0.0, True
    assert thread.is_waited_for()


# Items that may wait, and stop.


def test_item_that_may_wait_is_committed_with_the_next_that_may_not(bench: Bench) -> None:
    bench.group_commit.submit(1, may_wait=True)
    assert not bench.group_commit.is_committing
    bench.group_commit.submit(2)
    bench.turn()
    assert bench.batches == [[1, 2]]
    bench.reactor.advance(MAX_DELAY)
    assert not bench.group_commit.is_committing


def test_item_that_may_wait_is_committed_after_max_delay(bench: Bench) -> None:
    bench.group_commit.submit(1, may_wait=True)
    bench.reactor.advance(MAX_DELAY / 2)
    bench.group_commit.submit(2, may_wait=True)
    bench.reactor.advance(MAX_DELAY / 2)
    bench.turn()
    assert bench.batches == [[1, 2]]
    bench.group_commit.submit(3, may_wait=True)
    bench.reactor.advance(MAX_DELAY)
    bench.turn()
    assert bench.batches == [[1, 2], [3]]


def test_item_that_may_wait_is_committed_after_the_batch_in_progress(thread: Bench) -> None:
    thread.group_commit.submit(1)
    thread.group_commit.submit(2, may_wait=True)
    thread.turn()
    assert [item for batch in thread.batches for item in batch] == [1, 2]
    assert thread.reactor.getDelayedCalls() == []


def test_poll_cycle_with_only_items_that_may_wait_commits_nothing(bench: Bench) -> None:
    bench.group_commit.batch_started()
    bench.group_commit.submit(1, may_wait=True)
    bench.group_commit.batch_ended()
    assert not bench.group_commit.is_committing
    bench.group_commit.batch_started()
    bench.group_commit.submit(2)
    bench.group_commit.batch_ended()
    bench.turn()
    assert bench.done == [([1, 2], None)]
    bench.reactor.advance(MAX_DELAY)


def test_stop_commits_items_that_may_wait(bench: Bench) -> None:
    bench.group_commit.submit(1, may_wait=True)
    stopped = bench.group_commit.stop()
    bench.turn()
    result_of(stopped)
    assert bench.batches == [[1]]
    assert bench.reactor.getDelayedCalls() == []


def test_stop_commits_pending_items(bench: Bench) -> None:
    for item in range(3):
        bench.group_commit.submit(item)
    stopped = bench.group_commit.stop()
    assert not stopped.called
    bench.reactor.until(stopped)
    assert bench.batches == [[0, 1, 2]]
    assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_stop_waits_for_the_batch_in_progress_and_pending_items(thread: Bench) -> None:
    thread.group_commit.submit(0)
    thread.reactor.turn()
    thread.group_commit.submit(1)
    stopped = thread.group_commit.stop()
    thread.reactor.turn()
    assert not stopped.called
    thread.reactor.until(stopped)
    assert thread.batches == [[0], [1]]
    assert THREAD not in {each.name for each in threading.enumerate()}


def test_stop_during_a_poll_cycle_commits_its_items(bench: Bench) -> None:
    bench.group_commit.batch_started()
    bench.group_commit.submit(1)
    stopped = bench.group_commit.stop()
    bench.group_commit.batch_ended()
    bench.reactor.until(stopped)
    assert bench.batches == [[1]]


def test_stop_without_items_fires_at_once(bench: Bench) -> None:
    result_of(bench.group_commit.stop())
    assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_stop_without_start_fires_at_once() -> None:
    result_of(GroupCommit[int](ThreadReactor(), lambda _: None, lambda *_: None, lambda _: True).stop())
