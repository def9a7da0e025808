"""The expiry queue: when jobs expire that have not started by then (``--expires``).

Times are on the monotonic clock. Most jobs start long before they expire, so entries of the heap that are no
longer needed are removed when they are more than half of it.
"""

from heapq import heapify, heappop, heappush
from math import inf

MIN_SWEPT = 1000
"""Entries from which on outdated ones are removed: fewer are not worth it."""


class ExpiryQueue:
    """Ids of jobs by the time at which they expire, and those that have ``expired``.

    Of an array, the array's id stands for all its tasks that have not started. The end of an expired job is
    yet to be recorded.
    """

    def __init__(self) -> None:
        self.expired: set[int] = set()
        self._times: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    @property
    def size(self) -> int:
        """The number of entries, also of outdated ones."""
        return len(self._heap)

    def add(self, job_id: int, expires_at: float) -> None:
        """Add a job, or set another time for it."""
        self._times[job_id] = expires_at
        heappush(self._heap, (expires_at, job_id))

    def discard(self, job_id: int) -> None:
        """Remove a job: it has started or ended."""
        self.expired.discard(job_id)
        if self._times.pop(job_id, None) is not None and len(self._heap) > 2 * len(self._times) + MIN_SWEPT:
            self._heap = [(time, each) for each, time in self._times.items()]
            heapify(self._heap)

    def time_of(self, job_id: int) -> float | None:
        """Return when a job expires; None if it has expired, or never does."""
        return self._times.get(job_id)

    def has_expired(self, job_id: int, now: float) -> bool:
        """Whether a job is expired, or is due."""
        return job_id in self.expired or self._times.get(job_id, inf) <= now

    def expire(self, job_id: int) -> None:
        """Add a job that is due to those that have expired."""
        self._times.pop(job_id, None)
        self.expired.add(job_id)

    def pop_due(self, now: float, limit: int) -> list[int]:
        """Return the first jobs that are due, up to a limit, which have expired now."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(due) < limit:
            time, job_id = heappop(self._heap)
            if self._times.get(job_id) == time:
                self.expire(job_id)
                due.append(job_id)
        return due

    def next_due(self) -> float | None:
        """Return when the next job expires, None if none does."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None
