"""The on_end command: a job that reads the ended job's JSON, and does not run for itself."""

import json
from typing import Any

import pytest
from twisted.internet.defer import fail

from taskqd.config.settings import ON_END_QUEUE, OnEnd
from taskqd.engine.end_hook import PRIORITY, EndHook
from taskqd.model.actor import END_HOOK
from taskqd.model.job import Job, Status
from taskqd.model.spec import Array
from tests.fakes.engine import Harness
from tests.fakes.processes import COMPLETED, FAILED
from tests.support.leaks import LeakWatch

COMMAND = "notify"


class HookedHarness:
    """A harness in which the on_end command runs for each job that ends."""

    def __init__(self, slots: int = 4, **on_end: Any) -> None:
        settings = OnEnd(COMMAND, **on_end)
        self.harness = Harness(slots, queues={ON_END_QUEUE: settings.slots})
        self.harness.engine.add_end_observer(
            EndHook(self.harness.engine.submissions, self.harness.job_view.describe, settings).on_job_ended
        )
        self.harness.engine.start()

    def hook_jobs(self) -> list[Job]:
        """Return the jobs of the command, the oldest first."""
        return [job for job in self.harness.queue_state.walk(1) if job.spec.queue == ON_END_QUEUE]

    def labels(self) -> list[str | None]:
        return [job.spec.label for job in self.hook_jobs()]

    def document(self, hook_job: Job) -> dict[str, Any]:
        """Return the document on the stdin of a job of the command."""
        blocks = self.harness.spool.blocks[hook_job.id]
        assert list(blocks) == ["stdin"]
        assert blocks["stdin"].endswith(b"}\n")
        assert blocks["stdin"].count(b"\n") == 1
        assert hook_job.spec.stdin == len(blocks["stdin"])
        document: dict[str, Any] = json.loads(blocks["stdin"])
        return document


@pytest.fixture(name="hooked")
def a_hooked_harness() -> HookedHarness:
    return HookedHarness()


def test_end_of_a_job_submits_the_command_with_its_json_on_stdin(hooked: HookedHarness) -> None:
    harness = hooked.harness
    job_id = harness.submit("work\n", label="mine")
    harness.finish(job_id, FAILED)
    [hook_job] = hooked.hook_jobs()
    assert hooked.document(hook_job) == json.loads(json.dumps(harness.job_view.describe(harness.job(job_id))))
    assert hooked.document(hook_job)["status"] == "FAILED"
    assert hook_job.owner == END_HOOK.name
    spec = hook_job.spec
    assert (hook_job.command, spec.priority, spec.timeout, spec.label) == (
        COMMAND,
        PRIORITY,
        30.0,
        "on_end 1",
    )


def test_timeout_is_that_of_the_settings() -> None:
    hooked = HookedHarness(timeout=5.0)
    hooked.harness.finish(hooked.harness.submit())
    assert [job.spec.timeout for job in hooked.hook_jobs()] == [5.0]


def test_command_runs_as_the_daemon_s_user(hooked: HookedHarness) -> None:
    hooked.harness.finish(hooked.harness.submit())
    assert [job.spec.as_daemon for job in hooked.hook_jobs()] == [True]
    assert not hooked.harness.job(1).spec.as_daemon


def test_command_does_not_run_for_itself(hooked: HookedHarness) -> None:
    hooked.harness.finish(hooked.harness.submit())
    hooked.harness.finish(hooked.hook_jobs()[0].id, FAILED)
    assert len(hooked.hook_jobs()) == 1


@pytest.mark.parametrize(
    "only_failures, notify_fail, expected",
    [
        (False, False, [Status.COMPLETED, Status.FAILED, Status.CANCELLED]),
        (False, True, [Status.FAILED]),
        (True, False, [Status.FAILED]),
        (True, True, [Status.FAILED]),
    ],
)
def test_command_runs_for_all_ends_or_only_for_failures(
    only_failures: bool, notify_fail: bool, expected: list[Status]
) -> None:
    hooked = HookedHarness(is_of_failures=only_failures)
    harness = hooked.harness
    for outcome in (COMPLETED, FAILED):
        harness.finish(harness.submit(notify_fail=notify_fail), outcome)
    harness.cancel(harness.submit(hold=True, notify_fail=notify_fail))
    harness.settle()
    found = [hooked.document(hook_job)["status"] for hook_job in hooked.hook_jobs()]
    assert found == [status.value for status in expected]


def test_command_does_not_run_before_a_retry(hooked: HookedHarness) -> None:
    harness = hooked.harness
    job_id = harness.submit(retries=1, retry_delay=1.0)
    harness.finish(job_id, FAILED)
    assert hooked.hook_jobs() == []
    harness.clock.advance(10.0)
    harness.settle()
    harness.finish(job_id, FAILED)
    assert [hooked.document(hook_job)["attempts"] for hook_job in hooked.hook_jobs()] == [2]


