"""Watches what attempts with a limit of memory use: reads it, reports it, and notices who is over the limit.

Attempts are read all together, in a thread, and rarely enough that all readings use about 1 % of a CPU, those
of attempts that grow fast more often than the others. Exact readings come on top, with up to 2 %, and only of
attempts with much memory in several processes, or about to be ended.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import thread_time
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution.messages import AttemptKey, MemoryUse
from taskqd.runner.memory_reader import Sum, Target
from taskqd.runner.watched_memory import EXACT_IDLE_FACTOR, WatchedMemory
from taskqd.storage.interfaces import InThread

IDLE_FACTOR = 124.0
"""After a reading, wait for this many times its CPU time. That is 0.8 % of a CPU; the reactor needs 0.2 %."""
MAX_EXACT = 16
"""Exact readings at a time, besides those of attempts that may be over their limit."""

OnOver = Callable[[int], object]
"""Called with the bytes that an attempt uses, at each reading that is above its limit."""


class Reader(Protocol):
    """Reads the memory of attempts, as MemoryReader does."""

    def find(self, now: float) -> None: ...

    def sums(self, targets: Iterable[Target]) -> Mapping[AttemptKey, Sum]: ...

    def exact(self, target: Target) -> int: ...

    def clear(self) -> None: ...


class _Exact(NamedTuple):
    """An exact reading, and the CPU time that it took in seconds."""

    size: int
    cost: float


class MemoryWatch:
    """Attempts with a limit of memory. ``on_measured(uses)`` is called with those whose use has changed."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        in_thread: InThread,
        reader: Reader,
        cpu_time: Callable[[], float] = thread_time,
    ) -> None:
        self.on_measured: Callable[[list[MemoryUse]], object] = lambda _: None
        self._clock = clock
        self._in_thread = in_thread
        self._reader = reader
        self._cpu_time = cpu_time
        self._watched: dict[AttemptKey, tuple[WatchedMemory, OnOver]] = {}
        self._call: IDelayedCall | None = None
        self._is_reading = False
        self._is_failing = False
        self._not_before = 0.0
        self._exact_not_before = 0.0

    def add(self, target: Target, limit: int, on_over: OnOver) -> None:
        """Watch an attempt whose first process runs."""
        self._watched[target.key] = WatchedMemory(target, limit, self._clock.seconds()), on_over
        self._schedule()

    def remove(self, key: AttemptKey) -> int:
        """Watch an attempt no longer; return the peak of its memory in bytes, 0 if it is unknown."""
        watched, _ = self._watched.pop(key, (None, None))
        if not self._watched and self._call is not None:
            self._call.cancel()
            self._call = None
            self._schedule()
        return 0 if watched is None else watched.peak

    def uses(self) -> list[MemoryUse]:
        """Return what each attempt uses, if it has been read."""
        return [_use(watched) for watched, _ in self._watched.values() if watched.is_read]

    def _schedule(self) -> None:
        if self._is_reading:
            return
        if not self._watched:
            self._reader.clear()
            return
        due = min(watched.due for watched, _ in self._watched.values())
        delay = max(0.0, max(due, self._not_before) - self._clock.seconds())
        if self._call is None:
            self._call = self._clock.callLater(delay, self._read)
        elif self._call.getTime() > self._clock.seconds() + delay:
            self._call.reset(delay)

    def _read(self) -> None:
        self._call = None
        self._is_reading = True
        now = self._clock.seconds()
        due = [watched.target for watched, _ in self._watched.values() if watched.due <= now]
        reading = self._in_thread(self._read_sums, due, now).addCallback(self._on_sums, now)
        reading.addErrback(self._on_failure).addCallback(self._notify).addErrback(self._on_internal_error)
        reading.addCallback(self._on_read)

    def _read_sums(self, targets: Sequence[Target], now: float) -> tuple[Mapping[AttemptKey, Sum], float]:
        started = self._cpu_time()
        self._reader.find(now)
        sums = self._reader.sums(targets)
        return sums, self._cpu_time() - started

    def _on_sums(self, result: tuple[Mapping[AttemptKey, Sum], float], now: float) -> object:
        sums, cost = result
        self._is_failing = False
        self._not_before = self._clock.seconds() + IDLE_FACTOR * cost
        for key, total in sums.items():
            if key in self._watched:
                self._watched[key][0].read(total, now)
        wanted = self._choose_exact(now)
        if not wanted:
            return None
        return self._in_thread(self._read_exact, wanted).addCallback(self._on_exact)

    def _choose_exact(self, now: float) -> list[Target]:
        """Return the attempts to read exactly: the pressing ones, and others if they can be afforded."""
        wanted = [watched for watched, _ in self._watched.values() if watched.needs_exact(now)]
        pressing = [watched for watched in wanted if watched.is_pressing]
        others = [watched for watched in wanted if not watched.is_pressing]
        others.sort(key=lambda watched: watched.exact_at or 0.0)
        chosen = pressing + (others[:MAX_EXACT] if now >= self._exact_not_before else [])
        return [watched.target for watched in chosen]

    def _read_exact(self, targets: Sequence[Target]) -> Mapping[AttemptKey, _Exact]:
        readings = {}
        for target in targets:
            started = self._cpu_time()
            size = self._reader.exact(target)
            readings[target.key] = _Exact(size, self._cpu_time() - started)
        return readings

    def _on_exact(self, readings: Mapping[AttemptKey, _Exact]) -> None:
        now = self._clock.seconds()
        cost = sum(reading.cost for reading in readings.values())
        self._exact_not_before = max(self._exact_not_before, now + EXACT_IDLE_FACTOR * cost)
        for key, reading in readings.items():
            if key in self._watched:
                self._watched[key][0].read_exactly(reading.size, now, reading.cost)

    def _on_failure(self, failure: Failure) -> None:
        """Try again later: the machine may lack descriptors."""
        failure.trap(OSError)
        if not self._is_failing:
            self._is_failing = True
            self._log.error("the memory of jobs cannot be read: {why}", why=failure.value)
        for watched, _ in self._watched.values():
            watched.postpone(self._clock.seconds())

    def _notify(self, _: object) -> None:
        """Report what has changed, and who is over the limit."""
        now = self._clock.seconds()
        uses = [_use(watched) for watched, _ in self._watched.values() if watched.report(now)]
        if uses:
            self.on_measured(uses)
        for watched, on_over in list(self._watched.values()):
            if watched.is_over:
                on_over(watched.used)

    def _on_internal_error(self, failure: Failure) -> None:
        self._log.failure("internal error in reading the memory of jobs", failure)

    def _on_read(self, _: object) -> None:
        self._is_reading = False
        self._schedule()


def _use(watched: WatchedMemory) -> MemoryUse:
    id_, attempt, word = watched.target.key
    return MemoryUse(id_, attempt, word, watched.used, watched.peak)
