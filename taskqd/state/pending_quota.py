"""Quotas of pending jobs: in total and per owner, including submissions that are not durable yet."""

from collections.abc import Sequence
from typing import NamedTuple

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.errors import QueueFull
from taskqd.model.footprint import GROUP_BYTES, footprint_of_all
from taskqd.model.job import Status
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.state.queue_state import QueueState

_PENDING = Status.PENDING


class Pending(NamedTuple):
    """A number of pending jobs, and the bytes of memory that they take (footprint.py)."""

    jobs: int = 0
    bytes: int = 0


def job_count(spec: Spec) -> int:
    """Return how many pending jobs a submission adds: for an array, one per task."""
    return 1 if spec.array is None else spec.array.count


def pending_in_all(queue_state: QueueState) -> Pending:
    """Return the total of pending jobs."""
    return Pending(queue_state.counts[Status.PENDING], queue_state.pending_bytes)


def pending_of(queue_state: QueueState, owner: str) -> Pending:
    """Return the pending jobs of one owner."""
    return Pending(queue_state.pending_of(owner), queue_state.pending_bytes_of(owner))


def check_pending(pending: Pending, more: Pending, limit: PendingLimit, owner: str | None = None) -> None:
    """Raise QueueFull if ``more`` would exceed the limit of an owner, or if None, the limit for all."""
    if limit.jobs is not None and more.jobs and pending.jobs + more.jobs > limit.jobs:
        raise _full(_jobs(more.jobs), _jobs(pending.jobs, "pending "), str(limit.jobs), "pending", owner)
    if limit.bytes is not None and more.bytes and pending.bytes + more.bytes > limit.bytes:
        present = f"{pending.bytes} bytes of pending jobs"
        raise _full(f"{more.bytes} bytes", present, f"{limit.bytes} bytes", "pending-bytes", owner)


def _jobs(count: int, adjective: str = "") -> str:
    return f"{count} {adjective}{'job' if count == 1 else 'jobs'}"


def _full(more: str, present: str, maximum: str, name: str, owner: str | None) -> QueueFull:
    holder, scope = ("the daemon", "all users") if owner is None else (owner, "one user")
    setting = name if owner is None else f"{name}-per-user"
    return QueueFull(
        f"cannot add {more}: {holder} has {present}, the limit for {scope} is {maximum} ({setting}); "
        "retry when some have started"
    )


class Reservation(NamedTuple):
    """The jobs, and their bytes, of submissions of an owner that are accepted but not durable yet."""

    owner: str
    jobs: int
    bytes: int


class PendingQuota:
    """Counts submissions that are accepted but not in ``queue_state`` yet; ``limit`` is for all owners."""

    def __init__(self, queue_state: QueueState, limit: PendingLimit = UNBOUNDED) -> None:
        self._queue_state = queue_state
        self._limit = limit
        self._jobs = 0
        self._bytes = 0
        self._jobs_of: dict[str, int] = {}
        self._bytes_of: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no submission is counted."""
        return not (self._jobs or self._bytes or self._jobs_of or self._bytes_of)

    def reserve(
        self, owner: str, commands: Sequence[str], spec: Spec, limit: PendingLimit = UNBOUNDED
    ) -> Reservation:
        """Count submissions, until they are released.

        Raises QueueFull if they exceed, all together, the limit for all or that of their owner.
        """
        count = job_count(spec) * len(commands)
        more, queue_state = footprint_of_all(commands, spec), self._queue_state
        if spec is not DEFAULT_SPEC and not queue_state.has_group(owner, spec):
            more += GROUP_BYTES
        jobs, size = self._jobs + count, self._bytes + more
        if _exceeds(self._limit, queue_state.counts[_PENDING] + jobs, queue_state.pending_bytes + size):
            pending = Pending(
                queue_state.counts[_PENDING] + self._jobs, queue_state.pending_bytes + self._bytes
            )
            check_pending(pending, Pending(count, more), self._limit)
        jobs_of, bytes_of = self._jobs_of.get(owner, 0), self._bytes_of.get(owner, 0)
        if limit is not UNBOUNDED:
            of_owner = queue_state.pending_of(owner) + jobs_of, queue_state.pending_bytes_of(owner) + bytes_of
            if _exceeds(limit, of_owner[0] + count, of_owner[1] + more):
                check_pending(Pending(*of_owner), Pending(count, more), limit, owner)
        self._jobs, self._bytes = jobs, size
        self._jobs_of[owner], self._bytes_of[owner] = jobs_of + count, bytes_of + more
        return Reservation(owner, count, more)

    def release(self, *reservations: Reservation) -> None:
        """Stop counting submissions that are in the queue state now or have failed."""
        for owner, count, less in reservations:
            self._jobs -= count
            self._bytes -= less
            self._jobs_of[owner] -= count
            self._bytes_of[owner] -= less
            if not self._jobs_of[owner]:
                del self._jobs_of[owner], self._bytes_of[owner]


def _exceeds(limit: PendingLimit, jobs: int, size: int) -> bool:
    max_jobs, max_bytes = limit
    return (max_jobs is not None and jobs > max_jobs) or (max_bytes is not None and size > max_bytes)
