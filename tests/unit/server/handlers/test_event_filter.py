"""The filter of WATCH selects events by job, queue and visibility."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Clocked,
    Event,
    Paused,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    Scheduled,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Job
from taskqd.model.spec import Array, Spec
from taskqd.server.handlers.event_filter import EventFilter
from taskqd.state.queue_state import QueueState
from tests.fakes.clocks import START


def submitted(job_id: int, **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", command="true", spec=Spec(**spec))


def jobs_after(*events: Event) -> Mapping[int, Job]:
    """Return the jobs of a queue state with these events."""
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state.jobs


ALL = EventFilter()
FIRST, TASKS = submitted(1, queue="a"), submitted(2, queue="b", array=Array(1, 3))
BY: dict[str, Any] = {"at": START, "by": "ada"}


def of(job_id: int) -> Event:
    return Cancelled(id=job_id, at=START, by="ada", signal=15)


@pytest.mark.parametrize(
    "event, takers",
    [
        (FIRST, {"all", "a", "job 1"}),
        (TASKS, {"all", "b", "array", "task"}),
        (of(1), {"all", "a", "job 1"}),
        (of(2), {"all", "b", "array", "task"}),
        (of(3), {"all", "b", "array"}),
        (of(4), {"all", "b", "array", "task"}),
        (of(9), {"all", "a", "b"}),
        (submitted(9), {"all"}),
        (Changed(id=1, spec=Spec(queue="b"), **BY), {"all", "b", "job 1"}),
        (Paused(**BY), {"all", "a", "b"}),
        (Paused(queue="a", **BY), {"all", "a"}),
        (Resumed(queue="b", **BY), {"all", "b"}),
        (Resized(queue="b", slots=3, **BY), {"all", "b"}),
        (Rescaled(slots=3, **BY), {"all", "a", "b"}),
        (Paused(schedule=1, **BY), {"all"}),
        (Scheduled(schedule=1, spec=Spec(queue="a"), every=9.0, **BY), {"all"}),
        (Rescheduled(schedule=1, spec=Spec(queue="a"), every=9.0, **BY), {"all"}),
        (Unscheduled(schedule=1, **BY), {"all"}),
    ],
)
def test_filter_matches_events_of_its_job_or_queue(event: Event, takers: set[str]) -> None:
    jobs: Mapping[int, Job] = jobs_after(FIRST, TASKS)
    filters = {
        "all": ALL,
        "a": EventFilter(queue="a"),
        "b": EventFilter(queue="b"),
        "job 1": EventFilter.of_job(jobs[1]),
        "array": EventFilter.of_job(jobs[2]),
        "task": EventFilter.of_job(jobs[4]),
    }
    assert {name for name, wanted in filters.items() if wanted.matches(event, jobs)} == takers


def test_filter_of_job_may_have_a_queue() -> None:
    jobs = jobs_after(FIRST, TASKS)
    assert EventFilter.of_job(jobs[1], "a").matches(of(1), jobs)
    assert not EventFilter.of_job(jobs[1], "b").matches(of(1), jobs)


EVES = Submitted(id=6, at=START, owner="eve", command="true", spec=Spec(queue="a"))
BY_EVE: dict[str, Any] = {"at": START, "by": "eve"}


@pytest.mark.parametrize(
    "event, takers",
    [
        (FIRST, {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (TASKS, {"ada"}),
        (EVES, {"a", "eve"}),
        (of(1), {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (of(2), {"ada"}),
        (of(4), {"ada"}),
        (of(6), {"a", "eve"}),
        (of(9), set()),
        (submitted(9, queue="a"), set()),
        (Paused(**BY), {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (Paused(**BY_EVE), {"a", "eve"}),
        (Paused(queue="a", **BY_EVE), {"a", "eve"}),
        (Resumed(queue="b", **BY), {"ada"}),
        (Resized(queue="b", slots=3, **BY), {"ada"}),
        (Paused(schedule=1, **BY), {"ada"}),
        (Scheduled(schedule=1, spec=Spec(queue="a"), every=9.0, **BY), {"ada"}),
        (Unscheduled(schedule=1, **BY_EVE), {"eve"}),
    ],
)
def test_filter_with_owner_matches_only_visible_events(event: Event, takers: set[str]) -> None:
    """Events of a job that is no longer known are left out, because its owner is unknown."""
    jobs = jobs_after(FIRST, TASKS, EVES)
    filters = {
        "ada": EventFilter(owner="ada"),
        "eve": EventFilter(owner="eve"),
        "a": EventFilter(token_queue="a"),
        "ada in a": EventFilter(owner="ada", token_queue="a"),
        "ada's watch of queue a": EventFilter(owner="ada", queue="a"),
        "ada's watch of a job of eve's": replace(EventFilter.of_job(jobs[6]), owner="ada"),
    }
    assert {name for name, wanted in filters.items() if wanted.matches(event, jobs)} == takers


def test_clock_records_are_not_sent() -> None:
    assert not ALL.matches(Clocked(at=START, boot_clock=1.0), {})
