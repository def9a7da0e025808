"""The queues: their slots, whether they are paused, and how many of their jobs are where.

A queue is there as soon as a job names it; the settings may give it slots, and so may somebody while the
daemon runs, which then holds until it is taken back. Nothing here is about a single job.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from sortedcontainers import SortedDict

from taskqd.model.events import Paused, QueueEvent, Resized, Resumed
from taskqd.model.job import Status
from taskqd.model.spec import DEFAULT_QUEUE

LATEST = 50
"""From so many runs at most, the latest of a queue, an estimate is made."""

NAMES_AT_ONCE = 100
"""QUEUES looks up this many names at a time."""

_PENDING = Status.PENDING


class Queue:
    """One queue; ``resized`` are slots given while the daemon runs: 0 for no limit, None for none given.

    ``latest`` has the seconds that its latest runs took. It is not part of what is compared.
    """

    __slots__ = ("counts", "is_paused", "latest", "resized")

    def __init__(self) -> None:
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.is_paused = False
        self.resized: int | None = None
        self.latest: deque[float] | None = None  # made for the first run: it takes most of the memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and (self.counts, self.is_paused, self.resized) == (
            other.counts,
            other.is_paused,
            other.resized,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing is known of it."""
        return not self.is_paused and self.resized is None and not any(self.counts.values())


class Queues:
    """The queues by name; ``limits`` are the slots that the settings give.

    ``closing`` has the queues whose pause is on its way to the disk, None for that of all: nothing of them
    may start any more, or a start could come behind the pause. It is not part of what is compared.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.is_paused = False
        self.closing: list[str | None] = []
        self._limits = limits
        self._queues: SortedDict[str, Queue] = SortedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queues) and (self.is_paused, self._queues) == (
            other.is_paused,
            other._queues,
        )

    __hash__ = None  # type: ignore[assignment]  # as above

    def limit(self, name: str) -> int | None:
        """Return a queue's slots, None where it has no limit of its own."""
        queue = self._queues.get(name)
        if queue is not None and queue.resized is not None:
            return queue.resized or None
        return self._limits.get(name)

    def is_closed(self, name: str) -> bool:
        """Whether nothing of a queue may start, as it is paused or is about to be."""
        queue = self._queues.get(name)
        is_paused = self.is_paused or (queue is not None and queue.is_paused)
        return is_paused or (bool(self.closing) and (None in self.closing or name in self.closing))

    def apply(self, event: QueueEvent) -> None:
        """Change a queue, or the pause of all."""
        if isinstance(event, Resized):
            self._get(event.queue).resized = event.slots
            self._forget(event.queue)
        elif isinstance(event, Paused | Resumed):
            self._set_paused(event.queue, isinstance(event, Paused))

    def _set_paused(self, name: str | None, is_paused: bool) -> None:
        if name is None:
            self.is_paused = is_paused
        else:
            self._get(name).is_paused = is_paused
            self._forget(name)

    def job_added(self, name: str) -> None:
        """Take note that a job has come into a queue, PENDING."""
        queue = self._queues.get(name) or self._get(name)
        queue.counts[_PENDING] += 1

    def count(self, name: str, before: Status | None, after: Status | None) -> None:
        """Take note that one job of a queue has moved; None is outside."""
        if before is after:
            return
        queue = self._get(name)
        if after is not None:
            queue.counts[after] += 1
        if before is not None:
            queue.counts[before] -= 1
            if after is None:
                self._forget(name)

    def record_duration(self, name: str, seconds: float) -> None:
        """Take note of how long a run of a queue's has taken."""
        queue = self._get(name)
        if queue.latest is None:
            queue.latest = deque(maxlen=LATEST)
        queue.latest.append(seconds)

    def latest(self, name: str) -> list[float]:
        """Return how long the latest runs of a queue have taken."""
        queue = self._queues.get(name)
        return [] if queue is None or queue.latest is None else list(queue.latest)

    def running(self, name: str) -> int:
        """Return how many jobs of a queue run."""
        return self._queues[name].counts[Status.RUNNING] if name in self._queues else 0

    def describe(self, busy: Callable[[str], int]) -> Iterator[dict[str, Any]]:
        """Yield what QUEUES tells of each, by name; ``busy(name)`` is how many of its slots are taken.

        Queues may come and go meanwhile: each is told of at most once, as it is when it is reached.
        """
        names = self._names_after("")
        while names:
            for name in names:
                if name in self._queues or self._is_always_there(name):
                    yield self.describe_one(name, busy(name))
            names = self._names_after(names[-1])

    def _names_after(self, last: str) -> list[str]:
        """Return the next names in order, of queues that are known or always there; none at the end."""
        known = islice(self._queues.irange(last, inclusive=(False, True)), NAMES_AT_ONCE)
        always = (name for name in (DEFAULT_QUEUE, *self._limits) if name > last)
        return sorted({*known, *always})[:NAMES_AT_ONCE]

    def _is_always_there(self, name: str) -> bool:
        return name == DEFAULT_QUEUE or name in self._limits

    def describe_one(self, name: str, busy: int) -> dict[str, Any]:
        """Return what QUEUES tells of one."""
        queue = self._queues.get(name) or Queue()
        counts = {status.value.lower(): count for status, count in queue.counts.items()}
        return {"name": name, "slots": self.limit(name), "busy": busy, "paused": queue.is_paused, **counts}

    def _get(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue()
        return self._queues[name]

    def _forget(self, name: str) -> None:
        if self._queues[name].is_forgettable:
            del self._queues[name]
