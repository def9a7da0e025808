"""How much may be pending, in all and of one owner, with what is on its way to the disk."""

from typing import NamedTuple

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.errors import QueueFull
from taskqd.model.events import Submitted
from taskqd.model.footprint import footprint
from taskqd.model.job import Status
from taskqd.model.spec import Spec
from taskqd.state.queue_state import QueueState

_PENDING = Status.PENDING


class Pending(NamedTuple):
    """Pending jobs: how many there are, and how many bytes of memory they take (footprint.py)."""

    jobs: int = 0
    bytes: int = 0


def size(spec: Spec) -> int:
    """Return how many pending jobs a submission makes: of an array, its tasks."""
    return 1 if spec.array is None else spec.array.count


def pending_in_all(queue_state: QueueState) -> Pending:
    """Return what is pending."""
    return Pending(queue_state.counts[Status.PENDING], queue_state.pending_bytes)


def pending_of(queue_state: QueueState, owner: str) -> Pending:
    """Return what is pending of one owner."""
    return Pending(queue_state.pending_of(owner), queue_state.pending_bytes_of(owner))


def check_pending(pending: Pending, more: Pending, limit: PendingLimit, owner: str | None = None) -> None:
    """Raise QueueFull if ``more`` does not fit beside what is pending, of an owner or in all."""
    if limit.jobs is not None and more.jobs and pending.jobs + more.jobs > limit.jobs:
        are = "1 job is" if pending.jobs == 1 else f"{pending.jobs} jobs are"
        raise _full(f"{are} pending", more.jobs, "there would be", limit.jobs, "pending", owner)
    if limit.bytes is not None and more.bytes and pending.bytes + more.bytes > limit.bytes:
        take = f"{pending.bytes} bytes of memory are taken by pending jobs"
        raise _full(take, more.bytes, "it would be", limit.bytes, "pending-bytes", owner)


def _full(there: str, more: int, would: str, limit: int, name: str, owner: str | None) -> QueueFull:
    whose, setting = ("", name) if owner is None else (f" of {owner}", f"{name}-per-user")
    return QueueFull(
        f"{there}{whose}, and with {more} more {would} more than {limit}, which is the most "
        f"(limit {setting}); retry when some have started"
    )


class PendingQuota:
    """Counts what was let in and is not in ``queue_state`` yet; ``limit`` is for all owners together."""

    def __init__(self, queue_state: QueueState, limit: PendingLimit = UNBOUNDED) -> None:
        self._queue_state = queue_state
        self._limit = limit
        self._jobs = 0
        self._bytes = 0
        self._jobs_of: dict[str, int] = {}
        self._bytes_of: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._jobs or self._bytes or self._jobs_of or self._bytes_of)

    def take(self, owner: str, command: str, spec: Spec, limit: PendingLimit = UNBOUNDED) -> None:
        """Let a submission in, of an owner who may have so much pending; raises QueueFull."""
        count = size(spec)
        more, queue_state = footprint(command, spec), self._queue_state
        jobs, taken = self._jobs + count, self._bytes + more
        if _is_beyond(self._limit, queue_state.counts[_PENDING] + jobs, queue_state.pending_bytes + taken):
            there = Pending(
                queue_state.counts[_PENDING] + self._jobs, queue_state.pending_bytes + self._bytes
            )
            check_pending(there, Pending(count, more), self._limit)
        jobs_of, bytes_of = self._jobs_of.get(owner, 0), self._bytes_of.get(owner, 0)
        if limit is not UNBOUNDED:
            there_of = queue_state.pending_of(owner) + jobs_of, queue_state.pending_bytes_of(owner) + bytes_of
            if _is_beyond(limit, there_of[0] + count, there_of[1] + more):
                check_pending(Pending(*there_of), Pending(count, more), limit, owner)
        self._jobs, self._bytes = jobs, taken
        self._jobs_of[owner], self._bytes_of[owner] = jobs_of + count, bytes_of + more

    def arrived(self, *events: Submitted) -> None:
        """Forget submissions that are in the backlog now, or were refused after all."""
        for event in events:
            spec, owner = event.spec, event.owner
            count = size(spec)
            less = footprint(event.command, spec)
            self._jobs -= count
            self._bytes -= less
            self._jobs_of[owner] -= count
            self._bytes_of[owner] -= less
            if not self._jobs_of[owner]:
                del self._jobs_of[owner], self._bytes_of[owner]


def _is_beyond(limit: PendingLimit, jobs: int, taken: int) -> bool:
    most_jobs, most_bytes = limit
    return (most_jobs is not None and jobs > most_jobs) or (most_bytes is not None and taken > most_bytes)
