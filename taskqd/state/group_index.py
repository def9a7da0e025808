"""Indexes of groups of ready jobs: by what blocks them, and in the order of their owners' turns."""

from collections.abc import Callable, Iterator
from math import inf, nextafter
from typing import Any, Generic, Protocol, TypeVar

from sortedcontainers import SortedList

from taskqd.state.capacity import Constraint, Demand
from taskqd.state.range_minimum import RangeMinimum

ID_BITS = 62
"""Bits of the id in a rank; the bits above them are those of the priority."""

NO_TURN = -inf
"""The turn of an owner who has started no job; it is before all others."""

RESERVED = "reserved "
"""Prefix of a constraint's kind: for groups that would take what is reserved of it for another group."""


def is_reserved(demand: Demand | None) -> bool:
    """Whether a group is blocked by a reservation for another one."""
    return demand is not None and demand.constraint.kind.startswith(RESERVED)


class IGroup(Protocol):
    """The properties of a group that decide about its place in an order."""

    owner: str
    turn: float
    blocked_by: Demand | None

    @property
    def first(self) -> int:
        """The rank of the first job."""


G = TypeVar("G", bound=IGroup)


class GroupIndex(Generic[G]):
    """Groups by demand, sorted by a key.

    ``reserved`` are the constraints of the groups that a reservation blocks.
    """

    def __init__(self, key: Callable[[G], Any]) -> None:
        self.reserved: set[Constraint] = set()
        self._key = key
        self._by_constraint: dict[Constraint, RangeMinimum[tuple[Any, G]]] = {}

    def __contains__(self, constraint: Constraint) -> bool:
        return constraint in self._by_constraint

    def add(self, demand: Demand, group: G) -> None:
        """Add a group under a demand."""
        entries = self._by_constraint.setdefault(demand.constraint, RangeMinimum())
        entries.add(demand.amount, (self._key(group), group))
        if is_reserved(demand):
            self.reserved.add(demand.constraint)

    def remove(self, demand: Demand, group: G) -> None:
        """Remove a group that is there under a demand."""
        entries = self._by_constraint[demand.constraint]
        entries.remove(demand.amount, (self._key(group), group))
        if not entries:
            del self._by_constraint[demand.constraint]
            self.reserved.discard(demand.constraint)

    def first(self, constraint: Constraint, low: int, high: int) -> tuple[Any, G] | None:
        """Return the first group that demands an amount from ``low`` to ``high``, None if there is none."""
        entries = self._by_constraint.get(constraint)
        return None if entries is None else entries.first(low, high)

    def under(self, constraint: Constraint) -> Iterator[G]:
        """Yield the groups under a constraint; none may be added or removed meanwhile."""
        return (group for _, group in self._by_constraint.get(constraint, ()))

    def groups(self) -> list[G]:
        """Return all groups."""
        return [group for entries in self._by_constraint.values() for _, group in entries]


class FairOrder(Generic[G]):
    """The groups of a fair queue, by priority, and then in the order of their owners' turns.

    The turn of an owner is the time of the latest start of one of their jobs, NO_TURN if none has started. So
    the owner goes first whose latest start is the longest ago. Groups keep the turn with which they were
    added: if their owner has started a job since, ``is_stale``, and they must be removed and added again
    before they are chosen. Since turns only grow, the first group is right if it is not stale.
    """

    def __init__(self) -> None:
        self.candidates: SortedList[tuple[Any, G]] = SortedList()
        self.blocked: GroupIndex[G] = GroupIndex(self._key)
        self._turns: dict[str, float] = {}
        self._latest = NO_TURN

    @staticmethod
    def _key(group: G) -> tuple[int, float, int]:
        return group.first >> ID_BITS, group.turn, group.first

    def entry(self, group: G) -> tuple[Any, G]:
        """Return a group with its key."""
        return self._key(group), group

    def turn(self, owner: str) -> float:
        """Return the turn of an owner."""
        return self._turns.get(owner, NO_TURN)

    def is_stale(self, group: G) -> bool:
        """Whether a group was added with another turn than its owner has now."""
        return group.turn != self.turn(group.owner)

    def start(self, owner: str, now: float) -> None:
        """Give an owner the last turn: one of their jobs starts."""
        self._latest = self._turns[owner] = max(now, nextafter(self._latest, inf))

    def restore_start(self, owner: str, at: float) -> None:
        """Restore the turn of an owner from a start before that of the daemon; they may come in any order."""
        self._turns[owner] = max(at, self.turn(owner))
        self._latest = max(at, self._latest)

    def add(self, group: G) -> None:
        """Add a group under its ``blocked_by``."""
        group.turn = self.turn(group.owner)
        if group.blocked_by is None:
            self.candidates.add(self.entry(group))
        else:
            self.blocked.add(group.blocked_by, group)

    def remove(self, group: G) -> None:
        """Remove a group; it must not have changed since it was added."""
        if group.blocked_by is None:
            self.candidates.remove(self.entry(group))
        else:
            self.blocked.remove(group.blocked_by, group)

    def unblock_all(self) -> None:
        """Make all blocked groups candidates."""
        groups = self.blocked.groups()
        self.blocked = GroupIndex(self._key)
        self.candidates.update(map(self.entry, groups))
