"""A journal in memory, whose events become durable or fail when the test says so."""

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from taskqd.errors import Lagged, StartRefused, StoreFailed
from taskqd.model.events import Event, JobEvent, RecordPosition
from taskqd.storage.interfaces import IEventReader, IJournal
from tests.fakes.deferreds import result_of


@implementer(IJournal)
class FakeJournal:
    """A journal in memory: an event is pending until the test calls `sync` or `fail`.

    ``events`` are durable; those before number ``oldest`` have been compacted. ``writable_waiters`` are the
    Deferreds of `when_writable`.
    """

    def __init__(self, journal: list[Event] | None = None, next_id: int = 1) -> None:
        self.failure: str | None = None
        self.next_id = next_id
        self.events: list[Event] = journal or []
        self._pending: list[tuple[Sequence[Event], Deferred[RecordPosition]]] = []
        self.writable_waiters: list[Deferred[None]] = []
        self._observers: list[Callable[[int, Sequence[Event]], object]] = []
        self.last_sequence = len(self.events)
        self.oldest = 1

    @property
    def pending_appends(self) -> list[Sequence[Event]]:
        """The events of each append that is not durable yet."""
        return [events for events, _ in self._pending]

    @property
    def pending(self) -> list[Event]:
        """The events that have been appended and are not durable yet."""
        return [event for events, _ in self._pending for event in events]

    def append(self, event: Event, may_wait: bool = False) -> "Deferred[RecordPosition]":
        return self.append_all((event,))

    def append_all(self, events: Sequence[Event], may_wait: bool = False) -> "Deferred[RecordPosition]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        durable: Deferred[RecordPosition] = Deferred()
        self._pending.append((events, durable))
        return durable

    def append_now(self, events: list[Event]) -> list[RecordPosition]:
        if self.failure is not None:
            raise StartRefused(self.failure)
        positions = [self._store(event) for event in events]
        for sequence, event in enumerate(events, len(self.events) - len(events) + 1):
            self._notify_observers(sequence, (event,))
        return positions

    def sizes(self) -> dict[str, int]:
        return {"segment": 1, "segment_bytes": len(self.events)}

    def when_writable(self) -> "Deferred[None]":
        if self.failure is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self.writable_waiters.remove)
        self.writable_waiters.append(waiting)
        return waiting

    def read(self, position: RecordPosition) -> Event:
        return self.events[position[1]]

    def events_of(self, *job_ids: int) -> "FakeEventReader":
        return FakeEventReader(self, 1, job_ids)

    def add_observer(self, on_durable: Callable[[int, Sequence[Event]], object]) -> None:
        self._observers.append(on_durable)

    def events_since(self, sequence: int) -> "FakeEventReader":
        return FakeEventReader(self, sequence)

    def close(self) -> "Deferred[None]":
        self.sync_all()
        self.failure = "closed"
        return succeed(None)

    def sync(self, count: int = 1) -> None:
        """Make the next ``count`` appends durable."""
        for _ in range(count):
            events, durable = self._pending.pop(0)
            first = len(self.events) + 1
            positions = [self._store(event) for event in events]
            durable.callback(positions[0])
            self._notify_observers(first, events)

    def sync_all(self) -> None:
        """Make all appends durable, also those that result from this."""
        while self._pending:
            self.sync()

    def fail(self, why: str = "the disk is full") -> None:
        """Refuse all pending and later appends."""
        self.failure = why
        while self._pending:
            self._pending.pop(0)[1].errback(StoreFailed(why))

    def recover(self) -> None:
        """Accept appends again, and notify those who wait for it."""
        self.failure = None
        waiting, self.writable_waiters = self.writable_waiters, []
        for deferred in waiting:
            deferred.callback(None)

    def _notify_observers(self, first: int, events: Sequence[Event]) -> None:
        self.last_sequence = first + len(events) - 1
        for on_durable in self._observers:
            on_durable(first, events)

    def _store(self, event: Event) -> RecordPosition:
        self.events.append(event)
        return (1, len(self.events) - 1, 1)


@implementer(IEventReader)
class FakeEventReader:
    """Reads a `FakeJournal`, a few events at a time."""

    BATCH = 3

    def __init__(self, journal: FakeJournal, sequence: int, job_ids: tuple[int, ...] | None = None) -> None:
        self.next_sequence = sequence
        self._journal = journal
        self._ids = job_ids

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        if self.next_sequence < self._journal.oldest:
            return fail(Lagged(self._journal.oldest))
        if self._journal.failure is not None:
            return fail(StoreFailed(self._journal.failure))
        following = range(self.next_sequence, self._journal.last_sequence + 1)
        found = [(number, event) for number in following if self._is_wanted(event := self._event(number))]
        found = found[: self.BATCH]
        self.next_sequence = found[-1][0] + 1 if found else following.stop
        return succeed(found)

    def _event(self, number: int) -> Event:
        return self._journal.events[number - 1]

    def _is_wanted(self, event: Event) -> bool:
        return self._ids is None or (isinstance(event, JobEvent) and event.id in self._ids)


def read_all(reader: IEventReader) -> list[tuple[int, Event]]:
    """Return all events of a reader that does not have to wait."""
    found: list[tuple[int, Event]] = []
    while batch := result_of(reader.read_batch()):
        found += batch
    return found
