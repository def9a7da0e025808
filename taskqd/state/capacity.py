"""Slots and resources: how much there is, and how much is allocated to running jobs.

Each constraint limits a total, and every running job holds its demand of it; more than the total is never
allocated. Nothing here is persistent: what is allocated follows from which jobs run.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from taskqd.config.settings import MAX_SLOTS, ON_END_QUEUE
from taskqd.model.rate import Rate
from taskqd.model.spec import Spec
from taskqd.model.units import Units
from taskqd.state.start_rates import StartRates
from taskqd.state.unit_assignments import UnitAssignments


class CapacityTotals(Struct, frozen=True):
    """The totals of the settings: slots, slots by queue, and amounts by resource.

    ``fair`` tells by queue whether the owners of its jobs take turns; ``rates`` are start rates by queue.
    ``slots_per_user`` are those on which the jobs of one owner may run, None if there is no limit.
    ``max_slots`` are those that the machine allows, whatever the settings or SET-SLOTS say. ``units`` are the
    names of the units of those resources that have names, as many as the total.
    """

    slots: int = 1
    queues: Mapping[str, int] = {}
    resources: Mapping[str, int] = {}
    fair: Mapping[str, bool] = {}
    rates: Mapping[str, Rate] = {}
    slots_per_user: int | None = None
    max_slots: int = MAX_SLOTS
    units: Units = {}


class Constraint(NamedTuple):
    """Something limited: ``slots``, a ``queue`` or ``resource`` by name, an ``array`` by id.

    The slots of a ``user`` are those of one owner, by name. The ``rate`` of a queue limits starts: an amount
    of it is not released when the job ends, but when the period of the rate is over (start_rates.py).
    """

    kind: str
    name: str = ""


USER = "user"
RATE = "rate"
SLOTS = Constraint("slots")
"""The slots of the daemon, of which every job needs at least one."""


class Demand(NamedTuple):
    """The amount of one constraint that a job holds while it runs."""

    constraint: Constraint
    amount: int


Demands = tuple[Demand, ...]
"""The demands of one job, with at most one per constraint."""


def demands_of(spec: Spec, array: int | None = None) -> Demands:
    """Return the demands of a job; ``array`` is the one that it is a task of."""
    found = [Demand(SLOTS, spec.slots), Demand(Constraint("queue", spec.queue), spec.slots)]
    found += [Demand(Constraint("resource", name), amount) for name, amount in sorted(spec.needs.items())]
    if array is not None and spec.array is not None and spec.array.at_once is not None:
        found.append(Demand(Constraint("array", str(array)), 1))
    return tuple(found)


class Capacity:
    """The total of each constraint, and the amount that is allocated.

    ``queue_limit(name)`` returns a queue's slots, None if the queue has no limit. ``rates`` has the starts of
    the queues with a start rate. ``units`` has the named units of resources. ``set_slots`` are the slots that
    SET-SLOTS has set, None if it has set none.
    """

    def __init__(
        self,
        totals: CapacityTotals,
        queue_limit: Callable[[str], int | None],
        rates: StartRates | None = None,
    ) -> None:
        self.totals = totals
        self.set_slots: int | None = None
        self.units = UnitAssignments(totals.units)
        self.rates = StartRates(totals.rates.get) if rates is None else rates
        self._queue_limit = queue_limit
        self._arrays: dict[str, int] = {}
        self._allocated: dict[Constraint, int] = {}

    @property
    def slots(self) -> int:
        """The slots of the daemon: those that SET-SLOTS has set as far as possible, else of the settings."""
        return self.totals.slots if self.set_slots is None else min(self.set_slots, self.totals.max_slots)

    def limit_array(self, job_id: int, max_running: int | None) -> None:
        """Set how many tasks of an array may run together; None removes the limit."""
        if max_running is None:
            self._arrays.pop(str(job_id), None)
        else:
            self._arrays[str(job_id)] = max_running

    def demands_of(self, spec: Spec, owner: str, array: int | None = None) -> Demands:
        """Return all demands of an owner's job; ``array`` is the one that it is a task of.

        First is that of a start rate, which is for the start, and not held while the job runs.
        """
        held = self.held_by(spec, owner, array)
        if self.rates.rate(spec.queue) is None:
            return held
        return (Demand(Constraint(RATE, spec.queue), 1), *held)

    def held_by(self, spec: Spec, owner: str, array: int | None = None) -> Demands:
        """Return the demands that an owner's job holds while it runs.

        The jobs of ``[on_end]`` do not use the slots of a user: the daemon runs them.
        """
        held = demands_of(spec, array)
        if self.totals.slots_per_user is None or spec.queue == ON_END_QUEUE:
            return held
        return (Demand(Constraint(USER, owner), spec.slots), *held)

    def held_by_running(self, held: Demands, units: Units) -> Demands:
        """Return what a job holds that runs already: of its units, only those that are still in the settings.

        Others no longer take a place in the total.
        """
        named = units.keys() & self.units.names.keys()
        amounts = {Constraint("resource", name): self.units.count_known(name, units[name]) for name in named}
        left = (Demand(demand.constraint, amounts.get(demand.constraint, demand.amount)) for demand in held)
        return tuple(demand for demand in left if demand.amount)

    def total(self, constraint: Constraint) -> int | None:
        """Return the total of a constraint, None if there is no limit."""
        if constraint.kind == "slots":
            return self.slots
        if constraint.kind == "queue":
            return self._queue_limit(constraint.name)
        if constraint.kind == "resource":
            return self.totals.resources.get(constraint.name, 0)
        if constraint.kind == USER:
            return self.totals.slots_per_user
        if constraint.kind == RATE:
            rate = self.rates.rate(constraint.name)
            return None if rate is None else rate.starts
        return self._arrays.get(constraint.name)

    def allocated(self, constraint: Constraint) -> int:
        """Return how much of a constraint is allocated."""
        if constraint.kind == RATE:
            return self.rates.used(constraint.name)
        return self._allocated.get(constraint, 0)

    def available(self, constraint: Constraint) -> int | None:
        """Return how much is not allocated, None if there is no limit; below 0 if the limit was lowered."""
        total = self.total(constraint)
        return None if total is None else total - self.allocated(constraint)

    def shortage(self, demands: Demands) -> Demand | None:
        """Return the first demand that is more than is available, None if all fit."""
        for demand in demands:
            available = self.available(demand.constraint)
            if available is not None and available < demand.amount:
                return demand
        return None

    def exceeds_total(self, demands: Demands) -> Demand | None:
        """Return the first demand that is more than the total and so never fits, None if there is none."""
        for demand in demands:
            total = self.total(demand.constraint)
            if total is not None and demand.amount > total:
                return demand
        return None

    def reservable(self, demands: Demands) -> Demands:
        """Return those demands of an overtaken job for which capacity may be reserved now.

        While its owner has too few slots, or its queue no start, only these are reserved: what the jobs of
        others could use would stand idle.
        """
        own = tuple(demand for demand in demands if demand.constraint.kind in (USER, RATE))
        return demands if self.shortage(own) is None else own

    def conflict(self, demands: Demands, overtaken: Demands) -> Demand | None:
        """Return the demand that would leave less than is reserved for a job, None if there is none.

        ``overtaken`` are the demands of the job that capacity is reserved for.
        """
        amounts = dict(demands)
        for constraint, amount in self.reservable(overtaken):
            available = self.available(constraint) if constraint in amounts else None
            if available is not None and available - amounts[constraint] < amount:
                return Demand(constraint, amounts[constraint])
        return None

    def min_delayed(self, demand: Demand) -> int | None:
        """Return the smallest amount that does not fit once ``demand`` is allocated; None without a limit.

        For slots it is the smallest amount that does not fit already: a job that waits for something else
        gets a slot together with that, when another job ends.
        """
        available = self.available(demand.constraint)
        if available is None:
            return None
        return (available if demand.constraint == SLOTS else available - demand.amount) + 1

    def allocate(self, demands: Demands) -> None:
        """Allocate demands that fit."""
        for constraint, amount in demands:
            self._allocated[constraint] = self._allocated.get(constraint, 0) + amount

    def release(self, demands: Demands) -> None:
        """Release demands that were allocated."""
        for constraint, amount in demands:
            left = self._allocated[constraint] - amount
            if left:
                self._allocated[constraint] = left
            else:
                del self._allocated[constraint]

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return {name: {total, busy}} of the resources, with the holders of the units that have names."""
        return {name: self._describe_resource(name, total) for name, total in self.totals.resources.items()}

    def _describe_resource(self, name: str, total: int) -> dict[str, Any]:
        described: dict[str, Any] = {
            "total": total,
            "busy": self.allocated(Constraint("resource", name)),
        }
        return described | {"units": self.units.describe(name)} if name in self.units.names else described
