"""Capacity: demands of jobs, shortages, and conflicts with reservations."""

import pytest

from taskqd.model.spec import Array
from taskqd.state.capacity import SLOTS, Capacity, CapacityTotals, Constraint, Demand, Demands, demands_of
from tests.support.events import spec

GPU, DISK = Constraint("resource", "gpu"), Constraint("resource", "disk")
BUILD, OTHER = Constraint("queue", "build"), Constraint("queue", "other")
ARRAY = Constraint("array", "7")


def _capacity(*taken: Demand) -> Capacity:
    capacity = Capacity(CapacityTotals(slots=4, resources={"gpu": 2}), {"build": 2}.get)
    capacity.limit_array(7, 2)
    capacity.allocate(taken)
    return capacity


def test_demands_are_slots_queue_resources_and_array_limit() -> None:
    plain = spec()
    assert demands_of(plain) == (Demand(SLOTS, 1), Demand(Constraint("queue", "default"), 1))
    much = spec(queue="build", slots=3, needs={"gpu": 2, "disk": 1})
    assert demands_of(much) == (Demand(SLOTS, 3), Demand(BUILD, 3), Demand(DISK, 1), Demand(GPU, 2))
    task = spec(queue="build", array=Array(1, 9, 2))
    assert demands_of(task, 7) == (Demand(SLOTS, 1), Demand(BUILD, 1), Demand(ARRAY, 1))
    assert demands_of(task) == demands_of(spec(queue="build"))
    assert demands_of(spec(queue="build", array=Array(1, 9)), 7) == demands_of(spec(queue="build"))


@pytest.mark.parametrize(
    "constraint, total",
    [
        (SLOTS, 4),
        (BUILD, 2),
        (OTHER, None),
        (GPU, 2),
        (DISK, 0),
        (ARRAY, 2),
        (Constraint("array", "8"), None),
    ],
)
def test_totals_are_those_of_the_settings_and_0_for_an_unknown_resource(
    constraint: Constraint, total: int | None
) -> None:
    capacity = _capacity()
    assert (capacity.total(constraint), capacity.available(constraint)) == (total, total)
    assert capacity.allocated(constraint) == 0


def test_array_limit_can_be_removed() -> None:
    capacity = _capacity()
    capacity.limit_array(7, None)
    capacity.limit_array(7, None)
    assert capacity.total(ARRAY) is None


def test_released_demands_are_available_again() -> None:
    capacity = _capacity(Demand(SLOTS, 2), Demand(GPU, 2), Demand(OTHER, 2))
    capacity.allocate((Demand(SLOTS, 1), Demand(OTHER, 1)))
    assert [capacity.allocated(one) for one in (SLOTS, GPU, OTHER)] == [3, 2, 3]
    assert [capacity.available(one) for one in (SLOTS, GPU, OTHER)] == [1, 0, None]
    assert capacity.resources() == {"gpu": {"total": 2, "busy": 2}}
    capacity.release((Demand(SLOTS, 2), Demand(GPU, 2), Demand(OTHER, 2)))
    assert [capacity.allocated(one) for one in (SLOTS, GPU, OTHER)] == [1, 0, 1]
    assert capacity.resources() == {"gpu": {"total": 2, "busy": 0}}


def test_available_is_negative_after_a_limit_was_lowered() -> None:
    limits = {"build": 2}
    capacity = Capacity(CapacityTotals(slots=4), limits.get)
    capacity.allocate((Demand(BUILD, 2),))
    limits["build"] = 1
    assert capacity.available(BUILD) == -1
    assert capacity.shortage((Demand(BUILD, 1),)) == Demand(BUILD, 1)


@pytest.mark.parametrize(
    "wanted, lacking, impossible",
    [
        ((Demand(SLOTS, 2), Demand(OTHER, 2)), None, None),
        ((Demand(SLOTS, 3), Demand(OTHER, 3)), Demand(SLOTS, 3), None),
        ((Demand(SLOTS, 5), Demand(OTHER, 5)), Demand(SLOTS, 5), Demand(SLOTS, 5)),
        ((Demand(SLOTS, 1), Demand(BUILD, 1)), None, None),
        ((Demand(SLOTS, 2), Demand(BUILD, 2)), Demand(BUILD, 2), None),
        ((Demand(SLOTS, 3), Demand(BUILD, 3)), Demand(SLOTS, 3), Demand(BUILD, 3)),
        ((Demand(GPU, 1), Demand(ARRAY, 1)), Demand(GPU, 1), None),
        ((Demand(ARRAY, 1),), Demand(ARRAY, 1), None),
        ((Demand(DISK, 1),), Demand(DISK, 1), Demand(DISK, 1)),
    ],
)
def test_shortage_and_excess_name_the_first_demand_that_does_not_fit(
    wanted: Demands, lacking: Demand | None, impossible: Demand | None
) -> None:
    capacity = _capacity(
        Demand(SLOTS, 2), Demand(BUILD, 1), Demand(GPU, 2), Demand(ARRAY, 2), Demand(OTHER, 99)
    )
    assert capacity.shortage(wanted) == lacking
    assert capacity.exceeds_total(wanted) == impossible


@pytest.mark.parametrize(
    "first, then, spoiling",
    [
        ((Demand(SLOTS, 1),), (Demand(SLOTS, 1),), None),
        ((Demand(SLOTS, 1),), (Demand(SLOTS, 2),), Demand(SLOTS, 1)),
        ((Demand(SLOTS, 1), Demand(OTHER, 1)), (Demand(SLOTS, 1), Demand(GPU, 2)), None),
        ((Demand(SLOTS, 1), Demand(GPU, 1)), (Demand(SLOTS, 1), Demand(GPU, 2)), Demand(GPU, 1)),
        ((Demand(OTHER, 1),), (Demand(OTHER, 99),), None),
        ((Demand(GPU, 1),), (Demand(SLOTS, 4),), None),
    ],
)
def test_conflict_names_the_demand_that_would_take_reserved_capacity(
    first: Demands, then: Demands, spoiling: Demand | None
) -> None:
    assert _capacity(Demand(SLOTS, 2)).conflict(first, then) == spoiling


@pytest.mark.parametrize(
    "taken, amount, is_robbed",
    [
        (Demand(GPU, 1), 1, False),
        (Demand(GPU, 1), 2, True),
        (Demand(GPU, 2), 1, True),
        (Demand(OTHER, 1), 99, False),
        (Demand(SLOTS, 1), 1, False),
        (Demand(SLOTS, 2), 1, False),
        (Demand(SLOTS, 1), 3, True),
    ],
)
def test_min_delayed_counts_the_demand_except_for_slots(taken: Demand, amount: int, is_robbed: bool) -> None:
    least = _capacity(Demand(SLOTS, 2)).min_delayed(taken)
    assert (least is not None and amount >= least) is is_robbed
