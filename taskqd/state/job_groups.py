"""Groups of ready jobs that are interchangeable for scheduling, and the ranks by which jobs are ordered."""

from collections.abc import Iterable
from typing import cast

from taskqd.model.job import Job
from taskqd.state.capacity import RATE, Capacity, Constraint, Demand, Demands
from taskqd.state.group_index import ID_BITS, NO_TURN, FairOrder
from taskqd.state.rank_set import RankSet, rank_of

GroupKey = tuple[str | int | frozenset[tuple[str, int]] | None, ...]
"""(queue, slots) for most jobs; with resources or a per-array limit also (resources, array id).

If the owner matters, the owner is the first.
"""


def group_key(job: Job, is_by_owner: bool = False) -> GroupKey:
    """Return what makes jobs interchangeable for scheduling; with ``is_by_owner`` only those of one owner."""
    spec = job.spec
    array = job.array if spec.array is not None and spec.array.at_once is not None else None
    owner = (job.owner,) if is_by_owner else ()
    if array is None and not spec.needs:
        return *owner, spec.queue, spec.slots
    return *owner, spec.queue, spec.slots, frozenset(spec.needs.items()), array


class JobGroup:
    """Ready jobs of one queue with the same demands, by rank.

    ``demands`` are those of a start, and ``held`` what a job holds while it runs. ``owner`` is that of all
    jobs if the queue is fair; then ``order`` is that of the queue, and ``turn`` that of the owner in it.
    ``blocked_by`` is why the first job could not start when it was last examined; None if it may fit.
    """

    __slots__ = ("blocked_by", "demands", "held", "key", "order", "owner", "queue", "ranks", "turn")

    def __init__(
        self,
        key: GroupKey,
        job: Job,
        capacity: Capacity,
        ranks: Iterable[int] = (),
        order: "FairOrder[JobGroup] | None" = None,
    ) -> None:
        self.key = key
        self.queue = job.spec.queue
        self.owner = job.owner
        self.held: Demands = capacity.held_by(job.spec, job.owner, job.array)
        self.demands: Demands = self.held
        self.ranks = RankSet(ranks)
        self.order = order
        self.turn = NO_TURN
        self.blocked_by: Demand | None = None
        self.update_rate(capacity)

    def update_rate(self, capacity: Capacity) -> None:
        """Add the demand of a start to what the job holds, if the queue has a rate."""
        rate = capacity.rates.rate(self.queue)
        self.demands = self.held if rate is None else (Demand(Constraint(RATE, self.queue), 1), *self.held)

    @property
    def first(self) -> int:
        """The rank of the first job."""
        return self.ranks.first


class GroupTable:
    """The groups by key, and by queue."""

    def __init__(self) -> None:
        self._by_key: dict[GroupKey, JobGroup] = {}
        self._by_queue: dict[str, dict[GroupKey, JobGroup]] = {}

    def get(self, key: GroupKey) -> JobGroup | None:
        """Return the group with a key, None if there is none."""
        return self._by_key.get(key)

    def of_queue(self, queue: str) -> list[JobGroup]:
        """Return the groups of a queue."""
        return list(self._by_queue.get(queue, {}).values())

    def all(self) -> list[JobGroup]:
        """Return all groups."""
        return list(self._by_key.values())

    def add(self, group: JobGroup) -> None:
        """Add a group."""
        self._by_key[group.key] = group
        self._by_queue.setdefault(group.queue, {})[group.key] = group

    def remove(self, group: JobGroup) -> None:
        """Remove a group."""
        del self._by_key[group.key]
        groups = self._by_queue[group.queue]
        del groups[group.key]
        if not groups:
            del self._by_queue[group.queue]


def has_same_key(job: Job, other: Job) -> bool:
    """Whether two jobs have the same key for certain."""
    return job.spec is other.spec and job.array == other.array and job.owner == other.owner


def count_ahead_in_turn(job: Job, groups: list[JobGroup], order: FairOrder[JobGroup]) -> int:
    """Return how many jobs of a fair queue go before a job, if all fit and none is added."""
    rank = rank_of(job)
    highest = (rank >> ID_BITS) << ID_BITS  # of the jobs with the priority of this one
    ahead, waiting, first = 0, dict[str, int](), dict[str, int]()
    for group in groups:
        owner, start = group.owner, group.ranks.count_before(highest)
        end = group.ranks.count_before(rank if owner == job.owner else highest + (1 << ID_BITS))
        ahead += start
        waiting[owner] = waiting.get(owner, 0) + end - start
        if start < end:
            first_rank = cast(int, group.ranks.first_from(highest))
            first[owner] = min(first_rank, first.get(owner, first_rank))
    own = waiting.pop(job.owner, 0)
    place = order.turn(job.owner), first.get(job.owner, rank)
    for owner, count in waiting.items():
        is_before = owner in first and (order.turn(owner), first[owner]) < place
        ahead += min(count, own + is_before)
    return ahead + own
