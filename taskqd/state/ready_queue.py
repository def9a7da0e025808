"""The ready queue: jobs that wait only for capacity, and which of them starts next.

Order. Jobs start by priority, highest first, then by id, lowest first. A job that does not fit is skipped in
favour of the first one that does (backfilling). A job that has been overtaken this way gets capacity reserved
after a while, so that it cannot starve (backfill.py). If the first job that fits is of a fair queue, the job
of that queue and priority starts in its place whose owner has the first turn (group_index.FairOrder).

Data structure. Jobs of one queue with the same demands are interchangeable, so they form one ``JobGroup`` and
only its first job is ever examined; if the owner matters, the jobs of each owner do. A group is in exactly
one of two places, and those of a fair queue also in the same place of its ``FairOrder``:

* ``_candidates``: groups whose first job may fit, sorted by rank;
* ``_blocked``: groups whose first job does not fit, indexed by the constraint and amount that they are short
  of, or that they would take from a reservation (range_minimum.py).

When capacity is released, only groups that demand no more than is available of it are examined again.
The groups of a queue whose start rate is used up are examined again when the oldest start no longer counts.
Starting or ending a job therefore costs O(log n), whatever amounts are demanded, and does not depend on how
many jobs are waiting; only a change of a limit or of a pause examines all blocked groups again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any, cast

from sortedcontainers import SortedList

from taskqd.model.job import Job
from taskqd.model.task_set import TaskSet
from taskqd.model.transitions import attempt_of
from taskqd.model.units import unpack_units
from taskqd.state.backfill import Backfill
from taskqd.state.capacity import RATE, SLOTS, USER, Capacity, Constraint, Demand, Demands
from taskqd.state.group_index import RESERVED, FairOrder, GroupIndex, is_reserved
from taskqd.state.job_groups import (
    GroupKey,
    GroupTable,
    JobGroup,
    count_ahead_in_turn,
    group_key,
    has_same_key,
)
from taskqd.state.range_minimum import MAX_AMOUNT
from taskqd.state.rank_set import id_of, rank_in, rank_of, run_of
from taskqd.state.start_order import in_start_order
from taskqd.state.ungrouped import Ungrouped

MAX_EXAMINED = 500
"""Groups that ``take`` examines per call, at 10 to 20 µs each, so that it does not block the reactor."""

# Reasons for being blocked other than a shortage of capacity.
QUEUE_PAUSED = Demand(Constraint("paused"), 0)
IMPOSSIBLE = Demand(Constraint("impossible"), 0)

MAX_REGROUPED = 1000
"""Jobs, or runs of tasks, that ``take`` groups again per call, at 2 to 5 µs each."""
MAX_UNBLOCKED = 10
"""Groups of an owner that become candidates when one of the owner's jobs ends; more are looked up later."""


def _reserved(constraint: Constraint) -> Constraint:
    return Constraint(RESERVED + constraint.kind, constraint.name)


Entry = tuple[Any, JobGroup]
"""A group with its key, for sorting: the rank of its first job, or that and its turn."""


def _first_rank(group: JobGroup) -> int:
    return group.first


