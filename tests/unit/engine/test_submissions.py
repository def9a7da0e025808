"""Submissions: blocks, submission keys, dependencies, jobs that could never start."""

from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from taskqd.engine.submissions import NewJob
from taskqd.errors import (
    BadRequest,
    Gone,
    KeyConflict,
    LabelInUse,
    NoSuchJob,
    StoreFailed,
)
from taskqd.model.actor import Actor
from taskqd.model.events import Submitted
from taskqd.model.footprint import footprint
from taskqd.model.job import Status
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import DEFAULT_SPEC, Array, NamedDependencies, Spec
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running

# Blocks.


def test_submission_is_recorded_when_its_blocks_are_durable() -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = harness.begin_submit("", {"script": b"echo 1", "stdin": b"in"}, script=6, stdin=2)
    assert harness.journal.pending == []
    assert harness.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert result_of(answer) == 1


def test_submission_is_refused_if_its_blocks_cannot_be_written() -> None:
    harness = opened()
    harness.spool.error = OSError("no space left")
    answer = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2)
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.journal.events == harness.journal.pending == []
    harness.spool.error = None
    assert harness.submit() == 2


def test_internal_error_while_writing_blocks_is_not_an_error_of_the_journal() -> None:
    harness = opened()
    harness.spool.error = ZeroDivisionError()
    assert isinstance(error_of(harness.begin_submit("cat", {"stdin": b"in"}, stdin=2)), ZeroDivisionError)


def test_submission_does_not_wait_for_the_blocks_of_an_earlier_one() -> None:
    harness = opened()
    harness.spool.is_slow = True
    slow = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2)
    assert harness.submit() == 2
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert result_of(slow) == 1
    assert harness.queue_state.last_id == 2
    assert harness.submit() == 3


# Keys.


def test_same_submission_with_the_same_key_has_the_same_id() -> None:
    harness = opened()
    assert [harness.submit("true", key="k") for _ in range(3)] == [1, 1, 1]
    assert harness.submit("true", key="other") == 2
    assert len(harness.queue_state.jobs) == 2


def test_different_submission_with_a_known_key_is_refused() -> None:
    harness = opened()
    harness.submit("true", key="k")
    for again in (harness.begin_submit("false", key="k"), harness.begin_submit("true", key="k", retries=1)):
        assert isinstance(error_of(again), KeyConflict)
    assert harness.submit() == 2


def test_key_is_locked_until_its_first_submission_is_durable() -> None:
    harness = opened()
    first, same, other = (harness.begin_submit(command, key="k") for command in ("true", "true", "false"))
    harness.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)
    assert [type(event) for event in harness.journal.events].count(Submitted) == 1


def test_key_compares_blocks() -> None:
    harness = opened()
    first = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2, key="k")
    same = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2, key="k")
    other = harness.begin_submit("cat", {"stdin": b"no"}, stdin=2, key="k")
    harness.settle()
    assert result_of(first) == result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)


def test_first_line_of_a_script_is_recorded() -> None:
    harness = opened()
    harness.begin_submit("-j4", {"script": b"#!/bin/sh\n\nmake $1\n"}, script=19)
    harness.begin_submit("", {"script": b"\n"}, script=1)
    harness.begin_submit("cat", {"stdin": b"in\n"}, stdin=3)
    harness.settle()
    recorded = [event.spec for event in harness.journal.events if isinstance(event, Submitted)]
    assert [spec.script_line for spec in recorded] == ["make $1", None, None]
    assert [harness.job(job_id).spec for job_id in (1, 2, 3)] == recorded


def test_line_of_a_script_counts_as_pending_bytes() -> None:
    harness = opened()
    answer = harness.begin_submit("", {"script": b"x" * 40}, script=40, hold=True)
    harness.settle()
    job = harness.job(result_of(answer))
    without = footprint("", replace(job.spec, script_line=None))
    assert harness.queue_state.pending_bytes == without + 40


def test_key_finds_a_script_whose_line_an_older_daemon_did_not_record() -> None:
    spec = Spec(script=6, key="k", blocks=sha256(b"echo 1").hexdigest())
    accepted = Submitted(id=1, at=1.0, owner=ACTOR.name, command="", spec=spec)
    harness = opened(events=[accepted], next_id=2)
    same = harness.begin_submit("", {"script": b"echo 1"}, script=6, key="k")
    other = harness.begin_submit("", {"script": b"echo 2"}, script=6, key="k")
    harness.settle()
    assert result_of(same) == 1
    assert isinstance(error_of(other), KeyConflict)


def with_secret(harness: Harness, value: bytes, **options: Any) -> "Deferred[int]":
    """Return the Deferred of a submission with a secret A."""
    return harness.begin_submit(blocks={"secret": b"A=" + value + b"\0"}, secrets=("A",), **options)


