"""Tracking running and ended jobs by events."""

import pytest

from taskqd.cli.statuses import FINISHED
from taskqd.cli.top.job_tracker import JobTracker
from taskqd.client import Facts
from tests.unit.cli.top.samples import RUNNING, a_job, event


def test_job_tracker_derives_jobs_to_query_from_events() -> None:
    tracker = JobTracker(2)
    tracker.on_event({"type": "paused", "by": "ana"})
    for each in (
        event("started", 7),
        event("started", 8),
        event("started", 9),
        event("ended", 8, status="COMPLETED"),
        event("ended", 9, status="PENDING"),
        event("cancelled", 7),
    ):
        tracker.on_event(each)
    assert tracker.jobs_to_query(10) == [7, 8]
    assert tracker.jobs_to_query(0) == [8]
    assert (tracker.running, tracker.ended) == ([], [])
    tracker.update(a_job(7, "RUNNING"))
    tracker.update(a_job(8, "COMPLETED"))
    assert tracker.jobs_to_query(10) == [7]
    assert [job["id"] for job in (*tracker.running, *tracker.ended)] == [7, 8]
    tracker.on_event(event("cancelled", 3))
    tracker.on_event(event("skipped", 4))
    assert tracker.jobs_to_query(10) == [7, 3, 4]
    assert tracker.ended == []


@pytest.mark.parametrize("kind", ["retried", "removed"])
def test_job_tracker_forgets_retried_and_removed_jobs(kind: str) -> None:
    tracker = JobTracker(2)
    tracker.load([a_job(5, "FAILED")])
    tracker.on_event(event(kind, 5))
    assert tracker.ended == []


def test_job_tracker_sorts_jobs_by_status() -> None:
    tracker = JobTracker(2)
    for status in ("RUNNING", "FAILED", "RUNNING", "PENDING", "CANCELLED", "PENDING"):
        tracker.update(a_job(5, status))
        assert len(tracker.running) == (status == "RUNNING")
        assert len(tracker.ended) == (status in FINISHED)


def test_job_tracker_queries_array_of_running_task() -> None:
    tracker = JobTracker(2)
    tracker.update(RUNNING[1])
    assert tracker.jobs_to_query(10) == [2, 30]
    tracker.update(a_job(30, "COMPLETED"))
    assert [job["id"] for job in tracker.ended] == [30]


@pytest.mark.parametrize(
    "happened", [event("submitted", 9), event("ended", 7, status="PENDING"), event("retried", 8)]
)
def test_job_tracker_knows_when_a_job_may_be_pending(happened: Facts) -> None:
    tracker = JobTracker(2)
    assert tracker.may_have_pending
    tracker.may_have_pending = False
    tracker.on_event(event("started", 9))
    assert not tracker.may_have_pending
    tracker.on_event(happened)
    assert tracker.may_have_pending
    tracker.may_have_pending = False
    tracker.update(a_job(6, "PENDING"))
    assert tracker.may_have_pending
