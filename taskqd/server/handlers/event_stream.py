"""Sends events to subscribers: first those in the journal, then new ones, without a gap.

A subscriber reads from disk until it has caught up. From then on, each new event is encoded once. Subscribers
with the same filter form a group; events that match are collected for a moment and sent to all of the group
as one chunk. A chunk that some subscriber has not received yet is kept once for its group, up to a limit. A
subscriber that exceeds the limit has lagged: it is given the number from which it can subscribe again.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import BadRequest, Lagged
from taskqd.model.events import Event
from taskqd.protocol import replies
from taskqd.server.handlers.event_filter import EventFilter
from taskqd.server.interfaces import IClient
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IJournal

MAX_GROUP_EVENTS = 10_000
"""Events that a subscriber may leave unread."""
MAX_GROUP_BYTES = 4 * 1024**2
"""Bytes of events that a subscriber may leave unread."""
MAX_TOTAL_BYTES = 16 * 1024**2
"""Bytes of events that are kept for all subscribers; beyond it, the group with the most bytes lags."""
CHUNK_SIZE = 65_536
"""Bytes of events that are sent to a subscriber before it must be able to receive more."""
FLUSH_INTERVAL = 0.02
"""Seconds between two chunks to the same subscribers. The first event after a quiet time is sent at once."""
FLUSH_SIZE = 4 * CHUNK_SIZE
"""Bytes of collected events that are sent at once."""


class Chunk:
    """Lines of events for one group, from the event with number `first` on."""

    __slots__ = ("_lines", "count", "first", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self.size = 0
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Add a line."""
        self._lines.append(line)
        self.count += 1
        self.size += len(line)

    def join(self) -> bytes:
        """Return all lines; they are joined once for all subscribers."""
        if len(self._lines) > 1:
            self._lines = [b"".join(self._lines)]
        return self._lines[0]


class Group:
    """The subscribers with one filter, and the chunks that at least one of them has not received.

    Chunks are numbered from 0; `begin` is the oldest that is kept. Lines are added to the last one while it
    is open. `unflushed` is the number of bytes since the last flush.
    """

    def __init__(self, event_filter: EventFilter) -> None:
        self.filter = event_filter
        self.subscribers: dict[Subscriber, None] = {}
        self.begin = 0
        self.bytes = 0
        self.unflushed = 0
        self._is_open = False
        self._events = 0
        self._chunks: deque[Chunk] = deque()

    @property
    def end(self) -> int:
        """The number of the next chunk."""
        return self.begin + len(self._chunks)

    def add(self, sequence: int, line: bytes) -> None:
        """Add a line for all subscribers; beyond a limit, the oldest chunks are dropped."""
        if not self._is_open or self._chunks[-1].size >= CHUNK_SIZE:
            self._chunks.append(Chunk(sequence))
            self._is_open = True
        self._chunks[-1].add(line)
        self._events += 1
        self.bytes += len(line)
        self.unflushed += len(line)
        while self._events > MAX_GROUP_EVENTS or self.bytes > MAX_GROUP_BYTES:
            self.drop_oldest()

    def close_chunk(self, number: int) -> bytes:
        """Return the lines of a chunk; no more lines are added to it."""
        if number == self.end - 1:
            self._is_open = False
        return self._chunks[number - self.begin].join()

    def subscribe(self, client: IClient) -> "Subscriber":
        """Return a subscriber that receives the events from now on."""
        self._is_open = False
        subscriber = Subscriber(client, self)
        self.subscribers[subscriber] = None
        return subscriber

    async def flush(self) -> None:
        """Send the collected lines to all subscribers that can receive more, in time slices."""
        self.unflushed = 0
        for subscriber in list(self.subscribers):
            if subscriber.must_yield:
                with suppress(CancelledError):  # this client has disconnected
                    await subscriber.next_slice()
            if subscriber in self.subscribers:
                subscriber.send_available()
        self.trim()

    def trim(self) -> None:
        """Drop the chunks that all subscribers have received."""
        oldest = min((subscriber.position for subscriber in self.subscribers), default=self.end)
        while self.begin < oldest:
            self._remove_oldest()

    def drop_oldest(self) -> None:
        """Drop the oldest chunk; the subscribers that have not received it have lagged."""
        first = self._remove_oldest().first
        lagging = [subscriber for subscriber in self.subscribers if subscriber.position < self.begin]
        for subscriber in lagging:
            subscriber.lag(first)

    def _remove_oldest(self) -> Chunk:
        chunk = self._chunks.popleft()
        self.begin += 1
        self.bytes -= chunk.size
        self._events -= chunk.count
        self._is_open = self._is_open and bool(self._chunks)
        return chunk


