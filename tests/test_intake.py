import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.errors import QueueFull
from taskqd.events import Submitted
from taskqd.intake import Intake, size
from taskqd.job import Array, Spec
from tests.facts import array, cancelled, fold, submitted

ONE = Spec()
FIVE = Spec(array=Array(1, 5))


def arrived(intake: Intake, owner: str, spec: Spec) -> None:
    intake.arrived(Submitted(id=99, at=0.0, owner=owner, spec=spec))


def test_an_array_counts_as_all_of_its_tasks() -> None:
    assert (size(ONE), size(FIVE)) == (1, 5)


def test_no_limit_lets_everything_in() -> None:
    intake = Intake(fold(), None)
    for _ in range(100):
        intake.take("ann", FIVE, None)


def test_what_is_on_its_way_counts_with_what_is_there() -> None:
    intake = Intake(fold(submitted(1), submitted(2)), 4)
    intake.take("ann", ONE, None)
    intake.take("bob", ONE, None)
    with pytest.raises(QueueFull, match="4 jobs are pending, and with 1 more there would be more than 4"):
        intake.take("cecil", ONE, None)
    arrived(intake, "bob", ONE)
    intake.take("cecil", ONE, None)


def test_an_array_that_does_not_fit_is_refused_whole() -> None:
    intake = Intake(fold(submitted(1)), 5)
    with pytest.raises(QueueFull, match="1 job is pending, and with 5 more"):
        intake.take("ann", FIVE, None)
    intake.take("ann", ONE, None)


def test_one_owner_has_so_many_and_others_have_theirs() -> None:
    backlog = fold(array(1, 3))
    intake = Intake(backlog, None)
    with pytest.raises(
        QueueFull, match="3 jobs are pending of ann, and with 1 more there would be more than 3"
    ):
        intake.take("ann", ONE, 3)
    intake.take("bob", ONE, 3)
    intake.take("ann", ONE, 4)
    with pytest.raises(QueueFull):
        intake.take("ann", ONE, 4)
    arrived(intake, "ann", ONE)
    backlog.apply(cancelled(1))
    intake.take("ann", ONE, 1)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 4)), max_size=40),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 8),
)
def test_what_is_let_in_is_exactly_what_fits(
    done: list[tuple[str, int]], most: int | None, most_of_one: int | None
) -> None:
    """So many jobs of somebody come in; 0 says that the oldest that is on its way was refused after all."""
    intake, coming = Intake(fold(), most), list[tuple[str, int]]()
    for owner, count in done:
        if count == 0:
            if coming:
                name, size_of_it = coming.pop(0)
                arrived(intake, name, Spec(array=Array(1, size_of_it)))
            continue
        fits = (most is None or sum(each for _, each in coming) + count <= most) and (
            most_of_one is None or sum(each for name, each in coming if name == owner) + count <= most_of_one
        )
        try:
            intake.take(owner, Spec(array=Array(1, count)), most_of_one)
        except QueueFull:
            assert not fits
        else:
            assert fits
            coming.append((owner, count))
    for owner, count in coming:
        arrived(intake, owner, Spec(array=Array(1, count)))
    assert (intake._coming, intake._coming_of) == (0, {})


def test_who_has_none_on_the_way_is_forgotten() -> None:
    intake = Intake(fold(), None)
    for _ in range(2):
        intake.take("ann", FIVE, None)
    for _ in range(2):
        assert intake._coming_of
        arrived(intake, "ann", FIVE)
    assert (intake._coming, intake._coming_of) == (0, {})
