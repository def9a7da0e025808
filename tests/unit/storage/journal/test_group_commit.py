"""Group commit: what gathers is committed together, in order, and only who must waits for a slow disk."""

import threading
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest

from taskqd.storage.journal import group_commit
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
    """A committer, what it has committed and in which thread, and what it was told afterwards.

    A commit takes ``took`` seconds by the clock ``now``; the reactor may wait for it while it ``may_block``.
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
        self.committer = GroupCommit[int](
            self.reactor, self._commit, self._told, lambda _: self.may_block, lambda: self.now
        )
        self.committer.start()

    def _commit(self, batch: list[int]) -> None:
        self.threads.append(threading.current_thread().name)
        self.now += self.took
        if self.error is not None:
            raise self.error
        self.batches.append(batch)

    def _told(self, batch: list[int], error: Exception | None) -> None:
        self.done.append((batch, error))

    def is_waited_for(self) -> bool:
        """Have a batch committed, and return whether the reactor waited for it."""
        self.committer.submit(0)
        self.reactor.turn()
        is_waited_for = not self.committer.is_committing
        self.turn()
        return is_waited_for

    def turn(self) -> None:
        """Let the reactor turn until nothing is under way."""
        while self.committer.is_committing:
            self.reactor.turn()


@pytest.fixture(name="bench", params=[True, False], ids=["here", "in the thread"])
def a_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.reactor.until(bench.committer.stop())


@pytest.fixture(name="thread")
def a_bench_that_may_not_block() -> Iterator[Bench]:
    bench = Bench(False)
    yield bench
    bench.reactor.until(bench.committer.stop())


def test_what_comes_in_one_turn_of_the_reactor_goes_together(bench: Bench) -> None:
    for item in range(5):
        bench.committer.submit(item)
    assert bench.batches == []
    assert bench.done == []
    bench.turn()
    assert bench.batches == [[0, 1, 2, 3, 4]]
    assert bench.done == [([0, 1, 2, 3, 4], None)]


def test_one_item_waits_for_the_end_of_the_turn_and_several_for_one_turn_more(bench: Bench) -> None:
    bench.committer.submit(0)
    bench.reactor.turn()
    bench.committer.submit(1)  # where the reactor commits, the first is durable by now
    bench.turn()
    assert bench.batches == [[0], [1]]
    bench.committer.submit(2)
    bench.committer.submit(3)
    bench.reactor.turn()
    bench.committer.submit(4)
    bench.reactor.turn()
    bench.committer.submit(5)
    bench.turn()
    assert bench.batches[2:] == [[2, 3, 4], [5]]


def test_it_is_told_whether_the_next_item_will_be_committed_with_others(bench: Bench) -> None:
    assert not bench.committer.has_pending
    bench.committer.submit(0)
    assert bench.committer.has_pending
    bench.turn()
    assert not bench.committer.has_pending


def test_what_is_under_way_is_not_what_the_next_item_will_be_committed_with(thread: Bench) -> None:
    thread.committer.submit(0)
    thread.reactor.turn()
    assert thread.committer.is_committing
    assert not thread.committer.has_pending
    thread.committer.submit(1)
    thread.turn()
    assert thread.batches == [[0], [1]]


def test_what_a_round_brings_is_committed_at_its_end(bench: Bench) -> None:
    bench.committer.batch_started()
    for item in range(3):
        bench.committer.submit(item)
    assert bench.batches == []
    assert not bench.committer.is_committing
    bench.committer.batch_ended()
    assert bench.committer.is_committing is not bench.may_block, "where the reactor commits, it has"
    bench.turn()
    assert bench.done == [([0, 1, 2], None)]


def test_a_round_that_brings_nothing_commits_nothing(bench: Bench) -> None:
    bench.committer.batch_started()
    bench.committer.batch_ended()
    assert not bench.committer.is_committing
    assert bench.done == []


def test_what_gathered_before_a_round_has_its_turn_with_what_that_brings(bench: Bench) -> None:
    bench.committer.submit(0)
    bench.committer.batch_started()
    bench.committer.submit(1)
    bench.committer.batch_ended()
    assert bench.batches == []
    bench.turn()
    assert bench.batches == [[0, 1]]


def test_what_a_round_brings_goes_behind_what_the_thread_commits(thread: Bench) -> None:
    thread.committer.submit(0)
    thread.reactor.turn()
    thread.committer.batch_started()
    thread.committer.submit(1)
    thread.committer.batch_ended()
    thread.turn()
    assert thread.batches == [[0], [1]]


def test_an_item_put_while_it_is_told_of_a_round_waits_for_the_next_turn() -> None:
    bench = Bench(True)

    def put_next(batch: list[int], _: Exception | None) -> None:
        if batch == [1]:
            bench.committer.submit(2)

    bench.committer._on_committed = put_next
    bench.committer.batch_started()
    bench.committer.submit(1)
    bench.committer.batch_ended()
    assert bench.batches == [[1]]
    bench.turn()
    assert bench.batches == [[1], [2]]
    bench.reactor.until(bench.committer.stop())


def test_what_gathers_while_the_thread_commits_goes_together(thread: Bench) -> None:
    thread.committer.submit(0)
    thread.reactor.turn()
    for item in (1, 2, 3):
        thread.committer.submit(item)
    thread.turn()
    assert thread.batches == [[0], [1, 2, 3]]
    assert thread.done == [([0], None), ([1, 2, 3], None)]


def test_an_item_put_while_it_is_told_of_others_waits_for_the_next_turn(bench: Bench) -> None:
    def put_next(batch: list[int], _: Exception | None) -> None:
        committed = len(bench.batches)
        if batch[0] < 3:
            bench.committer.submit(batch[0] + 1)
        assert len(bench.batches) == committed

    bench.committer._on_committed = put_next
    bench.committer.submit(1)
    bench.turn()
    assert bench.batches == [[1], [2], [3]]


@pytest.mark.parametrize("error", [OSError("no space"), MemoryError(), ZeroDivisionError()])
def test_whatever_goes_wrong_is_told_and_the_next_batch_is_tried(bench: Bench, error: Exception) -> None:
    bench.error = error
    for item in (1, 2):
        bench.committer.submit(item)
        bench.turn()
    assert bench.done == [([1], error), ([2], error)]


# Where.


def test_the_thread_commits_and_the_reactor_waits_for_it_only_while_it_may(bench: Bench) -> None:
    for may_block in (bench.may_block, not bench.may_block, bench.may_block):
        bench.may_block = may_block
        assert bench.is_waited_for() is may_block
    assert bench.threads == [THREAD] * 3


def test_a_disk_that_stands_still_holds_the_reactor_for_no_longer_than_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "MAX_WAIT", 0.001)
    bench = Bench(True)
    goes_on = threading.Event()
    commit = bench.committer._commit

    def standing(batch: list[int]) -> None:
        assert goes_on.wait(10.0), "the reactor did not come back while the disk stood still"
        commit(batch)

    bench.committer._commit = standing
    bench.committer.submit(1)
    bench.reactor.turn()
    assert bench.committer.is_committing
    bench.now += 1.0
    bench.committer.submit(2)
    assert bench.done == []
    goes_on.set()
    bench.turn()
    assert bench.done == [([1], None), ([2], None)]
    bench.reactor.until(bench.committer.stop())


def test_an_outcome_that_comes_just_when_the_reactor_gives_up_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(True)
    outcomes = bench.committer._outcomes

    class Late:
        """Outcomes of which the first look finds none, though it has come by then."""

        def __init__(self) -> None:
            self.found: list[Any] = []

        def get(self, timeout: float | None = None) -> Any:
            if timeout is None:
                return self.found.pop()
            self.found.append(outcomes.get(timeout=10.0))
            raise Empty

        def put(self, outcome: Any) -> None:
            outcomes.put(outcome)

    monkeypatch.setattr(bench.committer, "_outcomes", Late())
    assert bench.is_waited_for()
    assert bench.done == [([0], None)]
    bench.reactor.until(bench.committer.stop())


def test_whether_it_may_block_is_asked_when_the_turn_ends() -> None:
    bench = Bench(True)
    bench.committer.submit(1)
    bench.may_block = False
    bench.turn()
    assert bench.threads == [THREAD]
    bench.reactor.until(bench.committer.stop())


def test_what_came_behind_a_batch_in_the_thread_never_overtakes_it(thread: Bench) -> None:
    first = threading.Event()
    commit = thread.committer._commit

    def slow(batch: list[int]) -> None:
        if batch == [1]:
            assert first.wait(10.0)
        commit(batch)

    thread.committer._commit = slow
    thread.committer.submit(1)
    thread.reactor.turn()
    thread.may_block = True
    thread.committer.submit(2)
    assert thread.batches == []
    first.set()
    thread.turn()
    assert thread.batches == [[1], [2]]


@pytest.mark.parametrize("error", [None, OSError("a disk that takes its time to fail")])
def test_after_two_slow_commits_or_a_stall_the_thread_is_used_for_many_times_as_long(
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
    bench.reactor.until(bench.committer.stop())


def test_commits_that_are_quick_enough_change_nothing_nor_does_a_slow_one_among_them() -> None:
    bench = Bench(True)
    for took in (0.9 * SLOW_SYNC, 0.9 * SLOW_SYNC, 0.9 * STALLED_SYNC, 0.9 * SLOW_SYNC, 1.1 * SLOW_SYNC, 0.0):
        bench.took = took
        assert bench.is_waited_for()
    bench.reactor.until(bench.committer.stop())


def test_how_long_the_thread_takes_says_nothing_of_the_disk(thread: Bench) -> None:
    thread.took = 5.0  # it may have waited for the reactor's thread as well
    assert not thread.is_waited_for()
    thread.took, thread.may_block = 0.0, True
    assert thread.is_waited_for()


# The stop.


def test_what_is_patient_goes_with_the_next_that_is_not(bench: Bench) -> None:
    bench.committer.submit(1, may_wait=True)
    assert not bench.committer.is_committing
    bench.committer.submit(2)
    bench.turn()
    assert bench.batches == [[1, 2]]
    bench.reactor.advance(MAX_DELAY)
    assert not bench.committer.is_committing


def test_what_is_patient_is_committed_by_itself_in_the_end(bench: Bench) -> None:
    bench.committer.submit(1, may_wait=True)
    bench.reactor.advance(MAX_DELAY / 2)
    bench.committer.submit(2, may_wait=True)
    bench.reactor.advance(MAX_DELAY / 2)
    bench.turn()
    assert bench.batches == [[1, 2]]
    bench.committer.submit(3, may_wait=True)
    bench.reactor.advance(MAX_DELAY)
    bench.turn()
    assert bench.batches == [[1, 2], [3]]


def test_what_is_patient_goes_with_what_gathers_behind_a_batch(thread: Bench) -> None:
    thread.committer.submit(1)
    thread.committer.submit(2, may_wait=True)
    thread.turn()
    assert [item for batch in thread.batches for item in batch] == [1, 2]
    assert thread.reactor.getDelayedCalls() == []


def test_a_round_that_brings_only_what_is_patient_commits_nothing(bench: Bench) -> None:
    bench.committer.batch_started()
    bench.committer.submit(1, may_wait=True)
    bench.committer.batch_ended()
    assert not bench.committer.is_committing
    bench.committer.batch_started()
    bench.committer.submit(2)
    bench.committer.batch_ended()
    bench.turn()
    assert bench.done == [([1, 2], None)]
    bench.reactor.advance(MAX_DELAY)


def test_a_stop_commits_what_is_patient(bench: Bench) -> None:
    bench.committer.submit(1, may_wait=True)
    stopped = bench.committer.stop()
    bench.turn()
    result_of(stopped)
    assert bench.batches == [[1]]
    assert bench.reactor.getDelayedCalls() == []


def test_a_stop_waits_for_what_has_gathered(bench: Bench) -> None:
    for item in range(3):
        bench.committer.submit(item)
    stopped = bench.committer.stop()
    assert not stopped.called
    bench.reactor.until(stopped)
    assert bench.batches == [[0, 1, 2]]
    assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_a_stop_waits_for_what_is_under_way_and_for_what_has_gathered_behind_it(thread: Bench) -> None:
    thread.committer.submit(0)
    thread.reactor.turn()
    thread.committer.submit(1)
    stopped = thread.committer.stop()
    thread.reactor.turn()
    assert not stopped.called
    thread.reactor.until(stopped)
    assert thread.batches == [[0], [1]]
    assert THREAD not in {each.name for each in threading.enumerate()}


def test_a_stop_in_a_round_waits_for_what_that_has_brought(bench: Bench) -> None:
    bench.committer.batch_started()
    bench.committer.submit(1)
    stopped = bench.committer.stop()
    bench.committer.batch_ended()
    bench.reactor.until(stopped)
    assert bench.batches == [[1]]


def test_a_stop_of_an_idle_committer_fires_at_once(bench: Bench) -> None:
    result_of(bench.committer.stop())
    assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_a_committer_that_was_never_started_can_be_stopped() -> None:
    result_of(GroupCommit[int](ThreadReactor(), lambda _: None, lambda *_: None, lambda _: True).stop())
