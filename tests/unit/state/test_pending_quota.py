import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.config.limits import PendingLimit
from taskqd.errors import QueueFull
from taskqd.model.footprint import ENTRY_BYTES, GROUP_BYTES, JOB_BYTES, SPEC_BYTES, footprint
from taskqd.model.spec import Array, Spec
from taskqd.state.pending_quota import (
    Pending,
    PendingQuota,
    Reservation,
    check_pending,
    job_count,
    pending_in_all,
    pending_of,
)
from tests.support.events import array, cancelled, fold, submitted

ONE = Spec()
FIVE = Spec(array=Array(1, 5))


def arrived(intake: PendingQuota, owner: str, spec: Spec, command: str = "true") -> None:
    intake.release(Reservation(owner, job_count(spec), footprint(command, spec)))


def test_job_count_of_an_array_is_its_number_of_tasks() -> None:
    assert (job_count(ONE), job_count(FIVE)) == (1, 5)


def test_quota_without_limits_accepts_everything() -> None:
    intake = PendingQuota(fold())
    for _ in range(100):
        intake.reserve("ann", ["true"], FIVE)


def test_quota_counts_reserved_and_pending_jobs() -> None:
    intake = PendingQuota(fold(submitted(1), submitted(2)), PendingLimit(4))
    intake.reserve("ann", ["true"], ONE)
    intake.reserve("bob", ["true"], ONE)
    with pytest.raises(
        QueueFull, match="cannot add 1 job: the daemon has 4 pending jobs, the limit for all users is 4"
    ):
        intake.reserve("cecil", ["true"], ONE)
    arrived(intake, "bob", ONE)
    intake.reserve("cecil", ["true"], ONE)


def test_array_that_does_not_fit_is_refused_as_a_whole() -> None:
    intake = PendingQuota(fold(submitted(1)), PendingLimit(5))
    with pytest.raises(QueueFull, match="cannot add 5 jobs: the daemon has 1 pending job, the"):
        intake.reserve("ann", ["true"], FIVE)
    intake.reserve("ann", ["true"], ONE)


def test_limit_of_one_owner_does_not_affect_others() -> None:
    queue_state = fold(array(1, 3))
    intake = PendingQuota(queue_state)
    with pytest.raises(
        QueueFull, match="cannot add 1 job: ann has 3 pending jobs, the limit for one user is 3"
    ):
        intake.reserve("ann", ["true"], ONE, PendingLimit(3))
    intake.reserve("bob", ["true"], ONE, PendingLimit(3))
    intake.reserve("ann", ["true"], ONE, PendingLimit(4))
    with pytest.raises(QueueFull):
        intake.reserve("ann", ["true"], ONE, PendingLimit(4))
    arrived(intake, "ann", ONE)
    queue_state.apply(cancelled(1))
    intake.reserve("ann", ["true"], ONE, PendingLimit(1))


def test_queue_counts_for_the_first_pending_job_of_an_owner_in_it() -> None:
    mail = Spec(queue="mail")
    intake = PendingQuota(fold(submitted(1, queue="mail")))
    with_queue = intake.reserve("bob", ["true"], mail).bytes
    assert with_queue - intake.reserve("ann", ["true"], mail).bytes == GROUP_BYTES


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 4)), max_size=40),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 8),
)
def test_quota_accepts_exactly_what_fits(
    done: list[tuple[str, int]], most: int | None, most_of_one: int | None
) -> None:
    """Steps are (owner, jobs to submit); 0 jobs means that the oldest reserved submission fails."""
    intake, coming = PendingQuota(fold(), PendingLimit(most)), list[tuple[str, int]]()
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
            intake.reserve(owner, ["true"], Spec(array=Array(1, count)), PendingLimit(most_of_one))
        except QueueFull:
            assert not fits
        else:
            assert fits
            coming.append((owner, count))
    for owner, count in coming:
        arrived(intake, owner, Spec(array=Array(1, count)))
    assert intake.is_empty


def test_quota_is_empty_after_all_was_released() -> None:
    intake = PendingQuota(fold())
    for _ in range(2):
        intake.reserve("ann", ["true"], FIVE)
    for _ in range(2):
        assert not intake.is_empty
        arrived(intake, "ann", FIVE)
    assert intake.is_empty


def test_submission_beyond_a_limit_of_bytes_is_refused_with_the_numbers() -> None:
    queue_state = fold(submitted(1), submitted(2, env={"A": "x" * 1000}))
    there = queue_state.pending_bytes
    assert pending_in_all(queue_state) == pending_of(queue_state, "ann") == Pending(2, there)
    assert pending_of(queue_state, "bob") == Pending()
    assert (
        there == 2 * (JOB_BYTES + 4) + SPEC_BYTES + ENTRY_BYTES + 1001 == queue_state.pending_bytes_of("ann")
    )
    intake = PendingQuota(queue_state, PendingLimit(bytes=there + JOB_BYTES + 100))
    long = "y" * 101
    refused = (
        f"cannot add 601 bytes: the daemon has {there} bytes of pending.*{there + JOB_BYTES + 100} bytes"
    )
    with pytest.raises(QueueFull, match=refused):
        intake.reserve("bob", [long], ONE)
    with pytest.raises(QueueFull, match=r"ann has .* the limit for one user is .*pending-bytes-per-user"):
        intake.reserve("ann", ["y"], ONE, PendingLimit(bytes=there))
    intake.reserve("bob", [long[1:]], ONE)
    with pytest.raises(QueueFull):
        intake.reserve("bob", ["y"], ONE)
    arrived(intake, "bob", ONE, long[1:])
    assert intake.is_empty


def test_check_pending_accepts_no_additions_even_above_a_limit() -> None:
    check_pending(Pending(5, 5), Pending(0, 0), PendingLimit(1, 1))


def test_similar_submissions_are_counted_together_or_not_at_all() -> None:
    intake = PendingQuota(fold(), PendingLimit(3))
    with pytest.raises(QueueFull, match="cannot add 4 jobs"):
        intake.reserve("ann", ["a", "b", "c", "d"], ONE)
    assert intake.is_empty
    reservation = intake.reserve("ann", ["a", "bc", "d"], ONE)
    assert reservation == Reservation("ann", 3, 3 * JOB_BYTES + 4)
    intake.release(reservation)
    assert intake.is_empty
