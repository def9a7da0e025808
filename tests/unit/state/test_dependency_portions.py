"""Many jobs that wait for one are resolved in portions, with the same result as at once."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.events import JobEvent
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Spec
from taskqd.state import dependencies
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    array,
    cancelled,
    changed,
    ended,
    fold,
    held,
    next_jobs,
    released,
    removed,
    retried,
    skipped,
    started,
    submitted,
)

FIRST, ARRAY, TASK = 1, 20, 21
SUBMISSIONS = (
    submitted(FIRST),
    submitted(2),
    submitted(3, after=(FIRST,)),
    submitted(4, after_fail=(FIRST,), priority=2),
    submitted(5, after_any=(FIRST, 2)),
    submitted(6, after=(FIRST,), after_fail=(FIRST,)),
    submitted(7, after=(3,), after_any=(FIRST,), hold=True),
    submitted(8, after_any=(4, 5), delay=1500.0),
    array(ARRAY, 3, after_any=(FIRST,), priority=1),
    submitted(30, after=(ARRAY, TASK, 2)),
    submitted(31, after_any=(TASK,)),
)
JOBS = sorted({event.id for event in SUBMISSIONS} | {TASK})


@pytest.fixture(autouse=True, scope="module")
def resolve_one_job_per_portion() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dependencies, "MAX_RESOLVED_PER_EVENT", 0)
        patch.setattr(dependencies, "MAX_RESOLVED_PER_PORTION", 1)
        yield


def test_no_job_starts_until_all_dependents_are_resolved() -> None:
    queue_state = fold(*SUBMISSIONS[:5])
    queue_state.apply(started(FIRST))
    queue_state.apply(ended(FIRST, Status.FAILED), in_portions=True)
    assert next_jobs(queue_state) == []
    assert [queue_state.resolve_portion() for _ in range(3)] == [True, True, False]
    assert queue_state.needs_scheduling
    assert next_jobs(queue_state) == [4, 2]
    assert queue_state.dependencies.unsatisfiable == {3: FIRST}


def test_dependency_that_is_not_resolved_yet_does_not_count_any_more() -> None:
    queue_state = fold(*SUBMISSIONS[:5])
    queue_state.apply(cancelled(FIRST), in_portions=True)
    found = {job_id: queue_state.reason(queue_state.get(job_id), 1000.0) for job_id in (3, 4, 5)}
    assert found == {3: Reason.AFTER, 4: Reason.AFTER, 5: Reason.AFTER}
    queue_state.apply(cancelled(2), in_portions=True)
    assert queue_state.reason(queue_state.get(5), 1000.0) is Reason.QUEUED
    kind = dependencies.Kind.COMPLETED
    assert list(queue_state.dependencies.awaited(queue_state.get(3))) == [(kind, FIRST)]


def test_ended_job_is_kept_until_its_dependents_are_resolved() -> None:
    queue_state = fold(*SUBMISSIONS[:2], submitted(3, after_any=(FIRST,)))
    queue_state.apply(cancelled(FIRST), in_portions=True)
    assert queue_state.reason_to_keep(FIRST) is not None
    assert queue_state.retention_index.pop_expired(1000.0, 0) == []
    assert not queue_state.resolve_portion()
    assert queue_state.reason_to_keep(FIRST) is None
    assert queue_state.retention_index.pop_expired(1000.0, 0) == [FIRST]


def test_job_may_end_again_before_its_dependents_are_resolved() -> None:
    queue_state = fold(submitted(FIRST), submitted(3, after=(FIRST,)))
    for event in (cancelled(FIRST), retried(FIRST), submitted(4, after_any=(FIRST,)), started(FIRST)):
        queue_state.apply(event, in_portions=True)
    queue_state.apply(ended(FIRST), in_portions=True)
    assert queue_state.resolve_portion()
    assert queue_state.dependencies.unsatisfiable == {3: FIRST}, "by the first end"
    assert not queue_state.resolve_portion()
    assert next_jobs(queue_state) == [4]


def summary(queue_state: QueueState) -> dict[int, object]:
    """Return what users see of each job's dependencies."""
    found: dict[int, object] = {}
    for job_id in set(JOBS) & set(queue_state.jobs):
        job = queue_state.get(job_id)
        found[job_id] = queue_state.reason(job, 1000.0), list(queue_state.dependencies.awaited(job))
    return found


def an_event(job_id: int, number: int, queue_state: QueueState) -> JobEvent:
    """Return an event of a job; some are not possible."""
    job = queue_state.jobs.get(job_id)
    attempts, job_spec = (0, Spec()) if job is None else (job.attempts, job.spec)
    return (
        started(job_id, attempts + 1),
        ended(job_id),
        ended(job_id, Status.FAILED),
        cancelled(job_id),
        skipped(job_id, queue_state.dependencies.unsatisfiable.get(job_id, FIRST)),
        retried(job_id),
        held(job_id),
        released(job_id),
        replace(changed(job_id), spec=replace(job_spec, priority=number)),
        removed(job_id),
    )[number]


STEPS = st.none() | st.tuples(st.just(FIRST) | st.sampled_from(JOBS), st.integers(0, 9))
"""A portion, or an event by job and number."""


@pytest.mark.covers
@settings(max_examples=200)
@given(st.lists(STEPS, min_size=3, max_size=40))
def test_state_resolved_in_portions_is_that_resolved_at_once(
    steps: list[tuple[int, int] | None],
) -> None:
    at_once, in_portions = fold(*SUBMISSIONS), fold(*SUBMISSIONS)
    for step in steps:
        if step is None:
            if in_portions.dependencies.has_unresolved:
                in_portions.resolve_portion()
            continue
        event = an_event(*step, at_once)
        if isinstance(event, type(removed(1))) and in_portions.reason_to_keep(event.id) is not None:
            continue
        if isinstance(event, type(skipped(1, 2))) and event.id not in in_portions.dependencies.unsatisfiable:
            continue
        try:
            at_once.apply(event)
        except InvalidTransition:
            with pytest.raises(InvalidTransition):
                in_portions.apply(event, in_portions=True)
        else:
            in_portions.apply(event, in_portions=True)
        assert summary(in_portions) == summary(at_once)
    while in_portions.dependencies.has_unresolved:
        in_portions.resolve_portion()
    assert in_portions == at_once
    assert in_portions.dependencies.unsatisfiable == at_once.dependencies.unsatisfiable
    assert next_jobs(in_portions) == next_jobs(at_once)
    assert next_jobs(in_portions, 9000.0) == next_jobs(at_once, 9000.0)
    expired = [state.retention_index.pop_expired(1e9, 0) for state in (in_portions, at_once)]
    assert expired[0] == expired[1]
