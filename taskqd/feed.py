"""What happens, told to whoever watches: first what is in the journal, then what comes, without a gap.

A watcher reads on disk until it has caught up. From then on each event that has become true is encoded once
and handed to all whose filter lets it through. What a watcher does not take in time waits for it, up to a
bound; over that it has lagged, and may begin again from a number that it is told.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, fail, succeed

from taskqd import replies
from taskqd.backlog import Backlog
from taskqd.errors import BadRequest, Lagged
from taskqd.events import Clocked, Event, JobEvent
from taskqd.interfaces import ICaller, IStore
from taskqd.job import Job

MOST_EVENTS = 10_000
MOST_BYTES = 4 * 1024**2
"""So much waits for a watcher at most."""
TAKEN_AT_ONCE = 65_536
"""A watcher takes lines until it has so many bytes."""


class Filter(Struct, frozen=True):
    """Which events are wanted: of the jobs in ``ids``, of one queue; None lets everything through.

    ``owner`` and ``of_token`` are those of jobs, and of schedules, that the watcher may see: of what is no
    longer known nothing is told then.
    """

    ids: tuple[range, ...] | None = None
    queue: str | None = None
    owner: str | None = None
    of_token: str | None = None

    @classmethod
    def of_job(cls, job: Job, queue: str | None = None) -> "Filter":
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


EVERYTHING = Filter()


def _is_of_queue(event: Event, name: str) -> bool:
    """Whether an event is one of this queue's, or of all queues and so of this one's too."""
    return getattr(event, "schedule", None) is None and getattr(event, "queue", None) in (None, name)


class Watcher:
    """The live events for one watcher, from number ``next`` on; they wait here until they are taken."""

    def __init__(self, wanted: Filter, first: int) -> None:
        self.wanted = wanted
        self.next = first
        self.has_lagged = False
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._waiting: Deferred[bytes] | None = None

    def put(self, sequence: int, line: bytes) -> None:
        """Hand over a line; one too many lets go of all that waits, and then none is taken any more."""
        if self.has_lagged:
            return
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.next = sequence + 1
            waiting.callback(line)
            return
        self._lines.append((sequence, line))
        self._bytes += len(line)
        if len(self._lines) > MOST_EVENTS or self._bytes > MOST_BYTES:
            self.next = self._lines[0][0]
            self.has_lagged = True
            self._lines.clear()

    def take(self) -> "Deferred[bytes]":
        """Return some of the lines that wait, or the next one when it comes; fails with Lagged.

        May be cancelled. Not to be called again before it has fired.
        """
        if self.has_lagged:
            return fail(Lagged(self.next))
        if not self._lines:
            self._waiting = Deferred(self._give_up)
            return self._waiting
        taken: list[bytes] = []
        size = 0
        while self._lines and size < TAKEN_AT_ONCE:
            sequence, line = self._lines.popleft()
            taken.append(line)
            size += len(line)
            self.next = sequence + 1
        self._bytes -= size
        return succeed(b"".join(taken))

    def _give_up(self, _: Any) -> None:
        self._waiting = None


class Feed:
    """The events of ``store`` as they become true, for any number of watchers.

    It must be told of them after they are applied to ``backlog``: ``tell`` is for ``store.on_durable``.
    """

    def __init__(self, store: IStore, backlog: Backlog) -> None:
        self._store = store
        self._jobs = backlog.jobs
        self._watchers: tuple[Watcher, ...] = ()
        store.on_durable(self._tell)

    @property
    def watchers(self) -> int:
        """How many there are that have caught up."""
        return len(self._watchers)

    def _tell(self, first: int, events: Sequence[Event]) -> None:
        watchers = self._watchers  # who comes in meanwhile begins behind these events
        for sequence, event in enumerate(events if watchers else (), first):
            line = None
            for watcher in watchers:
                if watcher.wanted.takes(event, self._jobs):
                    line = line or replies.event(sequence, event)
                    watcher.put(sequence, line)
                    if watcher.has_lagged:
                        self._leave(watcher)

    def first(self, since: int | None) -> int:
        """Return the number from which on a watcher gets events; raises BadRequest for one in the future."""
        following = self._store.last_sequence + 1
        if since is not None and since > following:
            raise BadRequest(f"there is no event {since} yet: the next one is {following}")
        return following if since is None else max(since, 1)

    async def watch(self, caller: ICaller, wanted: Filter, first: int) -> None:
        """Send EVENT lines from a number on, at the caller's pace, until cancelled.

        Raises Lagged with the number to go on with, and StoreFailed.
        """
        reading = self._store.since(first)
        while portion := await reading.portion():
            lines = [replies.event(*each) for each in portion if wanted.takes(each[1], self._jobs)]
            if lines:
                caller.send(b"".join(lines))
            await caller.room()
        # Nothing was told since the reading found nothing more, so that what is told now comes next.
        watcher = Watcher(wanted, reading.next)
        self._watchers += (watcher,)
        try:
            while True:
                caller.send(await watcher.take())
                await caller.room()
        finally:
            self._leave(watcher)

    def _leave(self, watcher: Watcher) -> None:
        self._watchers = tuple(other for other in self._watchers if other is not watcher)
