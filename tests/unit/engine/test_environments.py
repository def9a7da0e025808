"""Environments of jobs: each is stored once, before the first job that has it, until the last is removed."""

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred

from taskqd.engine.submissions import NewJob, SubmissionBatch
from taskqd.errors import BadRequest, KeyConflict, StoreFailed
from taskqd.model.environment import Environment, environment_of
from taskqd.model.job import Status
from taskqd.model.spec import Array, Spec
from taskqd.model.submission import Refusal, SimilarSubmissions
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed

BLOCK, OTHER = b"A=hunter2\0", b"B=2\0"
ENVIRONMENT = environment_of(BLOCK)


def begin(harness: Harness, block: bytes = BLOCK, command: str = "true", **options: Any) -> "Deferred[int]":
    """Submit a job with an environment, without making it durable."""
    spec = Spec(environment=environment_of(block), **options)
    blocks = {"stdin": b"in"} if "stdin" in options else {}
    new = NewJob(command, spec, ACTOR, blocks, block)
    return maybeDeferred(harness.engine.submissions.submit, new)


def submit(harness: Harness, block: bytes = BLOCK, **options: Any) -> int:
    answer = begin(harness, block, **options)
    harness.settle()
    return result_of(answer)


def remove(harness: Harness, *jobs: int) -> None:
    for job_id in jobs:
        harness.cancel(job_id)
        harness.settle()
        harness.remove(job_id)
        harness.settle()


def kept(harness: Harness) -> set[str]:
    return set(harness.spool.environments.blocks)


def test_environment_is_stored_before_the_submission_is_recorded() -> None:
    harness = opened()
    harness.spool.environments.is_slow = True
    answer = begin(harness, stdin=2)
    assert harness.journal.pending == []
    harness.spool.environments.pending[0].callback(None)
    assert harness.spool.blocks == {1: {"stdin": b"in"}}
    harness.settle()
    assert result_of(answer) == 1
    assert harness.job(1).spec.environment == ENVIRONMENT


def test_environment_is_stored_once_and_removed_with_its_last_job() -> None:
    harness = opened()
    for job_id in (1, 2, 3):
        assert submit(harness, hold=True) == job_id
    assert submit(harness, OTHER, hold=True) == 4
    assert harness.spool.environments.stored == [ENVIRONMENT.sha256, environment_of(OTHER).sha256]
    remove(harness, 1, 3)
    assert ENVIRONMENT.sha256 in kept(harness)
    remove(harness, 2)
    assert kept(harness) == {environment_of(OTHER).sha256}
    assert harness.engine.environments.pinned == frozenset()


def test_environment_of_an_array_is_removed_with_the_array() -> None:
    harness = opened()
    answer = maybeDeferred(
        harness.engine.submissions.submit,
        NewJob("x", Spec(environment=ENVIRONMENT, array=Array(1, 2), hold=True), ACTOR, environment=BLOCK),
    )
    harness.settle()
    remove(harness, result_of(answer))
    assert kept(harness) == set()


def test_submissions_of_one_environment_at_once_write_it_once() -> None:
    harness = opened()
    harness.spool.environments.is_slow = True
    answers = [begin(harness, hold=True) for _ in range(3)]
    assert len(harness.spool.environments.pending) == 1
    harness.spool.environments.pending[0].callback(None)
    harness.settle()
    assert [result_of(answer) for answer in answers] == [1, 2, 3]
    assert harness.spool.environments.stored == [ENVIRONMENT.sha256]


def test_submission_during_the_removal_of_its_environment_writes_it_again() -> None:
    harness = opened()
    submit(harness, hold=True)
    files = harness.spool.environments
    files.is_slow = True
    remove(harness, 1)
    answer = begin(harness, hold=True)
    assert len(files.pending) == 1, "the submission waits for the removal"
    files.pending[0].callback(None)
    assert kept(harness) == set()
    files.pending[1].callback(None)
    harness.settle()
    assert result_of(answer) == 2
    assert kept(harness) == {ENVIRONMENT.sha256}


