"""Queues: their slots, whether they are paused, and how many of their jobs have which status.

A queue exists as soon as a job names it. Its slots are those of the settings, unless SET-QUEUE has set
others. Nothing here is about a single job.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, cast

from sortedcontainers import SortedDict

from taskqd.model.events import Configured, Paused, QueueEvent, Resized, Resumed
from taskqd.model.job import Job, Status
from taskqd.model.packed_attempt import times
from taskqd.model.rate import NO_RATE, Rate, parse_rate
from taskqd.model.spec import DEFAULT_QUEUE

MAX_DURATIONS = 50
"""Latest attempts of a queue from which the start of a job is estimated."""

NAME_BATCH = 100
"""Names of queues that ``Queues.describe`` looks up at a time."""

_FINAL = tuple(status for status in Status if status.is_final)
_PENDING = Status.PENDING
_STATUS_CODE = attrgetter("status.code")
_NOTHING: Mapping[str, bool | str] = {}


class Queue:
    """One queue.

    ``resized`` are the slots that SET-QUEUE has set: 0 for no limit, None if it has set none. ``configured``
    are the other settings that it has set, by name (events.Configured). ``durations`` are those of the latest
    attempts, in seconds; they are not compared.
    """

    __slots__ = ("configured", "counts", "durations", "is_paused", "resized")

    def __init__(self) -> None:
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.is_paused = False
        self.resized: int | None = None
        self.configured: Mapping[str, bool | str] = _NOTHING
        self.durations: deque[float] | None = None  # created when needed: it takes most of the memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self._compared() == other._compared()

    def _compared(self) -> tuple[object, ...]:
        return self.counts, self.is_paused, self.resized, self.configured

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def record_duration(self, seconds: float) -> None:
        """Record the duration of an attempt."""
        if self.durations is None:
            self.durations = deque(maxlen=MAX_DURATIONS)
        self.durations.append(seconds)

    @property
    def is_default(self) -> bool:
        """Whether it is the same as a queue that no job has named."""
        is_set = self.is_paused or self.resized is not None or bool(self.configured)
        return not is_set and not any(self.counts.values())


class Queues:
    """The queues by name; ``limits`` are the slots of the settings, ``fair`` and ``rates`` their others.

    ``pausing`` has the queues whose pause is being written to the journal, and None if everything is being
    paused. Their jobs must not start, or the start could be recorded after the pause. It is not compared.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        fair: Mapping[str, bool] | None = None,
        rates: Mapping[str, Rate] | None = None,
    ) -> None:
        self.is_paused = False
        self.pausing: list[str | None] = []
        self._limits = limits
        self._fair = fair or {}
        self._rates = rates or {}
        self._queues: SortedDict[str, Queue] = SortedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queues) and (self.is_paused, self._queues) == (
            other.is_paused,
            other._queues,
        )

    __hash__ = None  # type: ignore[assignment]  # as above

    def limit(self, name: str) -> int | None:
        """Return a queue's slots, None if the queue has no limit."""
        queue = self._queues.get(name)
        if queue is not None and queue.resized is not None:
            return queue.resized or None
        return self._limits.get(name)

    def is_fair(self, name: str) -> bool:
        """Whether the owners of a queue's jobs take turns."""
        queue = self._queues.get(name)
        if queue is not None and "fair" in queue.configured:
            return bool(queue.configured["fair"])
        return self._fair.get(name, False)

    def rate(self, name: str) -> Rate | None:
        """Return the start rate of a queue, None if it has none."""
        queue = self._queues.get(name)
        if queue is not None and "rate" in queue.configured:
            text = str(queue.configured["rate"])
            return None if text == NO_RATE else parse_rate(text)
        return self._rates.get(name)

    def with_starts(self) -> set[str]:
        """Return the queues for which it matters what has started: they are fair or have a rate."""
        names = {*self._fair, *self._rates, *(name for name in self._queues if self._queues[name].configured)}
        return {name for name in names if self.is_fair(name) or self.rate(name) is not None}

    def has_pause(self, name: str) -> bool:
        """Whether no job of a queue may start: the queue or everything is paused, or is about to be."""
        queue = self._queues.get(name)
        is_paused = self.is_paused or (queue is not None and queue.is_paused)
        return is_paused or (bool(self.pausing) and (None in self.pausing or name in self.pausing))

    def apply(self, event: QueueEvent) -> None:
        """Apply an event that names a queue, or pauses or resumes everything."""
        if isinstance(event, Resized):
            self._get(event.queue).resized = event.slots
            self._discard_default(event.queue)
        elif isinstance(event, Configured):
            queue = self._get(event.queue)
            configured = {**queue.configured, event.setting: event.value}
            queue.configured = {name: value for name, value in configured.items() if value is not None}
            self._discard_default(event.queue)
        else:
            self._set_paused(cast("Paused | Resumed", event).queue, isinstance(event, Paused))

    def _set_paused(self, name: str | None, is_paused: bool) -> None:
        if name is None:
            self.is_paused = is_paused
        else:
            self._get(name).is_paused = is_paused
            self._discard_default(name)

    def job_added(self, name: str, count: int = 1) -> None:
        """Count new PENDING jobs of a queue."""
        queue = self._queues.get(name) or self._get(name)
        queue.counts[_PENDING] += count

    def job_moved(self, name: str, before: Status | None, after: Status | None, count: int = 1) -> None:
        """Count jobs whose status has changed.

        ``before`` is None if they were in another queue, ``after`` if they are in another one or removed.
        """
        if before is after:
            return
        queue = self._get(name)
        if after is not None:
            queue.counts[after] += count
        if before is not None:
            queue.counts[before] -= count
            if after is None:
                self._discard_default(name)

    def jobs_ended(self, name: str, jobs: Sequence[Job]) -> dict[Status, int]:
        """Count jobs that are known only since they ended, with packed attempts; return how many by status.

        The durations of their attempts are recorded.
        """
        queue = self._get(name)
        codes = bytes(map(_STATUS_CODE, jobs))
        counts = {status: codes.count(status.code) for status in _FINAL}
        for status, count in counts.items():
            queue.counts[status] += count
        packed = [job.last_attempt for job in jobs[-MAX_DURATIONS:]]
        for started_at, ended_at in times(cast("list[bytes]", packed)):
            queue.record_duration(max(0.0, ended_at - started_at))
        return counts

    def record_duration(self, name: str, seconds: float) -> None:
        """Record the duration of an attempt of a queue's job."""
        self._get(name).record_duration(seconds)

    def recent_durations(self, name: str) -> list[float]:
        """Return the durations of the latest attempts of a queue's jobs, in seconds."""
        queue = self._queues.get(name)
        return [] if queue is None or queue.durations is None else list(queue.durations)

    def running(self, name: str) -> int:
        """Return how many jobs of a queue are RUNNING."""
        return self._queues[name].counts[Status.RUNNING] if name in self._queues else 0

    def describe(self, busy: Callable[[str], int]) -> Iterator[dict[str, Any]]:
        """Yield the description of each queue, by name; ``busy(name)`` is the number of its allocated slots.

        Queues may be added and removed meanwhile; each is described at most once.
        """
        names = self._names_after("")
        while names:
            for name in names:
                if name in self._queues or self._is_permanent(name):
                    yield self.describe_one(name, busy(name))
            names = self._names_after(names[-1])

    def _names_after(self, last: str) -> list[str]:
        """Return the next names in order, an empty list at the end."""
        known = islice(self._queues.irange(last, inclusive=(False, True)), NAME_BATCH)
        permanent = (name for name in self._permanent() if name > last)
        return sorted({*known, *permanent})[:NAME_BATCH]

    def _permanent(self) -> tuple[str, ...]:
        """Return the queues that exist without jobs, with repetitions."""
        return DEFAULT_QUEUE, *self._limits, *self._fair, *self._rates

    def _is_permanent(self, name: str) -> bool:
        return name in self._permanent()

    def describe_one(self, name: str, busy: int) -> dict[str, Any]:
        """Return the description of a queue, as QUEUES sends it."""
        queue = self._queues.get(name) or Queue()
        counts = {status.value.lower(): count for status, count in queue.counts.items()}
        rate = self.rate(name)
        return {
            "name": name,
            "slots": self.limit(name),
            "busy": busy,
            "paused": queue.is_paused,
            **counts,
            "fair": self.is_fair(name),
            "rate": None if rate is None else rate.text,
        }

    def _get(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue()
        return self._queues[name]

    def _discard_default(self, name: str) -> None:
        if self._queues[name].is_default:
            del self._queues[name]
