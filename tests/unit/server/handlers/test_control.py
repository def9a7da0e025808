"""The replies to CANCEL, RETRY, HOLD, RELEASE, SET and REMOVE."""

import pytest

from taskqd.errors import (
    BadRequest,
    Gone,
    NoSuchJob,
    WrongState,
)
from taskqd.model.events import Held, Released, Removed
from taskqd.model.job import Reason, Status
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH
from tests.fakes.deferreds import result_of
from tests.fakes.processes import FAILED
from tests.support.requests import answer, ask, opened, refusal, shown


def test_cancel_answers_with_the_status() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    assert answer(harness, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(harness, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(harness, "CANCEL 2 --signal=INT") == "STATUS CANCELLED 0\r\n"
    harness.finish(1, FAILED)
    assert answer(harness, "STATUS 1") == "STATUS CANCELLED 0\r\n"
    assert answer(harness, "CANCEL 1") == "STATUS CANCELLED 0\r\n"


@pytest.mark.parametrize("name, number", [("", 15), (" --signal=INT", 2), (" --signal=SIGKILL", 9)])
def test_cancel_sends_the_requested_signal(name: str, number: int) -> None:
    harness = opened()
    harness.submit()
    answer(harness, f"CANCEL 1{name}")
    assert harness.executor.signals == [(1, Reason.CANCELLED, number)]


def test_retry_answers_with_the_id_or_refuses_unfinished_job() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "RETRY 1"), WrongState)
    harness.finish(1)
    assert isinstance(refusal(harness, "CANCEL 1"), WrongState)
    assert answer(harness, "RETRY 1") == "JOB_ID 1\r\n"
    assert harness.job(1).status is Status.RUNNING


def test_cancel_with_cascade_also_cancels_dependents() -> None:
    harness = opened(1)
    harness.submit()
    answer(harness, "SUBMIT --after=1 true")
    answer(harness, "SUBMIT --after=2 true")
    assert answer(harness, "CANCEL 2 --cascade") == "STATUS CANCELLED 0\r\n"
    assert harness.statuses() == [Status.RUNNING, Status.CANCELLED, Status.CANCELLED]


def test_retry_with_cascade_records_the_skipped_jobs_in_batches() -> None:
    harness = opened(1)
    harness.submit()
    for _ in range(MAX_JOBS_PER_BATCH + 1):
        harness.begin_submit(after=(1,))
    harness.settle()
    harness.finish(1, FAILED)
    for _ in range(3):  # the dependents are resolved in portions, one per turn of the reactor
        harness.clock.advance(0)
        harness.settle()
    replied, batches = ask(harness, "RETRY 1 --cascade"), list[int]()
    while not replied.called:
        appends = harness.journal.pending_appends
        batches += map(len, appends)
        harness.journal.sync(len(appends))
        harness.clock.advance(0)
    assert result_of(replied) == b"JOB_ID 1\r\n"
    assert batches == [1, 1, MAX_JOBS_PER_BATCH, 1, 1]  # job 1, its start, 250 others, its pid, the last one
    assert set(harness.statuses()) == {Status.RUNNING, Status.PENDING}


def test_held_job_starts_after_release() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    assert answer(harness, "HOLD 2") == "STATUS PENDING 0\r\n"
    harness.finish(1)
    assert answer(harness, "STATUS 2") == "STATUS PENDING 0\r\n"
    assert shown(harness, "SHOW 2")["reason"] == "held"
    assert "held" in answer(harness, "WHY 2")
    assert answer(harness, "RELEASE 2") == "STATUS PENDING 0\r\n"
    assert answer(harness, "STATUS 2") == "STATUS RUNNING 0\r\n"
    for verb in ("HOLD", "RELEASE"):
        assert isinstance(refusal(harness, f"{verb} 2"), WrongState)
    found = [event for event in harness.journal.events if isinstance(event, Held | Released)]
    assert [event.by for event in found] == ["ada", "ada"]


def test_set_answers_with_the_changed_job() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit(label="x", timeout=5.0)
    job = shown(harness, 'SET 2 --priority=7 --queue=q --label="" --timeout=none --delay=60')
    assert (job["priority"], job["queue"], job["label"], job["timeout"]) == (7, "q", None, None)
    assert (job["status"], job["reason"]) == ("PENDING", "delayed")
    assert shown(harness, "SET 2 --at=none")["reason"] == "queued"
    assert isinstance(refusal(harness, "SET 1 --priority=1"), WrongState)
    assert isinstance(refusal(harness, "SET 2 --slots=2"), BadRequest)


def test_remove_deletes_a_finished_job() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "REMOVE 1"), WrongState)
    assert isinstance(refusal(harness, "REMOVE 2"), NoSuchJob)
    harness.finish(1)
    assert answer(harness, "REMOVE 1") == "OK\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "OUTPUT"):
        line = f"{verb} 1 stdout" if verb == "OUTPUT" else f"{verb} 1"
        assert isinstance(refusal(harness, line), Gone), verb
    assert answer(harness, "LIST") == "END 0\r\n"
    assert shown(harness, "STATS")["counters"]["removed"] == 1
    assert isinstance(harness.journal.events[-1], Removed)
    assert harness.journal.events[-1].by == "ada"