def test_values_of_secrets_are_written_to_the_spool_and_not_to_the_journal() -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = with_secret(harness, b"hunter2")
    assert harness.journal.pending == []
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert harness.spool.blocks[result_of(answer)] == {"secret": b"A=hunter2\0"}
    assert harness.job(1).spec == Spec(secrets=("A",))
    assert "hunter2" not in repr(harness.journal.events)


def test_digest_of_blocks_does_not_include_secrets() -> None:
    harness = opened()
    blocks = {"stdin": b"in", "secret": b"A=hunter2\0"}
    for each in (blocks, {"stdin": b"in"}):
        harness.begin_submit("cat", each, stdin=2)
    harness.settle()
    assert harness.job(1).spec.blocks == harness.job(2).spec.blocks is not None


@pytest.mark.parametrize("array", [None, Array(1, 3)])
def test_key_compares_secrets(array: Array | None) -> None:
    harness = opened()
    submitted = [with_secret(harness, value, key="k", array=array) for value in (b"1", b"1", b"2")]
    without = harness.begin_submit(key="k", array=array)
    harness.settle()
    first, same, other = submitted
    assert result_of(first) == result_of(same) == 1
    assert all(isinstance(error_of(each), KeyConflict) for each in (other, without))


def test_known_key_is_an_error_if_the_secrets_cannot_be_read() -> None:
    harness = opened()
    with_secret(harness, b"1", key="k")
    harness.settle()
    del harness.spool.blocks[1]
    again = with_secret(harness, b"1", key="k")
    assert "cannot be compared with job 1, which has the same key" in str(error_of(again))
    assert isinstance(error_of(with_secret(harness, b"1", key="k")), StoreFailed)


@pytest.mark.parametrize("is_kept", [True, False])
def test_secrets_of_a_refused_submission_are_removed(is_kept: bool) -> None:
    harness = opened()
    harness.spool.is_slow = True
    answer = with_secret(harness, b"1")
    if is_kept:
        harness.spool.pending_writes[0].callback(None)
        harness.journal.fail()
    else:
        harness.spool.pending_writes[0].errback(OSError("no space"))
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.spool.removed == [(1, 0)]


def test_key_is_free_after_its_first_submission_failed() -> None:
    harness = opened()
    harness.spool.is_slow = True
    first = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2, key="k")
    second = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2, key="k")
    harness.spool.pending_writes[0].errback(OSError("no space"))
    harness.spool.pending_writes[1].callback(None)
    harness.settle()
    assert isinstance(error_of(first), StoreFailed)
    assert harness.job(result_of(second)).spec.key == "k"


def test_key_of_a_completed_job_is_known() -> None:
    harness = opened()
    harness.submit("true", key="k")
    harness.finish(1)
    assert harness.submit("true", key="k") == 1
    assert harness.statuses() == [Status.COMPLETED]


# Dependencies and demands.


@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
def test_dependency_that_does_not_exist_is_refused(kind: str) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1)
    harness.remove(1)
    harness.settle()
    unknown: dict[str, Any] = {kind: (2,)}
    gone: dict[str, Any] = {kind: (1,)}
    assert isinstance(error_of(harness.begin_submit(**unknown)), NoSuchJob)
    assert isinstance(error_of(harness.begin_submit(**gone)), Gone)
    assert isinstance(error_of(harness.begin_submit(**unknown, key="k")), NoSuchJob)
    assert harness.journal.pending == []
    assert harness.submit(key="k") == 2


def test_dependency_on_a_task_by_index_is_stored_as_its_id() -> None:
    harness = opened()
    harness.submit(array=Array(3, 5))
    harness.submit(after=(TaskId(1, 4), 2))
    assert harness.job(5).spec.after == (3, 2)
    assert isinstance(error_of(harness.begin_submit(after=(TaskId(1, 9),))), NoSuchJob)
    assert isinstance(error_of(harness.begin_submit(after=(TaskId(2, 1),))), BadRequest)


def test_key_compares_dependencies_by_id() -> None:
    harness = opened()
    harness.submit(array=Array(3, 5))
    assert harness.submit(after=(TaskId(1, 4),), key="k") == harness.submit(after=(3,), key="k") == 5


@pytest.mark.parametrize(
    "wish", [{"slots": 3}, {"needs": {"gpu": 2}}, {"needs": {"tape": 1}}, {"queue": "a", "slots": 2}]
)
def test_job_that_could_never_start_is_refused(wish: dict[str, Any]) -> None:
    harness = opened(2, queues={"a": 1}, resources={"gpu": 1})
    assert isinstance(error_of(harness.begin_submit(**wish)), BadRequest)
    assert isinstance(error_of(harness.begin_submit(key="k", **wish)), BadRequest)
    assert harness.journal.pending == []