def test_environment_is_kept_for_a_submission_that_is_not_durable_yet() -> None:
    harness = opened()
    submit(harness, hold=True)
    answer = begin(harness, hold=True)
    harness.cancel(1)
    harness.settle()
    assert result_of(answer) == 2
    answer = begin(harness, hold=True)
    remove(harness, 1, 2)
    assert result_of(answer) == 3
    assert kept(harness) == {ENVIRONMENT.sha256}
    assert harness.spool.environments.stored == [ENVIRONMENT.sha256]


def test_lost_file_is_written_again_by_the_next_submission() -> None:
    harness = opened()
    submit(harness, hold=True)
    harness.spool.environments.blocks.clear()
    submit(harness, hold=True)
    assert kept(harness) == {ENVIRONMENT.sha256}


def test_submission_is_refused_if_its_environment_cannot_be_written() -> None:
    harness = opened()
    harness.spool.environments.error = OSError("no space left")
    assert isinstance(error_of(begin(harness)), StoreFailed)
    assert harness.journal.events == harness.journal.pending == []
    assert harness.engine.environments.pinned == frozenset()
    assert harness.engine.submissions.quota.is_empty


def test_environment_of_a_submission_that_cannot_be_recorded_is_removed() -> None:
    harness = opened()
    answer = begin(harness)
    assert kept(harness) == {ENVIRONMENT.sha256}
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert kept(harness) == set()


def test_refused_submission_leaves_no_environment() -> None:
    harness = opened(slots=2)
    assert isinstance(error_of(begin(harness, slots=3)), BadRequest)
    assert kept(harness) == harness.engine.environments.pinned == frozenset()


def test_removal_that_fails_is_left_for_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened()
    submit(harness, hold=True)
    harness.spool.environments.error = OSError("busy")
    remove(harness, 1)
    assert f"environment {ENVIRONMENT.sha256} is left for the next start: busy" in caplog.messages
    harness.spool.environments.error = None
    submit(harness, hold=True)
    assert kept(harness) == {ENVIRONMENT.sha256}


def test_same_key_with_another_environment_is_another_submission() -> None:
    harness = opened()
    assert submit(harness, key="k") == submit(harness, key="k") == 1
    assert isinstance(error_of(begin(harness, OTHER, key="k")), KeyConflict)
    assert kept(harness) == {ENVIRONMENT.sha256}


# Batches, whose environment was sent before.


def submit_batch(harness: Harness, *environments: Environment | None) -> "Deferred[Any]":
    similar = [SimilarSubmissions(Spec(environment=each, hold=True), ["a", "b"]) for each in environments]
    return harness.engine.submissions.submit_all([SubmissionBatch(ACTOR, similar)])


def test_pinned_environment_outlives_its_jobs_until_it_is_released() -> None:
    harness = opened()
    submit(harness, hold=True)
    pin = harness.engine.environments.pin(ENVIRONMENT)
    remove(harness, 1)
    answer = submit_batch(harness, None, ENVIRONMENT)
    pin.release()
    pin.release()
    assert kept(harness) == {ENVIRONMENT.sha256}, "the batch is not durable yet"
    harness.settle()
    assert result_of(answer) == [[range(2, 4), range(4, 6)]]
    remove(harness, 4)
    assert kept(harness) == {ENVIRONMENT.sha256}
    remove(harness, 5)
    assert kept(harness) == set()
    assert harness.queue_state == replayed(harness.journal.events)


def test_batch_that_cannot_be_recorded_keeps_no_environment() -> None:
    harness = opened()
    submit(harness, hold=True)
    pin = harness.engine.environments.pin(ENVIRONMENT)
    remove(harness, 1)
    answer = submit_batch(harness, ENVIRONMENT)
    pin.release()
    harness.journal.fail()
    [[refusal]] = result_of(answer)
    assert isinstance(refusal, Refusal)
    assert kept(harness) == set()


def test_retried_and_changed_jobs_keep_their_environment() -> None:
    harness = opened()
    submit(harness, hold=True)
    harness.change(1, priority=3)
    harness.settle()
    harness.cancel(1)
    harness.settle()
    harness.retry(1)
    harness.settle()
    job = harness.job(1)
    assert job.status is not Status.CANCELLED
    assert replace(job.spec, priority=0, hold=True) == Spec(environment=ENVIRONMENT, hold=True)
    assert kept(harness) == {ENVIRONMENT.sha256}
