"""Events for watchers: first those that the journal has, then those that come, without a gap.

A watcher reads on disk until it has caught up. From then on each event that has become true is encoded once.
Watchers with the same filter form a group: what it lets through is gathered for a moment and sent to all of
them in one piece each. The pieces that a watcher has not taken yet are kept once for its group, up to a
bound; over that the watcher has lagged, and may begin again from the number that it is given.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from taskqd.errors import BadRequest, Lagged
from taskqd.model.events import Clocked, Event, JobEvent
from taskqd.model.job import Job
from taskqd.protocol import replies
from taskqd.server.interfaces import IClient
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IJournal

MOST_EVENTS = 10_000
MOST_BYTES = 4 * 1024**2
"""A watcher that has left more events, or more bytes of them, unread has lagged."""
MAX_BYTES_IN_ALL = 16 * 1024**2
"""For all watchers this many bytes of events are kept; then those lag for whom most is kept."""
PIECE_BYTES = 65_536
"""A watcher is sent events until they have this many bytes; then it must have room for more."""
GATHER_INTERVAL = 0.02
"""Seconds between two pieces to the same watchers. An event after a quiet time is sent at once."""
FLUSH_BYTES = 4 * PIECE_BYTES
"""When this many bytes were gathered, they are sent at once."""


class EventFilter(Struct, frozen=True):
    """Which events are wanted: of the jobs in ``ids``, of one queue; None lets everything through.

    ``owner`` and ``of_token`` are those of jobs, and of schedules, that the watcher may see: of what is no
    longer known nothing is told then.
    """

    ids: tuple[range, ...] | None = None
    queue: str | None = None
    owner: str | None = None
    of_token: str | None = None

    @classmethod
    def of_job(cls, job: Job, queue: str | None = None) -> "EventFilter":
        """Return what wants the events of a job: of an array with its tasks, of a task with its array."""
        ids = [range(job.id, job.id + 1)]
        if job.tasks is not None:
            ids.append(job.tasks.ids)
        if job.array is not None:
            ids.append(range(job.array, job.array + 1))
        return cls(tuple(ids), queue)

    def takes(self, event: Event, jobs: dict[int, Job]) -> bool:
        """Whether an event is wanted, as far as the jobs are known.

        Of a job that is no longer known it can't be told in which queue it was: it may have been in any.
        """
        if isinstance(event, Clocked):
            return False
        if (self.owner is not None or self.of_token is not None) and not self._may_see(event, jobs):
            return False
        if not isinstance(event, JobEvent):
            return self.ids is None and (self.queue is None or _is_of_queue(event, self.queue))
        if self.ids is not None and not any(event.id in ids for ids in self.ids):
            return False
        if self.queue is None:
            return True
        job = jobs.get(event.id)
        spec = getattr(event, "spec", None) or (job.spec if job is not None else None)
        return spec is None or bool(spec.queue == self.queue)

    def _may_see(self, event: Event, jobs: dict[int, Job]) -> bool:
        if not isinstance(event, JobEvent):
            is_theirs = self.owner in (None, getattr(event, "by", None))
            return is_theirs and (self.of_token is None or _is_of_queue(event, self.of_token))
        job = jobs.get(event.id)
        if job is None:
            return False
        return self.owner in (None, job.owner) and self.of_token in (None, job.spec.queue)


def _is_of_queue(event: Event, name: str) -> bool:
    """Whether an event is one of this queue's, or of all queues and so of this one's too."""
    return getattr(event, "schedule", None) is None and getattr(event, "queue", None) in (None, name)


class Piece:
    """Lines of events for one group, from number ``first`` on."""

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

    def joined(self) -> bytes:
        """Return all lines, put together once for all watchers."""
        if len(self._lines) > 1:
            self._lines = [b"".join(self._lines)]
        return self._lines[0]


class Group:
    """The watchers with one filter, and the pieces that one of them at least has not taken.

    Pieces are counted from 0; ``begin`` is the oldest that is kept. The last one is open while more is added
    to it. ``unsent`` bytes were gathered since the last flush.
    """

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.watchers: dict[Subscriber, None] = {}
        self.begin = 0
        self.bytes = 0
        self.unsent = 0
        self._is_open = False
        self._events = 0
        self._pieces: deque[Piece] = deque()

    @property
    def end(self) -> int:
        """The number of the next piece."""
        return self.begin + len(self._pieces)

    def put(self, sequence: int, line: bytes) -> None:
        """Add a line for all watchers; the oldest pieces go, with those who lag, where it is one too many."""
        if not self._is_open or self._pieces[-1].size >= PIECE_BYTES:
            self._pieces.append(Piece(sequence))
            self._is_open = True
        self._pieces[-1].add(line)
        self._events += 1
        self.bytes += len(line)
        self.unsent += len(line)
        while self._events > MOST_EVENTS or self.bytes > MOST_BYTES:
            self.drop_oldest()

    def piece(self, number: int) -> bytes:
        """Return the lines of a piece, to which nothing more is added then."""
        if number == self.end - 1:
            self._is_open = False
        return self._pieces[number - self.begin].joined()

    def join(self, client: IClient) -> "Subscriber":
        """Return a watcher of what comes from now on."""
        self._is_open = False
        watcher = Subscriber(client, self)
        self.watchers[watcher] = None
        return watcher

    def flush(self) -> None:
        """Send what was gathered to all who have room for it."""
        self.unsent = 0
        for watcher in list(self.watchers):
            watcher.go_on()
        self.trim()

    def trim(self) -> None:
        """Forget the pieces that all watchers have taken."""
        oldest = min((watcher.at for watcher in self.watchers), default=self.end)
        while self.begin < oldest:
            self._forget_oldest()

    def drop_oldest(self) -> None:
        """Forget the oldest piece: the watchers that have not taken it have lagged."""
        first = self._forget_oldest().first
        for watcher in [watcher for watcher in self.watchers if watcher.at < self.begin]:
            watcher.lag(first)

    def _forget_oldest(self) -> Piece:
        piece = self._pieces.popleft()
        self.begin += 1
        self.bytes -= piece.size
        self._events -= piece.count
        self._is_open = self._is_open and bool(self._pieces)
        return piece


class Subscriber:
    """Sends ``client`` the pieces of its group from number ``at`` on, as there is room for them.

    ``over`` fails with Lagged, and is cancelled by whoever ends the watch.
    """

    def __init__(self, client: IClient, group: Group) -> None:
        self.at = group.end
        self.over: Deferred[None] = Deferred()
        self._client = client
        self._group = group
        self._writable: Deferred[None] | None = None

    def go_on(self) -> None:
        """Send what is there, as long as there is room."""
        while self._writable is None and self.at < self._group.end:
            number, self.at = self.at, self.at + 1
            self._client.send(self._group.piece(number))
            if not self._client.can_send:
                self._writable = self._client.writable()
                self._writable.addCallbacks(self._on_writable, _ignore_end)

    def _on_writable(self, _: None) -> None:
        self._writable = None
        self.go_on()
        self._group.trim()

    def lag(self, sequence: int) -> None:
        """End: events from a number on are not kept for it any more."""
        self._leave()
        self.over.errback(Lagged(sequence))

    def stop(self) -> None:
        """End, once what there is room for was sent."""
        self.go_on()
        self._leave()

    def _leave(self) -> None:
        self._group.watchers.pop(self, None)
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.cancel()


class EventStream:
    """The events of ``store`` as they become true, for any number of watchers.

    It must be told of them after they are applied to ``queue_state``: ``_tell`` is for
    ``store.add_observer``.
    """

    def __init__(self, store: IJournal, queue_state: QueueState, clock: Any) -> None:
        self._store = store
        self._jobs = queue_state.jobs
        self._clock = clock
        self._groups: dict[EventFilter, Group] = {}
        self._gathering: Any = None
        store.add_observer(self._tell)

    def _tell(self, first: int, events: Sequence[Event]) -> None:
        groups = list(self._groups.values())
        for sequence, event in enumerate(events if groups else (), first):
            line = None
            for group in groups:
                if group.wanted.takes(event, self._jobs):
                    line = line or replies.event(sequence, event)
                    group.put(sequence, line)
                    if group.unsent >= FLUSH_BYTES:
                        group.flush()
        while sum(group.bytes for group in groups) > MAX_BYTES_IN_ALL:
            max(groups, key=lambda group: group.bytes).drop_oldest()
        if self._gathering is None:
            self._flush()

    def _flush(self) -> None:
        """Send what was gathered, and gather for a while what comes next."""
        due = [group for group in self._groups.values() if group.unsent]
        for group in due:
            group.flush()
        if due and self._gathering is None:
            self._gathering = self._clock.callLater(GATHER_INTERVAL, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._flush()

    def first(self, since: int | None) -> int:
        """Return the number from which on a watcher gets events; raises BadRequest for one in the future."""
        following = self._store.last_sequence + 1
        if since is not None and since > following:
            raise BadRequest(f"there is no event {since} yet: the next one is {following}")
        return following if since is None else max(since, 1)

    async def watch(self, client: IClient, wanted: EventFilter, first: int) -> None:
        """Send EVENT lines from a number on, at the caller's pace, until cancelled.

        Raises Lagged with the number to go on with, and StoreFailed.
        """
        reading = self._store.events_since(first)
        while portion := await reading.read_batch():
            lines: list[bytes] = []
            for sequence, event in portion:
                if wanted.takes(event, self._jobs):
                    lines.append(replies.event(sequence, event))
                if not client.can_send:
                    client.send(b"".join(lines))
                    lines.clear()
                    await client.writable()
            client.send(b"".join(lines))
        # Nothing was told since the reading found nothing more, so that what is told now comes next.
        group = self._groups.setdefault(wanted, Group(wanted))
        watcher = group.join(client)
        try:
            await watcher.over
        except CancelledError:
            watcher.stop()
            raise
        finally:
            group.trim()
            if not group.watchers:
                del self._groups[wanted]


def _ignore_end(failure: Failure) -> None:
    failure.trap(ConnectionDone, CancelledError)
