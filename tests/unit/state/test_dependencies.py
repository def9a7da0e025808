"""Dependencies: when jobs may start, and when they become unsatisfiable."""

import time
from typing import Any

import pytest

from taskqd.model.events import Event
from taskqd.model.job import Reason, Status
from taskqd.state.dependencies import (
    MAX_DEPENDENCIES_PER_BATCH,
    MAX_JOBS_PER_BATCH,
    Kind,
    Skips,
    dependencies_of,
    next_batch,
)
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    ended,
    fold,
    next_jobs,
    ran,
    removed,
    retried,
    skipped,
    spec,
    started,
    submitted,
)

ENDS: dict[Status, tuple[Event, ...]] = {
    Status.COMPLETED: ran(1),
    Status.FAILED: ran(1, Status.FAILED),
    Status.CANCELLED: (cancelled(1),),
}
GOES_ON = {
    ("after", Status.COMPLETED),
    ("after_fail", Status.FAILED),
    *(("after_any", status) for status in ENDS),
}


def _becomes(queue_state: QueueState, job_id: int) -> str:
    job = queue_state.get(job_id)
    if job_id in queue_state.dependencies.unsatisfiable:
        assert queue_state.reason(job, 0.0) is Reason.AFTER
        assert job_id not in next_jobs(queue_state)
        return "unsatisfiable"
    return "waits" if job.unmet_dependencies else "may start"


@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("is_submitted_late", [False, True])
def test_job_starts_when_its_dependency_ends_as_required(
    kind: str, status: Status, is_submitted_late: bool
) -> None:
    asked: dict[str, Any] = {kind: (1,)}
    then = submitted(2, **asked)
    if is_submitted_late:
        queue_state = fold(submitted(1), *ENDS[status], then)
    else:
        queue_state = fold(submitted(1), then)
        assert _becomes(queue_state, 2) == "waits"
        assert next_jobs(fold(submitted(1), then)) == [1]
        apply_all(queue_state, ENDS[status])
    goes_on = (kind, status) in GOES_ON
    assert _becomes(queue_state, 2) == ("may start" if goes_on else "unsatisfiable")
    assert queue_state.dependencies.unsatisfiable == ({} if goes_on else {2: 1})
    assert next_jobs(queue_state) == ([2] if goes_on else [])


def test_job_waits_for_running_and_retrying_dependencies() -> None:
    queue_state = fold(submitted(1), submitted(2, after_any=(1,)), started(1))
    assert _becomes(queue_state, 2) == "waits"
    queue_state.apply(ended(1, Status.PENDING))
    assert _becomes(queue_state, 2) == "waits"


def test_job_waits_for_all_of_its_dependencies() -> None:
    queue_state = fold(*map(submitted, (1, 2, 3)), submitted(4, after=(1, 2), after_any=(3, 1)))
    for job_id in (3, 1):
        apply_all(queue_state, ran(job_id))
        assert _becomes(queue_state, 4) == "waits"
    apply_all(queue_state, ran(2))
    assert _becomes(queue_state, 4) == "may start"


def test_dependency_that_is_named_twice_counts_once() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1, 1)), *ran(1))
    assert _becomes(queue_state, 2) == "may start"


def test_job_is_unsatisfiable_if_its_dependency_cannot_end_both_ways() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1,), after_fail=(1,)))
    apply_all(queue_state, ran(1))
    assert queue_state.dependencies.unsatisfiable == {2: 1}


def test_cause_is_the_first_dependency_that_did_not_end_as_required() -> None:
    queue_state = fold(submitted(1), submitted(2), submitted(3, after=(2, 1)), cancelled(1), cancelled(2))
    assert queue_state.dependencies.unsatisfiable == {3: 1}
    queue_state.apply(skipped(3, 1))
    assert queue_state.dependencies.unsatisfiable == {}
    assert queue_state.reason_to_keep(1) is None
    assert queue_state.reason_to_keep(2) is None


def test_skipped_job_has_failed_and_its_dependents_follow() -> None:
    chain = [submitted(n, after=(n - 1,)) for n in (2, 3, 4)]
    queue_state = fold(submitted(1), *chain, submitted(5, after_fail=(2,)), cancelled(1))
    assert queue_state.dependencies.unsatisfiable == {2: 1}
    queue_state.apply(skipped(2, 1))
    job = queue_state.get(2)
    assert (job.status, job.reason, job.attempts) == (Status.FAILED, Reason.DEPENDENCY, 0)
    assert queue_state.dependencies.unsatisfiable == {3: 2}
    assert next_jobs(queue_state) == [5]


def test_cancelled_job_is_not_unsatisfiable_any_more() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1,)), cancelled(1), cancelled(2))
    assert queue_state.dependencies.unsatisfiable == {}