def test_schedule_is_recorded_with_the_job_that_it_submits() -> None:
    harness = opened()
    harness.schedule()
    harness.settle()
    answer = harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    harness.settle()
    assert harness.job(result_of(answer)).schedule == 1
    assert harness.queue_state.schedules.by_id[1].last_job == 1


# Conditions.


@pytest.mark.parametrize(
    "other, status",
    [
        ({}, Status.RUNNING),
        ({"hold": True}, Status.PENDING),
        ({"array": Array(1, 2), "hold": True}, Status.PENDING),
        ({"array": Array(1, 2)}, Status.RUNNING),
    ],
)
def test_submission_is_refused_while_a_job_with_the_label_of_its_unless_has_not_ended(
    other: dict[str, Any], status: Status
) -> None:
    harness = opened()
    harness.submit(label="x", **other)
    refusal = error_of(harness.begin_submit(unless="x"))
    assert isinstance(refusal, LabelInUse)
    assert f"job 1 with the label 'x' is {status.value}" in str(refusal)
    assert refusal.code == "WRONG_STATE"
    assert [type(event) for event in harness.journal.events].count(Submitted) == 1


def test_submission_with_an_unless_is_accepted_when_jobs_with_that_label_have_ended() -> None:
    harness = opened()
    harness.submit(label="x")
    harness.finish(1)
    assert harness.submit(unless="x", label="x") == 2
    assert isinstance(error_of(harness.begin_submit(unless="x")), LabelInUse)
    harness.finish(2)
    assert harness.submit(unless="x") == 3


def test_unless_ignores_jobs_of_other_owners_and_other_labels() -> None:
    harness = opened()
    harness.submit(label="y")
    other = harness.engine.submissions.submit(NewJob("true", Spec(label="x"), Actor("bob")))
    harness.settle()
    assert result_of(other) == 2
    assert harness.submit(unless="x") == 3


def test_one_of_two_submissions_at_once_with_the_same_unless_is_accepted() -> None:
    harness = opened()
    first, second = (harness.begin_submit(unless="x", label="x") for _ in range(2))
    harness.settle()
    assert result_of(first) == 1
    assert isinstance(error_of(second), LabelInUse)


def test_one_of_two_submissions_that_exclude_each_other_is_accepted() -> None:
    harness = opened()
    first = harness.begin_submit(unless="x", label="y")
    second = harness.begin_submit(unless="y", label="x")
    harness.settle()
    assert result_of(first) == 1
    assert isinstance(error_of(second), LabelInUse)


def test_submission_with_an_unless_is_accepted_after_the_one_before_has_failed() -> None:
    harness = opened()
    harness.spool.is_slow = True
    first = harness.begin_submit("cat", {"stdin": b"in"}, stdin=2, unless="x", label="x")
    second = harness.begin_submit(unless="x", label="x")
    harness.spool.pending_writes[0].errback(OSError("no space left"))
    harness.settle()
    assert isinstance(error_of(first), StoreFailed)
    assert harness.job(result_of(second)).spec.label == "x"


def test_known_key_is_answered_whatever_its_unless_says() -> None:
    harness = opened()
    assert [harness.submit(unless="x", label="x", key="k") for _ in range(2)] == [1, 1]
    assert isinstance(error_of(harness.begin_submit(unless="x", label="x", key="l")), LabelInUse)


def test_key_compares_named_dependencies_as_they_were_given() -> None:
    """The set of the jobs with a label has changed since, and the job of a key is gone."""
    harness = opened()
    harness.submit(label="build", key="old")
    named = NamedDependencies(after_label="build", after_any_key=("old",), given=(0, 0, 0))
    assert harness.submit(key="k", named=named) == 2
    assert harness.job(2).spec.after == harness.job(2).spec.after_any == (1,)
    harness.submit(label="build")
    assert harness.submit(key="k", named=named) == 2
    harness.finish(1)
    harness.remove(1)
    harness.settle()
    assert harness.submit(key="k", named=named) == 2
    other = harness.begin_submit(key="k", named=NamedDependencies(after_label="build"))
    assert isinstance(error_of(other), KeyConflict)
    assert isinstance(error_of(harness.begin_submit(named=named)), NoSuchJob)
    assert harness.queue_state == replayed(harness.journal.events)


def test_job_waits_for_all_jobs_with_a_label() -> None:
    harness = opened(2)
    harness.submit(label="x")
    harness.submit(label="x")
    assert harness.submit(named=NamedDependencies(after_label="x")) == 3
    harness.finish(1)
    assert running(harness) == [2]
    harness.finish(2)
    assert running(harness) == [3]
