"""Jobs: statuses, exit codes, specs and tasks."""

from typing import Any

import pytest

from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import Array, Spec
from tests.support.tasks import some_tasks


def _job(**known: Any) -> Job:
    return Job(id=1, command="true", spec=Spec(retries=2), owner="ann", submitted_at=0.0, **known)


def test_statuses_and_reasons_are_those_of_the_protocol() -> None:
    assert [status.value for status in Status] == ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
    assert {reason.value for reason in Reason} <= {
        *("queued", "held", "delayed", "after", "retrying", "paused"),
        *("exit", "signal", "timeout", "spawn", "dependency", "interrupted", "output", "cancelled"),
    }


def _attempt(**known: Any) -> Attempt:
    return Attempt(number=1, started_at=0.0, **known)


@pytest.mark.parametrize(
    "status, attempt, code",
    [
        (Status.PENDING, None, None),
        (Status.PENDING, _attempt(exit_code=3), None),
        (Status.RUNNING, _attempt(), None),
        (Status.RUNNING, _attempt(exit_code=0), None),
        (Status.COMPLETED, _attempt(exit_code=0), 0),
        (Status.FAILED, _attempt(exit_code=255), 255),
        (Status.FAILED, _attempt(signal=11), -11),
        (Status.FAILED, _attempt(signal=15, exit_code=143), -15),
        (Status.FAILED, _attempt(), None),
        (Status.CANCELLED, None, None),
        (Status.CANCELLED, _attempt(signal=15), -15),
    ],
)
def test_exit_code_is_that_of_the_process_of_a_finished_job(
    status: Status, attempt: Attempt | None, code: int | None
) -> None:
    assert _job(status=status, attempt=attempt).exit_code == code


def test_default_spec_has_the_defaults_of_the_protocol() -> None:
    spec = Spec()
    assert (spec.timeout, spec.kill_after, spec.retries, spec.retry_delay) == (None, 5.0, 0, 1.0)
    assert (spec.umask, spec.nice, spec.max_output, spec.env) == (0o022, None, 256 * 1024**2, {})
    assert (spec.key, spec.label, spec.cwd, spec.script, spec.stdin) == (None, None, None, None, None)


def test_specs_with_equal_options_are_equal() -> None:
    assert Spec(env={"A": "1"}) == Spec(env={"A": "1"})
    assert Spec(script=3, blocks="aa") != Spec(script=3, blocks="bb")


def test_changed_job_keeps_its_original_spec() -> None:
    asked, now = Spec(priority=1), Spec(priority=2)
    assert Job(id=1, spec=asked, owner="ann", submitted_at=0.0).original_spec == asked
    assert Job(id=1, spec=now, owner="ann", submitted_at=0.0, spec_before_change=asked).original_spec == asked


def test_task_id_is_written_as_array_and_index() -> None:
    assert str(TaskId(7, 0)) == "7.0"


@pytest.mark.parametrize("array, count", [(Array(0, 0), 1), (Array(3, 12, 2), 10)])
def test_array_counts_one_task_per_index_including_both_ends(array: Array, count: int) -> None:
    assert array.count == count


def test_task_ids_follow_the_id_of_the_array() -> None:
    assert list(some_tasks(8, 3).ids) == [8, 9, 10]
