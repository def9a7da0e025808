"""What runs at the end of a job: a job too, that gets the ended one's JSON, and is never told of itself."""

import json
from typing import Any

import pytest
from twisted.internet.defer import fail

from taskqd.config.settings import ON_END_QUEUE, OnEnd
from taskqd.engine.end_hook import OWNER, PRIORITY, EndHook
from taskqd.model.job import Job, Status
from taskqd.model.spec import Array
from tests.fakes.engine import Harness
from tests.fakes.processes import COMPLETED, FAILED
from tests.support.leaks import LeakWatch

COMMAND = "tell-me"


class Notified:
    """A house in which ``on_end`` is told of all that ends."""

    def __init__(self, slots: int = 4, **on_end: Any) -> None:
        settings = OnEnd(COMMAND, **on_end)
        self.harness = Harness(slots, queues={ON_END_QUEUE: settings.slots})
        self.harness.engine.add_end_observer(
            EndHook(self.harness.engine.submissions, self.harness.job_view.describe, settings).on_job_ended
        )
        self.harness.engine.start()

    def notices(self) -> list[Job]:
        """Return the notices, the oldest first."""
        return [job for job in self.harness.queue_state.walk(1) if job.spec.queue == ON_END_QUEUE]

    def labels(self) -> list[str | None]:
        return [job.spec.label for job in self.notices()]

    def document(self, notice: Job) -> dict[str, Any]:
        """Return what a notice reads on its stdin."""
        blocks = self.harness.spool.blocks[notice.id]
        assert list(blocks) == ["stdin"]
        assert blocks["stdin"].endswith(b"}\n")
        assert blocks["stdin"].count(b"\n") == 1
        assert notice.spec.stdin == len(blocks["stdin"])
        document: dict[str, Any] = json.loads(blocks["stdin"])
        return document


@pytest.fixture(name="notified")
def of_all() -> Notified:
    return Notified()


def test_the_end_of_a_job_submits_one_that_has_its_json_on_stdin(notified: Notified) -> None:
    harness = notified.harness
    job_id = harness.submit("work\n", label="mine")
    harness.finish(job_id, FAILED)
    [notice] = notified.notices()
    assert notified.document(notice) == json.loads(json.dumps(harness.job_view.describe(harness.job(job_id))))
    assert notified.document(notice)["status"] == "FAILED"
    assert notice.owner == OWNER.name
    spec = notice.spec
    assert (notice.command, spec.priority, spec.timeout, spec.label) == (COMMAND, PRIORITY, 30.0, "on_end 1")


def test_its_time_is_the_setting_s() -> None:
    notified = Notified(timeout=5.0)
    notified.harness.finish(notified.harness.submit())
    assert [job.spec.timeout for job in notified.notices()] == [5.0]


def test_it_is_the_daemon_s_own_whoever_s_the_job_was(notified: Notified) -> None:
    notified.harness.finish(notified.harness.submit())
    assert [job.spec.as_daemon for job in notified.notices()] == [True]
    assert not notified.harness.job(1).spec.as_daemon


def test_the_end_of_a_notice_is_told_to_nobody(notified: Notified) -> None:
    notified.harness.finish(notified.harness.submit())
    notified.harness.finish(notified.notices()[0].id, FAILED)
    assert len(notified.notices()) == 1


@pytest.mark.parametrize(
    "only_failures, notify_fail, told",
    [
        (False, False, [Status.COMPLETED, Status.FAILED, Status.CANCELLED]),
        (False, True, [Status.FAILED]),
        (True, False, [Status.FAILED]),
        (True, True, [Status.FAILED]),
    ],
)
def test_all_ends_are_told_or_failures_only(
    only_failures: bool, notify_fail: bool, told: list[Status]
) -> None:
    notified = Notified(is_of_failures=only_failures)
    harness = notified.harness
    for outcome in (COMPLETED, FAILED):
        harness.finish(harness.submit(notify_fail=notify_fail), outcome)
    harness.cancel(harness.submit(hold=True, notify_fail=notify_fail))
    harness.settle()
    found = [notified.document(notice)["status"] for notice in notified.notices()]
    assert found == [status.value for status in told]


def test_a_job_that_is_to_run_again_has_not_ended(notified: Notified) -> None:
    harness = notified.harness
    job_id = harness.submit(retries=1, retry_delay=1.0)
    harness.finish(job_id, FAILED)
    assert notified.notices() == []
    harness.clock.advance(10.0)
    harness.settle()
    harness.finish(job_id, FAILED)
    assert [notified.document(notice)["attempts"] for notice in notified.notices()] == [2]


