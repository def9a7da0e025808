"""What there is to run jobs with, and how much of it is taken.

Each is a constraint: an amount in all, None for no limit, of which every running job takes what it wants.
That is never more than there is. Nothing here is written anywhere: what is taken is what runs.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import Struct

from taskqd.model.spec import Spec


class CapacityTotals(Struct, frozen=True):
    """What the settings give: slots in all, slots by queue, and amounts by resource."""

    slots: int = 1
    queues: Mapping[str, int] = {}
    resources: Mapping[str, int] = {}


class Constraint(NamedTuple):
    """Something that is limited: ``slots``, a ``queue`` or ``resource`` by name, an ``array`` by number."""

    kind: str
    name: str = ""


SLOTS = Constraint("slots")


class Demand(NamedTuple):
    """How much of one constraint a job takes while it runs."""

    constraint: Constraint
    amount: int


Demands = tuple[Demand, ...]


def demands_of(spec: Spec, array: int | None = None) -> Demands:
    """Return all that a job takes while it runs; ``array`` is the one that it is a task of."""
    found = [Demand(SLOTS, spec.slots), Demand(Constraint("queue", spec.queue), spec.slots)]
    found += [Demand(Constraint("resource", name), amount) for name, amount in sorted(spec.needs.items())]
    if array is not None and spec.array is not None and spec.array.at_once is not None:
        found.append(Demand(Constraint("array", str(array)), 1))
    return tuple(found)


class Capacity:
    """How much of each constraint there is and is taken.

    ``queue_limit(name)`` tells a queue's slots, None where it has no limit of its own.
    """

    def __init__(self, limits: CapacityTotals, queue_limit: Callable[[str], int | None]) -> None:
        self.limits = limits
        self._queue_limit = queue_limit
        self._arrays: dict[str, int] = {}
        self._taken: dict[Constraint, int] = {}

    def limit_array(self, job_id: int, at_once: int | None) -> None:
        """Let so many tasks of an array run at once; None forgets it."""
        if at_once is None:
            self._arrays.pop(str(job_id), None)
        else:
            self._arrays[str(job_id)] = at_once

    def total(self, constraint: Constraint) -> int | None:
        """Return how much there is in all, None where there is no limit."""
        if constraint.kind == "slots":
            return self.limits.slots
        if constraint.kind == "queue":
            return self._queue_limit(constraint.name)
        if constraint.kind == "resource":
            return self.limits.resources.get(constraint.name, 0)
        return self._arrays.get(constraint.name)

    def taken(self, constraint: Constraint) -> int:
        """Return how much is taken."""
        return self._taken.get(constraint, 0)

    def free(self, constraint: Constraint) -> int | None:
        """Return how much is left, None where there is no limit; below 0 where a limit was lowered."""
        total = self.total(constraint)
        return None if total is None else total - self.taken(constraint)

    def lacking(self, wanted: Demands) -> Demand | None:
        """Return the first want for which there is not enough left, None if all fit."""
        for want in wanted:
            free = self.free(want.constraint)
            if free is not None and free < want.amount:
                return want
        return None

    def impossible(self, wanted: Demands) -> Demand | None:
        """Return the first want that is more than there is in all, so that it will never fit."""
        for want in wanted:
            total = self.total(want.constraint)
            if total is not None and want.amount > total:
                return want
        return None

    def spoiling(self, first: Demands, then: Demands) -> Demand | None:
        """Return the want of ``first`` that would leave ``then`` less than it wants, None if none does."""
        used = dict(first)
        for constraint, amount in then:
            free = self.free(constraint) if constraint in used else None
            if free is not None and free - used[constraint] < amount:
                return Demand(constraint, used[constraint])
        return None

    def least_robbed(self, taken: Demand) -> int | None:
        """Return the least amount that one which does not fit lacks, were ``taken`` taken; None if none does.

        Slots count only where they are what that one lacks: with everything else that is given back there
        comes a slot.
        """
        free = self.free(taken.constraint)
        if free is None:
            return None
        return (free if taken.constraint == SLOTS else free - taken.amount) + 1

    def take(self, wanted: Demands) -> None:
        """Take what fits."""
        for constraint, amount in wanted:
            self._taken[constraint] = self._taken.get(constraint, 0) + amount

    def give_back(self, wanted: Demands) -> None:
        """Give back what was taken."""
        for constraint, amount in wanted:
            left = self._taken[constraint] - amount
            if left:
                self._taken[constraint] = left
            else:
                del self._taken[constraint]

    def resources(self) -> dict[str, dict[str, int]]:
        """Return {name: {total, busy}} of the resources."""
        return {
            name: {"total": total, "busy": self.taken(Constraint("resource", name))}
            for name, total in self.limits.resources.items()
        }
