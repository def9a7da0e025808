"""Counts of jobs: by status, queue and environment, and the pending ones of each owner, with their bytes."""

from collections import defaultdict

from taskqd.model.footprint import GROUP_BYTES, Group, group_of
from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec
from taskqd.state.environment_uses import EnvironmentUses
from taskqd.state.queues import Queues

_PENDING = Status.PENDING
"""A global of the module, which is several times faster to read than a member of an Enum."""


class JobCounts:
    """The counts of all jobs; of an array, its tasks count. ``queues`` has the counts of each queue."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.by_status: dict[Status, int] = dict.fromkeys(Status, 0)
        self.pending_bytes = 0
        self.environments = EnvironmentUses()
        self._pending_of: defaultdict[str, int] = defaultdict(int)
        self._pending_bytes_of: defaultdict[str, int] = defaultdict(int)
        self._groups: dict[tuple[str, Group], int] = {}  # the pending jobs of each owner by group

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobCounts) and self._compared() == other._compared()

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def _compared(self) -> tuple[object, ...]:
        by_owner = self._pending_of, self._pending_bytes_of
        pending = [{owner: count for owner, count in each.items() if count} for each in by_owner]
        return self.by_status, self.pending_bytes, pending, self._groups, self.environments

    def pending_of(self, owner: str) -> int:
        """Return how many jobs of an owner are PENDING."""
        return self._pending_of.get(owner, 0)

    def pending_bytes_of(self, owner: str) -> int:
        """Return the footprint of an owner's PENDING jobs and unfinished arrays, in bytes."""
        return self._pending_bytes_of.get(owner, 0)

    def add_new(self, job: Job, count: int) -> None:
        """Count new jobs that are like a job."""
        self.by_status[_PENDING] += count
        self._pending_of[job.owner] += count
        self.queues.job_added(job.spec.queue, count)

    def has_group(self, owner: str, spec: Spec) -> bool:
        """Whether a pending job of an owner already has the group of the ready queue that a spec needs."""
        group = group_of(spec)
        return group is None or (owner, group) in self._groups

    def add_pending(self, job: Job, size: int, count: int = 1) -> None:
        """Count jobs that are pending now; ``size`` is their footprint, without their group."""
        self.add_bytes(job, size)
        self._add_to_group(job, group_of(job.spec), count)

    def remove_pending(self, job: Job, size: int) -> None:
        """Count a job no more that was pending."""
        self.add_bytes(job, -size)
        self._add_to_group(job, group_of(job.spec), -1)

    def change_group(self, job: Job, before: Spec) -> None:
        """Count a pending job in the group that it has now, and not in the one of its spec ``before``."""
        if job.spec is not before and (group := group_of(before)) != (after := group_of(job.spec)):
            self._add_to_group(job, group, -1)
            self._add_to_group(job, after, 1)

    def _add_to_group(self, job: Job, group: Group | None, count: int) -> None:
        if group is None:
            return
        key = job.owner, group
        before = self._groups.get(key, 0)
        if before + count:
            self._groups[key] = before + count
            self.add_bytes(job, 0 if before else GROUP_BYTES)
        else:
            del self._groups[key]
            self.add_bytes(job, -GROUP_BYTES)

    def add_bytes(self, job: Job, more: int) -> None:
        """Count more bytes of a pending job, or fewer if ``more`` is negative."""
        self.pending_bytes += more
        self._pending_bytes_of[job.owner] += more

    def move(self, job: Job, queue: str, before: Status, after: Status, count: int = 1) -> None:
        """Update the counts of a job, or of jobs like it, that had another queue or status before."""
        self.by_status[before] -= count
        self.by_status[after] += count
        if before is not after and _PENDING in (before, after):
            self._pending_of[job.owner] += count if after is _PENDING else -count
        if queue == job.spec.queue:
            self.queues.job_moved(queue, before, after, count)
        else:
            self.queues.job_moved(job.spec.queue, None, after, count)
            self.queues.job_moved(queue, before, None, count)

    def remove(self, queue: str, status: Status, count: int = 1) -> None:
        """Count removed jobs of a queue no more."""
        self.by_status[status] -= count
        self.queues.job_moved(queue, status, None, count)
