"""Changes of what pending jobs execute: a new script is durable before the event, the old one goes after."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine.acts import NewCommand
from taskqd.errors import Gone, KeyConflict, StoreFailed, WrongState
from taskqd.model.events import Changed
from taskqd.model.job import Job, Status
from taskqd.model.spec import Array
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running
from tests.fakes.processes import FAILED

OLD, NEW = b"#!/bin/sh\necho old\n", b"echo new\n"


def change(
    harness: Harness, job_id: int = 1, command: str = "", script: bytes | None = None, **values: Any
) -> "Deferred[Job]":
    new = NewCommand(command, script)
    return begin(harness.engine.command_changes.change(job_id, ACTOR, values, new))


def changed(harness: Harness, job_id: int = 1, **what: Any) -> Job:
    answer = change(harness, job_id, **what)
    harness.settle()
    assert harness.queue_state == replayed(harness.journal.events)
    return result_of(answer)


def held(command: str = "true", blocks: dict[str, bytes] | None = None, **options: Any) -> Harness:
    """Return a harness in which job 1 is held."""
    harness = opened(1)
    sizes = {name: len(content) for name, content in (blocks or {}).items()}
    harness.begin_submit(command, blocks, hold=True, **sizes, **options)
    harness.settle()
    return harness


def test_command_is_replaced_with_other_options_in_one_event() -> None:
    harness = held()
    job = changed(harness, command="make -j4", priority=7, delay=60.0)
    assert (job.command, job.spec.priority, job.not_before) == ("make -j4", 7, START + 60.0)
    event = harness.journal.events[-1]
    assert isinstance(event, Changed)
    assert (event.command, event.is_delay, event.spec) == ("make -j4", True, job.spec)
    assert harness.spool.blocks == {}


def test_command_becomes_a_script_and_a_command_again() -> None:
    harness = held(blocks={"stdin": b"in"})
    job = changed(harness, command="a b", script=OLD)
    assert (job.command, job.spec.script, job.spec.script_line) == ("a b", len(OLD), "echo old")
    assert harness.spool.blocks[1] == {"stdin": b"in", "1.script": OLD}
    job = changed(harness, script=NEW)
    assert (job.command, job.spec.script, job.spec.script_line) == ("", len(NEW), "echo new")
    assert harness.spool.blocks[1] == {"stdin": b"in", "script": NEW}
    with_script = job.spec.blocks
    job = changed(harness, command="ls")
    assert (job.command, job.spec.script, job.spec.script_line) == ("ls", None, None)
    assert harness.spool.blocks[1] == {"stdin": b"in"}
    assert job.spec.blocks == job.original_spec.blocks != with_script
    assert changed(harness, command="id").spec.script_file == job.spec.script_file


def test_script_is_durable_before_the_event_and_the_old_one_is_removed_after_it() -> None:
    harness = held("", {"script": OLD})
    harness.spool.is_slow = True
    answer = change(harness, script=NEW)
    harness.settle()
    assert not any(isinstance(event, Changed) for event in harness.journal.events)
    harness.clock.advance(5.0)
    harness.spool.pending_writes[0].callback(None)
    assert harness.spool.blocks[1] == {"script": OLD, "1.script": NEW}
    assert not answer.called
    harness.settle()
    assert harness.spool.blocks[1] == {"1.script": NEW}
    assert result_of(answer).spec.script_file == 1
    assert harness.journal.events[-1].at == START + 5.0


def test_job_does_not_start_while_its_script_is_written() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.spool.is_slow = True
    answer = change(harness, 2, script=NEW)
    harness.finish(1)
    assert running(harness) == []
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert result_of(answer).spec.script == len(NEW)
    assert running(harness) == [2]
    assert harness.queue_state == replayed(harness.journal.events)


@pytest.mark.parametrize("is_written", [True, False])
def test_change_that_fails_leaves_the_old_script(is_written: bool) -> None:
    harness = held("", {"script": OLD})
    before = replayed(harness.journal.events)
    harness.spool.is_slow = True
    answer = change(harness, script=NEW)
    if is_written:
        harness.spool.pending_writes[0].callback(None)
        harness.journal.fail()
    else:
        harness.spool.pending_writes[0].errback(OSError("no space"))
    error = error_of(answer)
    assert isinstance(error, StoreFailed)
    assert is_written or str(error) == "the script of job 1 cannot be replaced: no space"
    assert harness.spool.blocks == {1: {"script": OLD}}
    assert harness.queue_state == before


def test_script_that_cannot_be_removed_is_logged_and_left(caplog: pytest.LogCaptureFixture) -> None:
    harness = held("", {"script": OLD})
    harness.spool.is_slow = True
    answer = change(harness, command="ls")
    harness.spool.pending_writes[0].callback(None)
    harness.spool.error = OSError("read-only")
    harness.settle()
    assert result_of(answer).command == "ls"
    assert "a script of job 1 is left for the next start: read-only" in caplog.text


def test_started_or_ended_job_keeps_its_command() -> None:
    harness = opened(1)
    harness.submit()
    for status in (Status.RUNNING, Status.COMPLETED):
        assert harness.job(1).status is status
        assert isinstance(error_of(change(harness, command="ls")), WrongState)
        assert isinstance(error_of(change(harness, script=NEW)), WrongState)
        if status is Status.RUNNING:
            harness.finish(1)
    assert harness.spool.blocks == {}
    assert harness.job(1).command == "true"


def test_job_that_waits_for_a_retry_gets_a_new_command() -> None:
    harness = opened(1)
    harness.submit("false", retries=1)
    harness.finish(1, FAILED)
    assert changed(harness, command="true").attempts == 1
    harness.clock.advance(2.0)
    harness.settle()
    assert running(harness) == [1]


def test_job_that_is_removed_before_the_change_is_gone() -> None:
    harness = held()
    harness.cancel(1)
    removed = harness.remove(1)
    answer = change(harness, script=NEW)
    harness.settle()
    assert removed.called
    assert isinstance(error_of(answer), Gone)


def test_array_gets_a_new_command_for_all_its_tasks() -> None:
    harness = held(array=Array(1, 3))
    harness.release(3)
    harness.hold(3)
    harness.settle()
    changed(harness, command="x $1", script=NEW)
    assert {harness.job(job_id).command for job_id in range(1, 5)} == {"x $1"}
    assert {harness.job(job_id).spec.script for job_id in range(1, 5)} == {len(NEW)}
    assert harness.spool.blocks == {1: {"1.script": NEW}}
    refused = error_of(change(harness, 3, command="ls"))
    assert isinstance(refused, WrongState)
    assert "it is a task of array 1" in str(refused)


def test_array_of_which_a_task_has_started_or_ended_keeps_its_command() -> None:
    harness = held(array=Array(1, 3))
    harness.cancel(2)
    harness.release(3)
    harness.settle()
    assert harness.job(3).status is Status.RUNNING
    refused = error_of(change(harness, command="ls", priority=3))
    assert isinstance(refused, WrongState)
    assert "2 of its 3 tasks have started or ended" in str(refused)


def test_resubmission_with_the_key_is_that_of_the_original_command() -> None:
    harness = held("", {"script": OLD}, key="k")
    changed(harness, command="ls")
    changed(harness, command="id", priority=3)
    again = harness.begin_submit("", {"script": OLD}, script=len(OLD), hold=True, key="k")
    other = harness.begin_submit("id", hold=True, key="k")
    harness.settle()
    assert result_of(again) == 1
    assert isinstance(error_of(other), KeyConflict)
    assert harness.job(1).command == "id"
