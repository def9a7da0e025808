"""The order in which ready jobs would start if all of them fitted, from the groups of the ready queue.

Jobs start by rank. In a fair queue, the job with the lowest rank decides when the queue is chosen, and the
turns of the owners decide whose job of that priority starts then (ready_queue.py). Jobs of paused queues come
last.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace, merge

from taskqd.state.group_index import ID_BITS
from taskqd.state.job_groups import JobGroup

GROUPS_PER_STEP = 500
"""Groups that are looked up without a pause, at 5 µs each."""


class _Ranks:
    """Ascending ranks; ``first`` is the lowest one left, None if there is none."""

    def __init__(self, ranks: Iterator[int]) -> None:
        self._ranks = ranks
        self.first = next(ranks, None)

    def pop(self) -> int | None:
        """Remove and return the first rank."""
        rank, self.first = self.first, next(self._ranks, None)
        return rank


class _FairRanks:
    """The ranks of a fair queue; ``pop`` returns them in the order of turns, as if each job started then.

    ``turn(owner)`` is the turn that an owner has now.
    """

    def __init__(self, turn: Callable[[str], float]) -> None:
        self._turn = turn
        self._owners: dict[str, _Ranks] = {}
        self._in_turn: list[tuple[int, tuple[int, float], int, str]] = []
        self._by_rank: list[tuple[int, str]] = []
        self._count = 0

    def add(self, owner: str, ranks: Iterator[int]) -> None:
        """Add the ranks of an owner who has none here."""
        self._owners[owner] = _Ranks(ranks)
        self._push(owner, (0, self._turn(owner)))

    def _push(self, owner: str, turn: tuple[int, float]) -> None:
        rank = self._owners[owner].first
        if rank is not None:
            heappush(self._in_turn, (rank >> ID_BITS, turn, rank, owner))
            heappush(self._by_rank, (rank, owner))

    @property
    def first(self) -> int | None:
        """The lowest rank left, None if there is none."""
        by_rank = self._by_rank
        while by_rank and self._owners[by_rank[0][1]].first != by_rank[0][0]:
            heappop(by_rank)
        return by_rank[0][0] if by_rank else None

    def pop(self) -> int | None:
        """Remove and return the rank of the next job; its owner gets the last turn."""
        owner = heappop(self._in_turn)[3]
        rank = self._owners[owner].pop()
        self._count += 1
        self._push(owner, (1, self._count))
        return rank


def in_start_order(
    groups: Iterable[JobGroup], is_paused: Callable[[str], bool], is_task: Callable[[int], bool]
) -> Iterator[int | None]:
    """Yield the ranks of the jobs of groups, and the first rank of each run of tasks, in order.

    ``is_task(job_id)`` tells whether a job is a task of an array. The groups may change meanwhile. None means
    that time has passed without a job.
    """
    known = list(groups)
    for paused in (False, True):
        yield from _in_order([group for group in known if is_paused(group.queue) is paused], is_task)


def _in_order(groups: list[JobGroup], is_task: Callable[[int], bool]) -> Iterator[int | None]:
    sources: list[_Ranks | _FairRanks] = []
    fair: dict[str, _FairRanks] = {}
    by_owner: dict[tuple[str, str], list[JobGroup]] = {}
    for count, group in enumerate(groups, 1):
        if group.order is None:
            sources.append(_Ranks(group.ranks.walk(is_task)))
        else:
            if group.queue not in fair:
                fair[group.queue] = _FairRanks(group.order.turn)
            by_owner.setdefault((group.queue, group.owner), []).append(group)
        if not count % GROUPS_PER_STEP:
            yield None
    for count, ((queue, owner), own) in enumerate(by_owner.items(), 1):
        fair[queue].add(owner, merge(*[group.ranks.walk(is_task) for group in own]))
        if not count % GROUPS_PER_STEP:
            yield None
    sources += fair.values()
    firsts = [(source.first, number) for number, source in enumerate(sources)]
    heap = [(first, number) for first, number in firsts if first is not None]
    heapify(heap)
    while heap:
        number = heap[0][1]
        yield sources[number].pop()
        first = sources[number].first
        if first is None:
            heappop(heap)
        else:
            heapreplace(heap, (first, number))