def test_an_array_is_told_of_once_when_the_last_of_its_tasks_has_ended(notified: Notified) -> None:
    harness = notified.harness
    array = harness.submit(array=Array(1, 3))
    for task, outcome in ((array + 1, COMPLETED), (array + 2, FAILED)):
        harness.finish(task, outcome)
    assert notified.notices() == []
    harness.finish(array + 3)
    [notice] = notified.notices()
    assert notified.document(notice)["id"] == array
    assert notified.document(notice)["tasks"]["failed"] == 1


def test_a_job_that_was_skipped_has_failed(notified: Notified) -> None:
    harness = notified.harness
    first = harness.submit()
    then = harness.submit(after=(first,))
    harness.finish(first, FAILED)
    harness.settle()
    assert notified.labels() == [f"on_end {first}", f"on_end {then}"]
    assert notified.document(notified.notices()[1])["reason"] == "dependency"


def test_no_more_run_at_once_than_their_slots() -> None:
    notified = Notified(slots=4)
    harness = notified.harness
    for job_id in [harness.submit() for _ in range(3)]:
        harness.finish(job_id)
    assert [job.status for job in notified.notices()] == [Status.RUNNING, Status.PENDING, Status.PENDING]
    harness.finish(notified.notices()[0].id)
    assert [job.status for job in notified.notices()][1:] == [Status.RUNNING, Status.PENDING]


def test_a_notice_goes_before_all_that_waits() -> None:
    notified = Notified(slots=1)
    harness = notified.harness
    first, second, third = [harness.submit(priority=PRIORITY - 1) for _ in range(3)]
    harness.finish(first)
    assert harness.job(second).status is Status.RUNNING, "it had the slot before the notice was on disk"
    harness.finish(second)
    assert [job.status for job in notified.notices()] == [Status.RUNNING, Status.PENDING]
    assert harness.job(third).status is Status.PENDING


def test_one_that_cannot_be_recorded_is_logged_and_lost(
    notified: Notified, caplog: pytest.LogCaptureFixture
) -> None:
    harness = notified.harness
    job_id = harness.submit()
    harness.spool.error = OSError(28, "No space left on device")
    harness.finish(job_id)
    harness.spool.error = None
    later = harness.submit()
    harness.finish(later)
    assert notified.labels() == [f"on_end {later}"]
    [said] = caplog.messages
    assert said.startswith(
        "the on_end command does not run for job 1: the script, stdin or secrets of the job cannot be"
    )


def test_a_daemon_that_is_about_to_stop_tells_nobody_but_the_log(
    notified: Notified, caplog: pytest.LogCaptureFixture
) -> None:
    harness = notified.harness
    job_id = harness.submit()
    harness.engine.dispatcher.drain()
    harness.finish(job_id)
    assert notified.notices() == []
    assert [line.partition(": ")[0] for line in caplog.messages] == [
        "the on_end command does not run for job 1"
    ]


def test_a_bug_there_is_logged_and_keeps_no_job_from_its_slot(
    notified: Notified, logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = notified.harness
    job_id = harness.submit()
    with monkeypatch.context() as patched:
        patched.setattr(harness.engine.submissions, "submit", lambda *_, **__: fail(ZeroDivisionError()))
        harness.finish(job_id)
    harness.finish(harness.submit())
    assert notified.labels() == ["on_end 2"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_what_a_person_submits_to_that_queue_is_not_told_of(notified: Notified) -> None:
    notified.harness.finish(notified.harness.submit(queue=ON_END_QUEUE))
    assert len(notified.notices()) == 1


def test_a_cancelled_job_is_told_of_when_its_process_has_ended(notified: Notified) -> None:
    harness = notified.harness
    job_id = harness.submit()
    harness.cancel(job_id)
    harness.settle()
    assert notified.notices() == []
    harness.finish(job_id, FAILED)
    assert [notified.document(notice)["status"] for notice in notified.notices()] == ["CANCELLED"]


def test_a_job_that_is_retried_ends_twice(notified: Notified) -> None:
    harness = notified.harness
    job_id = harness.submit()
    harness.finish(job_id, FAILED)
    harness.retry(job_id)
    harness.settle()
    harness.finish(job_id)
    found = [notified.document(notice)["status"] for notice in notified.notices()]
    assert found == ["FAILED", "COMPLETED"]
