"""The ready queue: jobs that wait only for capacity, and which of them starts next.

Order. Jobs start by priority, highest first, then by id, lowest first. A job that does not fit is skipped in
favour of the first one that does (backfilling). A job that has been overtaken this way gets capacity reserved
after a while, so that it cannot starve (backfill.py).

Data structure. Jobs of one queue with the same demands are interchangeable, so they form one ``JobGroup`` and
only its first job is ever examined. A group is in exactly one of two places:

* ``_candidates``: groups whose first job may fit, sorted by rank;
* ``_blocked``: groups whose first job does not fit, indexed by the constraint and amount that they are short
  of, or that they would take from a reservation (range_minimum.py).

When capacity is released, only groups that demand no more than is available of it are examined again.
Starting or ending a job therefore costs O(log n), whatever amounts are demanded, and does not depend on how
many jobs are waiting; only a change of a limit or of a pause examines all blocked groups again.
"""

from collections.abc import Callable, Iterable, Iterator

from sortedcontainers import SortedList

from taskqd.model.job import Job
from taskqd.state.backfill import Backfill
from taskqd.state.capacity import SLOTS, Capacity, Constraint, Demand, Demands, demands_of
from taskqd.state.range_minimum import MAX_AMOUNT, RangeMinimum

_ID_BITS = 62

MAX_EXAMINED = 500
"""Groups that ``take`` examines per call, at 10 to 20 µs each, so that it does not block the reactor."""

# Reasons for being blocked other than a shortage of capacity.
QUEUE_PAUSED = Demand(Constraint("paused"), 0)
IMPOSSIBLE = Demand(Constraint("impossible"), 0)

_RESERVED = "reserved "
"""Prefix of a constraint's kind: for groups that would take what is reserved of it for another group."""


def _reserved(constraint: Constraint) -> Constraint:
    return Constraint(_RESERVED + constraint.kind, constraint.name)


def _is_reserved(obstacle: Demand | None) -> bool:
    return obstacle is not None and obstacle.constraint.kind.startswith(_RESERVED)


GroupKey = tuple[str, int] | tuple[str, int, frozenset[tuple[str, int]], int | None]
"""(queue, slots) for most jobs; with resources or a per-array limit also (resources, array id)."""


def group_key(job: Job) -> GroupKey:
    """Return what makes jobs interchangeable for scheduling."""
    spec = job.spec
    array = job.array if spec.array is not None and spec.array.at_once is not None else None
    if array is None and not spec.needs:
        return spec.queue, spec.slots
    return spec.queue, spec.slots, frozenset(spec.needs.items()), array


def rank_of(job: Job) -> int:
    """Return the job's sort key: the job with the lowest rank starts first."""
    priority = job.spec.priority
    return job.id - (priority << _ID_BITS) if priority else job.id


def _id_of(rank: int) -> int:
    return rank % (1 << _ID_BITS)


class JobGroup:
    """Ready jobs of one queue with the same demands, by rank.

    ``blocked_by`` is why the first job could not start when it was last examined; None if it may fit.
    """

    __slots__ = ("blocked_by", "demands", "key", "queue", "ranks")

    def __init__(self, key: GroupKey, job: Job, ranks: Iterable[int] = ()) -> None:
        self.key = key
        self.queue = job.spec.queue
        self.demands: Demands = demands_of(job.spec, job.array)
        self.ranks: SortedList[int] = SortedList(ranks)
        self.blocked_by: Demand | None = None

    @property
    def first(self) -> int:
        """The rank of the first job."""
        rank: int = self.ranks[0]
        return rank

    @property
    def last(self) -> int:
        """The rank of the last job."""
        rank: int = self.ranks[-1]
        return rank


Entry = tuple[int, JobGroup]
"""A group with the rank of its first job, for sorting."""