def test_cancelled_job_waits_for_nothing() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1,)), cancelled(2))
    assert list(queue_state.dependencies.waiting_for(1)) == []
    assert queue_state.get(2).unmet_dependencies == 0
    apply_all(queue_state, ran(1))
    assert next_jobs(queue_state) == []


def test_retried_job_checks_its_dependencies_again() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1,)), cancelled(1), skipped(2, 1), retried(2))
    assert queue_state.dependencies.unsatisfiable == {2: 1}
    apply_all(queue_state, (skipped(2, 1), retried(1), retried(2)))
    assert _becomes(queue_state, 2) == "waits"
    apply_all(queue_state, ran(1))
    assert next_jobs(queue_state) == [2]


def test_retry_of_a_dependency_does_not_restore_skipped_jobs() -> None:
    queue_state = fold(submitted(1), submitted(2, after=(1,)), submitted(3, after=(1,)), *ran(1), retried(1))
    assert next_jobs(queue_state) == [1, 2, 3]


def test_removed_job_is_not_waited_for() -> None:
    queue_state = fold(submitted(1), submitted(2, after_fail=(1,)), *ran(1), skipped(2, 1), removed(1))
    queue_state.apply(retried(2))
    assert next_jobs(queue_state) == [2]


# Arrays.


@pytest.mark.parametrize("which", [1, 3])
def test_dependency_may_be_an_array_or_a_task(which: int) -> None:
    queue_state = fold(array(1, 2), submitted(4, after=(which,)))
    apply_all(queue_state, ran(2))
    assert _becomes(queue_state, 4) == "waits"
    apply_all(queue_state, ran(3))
    assert _becomes(queue_state, 4) == "may start"


def test_tasks_of_an_array_start_when_its_dependencies_are_satisfied() -> None:
    queue_state = fold(submitted(1), array(2, 3, after=(1,)))
    assert next_jobs(fold(submitted(1), array(2, 3, after=(1,)))) == [1]
    assert [queue_state.reason(task, 0.0) for task in queue_state.tasks(queue_state.get(2))] == [
        Reason.AFTER
    ] * 3
    apply_all(queue_state, (cancelled(4), retried(4), *ran(1)))
    assert next_jobs(queue_state) == [3, 4, 5]


def test_unsatisfiable_array_is_skipped_with_its_unfinished_tasks() -> None:
    queue_state = fold(submitted(1), array(2, 2, after=(1,)), cancelled(1), cancelled(3))
    assert queue_state.dependencies.unsatisfiable == {2: 1}
    queue_state.apply(skipped(2, 1))
    assert [task.status for task in queue_state.tasks(queue_state.get(2))] == [
        Status.CANCELLED,
        Status.FAILED,
    ]
    assert (queue_state.get(2).status, queue_state.get(2).reason) == (Status.FAILED, Reason.DEPENDENCY)
    assert queue_state.dependencies.unsatisfiable == {}


def test_array_with_all_tasks_cancelled_is_not_unsatisfiable_any_more() -> None:
    queue_state = fold(submitted(1), array(2, 2, after=(1,)), cancelled(1), cancelled(3), cancelled(4))
    assert queue_state.dependencies.unsatisfiable == {}
    assert queue_state.get(2).unmet_dependencies == 0


def test_retried_array_checks_its_dependencies_again_but_a_retried_task_does_not() -> None:
    queue_state = fold(submitted(1), array(2, 2, after=(1,)), cancelled(1), skipped(2, 1), retried(2))
    assert queue_state.dependencies.unsatisfiable == {2: 1}
    queue_state.apply(skipped(2, 1))
    queue_state.apply(retried(4))
    assert next_jobs(queue_state) == [4]


# Lookups and costs.


def test_awaited_dependencies_are_listed_with_their_kind() -> None:
    queue_state = fold(
        *map(submitted, (1, 2, 3)), submitted(4, after=(1, 2, 2), after_any=(2,), after_fail=(3,))
    )

    def keeping() -> list[tuple[Kind, int]]:
        return list(queue_state.dependencies.awaited(queue_state.get(4)))

    before = [(Kind.COMPLETED, 1), (Kind.COMPLETED, 2), (Kind.ENDED, 2), (Kind.FAILED, 3)]
    assert list(dependencies_of(queue_state.get(4).spec)) == [before[0], before[1], before[1], *before[2:]]
    assert keeping() == before
    apply_all(queue_state, ran(1))
    assert keeping() == before[1:]
    queue_state.apply(cancelled(3))
    assert keeping() == before[1:]
    apply_all(queue_state, ran(2))
    assert keeping() == before[3:]


def test_waiting_jobs_of_a_job_are_listed() -> None:
    queue_state = fold(
        submitted(1), submitted(2, after=(1,)), submitted(3, after_any=(1,)), submitted(4, after=(2,))
    )
    assert [list(queue_state.dependencies.waiting_for(job_id)) for job_id in (1, 2, 3)] == [[2, 3], [4], []]


