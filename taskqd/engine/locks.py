"""Locks by key, first come, first served. A command holds the lock of its job until its event is applied.

So each decision about a job sees the outcome of the previous one.
"""

from collections import deque
from collections.abc import Collection, Hashable, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from taskqd.model.job import Job

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class KeyedLock(Generic[Key]):
    """A FIFO lock for each key. A key that is not locked takes no memory."""

    def __init__(self) -> None:
        self._waiters: dict[Key, deque[Deferred[None]]] = {}
        self._released: deque[Key] = deque()
        self._is_resuming = False

    @property
    def locked_count(self) -> int:
        """The number of keys that are locked."""
        return len(self._waiters)

    def is_locked(self, key: Key) -> bool:
        """Whether the lock of a key is held."""
        return key in self._waiters

    def locked_among(self, keys: Collection[Key]) -> list[Key]:
        """Return those of some keys whose locks are held."""
        return [key for key in self._waiters if key in keys]

    def is_any_locked(self, keys: range) -> bool:
        """Whether any of the locks of a range of keys is held."""
        if len(self._waiters) < len(keys):
            return any(key in keys for key in self._waiters)
        return any(key in self._waiters for key in keys)

    def try_acquire(self, key: Key) -> bool:
        """Acquire the lock of a key unless it is held; return whether the caller must release it."""
        if key in self._waiters:
            return False
        self._waiters[key] = deque()
        return True

    async def acquire(self, key: Key) -> None:
        """Wait for the lock of a key. The caller must release it."""
        if key not in self._waiters:
            self._waiters[key] = deque()
            return
        waiter: Deferred[None] = Deferred()
        self._waiters[key].append(waiter)
        await waiter

    def release(self, key: Key) -> None:
        """Release the lock of a key and resume its next waiter.

        Waiters are resumed one after the other and not recursively, so that any number of them that release
        at once cannot exhaust the stack.
        """
        self._released.append(key)
        if self._is_resuming:
            return
        self._is_resuming = True
        try:
            while self._released:
                self._resume_next(self._released.popleft())
        finally:
            self._is_resuming = False

    def _resume_next(self, key: Key) -> None:
        waiters = self._waiters[key]
        if waiters:
            waiters.popleft().callback(None)
        else:
            del self._waiters[key]


class JobLocks:
    """The locks of jobs. The lock of an array covers its tasks.

    A command for a task acquires the array's lock first, so it waits for a command for the whole array. A
    command for the array keeps the array's lock and waits for those tasks whose own locks are held.
    """

    def __init__(self) -> None:
        self._locks: KeyedLock[int] = KeyedLock()

    @property
    def locked_count(self) -> int:
        """The number of jobs that are locked."""
        return self._locks.locked_count

    def of(self, job: Job) -> "JobLock":
        """Return the lock of a job, for ``async with``."""
        return JobLock(self._locks, job)

    def try_acquire(self, job: Job) -> bool:
        """Acquire the lock of a job if that needs no wait; return whether the caller must ``release`` it."""
        if job.array is not None and self._locks.is_locked(job.array):
            return False
        if job.tasks is not None and self._locks.is_any_locked(job.tasks.ids):
            return False
        return self._locks.try_acquire(job.id)

    def release(self, job: Job) -> None:
        """Release the lock of a job that ``try_acquire`` has acquired."""
        self._locks.release(job.id)


class JobLock:
    """The lock of one job, held within an ``async with``; the end of the block waits for nothing."""

    __slots__ = ("_held", "_job", "_locks")

    def __init__(self, locks: KeyedLock[int], job: Job) -> None:
        self._locks = locks
        self._job = job
        self._held: list[int] = []

    async def __aenter__(self) -> None:
        job, locks = self._job, self._locks
        if job.array is not None:
            await locks.acquire(job.array)
            await locks.acquire(job.id)
            locks.release(job.array)
            self._held.append(job.id)
            return
        await locks.acquire(job.id)
        self._held.append(job.id)
        for task in locks.locked_among(job.tasks.ids) if job.tasks else ():
            await locks.acquire(task)
            self._held.append(task)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job_id in self._held:
            self._locks.release(job_id)


async def gather_results(deferreds: Iterable["Deferred[Value]"]) -> list[Value | Failure]:
    """Wait for all Deferreds; return the result of each, or its Failure."""
    results: list[Any] = await DeferredList(deferreds, consumeErrors=True)
    return [result for _, result in results]
