"""A journal in memory: the test says what is durable, and what fails."""

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from taskqd.errors import Lagged, StartRefused, StoreFailed
from taskqd.model.events import Event, JobEvent, RecordPosition
from taskqd.storage.interfaces import IEventReader, IJournal
from tests.fakes.deferreds import result_of


@implementer(IJournal)
class FakeJournal:
    """The journal in memory: an event is on its way until the test says that it is durable, or fails.

    ``journal`` has what is durable; events before number ``oldest`` can't be read any more as a whole.
    """

    def __init__(self, journal: list[Event] | None = None, next_id: int = 1) -> None:
        self.failure: str | None = None
        self.next_id = next_id
        self.events: list[Event] = journal or []
        self._on_their_way: list[tuple[Sequence[Event], Deferred[RecordPosition]]] = []
        self._waiting: list[Deferred[None]] = []
        self._told: list[Callable[[int, Sequence[Event]], object]] = []
        self.last_sequence = len(self.events)
        self.oldest = 1

    @property
    def pending(self) -> list[Event]:
        """The events that have been appended and are not durable yet."""
        return [event for events, _ in self._on_their_way for event in events]

    def append(self, event: Event, may_wait: bool = False) -> "Deferred[RecordPosition]":
        return self.append_all((event,))

    def append_all(self, events: Sequence[Event]) -> "Deferred[RecordPosition]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        durable: Deferred[RecordPosition] = Deferred()
        self._on_their_way.append((events, durable))
        return durable

    def append_now(self, events: list[Event]) -> list[RecordPosition]:
        if self.failure is not None:
            raise StartRefused(self.failure)
        positions = [self._keep(event) for event in events]
        for sequence, event in enumerate(events, len(self.events) - len(events) + 1):
            self._tell(sequence, (event,))
        return positions

    def sizes(self) -> dict[str, int]:
        return {"segment": 1, "segment_bytes": len(self.events)}

    def when_writable(self) -> "Deferred[None]":
        if self.failure is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def read(self, position: RecordPosition) -> Event:
        return self.events[position[1]]

    def events_of(self, *job_ids: int) -> "FakeEventReader":
        return FakeEventReader(self, 1, job_ids)

    def add_observer(self, on_durable: Callable[[int, Sequence[Event]], object]) -> None:
        self._told.append(on_durable)

    def events_since(self, sequence: int) -> "FakeEventReader":
        return FakeEventReader(self, sequence)

    def close(self) -> "Deferred[None]":
        self.sync_all()
        self.failure = "closed"
        return succeed(None)

    def sync(self, count: int = 1) -> None:
        """Make the next events durable, those that go together with each."""
        for _ in range(count):
            events, durable = self._on_their_way.pop(0)
            first = len(self.events) + 1
            positions = [self._keep(event) for event in events]
            durable.callback(positions[0])
            self._tell(first, events)

    def sync_all(self) -> None:
        """Make everything durable, and what comes of it."""
        while self._on_their_way:
            self.sync()

    def fail(self, why: str = "the disk is full") -> None:
        """Refuse what is on its way, and everything from now on."""
        self.failure = why
        while self._on_their_way:
            self._on_their_way.pop(0)[1].errback(StoreFailed(why))

    def recover(self) -> None:
        """Take events again, and say so."""
        self.failure = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _tell(self, first: int, events: Sequence[Event]) -> None:
        self.last_sequence = first + len(events) - 1
        for on_durable in self._told:
            on_durable(first, events)

    def _keep(self, event: Event) -> RecordPosition:
        self.events.append(event)
        return (1, len(self.events) - 1, 1)


@implementer(IEventReader)
class FakeEventReader:
    """The journal in memory, a few events at a time."""

    AT_ONCE = 3

    def __init__(self, store: FakeJournal, sequence: int, job_ids: tuple[int, ...] | None = None) -> None:
        self.next_sequence = sequence
        self._store = store
        self._ids = job_ids

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        if self.next_sequence < self._store.oldest:
            return fail(Lagged(self._store.oldest))
        if self._store.failure is not None:
            return fail(StoreFailed(self._store.failure))
        following = range(self.next_sequence, self._store.last_sequence + 1)
        found = [(number, event) for number in following if self._is_wanted(event := self._event(number))]
        found = found[: self.AT_ONCE]
        self.next_sequence = found[-1][0] + 1 if found else following.stop
        return succeed(found)

    def _event(self, number: int) -> Event:
        return self._store.events[number - 1]

    def _is_wanted(self, event: Event) -> bool:
        return self._ids is None or (isinstance(event, JobEvent) and event.id in self._ids)


def read_all(reading: IEventReader) -> list[tuple[int, Event]]:
    """Return all that a reading has; it must not have to wait for any."""
    found: list[tuple[int, Event]] = []
    while portion := result_of(reading.read_batch()):
        found += portion
    return found