class _GroupIndex:
    """Groups by demand; ``reserved`` are the constraints of the groups that a reservation blocks."""

    def __init__(self) -> None:
        self.reserved: set[Constraint] = set()
        self._by_constraint: dict[Constraint, RangeMinimum[Entry]] = {}

    def add(self, demand: Demand, group: JobGroup) -> None:
        entries = self._by_constraint.setdefault(demand.constraint, RangeMinimum())
        entries.add(demand.amount, (group.first, group))
        if _is_reserved(demand):
            self.reserved.add(demand.constraint)

    def remove(self, demand: Demand, group: JobGroup) -> None:
        entries = self._by_constraint[demand.constraint]
        entries.remove(demand.amount, (group.first, group))
        if not entries:
            del self._by_constraint[demand.constraint]
            self.reserved.discard(demand.constraint)

    def first(self, constraint: Constraint, low: int, high: int) -> Entry | None:
        """Return the first group that demands an amount from ``low`` to ``high``, None if there is none."""
        entries = self._by_constraint.get(constraint)
        return None if entries is None else entries.first(low, high)

    def groups(self) -> list[JobGroup]:
        """Return all groups."""
        return [group for entries in self._by_constraint.values() for _, group in entries]


class ReadyQueue:
    """The ready jobs, and the capacity allocated to the jobs that were taken from here.

    ``is_paused(queue)`` tells whether nothing of a queue may start. ``needs_scheduling`` is False once no job
    could be taken and nothing but time has changed since; the caller then need not try again before
    ``next_wakeup``.
    """

    def __init__(self, capacity: Capacity, is_paused: Callable[[str], bool]) -> None:
        self.needs_scheduling = True
        self._capacity = capacity
        self._is_paused = is_paused
        self._groups: dict[GroupKey, JobGroup] = {}
        self._candidates: SortedList[Entry] = SortedList()
        self._blocked = _GroupIndex()  # every blocked group, under its `blocked_by`
        self._overtakable = _GroupIndex()  # blocked for capacity, not overtaken yet, under each demand
        self._overtaken: Backfill[JobGroup] = Backfill()
        self._to_recheck: set[Constraint] = set()  # constraints of which blocked groups may fit now
        self._reserving_for: JobGroup | None = None  # at the latest call of `take`
        self._is_interrupted = False  # the latest call of `take` reached MAX_EXAMINED
        self._allocations: dict[int, JobGroup] = {}

    # Adding and removing jobs.

    def add(self, job: Job) -> None:
        """Add a ready job; a job that is already here or holds an allocation is left alone."""
        if job.id in self._allocations:
            return
        self.needs_scheduling = True
        key, rank = group_key(job), rank_of(job)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = JobGroup(key, job)
        elif rank > group.last:  # the common case: appended behind its peers
            group.ranks.add(rank)
            return
        elif rank in group.ranks:
            return
        elif rank > group.first:
            group.ranks.add(rank)
            return
        else:  # it becomes the first of its group, so the group is filed under another rank
            self._unfile(group)
        group.ranks.add(rank)
        if _is_reserved(group.blocked_by):
            group.blocked_by = None  # the new first job may outrank the one that capacity is reserved for
        self._file(group)

    def add_all(self, jobs: Iterable[Job]) -> None:
        """Fill an empty queue; for a million jobs this is several times faster than ``add``."""
        self.needs_scheduling = True
        peers: dict[GroupKey, tuple[Job, list[int]]] = {}
        previous: Job | None = None
        ranks: list[int] = []
        for job in jobs:
            if previous is None or job.spec is not previous.spec or job.array != previous.array:
                _, ranks = peers.setdefault(group_key(job), (job, []))
            ranks.append(rank_of(job))
            previous = job
        for key, (job, ranks) in peers.items():
            group = self._groups[key] = JobGroup(key, job, ranks)
            self._file(group)

    def remove(self, job: Job) -> None:
        """Remove a job if it is here; its spec must be the one that it was added with."""
        group, rank = self._groups.get(group_key(job)), rank_of(job)
        if group is not None and rank in group.ranks:
            self._remove(group, rank)

    def _remove(self, group: JobGroup, rank: int) -> None:
        self.needs_scheduling = True
        if rank != group.first:
            group.ranks.remove(rank)
            return
        self._unfile(group)
        self._overtaken.discard(group)
        del group.ranks[0]
        if group.ranks:
            self._file(group)
        else:
            del self._groups[group.key]

    def _file(self, group: JobGroup) -> None:
        if group.blocked_by is None:
            self._candidates.add((group.first, group))
            return
        self._blocked.add(group.blocked_by, group)
        for demand in self._overtakable_demands(group):
            self._overtakable.add(demand, group)

    def _unfile(self, group: JobGroup) -> None:
        if group.blocked_by is None:
            self._candidates.remove((group.first, group))
            return
        self._blocked.remove(group.blocked_by, group)
        for demand in self._overtakable_demands(group):
            self._overtakable.remove(demand, group)

    def _overtakable_demands(self, group: JobGroup) -> Demands:
        is_short = group.blocked_by not in (QUEUE_PAUSED, IMPOSSIBLE)
        return group.demands if is_short and group not in self._overtaken else ()

    # Choosing the next job.

    def take(self, now: float) -> int | None:
        """Allocate capacity to the next job that fits and return its id; None if no job fits.

        The job leaves the queue. The caller must ``release`` the allocation when the job no longer runs.
        After MAX_EXAMINED groups that do not fit the result is None too; then ``needs_scheduling`` stays True
        and ``next_wakeup`` is now.
        """
        reserving_for = self._overtaken.first if self._overtaken.phase(now).is_reserved else None
        if reserving_for is not self._reserving_for:
            self._reserving_for = reserving_for
            self._to_recheck |= self._blocked.reserved
        self._is_interrupted = False
        for _ in range(MAX_EXAMINED):
            group = self._first_candidate() if self._capacity.available(SLOTS) != 0 else None
            if group is None:
                self.needs_scheduling = False
                return None
            obstacle = self._obstacle(group, now)
            if obstacle is None:
                return self._allocate(group)
            self._move(group, obstacle)
        self._is_interrupted = True
        return None

    def _first_candidate(self) -> JobGroup | None:
        """Return the group with the lowest rank among the candidates and the groups that may fit again."""
        first: Entry | None = self._candidates[0] if self._candidates else None
        for constraint in list(self._to_recheck):
            entry = self._first_unblocked(constraint)
            if entry is None:
                self._to_recheck.discard(constraint)
            elif first is None or entry < first:
                first = entry
        return None if first is None else first[1]

    def _first_unblocked(self, constraint: Constraint) -> Entry | None:
        """Return the first group blocked by a constraint that no longer blocks it, None if there is none."""
        if not constraint.kind.startswith(_RESERVED):
            return self._blocked.first(constraint, 0, self._available(constraint))
        base = Constraint(constraint.kind.removeprefix(_RESERVED), constraint.name)
        available, reserving_for = self._available(base), self._reserving_for
        first = self._blocked.first(constraint, 0, available)
        if first is None or reserving_for is None or first[0] <= reserving_for.first:
            return first
        return self._blocked.first(constraint, 0, available - dict(reserving_for.demands).get(base, 0))

    def _available(self, constraint: Constraint) -> int:
        available = self._capacity.available(constraint)
        return MAX_AMOUNT if available is None else available

    def _obstacle(self, group: JobGroup, now: float) -> Demand | None:
        """Return what keeps the group's first job from starting, None if it can start now."""
        if self._is_paused(group.queue):
            return QUEUE_PAUSED
        shortage = self._capacity.shortage(group.demands)
        if shortage is not None:
            return IMPOSSIBLE if self._capacity.exceeds_total(group.demands) else shortage
        conflict = self._conflict(group.demands, group.first, now)
        return None if conflict is None else Demand(_reserved(conflict.constraint), conflict.amount)

    def _allocate(self, group: JobGroup) -> int:
        rank = group.first
        self._note_overtaking(group)
        self._move(group, None)
        self._remove(group, rank)
        job_id = _id_of(rank)
        self._allocations[job_id] = group
        self._capacity.allocate(group.demands)
        return job_id

    def allocate_running(self, job: Job) -> None:
        """Allocate capacity to a job that runs already, even if that is more than there is."""
        group = JobGroup(group_key(job), job)
        self._allocations[job.id] = group
        self._capacity.allocate(group.demands)

    def _move(self, group: JobGroup, obstacle: Demand | None) -> None:
        """File a group under a new obstacle, or among the candidates."""
        if obstacle == group.blocked_by:
            return
        self._unfile(group)
        group.blocked_by = obstacle
        if obstacle in (QUEUE_PAUSED, IMPOSSIBLE):
            self._overtaken.discard(group)  # it no longer waits for capacity
        self._file(group)

    # Backfilling.

    def _conflict(self, demands: Demands, rank: int, now: float) -> Demand | None:
        """Return the demand that would take capacity reserved for an overtaken job, None if there is none."""
        group = self._overtaken.first
        if group is None or group.first >= rank or not self._overtaken.phase(now).is_reserved:
            return None
        return self._capacity.conflict(demands, group.demands)

    def _note_overtaking(self, group: JobGroup) -> None:
        """Register the first job that is overtaken if this group's first job starts now."""
        rank, overtaken = min(self._overtaken_by(group), default=(group.first, group))
        if rank >= group.first:
            return
        current = self._overtaken.first
        self._unfile(overtaken)
        self._overtaken.add(overtaken, at_front=current is None or rank < current.first)
        self._file(overtaken)

    def _overtaken_by(self, group: JobGroup) -> Iterator[Entry]:
        for demand in group.demands:
            low = self._capacity.min_delayed(demand)
            entry = None if low is None else self._overtakable.first(demand.constraint, low, MAX_AMOUNT)
            if entry is not None:
                yield entry

    def next_wakeup(self, now: float) -> float | None:
        """Return when a job may start without another event, as when a reservation lapses; else None."""
        if self._is_interrupted:
            return now
        phase = self._overtaken.phase(now)
        return now + phase.remaining if phase.is_reserved and self._blocked.reserved else None

    # Capacity that becomes available.

    def release(self, job_id: int) -> None:
        """Release a job's allocation; does nothing if it has none."""
        group = self._allocations.pop(job_id, None)
        if group is None:
            return
        self.needs_scheduling = True
        self._capacity.release(group.demands)
        for constraint, _ in group.demands:
            self._to_recheck.add(constraint)
        self._to_recheck |= self._blocked.reserved

    def unblock_all(self) -> None:
        """Re-examine every group: a limit or a pause has changed."""
        self.needs_scheduling = True
        groups = self._blocked.groups()
        self._blocked, self._overtakable = _GroupIndex(), _GroupIndex()
        self._to_recheck.clear()
        for group in groups:
            group.blocked_by = None
        self._candidates.update((group.first, group) for group in groups)

    # Queries.

    def is_allocated(self, job_id: int) -> bool:
        """Whether a job holds an allocation."""
        return job_id in self._allocations

    def has_current_allocation(self, job: Job) -> bool:
        """Whether a job holds an allocation for the demands that it has now (SET may have changed them)."""
        group = self._allocations.get(job.id)
        return group is not None and group.key == group_key(job)

    def holders(self, constraint: Constraint) -> list[int]:
        """Return the ids of the jobs that hold some of a constraint."""
        return [
            job_id
            for job_id, group in self._allocations.items()
            if any(constraint == demanded for demanded, _ in group.demands)
        ]

    def count_ahead(self, job: Job) -> int:
        """Return how many ready jobs of the same queue rank before a job."""
        rank = rank_of(job)
        groups = (group for group in self._groups.values() if group.queue == job.spec.queue)
        return sum(group.ranks.bisect_left(rank) for group in groups)

    def reserved_for(self, job: Job, now: float) -> int | None:
        """Return the id of the overtaken job whose reservation blocks a job, None if there is none."""
        first = self._overtaken.first
        conflict = self._conflict(demands_of(job.spec, job.array), rank_of(job), now)
        return None if first is None or conflict is None else _id_of(first.first)
