"""How much may be pending, in all and of one owner, with what is on its way to the disk."""

from typing import NamedTuple

from taskqd.backlog import Backlog
from taskqd.errors import QueueFull
from taskqd.events import Submitted
from taskqd.footprint import footprint
from taskqd.job import Spec, Status
from taskqd.quotas import UNBOUNDED, PendingLimit


class Pending(NamedTuple):
    """Pending jobs: how many there are, and how many bytes of memory they take (footprint.py)."""

    jobs: int = 0
    bytes: int = 0


def size(spec: Spec) -> int:
    """Return how many pending jobs a submission makes: of an array, its tasks."""
    return 1 if spec.array is None else spec.array.count


def pending_in_all(backlog: Backlog) -> Pending:
    """Return what is pending."""
    return Pending(backlog.counts[Status.PENDING], backlog.pending_bytes)


def pending_of(backlog: Backlog, owner: str) -> Pending:
    """Return what is pending of one owner."""
    return Pending(backlog.pending_of(owner), backlog.pending_bytes_of(owner))


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


class Intake:
    """Counts what was let in and is not in ``backlog`` yet; ``limit`` is for all owners together."""

    def __init__(self, backlog: Backlog, limit: PendingLimit = UNBOUNDED) -> None:
        self._backlog = backlog
        self._limit = limit
        self._coming = Pending()
        self._coming_of: dict[str, Pending] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return self._coming == _NOTHING and not self._coming_of

    def take(self, owner: str, command: str, spec: Spec, limit: PendingLimit = UNBOUNDED) -> None:
        """Let a submission in, of an owner who may have so much pending; raises QueueFull."""
        more = Pending(size(spec), footprint(command, spec))
        coming, coming_of = self._coming, self._coming_of.get(owner, _NOTHING)
        if self._limit is not UNBOUNDED:
            check_pending(_sum(pending_in_all(self._backlog), coming), more, self._limit)
        if limit is not UNBOUNDED:
            check_pending(_sum(pending_of(self._backlog, owner), coming_of), more, limit, owner)
        self._coming = _sum(coming, more)
        self._coming_of[owner] = _sum(coming_of, more)

    def arrived(self, *events: Submitted) -> None:
        """Forget submissions that are in the backlog now, or were refused after all."""
        for event in events:
            less = Pending(-size(event.spec), -footprint(event.command, event.spec))
            self._coming = _sum(self._coming, less)
            left = self._coming_of[event.owner] = _sum(self._coming_of[event.owner], less)
            if left == _NOTHING:
                del self._coming_of[event.owner]


_NOTHING = Pending()


def _sum(some: Pending, more: Pending) -> Pending:
    return Pending(some[0] + more[0], some[1] + more[1])
