"""Jobs: statuses, exit codes, specs and tasks."""

from typing import Any

import pytest

from taskqd.model.job import Attempt, Job, Reason, Status, Usage
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import Array, Spec
from tests.support.tasks import some_tasks


def _job(**known: Any) -> Job:
    job = Job(id=1, command="true", spec=Spec(retries=2), owner="ann", submitted_at=0.0)
    for name, value in known.items():
        setattr(job, name, value)
    return job


def test_statuses_and_reasons_are_those_of_the_protocol() -> None:
    assert [status.value for status in Status] == ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
    assert {reason.value for reason in Reason} <= {
        *("queued", "held", "delayed", "after", "retrying", "paused", "suspended"),
        *(
            "exit",
            "signal",
            "timeout",
            "spawn",
            "dependency",
            "interrupted",
            "output",
            "cancelled",
            "expired",
            "memory",
        ),
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


def test_changed_job_keeps_the_command_of_its_submission_if_it_has_a_key() -> None:
    for key, original in (("k", "true"), (None, "b")):
        job = _job(spec=Spec(key=key))
        assert job.original_command == "true"
        job.change("a", Spec(key=key, priority=1))
        job.change("b", Spec(key=key, priority=2))
        assert (job.command, job.spec.priority) == ("b", 2)
        assert (job.original_command, job.original_spec) == (original, Spec(key=key))


def test_changed_job_keeps_its_original_spec() -> None:
    asked, now = Spec(priority=1), Spec(priority=2)
    assert Job(id=1, spec=asked, owner="ann", submitted_at=0.0).original_spec == asked
    changed = Job(id=1, spec=now, owner="ann", submitted_at=0.0)
    changed.spec_before_change = asked
    assert changed.original_spec == asked


def test_task_id_is_written_as_array_and_index() -> None:
    assert str(TaskId(7, 0)) == "7.0"


@pytest.mark.parametrize("array, count", [(Array(0, 0), 1), (Array(3, 12, 2), 10)])
def test_array_counts_one_task_per_index_including_both_ends(array: Array, count: int) -> None:
    assert array.count == count


def test_task_ids_follow_the_id_of_the_array() -> None:
    assert list(some_tasks(8, 3).ids) == [8, 9, 10]


def test_job_packs_its_attempt_and_shows_the_same() -> None:
    attempt = _attempt(ended_at=9.5, exit_code=3, reason=Reason.EXIT, usage=Usage(0.5, 0.25, 2048))
    job = _job(status=Status.FAILED, attempt=attempt, attempts=1, completed_at=9.5, failures=1)
    job.ahead = 2.0
    before = (job.attempt, job.completed_at, job.ended, job.exit_code, job.runs, job.may_have_files)
    job.pack_attempt()
    assert isinstance(job.last_attempt, bytes)
    assert (job.attempt, job.completed_at, job.ended, job.exit_code, job.runs, job.may_have_files) == before
    job.pack_attempt()
    assert job.attempt == attempt


def test_job_knows_when_its_latest_attempt_started() -> None:
    assert _job().started_at is None
    attempt = _attempt(ended_at=9.5, exit_code=0, usage=Usage())
    job = _job(status=Status.COMPLETED, attempt=attempt, attempts=1, completed_at=9.5)
    assert job.started_at == 0.0
    job.pack_attempt()
    assert job.started_at == 0.0


def test_job_that_runs_again_has_no_end_though_its_attempt_is_packed() -> None:
    job = _job(status=Status.COMPLETED, attempt=_attempt(ended_at=9.5, exit_code=0, usage=Usage()))
    job.completed_at = 9.5
    job.pack_attempt()
    job.status, job.completed_at = Status.PENDING, None
    assert (job.completed_at, job.ended) == (None, None)
    job.status, job.completed_at = Status.CANCELLED, 12.5
    assert job.completed_at == 12.5


def test_job_keeps_an_end_that_is_not_that_of_its_packed_attempt() -> None:
    job = _job(status=Status.COMPLETED, attempt=_attempt(ended_at=9.5, exit_code=0, usage=Usage()))
    job.completed_at = 11.0
    job.pack_attempt()
    assert isinstance(job.last_attempt, bytes)
    assert job.completed_at == 11.0


def test_job_does_not_pack_an_unusual_attempt() -> None:
    attempt = _attempt(ended_at=9.5, signal=9)
    job = _job(status=Status.FAILED, attempt=attempt)
    job.pack_attempt()
    assert job.attempt is attempt


def test_jobs_share_their_extras_until_one_differs() -> None:
    first, second = _job(), _job()
    assert first.extras is second.extras
    first.failures += 1
    assert (first.failures, second.failures) == (1, 0)
    assert first != second
    first.failures = 0
    assert first.extras is second.extras


@pytest.mark.parametrize(
    "attempt, runs, expected",
    [
        (_attempt(), 1, False),
        (_attempt(reason=Reason.EXIT), 1, False),
        (_attempt(reason=Reason.INTERRUPTED), 1, True),
        (_attempt(stdout_inline=False), 1, True),
        (_attempt(stderr_inline=False), 1, True),
        (_attempt(), 2, True),
        (None, 0, False),
    ],
)
def test_job_may_have_files_unless_all_output_is_known_to_be_in_the_journal(
    attempt: Attempt | None, runs: int, expected: bool
) -> None:
    assert _job(status=Status.FAILED, attempt=attempt, attempts=runs).may_have_files is expected


@pytest.mark.parametrize("spec", [Spec(script=1), Spec(stdin=0), Spec(secrets=("A",))])
def test_job_with_blocks_may_have_files(spec: Spec) -> None:
    assert _job(spec=spec).may_have_files


def test_job_with_files_of_an_earlier_attempt_may_have_files() -> None:
    job = _job(attempt=_attempt(), past=(_attempt(stdout_inline=False),), attempts=2)
    assert job.may_have_files


@pytest.mark.parametrize("attempt, expected", [(0, (-3, 7, 9)), (1, (-3, 7, 9)), (2, (2, 5, 6))])
def test_job_relocates_the_record_of_its_packed_attempt(attempt: int, expected: tuple[int, int, int]) -> None:
    known = _attempt(ended_at=9.5, exit_code=0, usage=Usage(), record=(2, 5, 6))
    job = _job(status=Status.COMPLETED, attempt=known, completed_at=9.5)
    job.pack_attempt()
    assert isinstance(job.last_attempt, bytes)
    job.relocate(attempt, 3, (-3, 7, 9))
    assert job.attempt is not None
    assert job.attempt.record == expected
