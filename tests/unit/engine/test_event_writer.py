"""The event writer: durable first, then applied; events that wait for a failed journal."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from taskqd.engine.event_writer import EventWriter
from taskqd.errors import StoreFailed
from taskqd.model.events import Ended, Paused
from taskqd.model.job import Status
from taskqd.state import job_changes
from tests.fakes.clocks import START, FakeClocks
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import replayed
from tests.fakes.journal import FakeJournal
from tests.support.events import array, cancelled, retried, started, submitted


class Writer:
    """An event writer over a fake journal; job 1 runs."""

    def __init__(self) -> None:
        self.journal = FakeJournal([submitted(1), started(1)])
        self.state = replayed(self.journal.events)
        self.clock = FakeClocks()
        self.writer = EventWriter(self.journal, self.state, self.clock)

    @property
    def status(self) -> Status:
        return self.state.get(1).status

    def end(self, status: Status = Status.COMPLETED, retry_at: float | None = None) -> Ended:
        return Ended(id=1, at=self.clock.now(), status=status, retry_at=retry_at)


@pytest.fixture
def it() -> Writer:
    return Writer()


def test_event_is_applied_when_it_is_durable(it: Writer) -> None:
    recorded = it.writer.record(it.end())
    assert (recorded.called, it.status) == (False, Status.RUNNING)
    it.journal.sync()
    assert (result_of(recorded), it.status) == (it.state.get(1), Status.COMPLETED)


def test_events_recorded_together_are_applied_together(it: Writer) -> None:
    recorded = it.writer.record_all([submitted(2), submitted(3)])
    assert list(it.state.jobs) == [1]
    it.journal.sync()
    assert (result_of(recorded), list(it.state.jobs)) == (None, [1, 2, 3])


def test_event_of_a_queue_is_applied_when_it_is_durable(it: Writer) -> None:
    recorded = it.writer.record_other(Paused(at=START, by="ada"))
    assert not it.state.queues.is_paused
    it.journal.sync()
    assert (result_of(recorded), it.state.queues.is_paused) == (None, True)


def test_event_that_cannot_be_written_is_not_applied(it: Writer) -> None:
    recorded = it.writer.record(it.end())
    it.journal.fail()
    assert isinstance(error_of(recorded), StoreFailed)
    assert it.status is Status.RUNNING
    with pytest.raises(StoreFailed):
        it.writer.check_writable()
    it.journal.recover()
    it.writer.check_writable()


def test_event_that_must_be_recorded_waits_for_the_journal(it: Writer) -> None:
    recorded = it.writer.record_until_durable(it.end())
    for _ in range(2):
        it.journal.fail()
        assert (it.writer.has_unwritten, it.status) == (True, Status.RUNNING)
        it.journal.recover()
    it.journal.sync()
    result_of(recorded)
    assert (it.writer.has_unwritten, it.status) == (False, Status.COMPLETED)


def test_times_of_an_event_that_waited_follow_a_jump_of_the_clock(it: Writer) -> None:
    it.writer.record_until_durable(replace(it.end(Status.PENDING, START + 10.0), ended_at=START - 5.0))
    it.journal.fail()
    it.clock.ahead = 3600.0
    it.journal.recover()
    [event] = it.journal.pending
    assert isinstance(event, Ended)
    times = (event.at, event.retry_at, event.ended_at)
    assert times == (START + 3600.0, START + 3610.0, START + 3595.0)


def test_give_up_fails_events_that_wait_and_later_ones(it: Writer) -> None:
    waiting = it.writer.record_until_durable(it.end())
    it.journal.fail()
    it.writer.give_up()
    assert isinstance(error_of(waiting), StoreFailed)
    assert isinstance(error_of(it.writer.record_until_durable(it.end())), StoreFailed)
    assert not it.writer.has_unwritten


def _array_with_touched_tasks(it: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit array 2 with 6 tasks, each cancelled alone; portions are of two tasks."""
    monkeypatch.setattr(job_changes, "PORTION_COST", 2 * (job_changes.MOVE_COST + 1))
    for event in (array(2, 6), *map(cancelled, range(3, 9))):
        it.state.apply(event)


@pytest.mark.parametrize("many", [False, True], ids=["record", "record_all"])
def test_event_of_an_array_is_applied_in_portions_one_per_turn(
    it: Writer, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    _array_with_touched_tasks(it, monkeypatch)
    before = [*it.journal.events, array(2, 6), *map(cancelled, range(3, 9))]
    events = [retried(2), submitted(9)] if many else [retried(2)]
    recorded: Deferred[Any] = it.writer.record_all(events) if many else it.writer.record(retried(2))
    done: list[object] = []
    recorded.addCallback(done.append)
    turns: list[Callable[[], object]] = []
    monkeypatch.setattr(it.clock, "callLater", lambda _, *call: turns.append(partial(*call)))
    it.journal.sync()
    pending = []
    while not done:
        pending.append(it.state.get(2).count_of(Status.PENDING))
        turns.pop()()
    assert pending == [2, 4, 6]
    assert done == [None if many else it.state.get(2)]
    assert it.state == replayed([*before, *events])


def test_event_of_an_array_with_few_touched_tasks_is_applied_at_once(it: Writer) -> None:
    for event in (array(2, 6), cancelled(4)):
        it.state.apply(event)
    recorded = it.writer.record(cancelled(2))
    it.journal.sync()
    assert result_of(recorded).status is Status.CANCELLED