class Subscriber:
    """Sends the chunks of a group to a client, from number `position` on, as it can receive them.

    `finished` fails with Lagged; cancel it to end the subscription.
    """

    def __init__(self, client: IClient, group: Group) -> None:
        self.position = group.end
        self.finished: Deferred[None] = Deferred()
        self._client = client
        self._group = group
        self._writable: Deferred[None] | None = None

    @property
    def must_yield(self) -> bool:
        """Whether the reactor must have time for others before the client is sent more."""
        return not (self._client.can_send or self._client.is_congested)

    def next_slice(self) -> Deferred[None]:
        """Fire when the reactor has had that time; fails with CancelledError if the client disconnects."""
        return self._client.next_slice()

    def send_available(self) -> None:
        """Send the available chunks while the client can receive them."""
        while self._writable is None and self.position < self._group.end:
            number, self.position = self.position, self.position + 1
            self._client.send(self._group.close_chunk(number))
            if self._client.is_congested:
                self._writable = self._client.writable()
                self._writable.addCallbacks(self._on_writable, _ignore_end)

    def _on_writable(self, _: None) -> None:
        self._writable = None
        self.send_available()
        self._group.trim()

    def lag(self, sequence: int) -> None:
        """End the subscription: the events before number `sequence` are no longer kept for it."""
        self._unsubscribe()
        self.finished.errback(Lagged(sequence))

    def stop(self) -> None:
        """End the subscription after sending what the client can receive."""
        self.send_available()
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        self._group.subscribers.pop(self, None)
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.cancel()


class EventStream:
    """Sends the events of `journal` to subscribers once they are durable and applied to `queue_state`."""

    _log = Logger()

    def __init__(self, journal: IJournal, queue_state: QueueState, clock: IReactorTime) -> None:
        self._journal = journal
        self._jobs = queue_state.jobs
        self._clock = clock
        self._groups: dict[EventFilter, Group] = {}
        self._flush_timer: IDelayedCall | None = None
        self._is_flushing = False
        journal.add_observer(self._on_durable)

    @property
    def subscriber_count(self) -> int:
        """The number of clients that have caught up with the journal."""
        return sum(len(group.subscribers) for group in self._groups.values())

    @property
    def buffered_bytes(self) -> int:
        """The bytes of events that are kept for subscribers."""
        return sum(group.bytes for group in self._groups.values())

    def _on_durable(self, first: int, events: Sequence[Event]) -> None:
        if not self._groups:
            return
        groups = list(self._groups.values())
        for sequence, event in enumerate(events, first):
            line = None
            for group in groups:
                if group.filter.matches(event, self._jobs):
                    line = line or replies.event(sequence, event)
                    group.add(sequence, line)
                    if group.unflushed >= FLUSH_SIZE:
                        self._flush()
        while self.buffered_bytes > MAX_TOTAL_BYTES:
            max(groups, key=lambda group: group.bytes).drop_oldest()
        if self._flush_timer is None:
            self._flush()

    def _flush(self) -> None:
        """Send the collected events, and collect the next ones for FLUSH_INTERVAL."""
        if not self._is_flushing:
            self._is_flushing = True
            flushing = Deferred.fromCoroutine(self._flush_groups())
            flushing.addErrback(lambda failure: self._log.failure("internal error in WATCH", failure))

    async def _flush_groups(self) -> None:
        groups = [group for group in self._groups.values() if group.unflushed]
        try:
            for group in groups:
                await group.flush()
        finally:
            self._is_flushing = False
        if groups and self._flush_timer is None:
            self._flush_timer = self._clock.callLater(FLUSH_INTERVAL, self._on_flush_timer)

    def _on_flush_timer(self) -> None:
        self._flush_timer = None
        self._flush()

    def first_sequence(self, since: int | None) -> int:
        """Return the number of the first event to send; raises BadRequest for one in the future."""
        following = self._journal.last_sequence + 1
        if since is not None and since > following:
            raise BadRequest(f"there is no event {since} yet: the next one is {following}")
        return following if since is None else max(since, 1)

    async def watch(self, client: IClient, event_filter: EventFilter, first: int) -> None:
        """Send EVENT lines from number `first` on, as the client can receive them, until cancelled.

        Raises StoreFailed, and Lagged with the number from which the client can continue.
        """
        reader = self._journal.events_since(first)
        while batch := await reader.read_batch():
            lines: list[bytes] = []
            for sequence, event in batch:
                if event_filter.matches(event, self._jobs):
                    lines.append(replies.event(sequence, event))
                if not client.can_send:
                    client.send(b"".join(lines))
                    lines.clear()
                    await client.writable()
            client.send(b"".join(lines))
        # No event became durable since the reader found no more, so the next one is the next to send.
        group = self._groups.setdefault(event_filter, Group(event_filter))
        subscriber = group.subscribe(client)
        try:
            await subscriber.finished
        except CancelledError:
            subscriber.stop()
            raise
        finally:
            group.trim()
            if not group.subscribers:
                del self._groups[event_filter]


def _ignore_end(failure: Failure) -> None:
    failure.trap(ConnectionDone, CancelledError)
