"""The jobs that have ended, oldest first, for the retention: those of an array go with it."""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from taskqd.model.footprint import footprint_of
from taskqd.model.job import Job

AT_ONCE = 50
"""``take`` returns so many jobs at most."""


class RetentionIndex:
    """``jobs`` are all that are known; ``is_needed(id)`` tells whether one has to stay nevertheless.

    Those that are taken count as removed from then on, until they are, or are given back by ``keep``. An
    entry of the heap whose job has moved on since is passed over.
    """

    def __init__(self, jobs: Mapping[int, Job], is_needed: Callable[[int], bool]) -> None:
        self.count = 0
        self.bytes = 0
        self.memory = 0
        self._expiring_bytes = 0
        self._expiring_memory = 0
        self._jobs = jobs
        self._is_needed = is_needed
        self._ended: list[tuple[float, int]] = []
        self._expiring: set[int] = set()

    def add(self, job: Job) -> None:
        """Take in a job that has ended."""
        if job.array is None and job.ended is not None:
            self.count += 1
            self.bytes += job.kept_bytes
            self.memory += footprint_of(job)
            heappush(self._ended, (job.ended, job.id))

    def discard(self, job: Job) -> None:
        """Take note that a job that had ended runs again or is removed."""
        if job.array is None:
            self.count -= 1
            self.bytes -= job.kept_bytes
            self.memory -= footprint_of(job)
            self._forget(job)

    def take(
        self, before: float, most: int, most_bytes: int | None = None, most_memory: int | None = None
    ) -> list[int]:
        """Return the ids of jobs that ended before a time or are more than ``most``, AT_ONCE at most.

        They are also those by which all that have ended keep more than ``most_bytes``, or take more than
        ``most_memory`` as `footprint` counts it; None is no limit. The last one stays, however much it keeps.
        The time is on the clock of ages, as `Job.ended` is.
        """
        ids: list[int] = []
        while self._ended and len(ids) < AT_ONCE:
            ended_at, job_id = self._ended[0]
            if self._is_stale(ended_at, job_id) or self._is_needed(job_id):
                heappop(self._ended)  # what is needed comes back by `reconsider`, once it is not
            elif ended_at < before or self._is_beyond(most, most_bytes, most_memory):
                heappop(self._ended)
                self._expiring.add(job_id)
                self._expiring_bytes += self._jobs[job_id].kept_bytes
                self._expiring_memory += footprint_of(self._jobs[job_id])
                ids.append(job_id)
            else:
                break
        return ids

    def keep(self, job_id: int) -> None:
        """Take back that a job has expired: it was not removed."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._forget(job)
        self.reconsider(job_id)

    def _is_beyond(self, most: int, most_bytes: int | None, most_memory: int | None) -> bool:
        count = self.count - len(self._expiring)
        is_beyond = most_bytes is not None and self.bytes - self._expiring_bytes > most_bytes
        if most_memory is not None:
            is_beyond = is_beyond or self.memory - self._expiring_memory > most_memory
        return count > most or (is_beyond and count > 1)

    def _forget(self, job: Job) -> None:
        if job.id in self._expiring:
            self._expiring.discard(job.id)
            self._expiring_bytes -= job.kept_bytes
            self._expiring_memory -= footprint_of(job)

    def reconsider(self, job_id: int) -> None:
        """Look at a job again that was passed over because it was needed."""
        job = self._jobs.get(job_id)
        if job is not None and job.ended is not None and job.array is None:
            heappush(self._ended, (job.ended, job_id))

    def _is_stale(self, ended_at: float, job_id: int) -> bool:
        job = self._jobs.get(job_id)
        return job is None or job.ended != ended_at or job_id in self._expiring
