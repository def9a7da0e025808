"""The event stream sends each matching event once and in order, old ones from the journal, then new ones."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from taskqd.errors import BadRequest, Lagged, StoreFailed
from taskqd.model.events import (
    Cancelled,
    Event,
    Paused,
    Removed,
    Submitted,
)
from taskqd.model.spec import Array, Spec
from taskqd.protocol import replies
from taskqd.server.handlers import event_stream as module
from taskqd.server.handlers.event_filter import EventFilter
from taskqd.server.handlers.event_stream import FLUSH_INTERVAL, EventStream
from taskqd.state.queue_state import QueueState
from taskqd.storage.journal import reader
from taskqd.storage.journal.journal import Journal
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.client import FakeClient
from tests.fakes.clocks import START, ThreadReactor, Threads, clock
from tests.fakes.deferreds import begin, error_of
from tests.fakes.engine import watchers
from tests.fakes.filesystem import FakeFilesystem
from tests.fakes.journal import FakeJournal


def submitted(job_id: int, **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", command="true", spec=Spec(**spec))


ALL = EventFilter()


class Source:
    """An EventStream over a journal in memory, whose events are applied to a QueueState."""

    def __init__(self, *journal: Event) -> None:
        self.store = FakeJournal(list(journal))
        self.queue_state = QueueState()
        for event in journal:
            self.queue_state.apply(event)
        self.clock = clock()
        self.stream = EventStream(self.store, self.queue_state, self.clock)

    def happen(self, *events: Event) -> None:
        """Record events one by one, each after the earlier ones were sent."""
        for event in events:
            self.happen_together(event)
            self.clock.advance(FLUSH_INTERVAL)

    def happen_together(self, *events: Event) -> None:
        durable = self.store.append_all(events)
        for event in events:
            durable.addCallback(lambda _, event: self.queue_state.apply(event), event)
        self.store.sync()

    def watch(self, client: FakeClient, wanted: EventFilter = ALL, since: int | None = None) -> Any:
        return begin(self.stream.watch(client, wanted, self.stream.first_sequence(since)))


def numbers(client: FakeClient) -> list[int]:
    return [int(line.split()[1]) for line in client.sent.splitlines()]


def lines(*events: tuple[int, Event]) -> bytes:
    return b"".join(replies.event(*each) for each in events)


def ended(watching: "Deferred[None]") -> None:
    """Cancel a watch, as its client does."""
    watching.cancel()
    assert isinstance(error_of(watching), CancelledError)


def test_watch_sends_new_events() -> None:
    source, client = Source(submitted(1)), FakeClient()
    watching = source.watch(client)
    assert client.sent == b""
    source.happen(submitted(2), submitted(3))
    assert client.sent == lines((2, submitted(2)), (3, submitted(3)))
    ended(watching)
    source.happen(submitted(4))
    assert numbers(client) == [2, 3]
    assert watchers(source.stream) == 0


@pytest.mark.parametrize("since", [0, 1, 3, 9, 10, 11])
def test_watch_since_a_number_sends_old_and_new_events(since: int) -> None:
    source, client = Source(*map(submitted, range(1, 11))), FakeClient()
    watching = source.watch(client, since=since)
    source.happen(submitted(11), submitted(12))
    assert numbers(client) == list(range(max(since, 1), 13))
    ended(watching)


def test_watch_since_a_future_number_is_refused() -> None:
    source = Source(submitted(1))
    assert source.stream.first_sequence(None) == source.stream.first_sequence(2) == 2
    with pytest.raises(BadRequest, match="the next one is 2"):
        source.stream.first_sequence(3)


def test_watch_since_a_compacted_number_has_lagged() -> None:
    source, client = Source(*map(submitted, range(1, 11))), FakeClient()
    source.store.oldest = 5
    lagged = error_of(source.watch(client, since=4))
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 5
    assert client.sent == b""
    ended(source.watch(client, since=5))
    assert numbers(client) == list(range(5, 11))


def test_unreadable_journal_ends_the_watch() -> None:
    source = Source(submitted(1))
    source.store.fail()
    assert isinstance(error_of(source.watch(FakeClient(), since=1)), StoreFailed)


def test_events_during_reading_follow_the_old_ones_once() -> None:
    source, client = Source(*map(submitted, range(1, 8))), FakeClient()
    client.can_send = False
    watching = source.watch(client, since=1)
    for job_id in range(8, 12):
        source.happen(submitted(job_id))
        client.writable_waiters.pop().callback(None)
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    source.happen(submitted(12))
    assert numbers(client) == list(range(1, 13))
    ended(watching)


def test_events_of_one_batch_are_sent_in_order() -> None:
    source, client = Source(), FakeClient()
    watching = source.watch(client)
    source.happen_together(*map(submitted, (1, 2, 3)))
    assert client.sent == lines(*enumerate(map(submitted, (1, 2, 3)), 1))
    ended(watching)


def test_subscriber_joining_during_a_batch_gets_later_events() -> None:
    source, client, late = Source(), FakeClient(), FakeClient()
    watching = [source.watch(client)]
    send = client.send

    def send_and_let_in(data: bytes) -> None:
        client.send = send  # type: ignore[method-assign]
        send(data)
        watching.append(source.watch(late))

    client.send = send_and_let_in  # type: ignore[method-assign]
    source.happen_together(*map(submitted, (1, 2, 3)))
    source.happen(submitted(4))
    assert numbers(client) == [1, 2, 3, 4]
    assert numbers(late) == [4]
    for each in watching:
        ended(each)


def test_subscriber_that_lags_during_a_batch_gets_no_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound, value in (("MAX_GROUP_EVENTS", 2), ("CHUNK_SIZE", 1), ("FLUSH_SIZE", 1)):
        monkeypatch.setattr(module, bound, value)
    source, client, quick = Source(), FakeClient(), FakeClient()
    watching, other = source.watch(client), source.watch(quick)
    client.can_send = False
    source.happen_together(*map(submitted, range(1, 8)))
    lagged = error_of(watching)
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 2
    assert numbers(client) == [1]
    assert numbers(quick) == list(range(1, 8))
    ended(other)


# Slow subscribers.


def test_events_wait_until_the_client_can_receive_them() -> None:
    source, client = Source(), FakeClient()
    watching = source.watch(client)
    client.can_send = False
    source.happen(*map(submitted, range(1, 8)))
    assert numbers(client) == [1]
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert numbers(client) == list(range(1, 8))
    ended(watching)


def test_events_are_sent_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 3 * len(lines((1, submitted(1)))))
    source, client = Source(), FakeClient()
    watching = source.watch(client)
    client.can_send = False
    source.happen_together(*map(submitted, range(1, 9)))
    for upto in (3, 6, 8):
        assert numbers(client) == list(range(1, upto + 1))
        client.writable_waiters.pop().callback(None)
    ended(watching)


@pytest.mark.parametrize(
    "bound, size", [("MAX_GROUP_EVENTS", 1), ("MAX_GROUP_BYTES", len(lines((1, submitted(1)))))]
)
def test_slow_subscriber_lags_with_the_number_to_continue_with(
    monkeypatch: pytest.MonkeyPatch, bound: str, size: int
) -> None:
    monkeypatch.setattr(module, bound, 5 * size)
    source, client = Source(), FakeClient()
    watching = source.watch(client)
    client.can_send = False
    source.happen(*map(submitted, range(1, 7)))
    assert watchers(source.stream) == 1
    source.happen(submitted(7))
    assert watchers(source.stream) == 0, "the subscription has ended"
    client.writable_waiters.pop().callback(None)
    lagged = error_of(watching)
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 2
    assert numbers(client) == [1]
    client.can_send = True
    again = source.watch(client, since=2)
    assert numbers(client) == list(range(1, 8))
    ended(again)


def test_subscriber_that_keeps_up_does_not_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 5 * len(lines((1, submitted(1)))))
    source, client = Source(), FakeClient()
    watching = source.watch(client)
    for first in range(1, 30, 3):
        client.can_send = False
        source.happen(*map(submitted, range(first, first + 3)))
        client.can_send = True
        client.writable_waiters.pop().callback(None)
    assert numbers(client) == list(range(1, 31))
    ended(watching)


@pytest.mark.parametrize("moment", ["reading", "waiting for events", "waiting for room"])
def test_cancel_leaves_nothing_behind(moment: str) -> None:
    source, client = Source(*map(submitted, range(1, 8))), FakeClient()
    client.can_send = moment == "waiting for events"
    watching = source.watch(client, since=1 if moment == "reading" else None)
    if moment == "waiting for room":
        source.happen(submitted(8))
    ended(watching)
    assert watchers(source.stream) == 0


def test_event_is_encoded_once_for_all_subscribers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, clients = Source(), [FakeClient(), FakeClient()]
    encoded: list[int] = []
    encode = replies.event

    def event(sequence: int, happened: Event) -> bytes:
        encoded.append(sequence)
        return encode(sequence, happened)

    monkeypatch.setattr(replies, "event", event)
    source.happen(submitted(1))
    watching = [source.watch(client) for client in clients]
    ignorant = source.watch(FakeClient(), EventFilter(queue="elsewhere"))
    source.happen(submitted(2), submitted(3))
    assert encoded == [2, 3]
    assert [numbers(client) for client in clients] == [[2, 3]] * 2
    for each in (*watching, ignorant):
        ended(each)


# Many subscribers.


def test_events_within_the_flush_interval_are_sent_together() -> None:
    source, clients = Source(), [FakeClient(), FakeClient()]
    watching = [source.watch(client) for client in clients]
    sent: list[bytes] = []
    for client in clients:
        client.send = sent.append  # type: ignore[assignment, method-assign]
    source.happen_together(submitted(1))
    assert sent == [lines((1, submitted(1)))] * 2, "the first event after a quiet time is sent at once"
    for number in (2, 3, 4):
        source.happen_together(submitted(number))
    assert len(sent) == 2
    source.clock.advance(FLUSH_INTERVAL)
    assert sent[2:] == [lines(*((number, submitted(number)) for number in (2, 3, 4)))] * 2
    assert sent[2] is sent[3], "the lines are joined once"
    for each in watching:
        ended(each)


def test_events_are_sent_to_the_rest_in_the_next_time_slice() -> None:
    source = Source()
    clients = [FakeClient() for _ in range(4)]
    watching = [begin(source.stream.watch(client, ALL, 1)) for client in clients]
    for client in clients[1:3]:
        client.spend_slice()
    source.happen(submitted(1), submitted(2))
    assert [client.sent.count(b"EVENT") for client in clients] == [1, 0, 0, 0]
    clients[1].grant_slice()
    assert [client.sent.count(b"EVENT") for client in clients] == [1, 2, 0, 0]
    watching[2].cancel()
    assert isinstance(error_of(watching[2]), CancelledError)
    assert clients[2].sent.count(b"EVENT") == 2, "an ended WATCH has sent all earlier events"
    clients[2].slice_waiters.pop().errback(CancelledError())
    source.clock.advance(FLUSH_INTERVAL)
    assert [client.sent.count(b"EVENT") for client in clients] == [2] * 4


def test_ended_watch_has_sent_all_earlier_events() -> None:
    source, client, slow = Source(), FakeClient(), FakeClient()
    watching, other = source.watch(client), source.watch(slow)
    slow.can_send = False
    for number in (1, 2, 3):
        source.happen_together(submitted(number))
    ended(watching)
    ended(other)
    assert (numbers(client), numbers(slow)) == ([1, 2, 3], [1])
    source.clock.advance(FLUSH_INTERVAL)
    assert not source.clock.getDelayedCalls()


def test_joining_and_early_subscribers_get_collected_events_once() -> None:
    source, first, late = Source(), FakeClient(), FakeClient()
    watching = [source.watch(first)]
    first.can_send = False
    source.happen_together(submitted(1))
    source.happen_together(submitted(2))
    watching.append(source.watch(late))
    source.happen_together(submitted(3))
    first.can_send = True
    first.writable_waiters.pop().callback(None)
    source.happen_together(submitted(4))
    source.clock.advance(FLUSH_INTERVAL)
    assert (numbers(first), numbers(late)) == ([1, 2, 3, 4], [3, 4])
    for each in watching:
        ended(each)


def test_bytes_kept_for_all_subscribers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(lines((1, submitted(1, queue="q0"))))
    monkeypatch.setattr(module, "MAX_TOTAL_BYTES", 10 * size)
    source, clients = Source(), [FakeClient() for _ in range(4)]
    watching = [source.watch(client, EventFilter(queue=f"q{at}")) for at, client in enumerate(clients)]
    for client in clients:
        client.can_send = False
    numbers_of = iter(range(1, 100))
    for at in (0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3):
        source.happen(submitted(next(numbers_of), queue=f"q{at}"))
    assert [each.called for each in watching] == [False, True, False, False], "most bytes"
    assert isinstance(lagged := error_of(watching[1]), Lagged)
    assert lagged.sequence == 4
    for client in clients:
        client.can_send = True
        for writable in client.writable_waiters[-1:]:
            if not writable.called:
                writable.callback(None)
    assert [numbers(client) for client in clients] == [[1, 2], [3], [8, 9, 10], [11, 12, 13, 14]]
    for each in (watching[0], *watching[2:]):
        ended(each)


# Filters.

FIRST, TASKS = submitted(1, queue="a"), submitted(2, queue="b", array=Array(1, 3))
REMOVED = Removed(id=1, at=START, by="ada")
BY: dict[str, Any] = {"at": START, "by": "ada"}


def of(job_id: int) -> Event:
    return Cancelled(id=job_id, at=START, by="ada", signal=15)


EVES = Submitted(id=6, at=START, owner="eve", command="true", spec=Spec(queue="a"))
BY_EVE: dict[str, Any] = {"at": START, "by": "eve"}


def test_visibility_applies_to_old_and_new_events() -> None:
    source, client = Source(FIRST, TASKS, EVES, of(1), of(6)), FakeClient()
    watching = source.watch(client, EventFilter(owner="eve"), 1)
    assert numbers(client) == [3, 5]
    source.happen(of(2), Removed(id=6, at=START, by="eve"), Paused(**BY), Paused(**BY_EVE))
    assert numbers(client) == [3, 5, 9]
    ended(watching)


def test_filter_applies_to_old_and_new_events() -> None:
    source, client = Source(FIRST, TASKS, of(1), submitted(6, queue="a")), FakeClient()
    watching = source.watch(client, EventFilter(queue="a"), 1)
    assert numbers(client) == [1, 3, 4]
    source.happen(submitted(7, queue="a"), submitted(8, queue="b"), REMOVED)
    assert numbers(client) == [1, 3, 4, 5, 7]
    ended(watching)


# On a real journal.

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("watch"), st.integers(1, 40)),
    st.tuples(
        st.sampled_from(["leave", "choke", "writable", "read", "wait", "snapshot", "fail"]), st.just(0)
    ),
)


class World:
    """A journal on disk with an EventStream, and a client that watches, disconnects, and returns."""

    def __init__(self, directory: str) -> None:
        self.filesystem, self.threads, self.reactor = FakeFilesystem(), Threads(), ThreadReactor()
        self.store = Journal(directory, self.reactor, self.filesystem, "boot", self.reactor, self.threads)
        self.store.segment_bytes = 600
        self.store.lock()
        list(self.store.replay())
        self.store.start_writing(0)
        self.queue_state = QueueState()
        self.stream = EventStream(self.store, self.queue_state, self.reactor)
        self.journal: list[tuple[int, Event]] = []
        self.store.add_observer(lambda first, events: self.journal.extend(enumerate(events, first)))
        self.client = FakeClient()
        self.first = 0
        self.watching: Deferred[Any] | None = None

    def append(self, count: int) -> None:
        # Some events are being written while others are sent.
        for done in [self.store.append(submitted(self.store.next_id)) for _ in range(count)]:
            self.reactor.until(done)

    def watch(self, since: int) -> None:
        if self.watching is None:
            self.first = min(since, self.store.last_sequence + 1)
            self.client, before = FakeClient(), self.client
            self.client.can_send = before.can_send
            self.watching = begin(self.stream.watch(self.client, ALL, self.stream.first_sequence(self.first)))
            self.watching.addErrback(self._over)

    def _over(self, failure: Any) -> None:
        failure.trap(CancelledError, Lagged)
        self.watching = None
        if isinstance(failure.value, Lagged):
            got = numbers(self.client)
            last = got[-1] if got else self.first - 1
            assert failure.value.sequence > last
            self.check(upto=last)

    def leave(self, _: int = 0) -> None:
        if self.watching is not None:
            self.watching.cancel()

    def choke(self, _: int) -> None:
        self.client.can_send = False

    def writable(self, _: int) -> None:
        self.client.can_send = True
        writable_waiters, self.client.writable_waiters = self.client.writable_waiters, []
        for writable in writable_waiters:
            writable.callback(None)

    def read(self, _: int) -> None:
        if self.threads.waiting:
            self.threads.waiting.pop(0)()

    def wait(self, _: int) -> None:
        self.reactor.advance(FLUSH_INTERVAL)

    def snapshot(self, _: int) -> None:
        number = self.store.last_durable_segment - 1
        if number > self.store.snapshot_number:
            SnapshotWriter(self.store.segments, self.filesystem, number).write()
            self.store.compacted(number, self.store.segments.remove_obsolete(number))

    def fail(self, _: int) -> None:
        self.filesystem.fail("sync")
        done = self.store.append(submitted(self.store.next_id))
        assert isinstance(self.until_failed(done), StoreFailed)
        self.filesystem.clear_failures()
        self.reactor.advance(1.0)
        self.reactor.until(self.store.when_writable())

    def until_failed(self, done: "Deferred[Any]") -> BaseException:
        failures: list[Any] = []
        done.addErrback(failures.append)
        while not failures:
            self.reactor.turn()
        why: BaseException = failures[0].value
        return why

    def check(self, upto: int) -> None:
        expected = [(number, event) for number, event in self.journal if self.first <= number <= upto]
        assert self.client.sent == lines(*expected)

    def catch_up(self) -> None:
        self.reactor.advance(FLUSH_INTERVAL)
        self.writable(0)
        while self.threads.waiting and self.watching is not None:
            self.read(0)
            self.writable(0)

    def close(self) -> None:
        self.leave()
        self.reactor.until(self.store.close())


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_watch_has_no_gaps_and_no_duplicates(
    steps: list[tuple[str, int]],
) -> None:
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BATCH_BYTES", 300)
        patch.setattr(module, "MAX_GROUP_EVENTS", 8)
        world = World(os.path.join(directory, "state"))
        try:
            for name, number in steps:
                getattr(world, name)(number)
            world.catch_up()
            if world.watching is not None:
                world.check(upto=world.store.last_sequence)
        finally:
            world.close()


def test_model_of_the_previous_test_catches_up(tmp_path: Path) -> None:
    world = World(str(tmp_path / "state"))
    world.append(12)
    world.watch(1)
    world.append(1)
    world.catch_up()
    world.append(1)
    assert len(numbers(world.client)) == 14
    world.check(upto=world.store.last_sequence)
    world.close()
