"""The delay queue: jobs that wait only for their time.

A job is due either at a time of day (a dated job, submitted with ``--at``) or at a time on the monotonic
clock (after ``--delay`` or before a retry). Setting the system clock moves the former relative to the latter,
so there is one heap for each. An entry is not removed when its job is changed, held or removed; it is
recognised as outdated and dropped when it reaches the front.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush, merge
from itertools import islice
from typing import cast

from taskqd.model.job import Job


class DelayQueue:
    """Jobs by due time, in seconds; ``is_ready(job)`` tells whether a job waits only for its time.

    The untouched tasks of an array have one entry, with the id of the array, for their shared state.
    """

    def __init__(self, jobs: Mapping[int, Job], is_ready: Callable[[Job], bool]) -> None:
        self._jobs = jobs
        self._is_ready = is_ready
        self._dated: list[tuple[float, int]] = []
        self._monotonic: list[tuple[float, int]] = []

    def add(self, job: Job) -> None:
        """Add a job that has a ``not_before``."""
        heappush(self._dated if job.is_dated else self._monotonic, (cast(float, job.not_before), job.id))

    def add_all(self, jobs: Iterable[Job]) -> None:
        """Fill an empty queue; for many jobs this is faster than ``add``."""
        for job in jobs:
            heap = self._dated if job.is_dated else self._monotonic
            heap.append((cast(float, job.not_before), job.id))
        heapify(self._dated)
        heapify(self._monotonic)

    def pop_due(self, now: float, time_of_day: float) -> Iterator[Job]:
        """Remove and yield the jobs that are due; ``now`` is the time on the monotonic clock."""
        for heap, is_dated, until in ((self._monotonic, False, now), (self._dated, True, time_of_day)):
            while heap and heap[0][0] <= until:
                job = self._current(is_dated, *heappop(heap))
                if job is not None:
                    yield job

    def next_due(self, ahead: float) -> float | None:
        """Return when the next job is due on the monotonic clock, None if there is none.

        ``ahead`` is how far the time of day is ahead of that clock.
        """
        times = []
        for heap, is_dated, offset in ((self._monotonic, False, 0.0), (self._dated, True, ahead)):
            while heap and self._current(is_dated, *heap[0]) is None:
                heappop(heap)
            if heap:
                times.append(heap[0][0] - offset)
        return min(times, default=None)

    def first(self, count: int, ahead: float) -> list[int]:
        """Return the ids of the jobs that are due first, by time, from ``count`` entries.

        ``ahead`` is that of ``next_due``.
        """
        heaps = (self._monotonic, False, 0.0), (self._dated, True, ahead)
        entries = merge(
            *(
                [(at - offset, job_id, at, is_dated) for at, job_id in _smallest(heap, count)]
                for heap, is_dated, offset in heaps
            )
        )
        return [
            job_id
            for _, job_id, at, is_dated in islice(entries, count)
            if self._current(is_dated, at, job_id) is not None
        ]

    def _current(self, is_dated: bool, due_at: float, job_id: int) -> Job | None:
        """Return the job of an entry, None if the entry is outdated."""
        job = self._jobs.get(job_id)
        if job is not None and job.tasks is not None:
            job = job.tasks.shared if job.tasks.untouched else None
        if job is None or (job.not_before, job.is_dated) != (due_at, is_dated) or not self._is_ready(job):
            return None
        return job


def _smallest(heap: list[tuple[float, int]], count: int) -> Iterator[tuple[float, int]]:
    """Yield the smallest entries of a heap, ascending, in a time that does not depend on its size."""
    places = [(heap[0], 0)] if heap else []
    for _ in range(min(count, len(heap))):
        entry, place = heappop(places)
        yield entry
        for child in range(2 * place + 1, min(2 * place + 3, len(heap))):
            heappush(places, (heap[child], child))
