"""What there is to run jobs with: what a job takes of it, what fits, and whom a start keeps from starting."""

import pytest

from taskqd.model.spec import Array
from taskqd.state.capacity import SLOTS, Capacity, Constraint, Limits, Want, Wants, wants
from tests.support.events import spec

GPU, DISK = Constraint("resource", "gpu"), Constraint("resource", "disk")
BUILD, OTHER = Constraint("queue", "build"), Constraint("queue", "other")
ARRAY = Constraint("array", "7")


def _capacity(*taken: Want) -> Capacity:
    capacity = Capacity(Limits(slots=4, resources={"gpu": 2}), {"build": 2}.get)
    capacity.limit_array(7, 2)
    capacity.take(taken)
    return capacity


def test_a_job_wants_slots_of_all_and_of_its_queue_what_it_needs_and_its_place_in_the_array() -> None:
    plain = spec()
    assert wants(plain) == (Want(SLOTS, 1), Want(Constraint("queue", "default"), 1))
    much = spec(queue="build", slots=3, needs={"gpu": 2, "disk": 1})
    assert wants(much) == (Want(SLOTS, 3), Want(BUILD, 3), Want(DISK, 1), Want(GPU, 2))
    task = spec(queue="build", array=Array(1, 9, 2))
    assert wants(task, 7) == (Want(SLOTS, 1), Want(BUILD, 1), Want(ARRAY, 1))
    assert wants(task) == wants(spec(queue="build"))
    assert wants(spec(queue="build", array=Array(1, 9)), 7) == wants(spec(queue="build"))


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
def test_there_is_what_the_settings_give_and_of_an_unknown_resource_nothing(
    constraint: Constraint, total: int | None
) -> None:
    capacity = _capacity()
    assert (capacity.total(constraint), capacity.free(constraint)) == (total, total)
    assert capacity.taken(constraint) == 0


def test_the_limit_of_an_array_goes_with_it() -> None:
    capacity = _capacity()
    capacity.limit_array(7, None)
    capacity.limit_array(7, None)
    assert capacity.total(ARRAY) is None


def test_what_was_taken_is_free_when_it_is_given_back() -> None:
    capacity = _capacity(Want(SLOTS, 2), Want(GPU, 2), Want(OTHER, 2))
    capacity.take((Want(SLOTS, 1), Want(OTHER, 1)))
    assert [capacity.taken(one) for one in (SLOTS, GPU, OTHER)] == [3, 2, 3]
    assert [capacity.free(one) for one in (SLOTS, GPU, OTHER)] == [1, 0, None]
    assert capacity.resources() == {"gpu": {"total": 2, "busy": 2}}
    capacity.give_back((Want(SLOTS, 2), Want(GPU, 2), Want(OTHER, 2)))
    assert [capacity.taken(one) for one in (SLOTS, GPU, OTHER)] == [1, 0, 1]
    assert capacity.resources() == {"gpu": {"total": 2, "busy": 0}}


def test_less_than_nothing_is_free_where_a_limit_was_lowered() -> None:
    limits = {"build": 2}
    capacity = Capacity(Limits(slots=4), limits.get)
    capacity.take((Want(BUILD, 2),))
    limits["build"] = 1
    assert capacity.free(BUILD) == -1
    assert capacity.lacking((Want(BUILD, 1),)) == Want(BUILD, 1)


@pytest.mark.parametrize(
    "wanted, lacking, impossible",
    [
        ((Want(SLOTS, 2), Want(OTHER, 2)), None, None),
        ((Want(SLOTS, 3), Want(OTHER, 3)), Want(SLOTS, 3), None),
        ((Want(SLOTS, 5), Want(OTHER, 5)), Want(SLOTS, 5), Want(SLOTS, 5)),
        ((Want(SLOTS, 1), Want(BUILD, 1)), None, None),
        ((Want(SLOTS, 2), Want(BUILD, 2)), Want(BUILD, 2), None),
        ((Want(SLOTS, 3), Want(BUILD, 3)), Want(SLOTS, 3), Want(BUILD, 3)),
        ((Want(GPU, 1), Want(ARRAY, 1)), Want(GPU, 1), None),
        ((Want(ARRAY, 1),), Want(ARRAY, 1), None),
        ((Want(DISK, 1),), Want(DISK, 1), Want(DISK, 1)),
    ],
)
def test_the_first_that_is_lacking_is_told_and_whether_it_ever_will_be_there(
    wanted: Wants, lacking: Want | None, impossible: Want | None
) -> None:
    capacity = _capacity(Want(SLOTS, 2), Want(BUILD, 1), Want(GPU, 2), Want(ARRAY, 2), Want(OTHER, 99))
    assert capacity.lacking(wanted) == lacking
    assert capacity.impossible(wanted) == impossible


@pytest.mark.parametrize(
    "first, then, spoiling",
    [
        ((Want(SLOTS, 1),), (Want(SLOTS, 1),), None),
        ((Want(SLOTS, 1),), (Want(SLOTS, 2),), Want(SLOTS, 1)),
        ((Want(SLOTS, 1), Want(OTHER, 1)), (Want(SLOTS, 1), Want(GPU, 2)), None),
        ((Want(SLOTS, 1), Want(GPU, 1)), (Want(SLOTS, 1), Want(GPU, 2)), Want(GPU, 1)),
        ((Want(OTHER, 1),), (Want(OTHER, 99),), None),
        ((Want(GPU, 1),), (Want(SLOTS, 4),), None),
    ],
)
def test_a_start_leaves_another_what_that_one_wants_of_the_same(
    first: Wants, then: Wants, spoiling: Want | None
) -> None:
    assert _capacity(Want(SLOTS, 2)).spoiling(first, then) == spoiling


@pytest.mark.parametrize(
    "taken, amount, is_robbed",
    [
        (Want(GPU, 1), 1, False),
        (Want(GPU, 1), 2, True),
        (Want(GPU, 2), 1, True),
        (Want(OTHER, 1), 99, False),
        (Want(SLOTS, 1), 1, False),
        (Want(SLOTS, 2), 1, False),
        (Want(SLOTS, 1), 3, True),
    ],
)
def test_a_start_robs_one_that_does_not_fit_of_what_it_wants_and_of_slots_only_where_it_lacks_them(
    taken: Want, amount: int, is_robbed: bool
) -> None:
    least = _capacity(Want(SLOTS, 2)).least_robbed(taken)
    assert (least is not None and amount >= least) is is_robbed
