"""Finished jobs by age, for the retention. The tasks of an array are removed together with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import cast

from taskqd.model.footprint import footprint_of_ended, footprint_of_kept
from taskqd.model.job import Job
from taskqd.model.packed_attempt import times
from taskqd.model.spec import DEFAULT_SPEC
from taskqd.state.end_queue import End, EndQueue
from taskqd.state.environment_uses import EnvironmentUses

_OUTPUT_BYTES = attrgetter("output_bytes")
MAX_BATCH = 50
"""Jobs that ``pop_expired`` returns at most."""

MAX_VISITED = 2000
"""Entries of the queue that ``pop_expired`` visits, at 1 µs each: many may be outdated after a RETRY."""


class RetentionIndex:
    """The finished jobs among ``jobs``, oldest first, and what they occupy together.

    ``is_needed(id)`` tells whether a job must not be removed. A job that ``pop_expired`` returned counts as
    removed until it is, or until ``retain`` is called for it. Outdated entries of the queue are ignored.
    ``may_have_more`` tells whether the last ``pop_expired`` has stopped before it had visited all entries.
    """

    def __init__(self, jobs: Mapping[int, Job], is_needed: Callable[[int], bool]) -> None:
        self.count = 0
        self.bytes = 0
        self.memory = 0
        self._expiring_bytes = 0
        self._expiring_memory = 0
        self._environments = EnvironmentUses()  # of finished jobs that do not expire
        self._jobs = jobs
        self._is_needed = is_needed
        self._ended = EndQueue()
        self._expiring: set[int] = set()
        self.may_have_more = False

    def add(self, job: Job) -> None:
        """Add a job that has ended."""
        ended = job.ended
        if job.array is None and ended is not None:
            self.count += 1
            self.bytes += job.kept_bytes
            self.memory += footprint_of_kept(job)
            self._add_environment(job)
            self._ended.add(ended, job.id)

    def add_ended(self, jobs: Sequence[Job]) -> None:
        """Add jobs that are no tasks and have ended, with packed attempts."""
        self.count += len(jobs)
        self.bytes += sum(map(_OUTPUT_BYTES, jobs))
        for job in jobs:
            if job.spec is not DEFAULT_SPEC:
                self.bytes += job.input_bytes
                self._add_environment(job)
        self.memory += footprint_of_ended(jobs)
        attempts = times(cast("list[bytes]", [job.last_attempt for job in jobs]))
        ends = [(at - job.ahead, job.id) for job, (_, at) in zip(jobs, attempts, strict=True)]
        self._ended.add_all(sorted(ends))

    def discard(self, job: Job) -> None:
        """Remove a finished job that runs again or has been removed."""
        if job.array is None:
            self.count -= 1
            self.bytes -= job.kept_bytes
            self.memory -= footprint_of_kept(job)
            self._unmark(job)
            self._discard_environment(job)

    def pop_expired(
        self, before: float, max_count: int, max_bytes: int | None = None, max_memory: int | None = None
    ) -> list[int]:
        """Return the ids of the oldest jobs that are to be removed, up to MAX_BATCH.

        Those are the jobs that ended before a time (on the monotonic clock, as ``Job.ended``), and those by
        which the finished jobs exceed a number, a size of kept output and input, or a footprint in memory;
        None is no limit. An environment that several of them have counts once. The sizes never expire the
        last finished job.
        """
        ids: list[int] = []
        self.may_have_more = False
        for _ in range(MAX_VISITED):
            if not self._ended:
                return ids
            if len(ids) == MAX_BATCH:
                break
            ended_at, job_id = self._ended.first
            if self._is_stale(ended_at, job_id) or self._is_needed(job_id):
                self._ended.pop()  # `reconsider` adds a needed job again
            elif ended_at < before or self._is_over(max_count, max_bytes, max_memory):
                self._ended.pop()
                self._expiring.add(job_id)
                self._expiring_bytes += self._jobs[job_id].kept_bytes
                self._expiring_memory += footprint_of_kept(self._jobs[job_id])
                self._discard_environment(self._jobs[job_id])
                ids.append(job_id)
            else:
                return ids
        self.may_have_more = True
        return ids

    def latest(self) -> Iterator[End]:
        """Yield the ends of jobs, the latest first; some may be outdated, those of needed jobs missing."""
        return self._ended.latest()

    def retain(self, job_id: int) -> None:
        """Undo the expiry of a job that could not be removed."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._unmark(job)
        self.reconsider(job_id)

    def _is_over(self, max_count: int, max_bytes: int | None, max_memory: int | None) -> bool:
        count = self.count - len(self._expiring)
        kept = self.bytes - self._expiring_bytes + self._environments.bytes
        is_over = max_bytes is not None and kept > max_bytes
        if max_memory is not None:
            is_over = is_over or self.memory - self._expiring_memory > max_memory
        return count > max_count or (is_over and count > 1)

    def _unmark(self, job: Job) -> None:
        if job.id in self._expiring:
            self._expiring.discard(job.id)
            self._expiring_bytes -= job.kept_bytes
            self._expiring_memory -= footprint_of_kept(job)
            self._add_environment(job)

    def _add_environment(self, job: Job) -> None:
        if job.spec.environment is not None:
            self._environments.add(job.spec.environment)

    def _discard_environment(self, job: Job) -> None:
        if job.spec.environment is not None:
            self._environments.discard(job.spec.environment)

    def reconsider(self, job_id: int) -> None:
        """Consider a job again that was needed when it expired."""
        job = self._jobs.get(job_id)
        ended = None if job is None else job.ended
        if job is not None and ended is not None and job.array is None:
            self._ended.add(ended, job_id)

    def _is_stale(self, ended_at: float, job_id: int) -> bool:
        job = self._jobs.get(job_id)
        return job is None or job.ended != ended_at or job_id in self._expiring