class ReadyQueue:
    """The ready jobs, and the capacity allocated to the jobs that were taken from here.

    ``is_paused(queue)`` tells whether nothing of a queue may start, ``is_fair(queue)`` whether the owners of
    its jobs take turns. ``needs_scheduling`` is False once no job could be taken and nothing but time has
    changed since; the caller then need not try again before ``next_wakeup``.
    """

    def __init__(
        self,
        capacity: Capacity,
        is_paused: Callable[[str], bool],
        is_fair: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.needs_scheduling = True
        self._capacity = capacity
        self._is_paused = is_paused
        self._is_fair = is_fair
        self._groups = GroupTable()
        self._candidates: SortedList[Entry] = SortedList()
        self._fair: dict[str, FairOrder[JobGroup]] = {}
        self._blocked = GroupIndex(_first_rank)  # every blocked group, under its `blocked_by`
        # Blocked for capacity, and not overtaken yet; under each demand.
        self._overtakable = GroupIndex(_first_rank)
        self._overtaken: Backfill[JobGroup] = Backfill()
        self._to_recheck: set[Constraint] = set()  # constraints of which blocked groups may fit now
        self._reserving_for: JobGroup | None = None  # at the latest call of `take`
        self._is_interrupted = False  # the latest call of `take` reached MAX_EXAMINED or MAX_REGROUPED
        self._ungrouped = Ungrouped()
        self._allocations: dict[int, JobGroup] = {}
        self._unrecorded: set[int] = set()  # jobs whose start counts against a rate, and is not recorded
        self._rate_checks: list[tuple[float, str]] = []  # a heap: when to look at the rate of which queue
        self._checked_rates: set[str] = set()  # the queues in it

    # Adding and removing jobs.

    def add(self, job: Job) -> None:
        """Add a ready job; a job that is already here or holds an allocation is left alone.

        A job behind a peer cannot start before it, so it is no reason to look for a job that may start.
        """
        if job.id in self._allocations:
            return
        key, rank = self._key_of(job), rank_of(job)
        if self._ungrouped:
            self._ungrouped.discard(rank)
        group = self._groups.get(key)
        if group is None:
            group = self._make_group(key, job)
            self._groups.add(group)
        elif group.ranks.append(job) or rank in group.ranks:  # the common case: appended behind its peers
            return
        elif rank > group.first:
            group.ranks.add(job)
            return
        else:
            self._unfile_for_new_first(group)
        self.needs_scheduling = True
        group.ranks.add(job)
        self._file(group)

    def add_similar(self, jobs: Sequence[Job]) -> None:
        """Add new ready jobs with consecutive ids that have the same spec and owner, and are no tasks."""
        self.add(jobs[0])
        if len(jobs) > 1:
            ranks = cast(JobGroup, self._groups.get(self._key_of(jobs[0]))).ranks
            ranks.add_similar(jobs[1:])

    def _unfile_for_new_first(self, group: JobGroup) -> None:
        """Unfile a group that is going to be filed under the rank of a new first job."""
        self._unfile(group)
        if is_reserved(group.blocked_by):
            group.blocked_by = None  # the new first job may outrank the one that capacity is reserved for

    def add_tasks(self, task: Job, ids: TaskSet) -> None:
        """Add the ready tasks ``ids`` of an array in one step, except those that hold an allocation.

        ``task`` is one of them, or the shared state of all of them. They may also be a run of similar jobs.
        The queue keeps and changes ``ids``.
        """
        self.needs_scheduling = True
        for job_id in self._allocations:
            ids.discard(job_id)
        if not ids:
            return
        key, run = self._key_of(task), run_of(task, ids)
        if self._ungrouped:
            self._ungrouped.discard_tasks(run, ids)
        group = self._groups.get(key)
        if group is None:
            group = self._make_group(key, task)
            self._groups.add(group)
        elif rank_in(run, ids.first) > group.first:
            group.ranks.add_tasks(run, ids)
            return
        else:
            self._unfile_for_new_first(group)
        group.ranks.add_tasks(run, ids)
        self._file(group)

    def add_all(self, jobs: Iterable[Job]) -> None:
        """Add jobs that are not here; for a million this is several times faster than ``add``."""
        self.needs_scheduling = True
        peers: dict[GroupKey, tuple[Job, list[int]]] = {}
        previous: Job | None = None
        ranks: list[int] = []
        for job in jobs:
            if previous is None or not has_same_key(job, previous):
                _, ranks = peers.setdefault(self._key_of(job), (job, []))
            ranks.append(rank_of(job))
            previous = job
        for key, (job, ranks) in peers.items():
            self._add_peers(key, job, ranks)

    def _add_peers(self, key: GroupKey, job: Job, ranks: list[int]) -> None:
        """Add jobs with the same key, which ``job`` has."""
        group = self._groups.get(key)
        if group is None:
            group = self._make_group(key, job, ranks)
            self._groups.add(group)
        else:
            self._unfile_for_new_first(group)
            group.ranks.update(ranks)
        self._file(group)

    def _key_of(self, job: Job) -> GroupKey:
        has_user = self._capacity.totals.slots_per_user is not None
        return group_key(job, is_by_owner=has_user or self._is_fair(job.spec.queue))

    def _make_group(self, key: GroupKey, job: Job, ranks: Iterable[int] = ()) -> JobGroup:
        queue = job.spec.queue
        order = self._fair_order(queue) if self._is_fair(queue) else None
        return JobGroup(key, job, self._capacity, ranks, order)

    def _fair_order(self, queue: str) -> FairOrder[JobGroup]:
        if queue not in self._fair:
            self._fair[queue] = FairOrder()
        return self._fair[queue]

    def remove(self, job: Job) -> None:
        """Remove a job if it is here; its spec must be the one that it was added with."""
        group, rank = self._groups.get(self._key_of(job)), rank_of(job)
        if self._ungrouped:
            self._ungrouped.discard(rank)
        if group is not None and rank in group.ranks:
            self._remove(group, rank)

    def remove_tasks(self, task: Job, ids: TaskSet) -> None:
        """Remove the tasks ``ids`` of an array in one step; those that are not here are skipped.

        ``task`` is one of them, or the shared state of all of them.
        """
        group, run = self._groups.get(self._key_of(task)), run_of(task, ids)
        if self._ungrouped:
            self._ungrouped.discard_tasks(run, ids)
        if group is None:
            return
        self.needs_scheduling = True
        if not group.ranks.is_first_in(run, ids):
            group.ranks.discard_tasks(run, ids)
            return
        self._unfile_first(group)
        group.ranks.discard_tasks(run, ids)
        self._file_rest(group)

    def _remove(self, group: JobGroup, rank: int) -> None:
        self.needs_scheduling = True
        if rank != group.first:
            group.ranks.discard(rank)
            return
        self._unfile_first(group)
        group.ranks.discard(rank)
        self._file_rest(group)

    def _unfile_first(self, group: JobGroup) -> None:
        """Unfile a group whose first job is going to leave."""
        self._unfile(group)
        self._overtaken.discard(group)

    def _file_rest(self, group: JobGroup) -> None:
        """File a group that has lost its first job, unless it was the last one."""
        if group.ranks:
            self._file(group)
        else:
            self._groups.remove(group)

    def regroup(self, queue: str, jobs: Mapping[int, Job]) -> None:
        """Group the jobs of a queue again, which has become fair or ceased to be; ``jobs`` has all by id.

        ``take`` does so in portions, and returns no job until it is done.
        """
        self.needs_scheduling = True
        self._ungrouped.jobs = jobs
        for group in self._groups.of_queue(queue):
            self._unfile_first(group)
            self._groups.remove(group)
            self._ungrouped.add(group.ranks)
        if not self._is_fair(queue):
            self._fair.pop(queue, None)

    def _group_portion(self) -> None:
        ungrouped = self._ungrouped
        portion = ungrouped.pop(MAX_REGROUPED)
        self.add_all(ungrouped.jobs[id_of(rank)] for rank in portion.ranks)
        for ids in portion.runs:
            self.add_tasks(ungrouped.jobs[ids.first], ids)

    def _file(self, group: JobGroup) -> None:
        if group.order is not None:
            group.order.add(group)
        if group.blocked_by is None:
            self._candidates.add((group.first, group))
            return
        self._blocked.add(group.blocked_by, group)
        for demand in self._overtakable_demands(group):
            self._overtakable.add(demand, group)

    def _unfile(self, group: JobGroup) -> None:
        if group.order is not None:
            group.order.remove(group)
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
        After MAX_EXAMINED groups that do not fit, and while jobs are grouped again, the result is None too;
        then ``needs_scheduling`` stays True and ``next_wakeup`` is now.
        """
        self._check_rates(now)
        if self._ungrouped:
            self._group_portion()
        if self._ungrouped:
            self._is_interrupted = True
            return None
        reserving_for = self._overtaken.first if self._overtaken.phase(now).is_reserved else None
        if reserving_for is not self._reserving_for:
            self._reserving_for = reserving_for
            self._to_recheck |= self._blocked.reserved
        self._is_interrupted = False
        for _ in range(MAX_EXAMINED):
            group = self._first_candidate() if self._has_slot() else None
            if group is None:
                self.needs_scheduling = False
                return None
            if group.order is not None and group.order.is_stale(group):
                self._unfile(group)
                self._file(group)
                continue
            obstacle = self._obstacle(group, now)
            if obstacle is None:
                return self._allocate(group)
            self._move(group, obstacle)
        self._is_interrupted = True
        return None

    def _has_slot(self) -> bool:
        """Whether a slot is available; none is if the slots were lowered below those of running jobs."""
        return (self._capacity.available(SLOTS) or 0) > 0

    def _first_candidate(self) -> JobGroup | None:
        """Return the first group among the candidates and the groups that may fit again.

        It is the one with the lowest rank, or if that is of a fair queue, the first of the queue in turn.
        """
        first: Entry | None = self._candidates[0] if self._candidates else None
        for constraint in list(self._to_recheck):
            entry = self._first_unblocked(self._blocked, constraint)
            if entry is None:
                self._to_recheck.discard(constraint)
            elif first is None or entry < first:
                first = entry
        if first is None:
            return None
        group = first[1]
        return group if group.order is None else self._first_in_turn(group, group.order)

    def _first_in_turn(self, group: JobGroup, order: FairOrder[JobGroup]) -> JobGroup:
        """Return the group of a fair queue that goes first; ``group`` is the one with the lowest rank."""
        entries = [order.entry(group), *order.candidates[:1]]
        for constraint in self._to_recheck:
            if constraint in order.blocked:
                entry = self._first_unblocked(order.blocked, constraint)
                if entry is not None:
                    entries.append(entry)
        return min(entries)[1]

    def _first_unblocked(self, blocked: GroupIndex[JobGroup], constraint: Constraint) -> Entry | None:
        """Return the first group blocked by a constraint that no longer blocks it, None if there is none."""
        if not constraint.kind.startswith(RESERVED):
            return blocked.first(constraint, 0, self._available(constraint))
        base = Constraint(constraint.kind.removeprefix(RESERVED), constraint.name)
        available, reserving_for = self._available(base), self._reserving_for
        first = blocked.first(constraint, 0, available)
        if first is None or reserving_for is None or first[1].first <= reserving_for.first:
            return first
        reserved = dict(self._capacity.reservable(reserving_for.demands)).get(base, 0)
        return blocked.first(constraint, 0, available - reserved)

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
        if group.order is not None:
            group.order.start(group.owner, self._capacity.rates.now)
        self._remove(group, rank)
        job_id = id_of(rank)
        self._allocations[job_id] = group
        self._capacity.allocate(group.held)
        if group.demands is not group.held:
            self._unrecorded.add(job_id)
            self._capacity.rates.begin(group.queue)
            self._watch_rate(group.queue)
        if self._reserving_for is not None:  # less may be reserved for it now
            self._to_recheck |= self._blocked.reserved
        return job_id

    def allocate_running(self, job: Job) -> None:
        """Allocate capacity to a job that runs already, even if that is more than there is."""
        group = self._make_group(self._key_of(job), job)
        units = unpack_units(attempt_of(job).units)
        if units:
            group.held = self._capacity.held_by_running(group.held, units)
            self._capacity.units.restore(job.id, units)
        self._allocations[job.id] = group
        self._capacity.allocate(group.held)

    def _move(self, group: JobGroup, obstacle: Demand | None) -> None:
        """File a group under a new obstacle, or among the candidates."""
        if obstacle == group.blocked_by:
            return
        self._unfile(group)
        group.blocked_by = obstacle
        if obstacle in (QUEUE_PAUSED, IMPOSSIBLE):
            self._overtaken.discard(group)  # it no longer waits for capacity
        self._file(group)
        if obstacle is not None and obstacle.constraint.kind in (RATE, RESERVED + RATE):
            self._watch_rate(obstacle.constraint.name)

    # Start rates.

    def record_start(self, job: Job, at: float) -> None:
        """Count the recorded start of a job; ``at`` is on the monotonic clock."""
        queue = job.spec.queue
        if job.id in self._unrecorded:
            self._unrecorded.discard(job.id)
            self._capacity.rates.end(queue)
        self._capacity.rates.record(queue, at)

    def restore_start(self, job: Job, at: float) -> None:
        """Count a start of a job before the start of the daemon; they may come in any order."""
        queue = job.spec.queue
        if self._is_fair(queue):
            self._fair_order(queue).restore_start(job.owner, at)
        self._capacity.rates.record(queue, at)

    def undo_start(self, job: Job, at: float) -> None:
        """Stop counting a recorded start: the attempt never had a process."""
        self._capacity.rates.undo(job.spec.queue, at)
        self._to_recheck.add(Constraint(RATE, job.spec.queue))

    def update_rate(self, queue: str) -> None:
        """Change the demands of a queue's jobs; to be called when its rate has changed."""
        for group in self._groups.of_queue(queue):
            self._unfile(group)
            group.update_rate(self._capacity)
            self._file(group)

    def _watch_rate(self, queue: str) -> None:
        """Look at the rate of a queue again when its oldest start no longer counts."""
        if queue not in self._checked_rates:
            self._checked_rates.add(queue)
            heappush(self._rate_checks, (self._capacity.rates.next_expiry(queue), queue))

    def _check_rates(self, now: float) -> None:
        """Set the time of the rates; groups may fit again whose queue may start more jobs now."""
        rates, checks = self._capacity.rates, self._rate_checks
        rates.set_time(now)
        while checks and checks[0][0] <= now:
            queue = heappop(checks)[1]
            self._checked_rates.discard(queue)
            self._to_recheck.add(Constraint(RATE, queue))
            self._to_recheck |= self._blocked.reserved
            if rates.used(queue):
                self._watch_rate(queue)

    def _next_rate_check(self) -> float | None:
        """Return when groups that a rate blocks may fit again, None if a rate blocks none."""
        checks = self._rate_checks
        while checks:
            at, queue = checks[0]
            constraint = Constraint(RATE, queue)
            if constraint in self._blocked or _reserved(constraint) in self._blocked:
                return at
            heappop(checks)
            self._checked_rates.discard(queue)
        return None

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
        phase, rate_check = self._overtaken.phase(now), self._next_rate_check()
        if not phase.is_reserved or not self._blocked.reserved:
            return rate_check
        ends_at = now + phase.remaining
        return ends_at if rate_check is None else min(ends_at, rate_check)

    # Capacity that becomes available.

    def release(self, job_id: int) -> None:
        """Release a job's allocation; does nothing if it has none."""
        group = self._allocations.pop(job_id, None)
        if group is None:
            return
        self.needs_scheduling = True
        self._capacity.release(group.held)
        self._capacity.units.release(job_id)
        if job_id in self._unrecorded:  # it has not started
            self._unrecorded.discard(job_id)
            self._capacity.rates.end(group.queue)
            self._to_recheck.add(Constraint(RATE, group.queue))
        for constraint, _ in group.held:
            if constraint.kind != USER or not self._unblock(constraint):
                self._to_recheck.add(constraint)
        self._to_recheck |= self._blocked.reserved

    def _unblock(self, constraint: Constraint) -> bool:
        """Make all groups that a constraint blocked candidates; False if there are more than MAX_UNBLOCKED.

        For the slots of a user: there may be thousands of users, and a group of one that fits may wait for
        long until it is the first, so ``_to_recheck`` would grow.
        """
        groups = list(islice(self._blocked.under(constraint), MAX_UNBLOCKED + 1))
        if len(groups) > MAX_UNBLOCKED:
            return False
        for group in groups:
            self._move(group, None)
        return True

    def unblock_all(self) -> None:
        """Re-examine every group: a limit or a pause has changed."""
        self.needs_scheduling = True
        groups = self._blocked.groups()
        self._blocked, self._overtakable = GroupIndex(_first_rank), GroupIndex(_first_rank)
        for order in self._fair.values():
            order.unblock_all()
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
        return group is not None and group.key == self._key_of(job)

    def holders(self, constraint: Constraint) -> list[int]:
        """Return the ids of the jobs that hold some of a constraint."""
        return [
            job_id
            for job_id, group in self._allocations.items()
            if any(constraint == demanded for demanded, _ in group.held)
        ]

    def count_ahead(self, job: Job) -> int:
        """Return how many ready jobs of the same queue go before a job."""
        rank = rank_of(job)
        groups = self._groups.of_queue(job.spec.queue)
        order = self._fair.get(job.spec.queue)
        if order is None:
            return sum(group.ranks.count_before(rank) for group in groups)
        return count_ahead_in_turn(job, groups, order)

    def walk(self, is_task: Callable[[int], bool], queue: str | None = None) -> Iterator[int | None]:
        """Yield the ids of ready jobs, of all queues or of one, in the order of their starts if all fitted.

        Of the tasks of an array, for which ``is_task(job_id)`` is true, only the first of each group is
        there. The queue may change meanwhile. None means that time has passed without a job.
        """
        groups = self._groups.all() if queue is None else self._groups.of_queue(queue)
        for rank in in_start_order(groups, self._is_paused, is_task):
            yield None if rank is None else id_of(rank)

    def reserved_for(self, job: Job, now: float) -> int | None:
        """Return the id of the overtaken job whose reservation blocks a job, None if there is none."""
        first = self._overtaken.first
        demands = self._capacity.demands_of(job.spec, job.owner, job.array)
        conflict = self._conflict(demands, rank_of(job), now)
        return None if first is None or conflict is None else id_of(first.first)
