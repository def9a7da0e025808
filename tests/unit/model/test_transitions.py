"""The state machine of a job: which status leads to which by which event."""

import pytest

from taskqd.model.job import Status
from taskqd.model.transitions import TRANSITIONS

FINAL = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}

MOVES = [
    (before, event.__name__.lower(), after)
    for event, (_, statuses) in TRANSITIONS.items()
    for before, afters in statuses.items()
    for after in afters
]


@pytest.mark.parametrize("status", Status)
def test_status_is_final_if_only_a_retry_or_removal_leads_out_of_it(status: Status) -> None:
    leading_out = {event for before, event, _ in MOVES if before is status}
    assert status.is_final == (status in FINAL)
    assert (leading_out == {"retried", "removed"}) == status.is_final


def test_every_status_is_reachable_from_pending_and_leads_back_to_it() -> None:
    assert _reachable_from(Status.PENDING) == set(Status)
    for status in Status:
        assert Status.PENDING in _reachable_from(status)


def _reachable_from(status: Status) -> set[Status]:
    reached = {status}
    for _ in Status:
        reached |= {after for before, _, after in MOVES if before in reached}
    return reached


@pytest.mark.parametrize("before, event, after", MOVES)
def test_only_a_started_job_runs_and_only_a_running_job_completes(
    before: Status, event: str, after: Status
) -> None:
    if after is Status.RUNNING and before is not Status.RUNNING:
        assert (before, event) == (Status.PENDING, "started")
    if after is Status.COMPLETED and event != "removed":
        assert (before, event) == (Status.RUNNING, "ended")
    if after is Status.FAILED and event != "removed":
        assert (before, event) in {(Status.RUNNING, "ended"), (Status.PENDING, "skipped")}