def test_dependencies_are_older_jobs_so_there_are_no_cycles() -> None:
    """A dependency must exist at the submission, and dependencies cannot be changed."""
    queue_state = fold(submitted(1, after=(2,)), submitted(2, after=(1,)))
    assert next_jobs(queue_state) == [1]


def _seconds(jobs: int, **asked: Any) -> float:
    """Return the seconds that the end of a job with this number of dependents takes."""
    queue_state = fold(submitted(1), *(submitted(n, **asked) for n in range(2, jobs + 2)))
    began = time.process_time()
    apply_all(queue_state, ENDS[Status.CANCELLED])
    for job_id in list(queue_state.dependencies.unsatisfiable):
        queue_state.apply(skipped(job_id, 1))
    return time.process_time() - began


@pytest.mark.parametrize("kind", ["after", "after_any"])
def test_end_of_a_job_costs_the_same_per_waiting_job(kind: str) -> None:
    few, many = (min(_seconds(jobs, **{kind: (1,)}) for _ in range(3)) for jobs in (500, 10_000))
    assert many < 20 * 4 * few + 0.05


def test_end_of_one_of_many_dependencies_costs_the_same() -> None:
    count = 1000
    queue_state = fold(
        *map(submitted, range(1, count + 1)), submitted(9999, after=tuple(range(1, count + 1)))
    )
    for job_id in range(1, count + 1):
        assert queue_state.get(9999).unmet_dependencies == count + 1 - job_id
        apply_all(queue_state, ran(job_id))
    assert queue_state.get(9999).unmet_dependencies == 0


@pytest.mark.parametrize(
    "kind, accepted",
    [
        (Kind.COMPLETED, {Status.COMPLETED}),
        (Kind.FAILED, {Status.FAILED}),
        (Kind.ENDED, {Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    ],
)
def test_each_kind_accepts_its_final_statuses(kind: Kind, accepted: set[Status]) -> None:
    assert {status for status in Status if status.is_final and kind.accepts(status)} == accepted
    assert list(dependencies_of(spec())) == []


def test_skips_are_listed_until_they_are_discarded() -> None:
    skips = Skips()
    skips.add(8, 3)
    skips.add(7, 3)
    skips.add(9, 8)
    assert (skips.of(3), skips.of(8), skips.of(7)) == ([7, 8], [9], [])
    skips.discard(7)
    skips.discard(7)
    assert (skips.of(3), skips.count(3), skips.count(9)) == ([8], 1, 0)
    skips.discard(8)
    assert skips.of(3) == []


def test_retried_job_waits_before_jobs_that_were_submitted_later() -> None:
    queue_state = fold(
        submitted(1), submitted(2, after=(1,)), submitted(3, after=(1,)), cancelled(2), retried(2)
    )
    assert list(queue_state.dependencies.waiting_for(1)) == [2, 3]
    apply_all(queue_state, ran(1))
    assert [_becomes(queue_state, job_id) for job_id in (2, 3)] == ["may start", "may start"]


def test_skipped_jobs_are_known_by_cause_until_retried_or_removed() -> None:
    queue_state = fold(
        *(submitted(1), submitted(2, after=(1,)), submitted(3, after=(1,)), submitted(4, after=(2,))),
        *ran(1, Status.FAILED),
        *(skipped(2, 1), skipped(3, 1), skipped(4, 2)),
    )
    assert (queue_state.skips.of(1), queue_state.skips.of(2)) == ([2, 3], [4])
    queue_state.apply(removed(3))
    queue_state.apply(retried(1))
    queue_state.apply(retried(2))
    assert (queue_state.skips.of(1), queue_state.skips.of(2)) == ([], [4])


def test_cause_of_a_skip_is_the_array_of_a_task() -> None:
    queue_state = fold(
        *(array(1, 2), submitted(4, after=(2,))),
        *(*ran(2, Status.FAILED), skipped(4, 2)),
    )
    assert queue_state.skips.of(1) == [4]


def test_skip_because_of_a_removed_job_has_no_cause() -> None:
    queue_state = fold(submitted(2), skipped(2, 1))
    assert queue_state.skips.count(1) == 0


def test_batch_is_limited_by_jobs_and_dependencies_but_never_empty() -> None:
    most = {
        1: (1,) * (MAX_DEPENDENCIES_PER_BATCH + 1),
        2: (),
        3: (1,) * (MAX_DEPENDENCIES_PER_BATCH - 1),
        4: (1,),
        5: (1,),
    }
    jobs = fold(*(submitted(one, after=after) for one, after in most.items())).jobs
    assert next_batch([1, 2, 3], jobs) == [1]
    assert next_batch([2, 99, 3, 4, 5], jobs) == [2, 99, 3, 4]
    assert next_batch(range(10, 10 + 2 * MAX_JOBS_PER_BATCH), jobs) == [*range(10, 10 + MAX_JOBS_PER_BATCH)]