def test_command_runs_once_for_an_array_when_its_last_task_has_ended(hooked: HookedHarness) -> None:
    harness = hooked.harness
    array = harness.submit(array=Array(1, 3))
    for task, outcome in ((array + 1, COMPLETED), (array + 2, FAILED)):
        harness.finish(task, outcome)
    assert hooked.hook_jobs() == []
    harness.finish(array + 3)
    [hook_job] = hooked.hook_jobs()
    assert hooked.document(hook_job)["id"] == array
    assert hooked.document(hook_job)["tasks"]["failed"] == 1


def test_command_runs_for_a_skipped_job(hooked: HookedHarness) -> None:
    harness = hooked.harness
    first = harness.submit()
    then = harness.submit(after=(first,))
    harness.finish(first, FAILED)
    harness.settle()
    assert hooked.labels() == [f"on_end {first}", f"on_end {then}"]
    assert hooked.document(hooked.hook_jobs()[1])["reason"] == "dependency"


def test_commands_run_in_the_slots_of_their_queue() -> None:
    hooked = HookedHarness(slots=4)
    harness = hooked.harness
    for job_id in [harness.submit() for _ in range(3)]:
        harness.finish(job_id)
    assert [job.status for job in hooked.hook_jobs()] == [Status.RUNNING, Status.PENDING, Status.PENDING]
    harness.finish(hooked.hook_jobs()[0].id)
    assert [job.status for job in hooked.hook_jobs()][1:] == [Status.RUNNING, Status.PENDING]


def test_command_starts_before_all_waiting_jobs() -> None:
    hooked = HookedHarness(slots=1)
    harness = hooked.harness
    first, second, third = [harness.submit(priority=PRIORITY - 1) for _ in range(3)]
    harness.finish(first)
    assert harness.job(second).status is Status.RUNNING, "it had the slot before the command was durable"
    harness.finish(second)
    assert [job.status for job in hooked.hook_jobs()] == [Status.RUNNING, Status.PENDING]
    assert harness.job(third).status is Status.PENDING


def test_command_that_cannot_be_submitted_is_logged_and_lost(
    hooked: HookedHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = hooked.harness
    job_id = harness.submit()
    harness.spool.error = OSError(28, "No space left on device")
    harness.finish(job_id)
    harness.spool.error = None
    later = harness.submit()
    harness.finish(later)
    assert hooked.labels() == [f"on_end {later}"]
    [line] = caplog.messages
    assert line.startswith(
        "the on_end command does not run for job 1: the script, stdin, secrets or environment of the job"
    )


def test_command_does_not_run_during_a_drain_and_that_is_logged(
    hooked: HookedHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = hooked.harness
    job_id = harness.submit()
    harness.engine.dispatcher.drain()
    harness.finish(job_id)
    assert hooked.hook_jobs() == []
    assert [line.partition(": ")[0] for line in caplog.messages] == [
        "the on_end command does not run for job 1"
    ]


def test_internal_error_is_logged_and_releases_the_slot(
    hooked: HookedHarness, logged_errors: LeakWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = hooked.harness
    job_id = harness.submit()
    with monkeypatch.context() as patched:
        patched.setattr(harness.engine.submissions, "submit", lambda *_, **__: fail(ZeroDivisionError()))
        harness.finish(job_id)
    harness.finish(harness.submit())
    assert hooked.labels() == ["on_end 2"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_command_does_not_run_for_other_jobs_of_its_queue(hooked: HookedHarness) -> None:
    hooked.harness.finish(hooked.harness.submit(queue=ON_END_QUEUE))
    assert len(hooked.hook_jobs()) == 1


def test_command_runs_for_a_cancelled_job_when_its_process_has_ended(hooked: HookedHarness) -> None:
    harness = hooked.harness
    job_id = harness.submit()
    harness.cancel(job_id)
    harness.settle()
    assert hooked.hook_jobs() == []
    harness.finish(job_id, FAILED)
    assert [hooked.document(hook_job)["status"] for hook_job in hooked.hook_jobs()] == ["CANCELLED"]


def test_command_runs_again_after_a_retry(hooked: HookedHarness) -> None:
    harness = hooked.harness
    job_id = harness.submit()
    harness.finish(job_id, FAILED)
    harness.retry(job_id)
    harness.settle()
    harness.finish(job_id)
    found = [hooked.document(hook_job)["status"] for hook_job in hooked.hook_jobs()]
    assert found == ["FAILED", "COMPLETED"]
