"""Scripts, stdins and secrets of schedules: durable before the event, given to each job, removed with it."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from taskqd.config.limits import UNBOUNDED
from taskqd.engine.recurring import RecurringSubmitter
from taskqd.errors import BlocksLost, NoSuchJob, StoreFailed
from taskqd.model.events import Rescheduled, Scheduled, Submitted
from taskqd.model.schedule import ScheduleBlocks
from taskqd.model.spec import Spec
from taskqd.model.submission import pack_secrets
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, opened, replayed

SCRIPT = b"#!/bin/sh\n\n make -j4 \n"
BLOCKS = {"script": SCRIPT, "stdin": b"in", "secret": pack_secrets({"A": "hunter1", "B": "hunter2"})}
OPTIONS: dict[str, Any] = {"command": "x y", "script": len(SCRIPT), "stdin": 2, "secrets": ("A", "B")}


def done(harness: Harness, answer: "Deferred[Any]") -> Any:
    harness.settle()
    return result_of(answer)


@pytest.fixture(name="harness")
def a_harness_with_a_schedule() -> Harness:
    harness = opened()
    assert done(harness, harness.schedule(60.0, BLOCKS, **OPTIONS)) == 1
    return harness


def changed(harness: Harness, blocks: Mapping[str, bytes] = {}, **changes: Any) -> None:
    done(harness, harness.reschedule(1, blocks, **changes))
    assert harness.queue_state == replayed(harness.journal.events)


def run(harness: Harness) -> dict[str, bytes]:
    """Run the schedule, and return the blocks of its job."""
    job_id = done(harness, harness.engine.run_schedule(1, None, UNBOUNDED))
    harness.finish(job_id)
    return harness.spool.blocks.get(job_id, {})


def test_blocks_are_durable_before_the_schedule_is_recorded() -> None:
    harness = opened()
    stored: list[tuple[ScheduleBlocks, Deferred[str | None]]] = []

    def store(blocks: ScheduleBlocks, *_: Any) -> "Deferred[str | None]":
        stored.append((blocks, Deferred()))
        return stored[-1][1]

    harness.spool.store_schedule = store  # type: ignore[method-assign, assignment]
    made = harness.schedule(60.0, BLOCKS, **OPTIONS)
    harness.settle()
    assert (harness.journal.events, made.called) == ([], False)
    [(blocks, storing)] = stored
    assert blocks == ScheduleBlocks(1, 1, ("script", "stdin", "secret"))
    storing.callback("0f")
    assert done(harness, made) == 1
    [event] = harness.journal.events
    assert isinstance(event, Scheduled)
    assert (event.version, event.spec.blocks, event.spec.script_line) == (1, "0f", "make -j4")


def test_each_run_gives_its_job_the_blocks(harness: Harness) -> None:
    assert run(harness) == run(harness) == BLOCKS
    submitted = [event for event in harness.journal.events if isinstance(event, Submitted)]
    spec = harness.queue_state.schedules.get(1).spec
    assert [(each.command, each.spec, each.schedule) for each in submitted] == [("x y", spec, 1)] * 2
    assert "hunter" not in str(harness.journal.events)


def test_due_run_gives_its_job_the_blocks(harness: Harness) -> None:
    RecurringSubmitter(harness.engine, harness.clock).start()
    harness.clock.advance(60.0)
    harness.settle()
    assert harness.spool.blocks == {1: BLOCKS}
    assert harness.job(1).owner == "ada"


def test_run_whose_blocks_cannot_be_given_submits_nothing(harness: Harness) -> None:
    harness.spool.error = OSError("no space")
    refused = harness.engine.run_schedule(1, None, UNBOUNDED)
    assert "cannot be written: no space" in str(error_of(refused))
    harness.spool.error = None
    assert run(harness) == BLOCKS


def test_run_of_a_schedule_whose_files_are_gone_is_left_out(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.spool.schedule_files.clear()
    refused = error_of(harness.engine.run_schedule(1, None, UNBOUNDED))
    assert isinstance(refused, BlocksLost)
    assert str(refused).startswith("the script, stdin or secrets of schedule 1 are gone: ")
    RecurringSubmitter(harness.engine, harness.clock).start()
    for _ in range(3):
        harness.clock.advance(60.0)
        harness.settle()
    assert harness.queue_state.jobs.get(1) is None
    [record] = caplog.records
    assert "schedule 1 could not submit: the script" in record.getMessage()


def test_change_of_a_block_keeps_the_others(harness: Harness) -> None:
    changed(harness, {"stdin": b"other"}, values={"stdin": 5})
    assert run(harness) == {**BLOCKS, "stdin": b"other"}
    changed(harness, {"script": b"ls\n"}, values={"script": 3})
    assert run(harness) == {**BLOCKS, "script": b"ls\n", "stdin": b"other"}
    schedule = harness.queue_state.schedules.get(1)
    assert (schedule.command, schedule.spec.script_line, schedule.version) == ("", "ls", 3)
    assert set(harness.spool.schedule_files) == {"1.3.script", "1.3.stdin", "1.3.secret"}


def test_change_of_something_else_keeps_the_files(harness: Harness) -> None:
    before = dict(harness.spool.schedule_files)
    changed(harness, every=90.0, values={"timeout": 5.0})
    assert harness.spool.schedule_files == before
    assert harness.queue_state.schedules.get(1).version == 1
    assert run(harness) == BLOCKS


def test_secrets_are_added_and_replaced_by_name(harness: Harness) -> None:
    changed(harness, {"secret": pack_secrets({"B": "3", "C": "4"})}, values={"secrets": ("B", "C")})
    assert run(harness)["secret"] == pack_secrets({"A": "hunter1", "B": "3", "C": "4"})
    changed(harness, values={"env": {"A": "1", "C": "1"}})
    assert run(harness)["secret"] == pack_secrets({"B": "3"})
    changed(harness, values={"env": {"B": "1"}})
    assert set(run(harness)) == {"script", "stdin"}
    changed(harness, {"secret": pack_secrets({"B": "5"})}, values={"secrets": ("B",)})
    assert run(harness)["secret"] == pack_secrets({"B": "5"})
    assert harness.queue_state.schedules.get(1).spec.env == {"A": "1", "C": "1"}


def test_size_of_kept_secrets_counts_with_new_variables(harness: Harness) -> None:
    sizes: list[int] = []

    def accept(_: object, _command: str, spec: Spec, size: int) -> Spec:
        sizes.append(size)
        return spec

    for values in ({"env": {"X": "1"}}, {"timeout": 5.0}):
        harness.accept = accept
        changed(harness, values=values)
    assert sizes == [len(BLOCKS["secret"]), 0]


def test_command_replaces_the_script_and_its_file(harness: Harness) -> None:
    changed(harness, command="cat")
    assert set(run(harness)) == {"stdin", "secret"}
    assert harness.queue_state.schedules.get(1).spec.script_line is None
    assert set(harness.spool.schedule_files) == {"1.2.stdin", "1.2.secret"}


def test_end_of_a_schedule_removes_its_files_and_not_those_of_its_jobs(harness: Harness) -> None:
    run(harness)
    done(harness, harness.unschedule(1))
    assert harness.spool.schedule_files == {}
    assert harness.spool.blocks == {1: BLOCKS}


@pytest.mark.parametrize("is_new", [True, False])
def test_files_are_removed_if_the_event_cannot_be_recorded(harness: Harness, is_new: bool) -> None:
    before = dict(harness.spool.schedule_files)
    answer: Deferred[Any]
    if is_new:
        answer = harness.schedule(60.0, BLOCKS, **OPTIONS)
    else:
        answer = harness.reschedule(1, {"stdin": b"x"}, values={"stdin": 1})
    assert set(harness.spool.schedule_files) > set(before)
    harness.journal.fail()
    assert isinstance(error_of(answer), StoreFailed)
    assert harness.spool.schedule_files == before
    harness.journal.recover()
    assert run(harness) == BLOCKS
    changed(harness, {"stdin": b"x"}, values={"stdin": 1})
    assert run(harness)["stdin"] == b"x"


def test_files_that_cannot_be_written_are_store_failed_and_removed(harness: Harness) -> None:
    before = dict(harness.spool.schedule_files)
    store = harness.spool.store_schedule

    def store_half(*given: Any) -> "Deferred[Any]":
        store(*given)
        return fail(OSError("no space"))

    harness.spool.store_schedule = store_half  # type: ignore[method-assign, assignment]
    refused = error_of(harness.schedule(60.0, BLOCKS, **OPTIONS))
    assert isinstance(refused, StoreFailed)
    assert "no space" in str(refused)
    assert harness.spool.schedule_files == before


def test_files_that_cannot_be_removed_are_logged(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.spool.error = OSError("read-only")
    done(harness, harness.unschedule(1))
    [record] = caplog.records
    assert record.getMessage() == "files of schedule 1 are left for the next start: read-only"


@pytest.mark.parametrize("content", [None, b"A=1\0", b"A"])
def test_secrets_that_cannot_be_read_refuse_their_change(harness: Harness, content: bytes | None) -> None:
    files = harness.spool.schedule_files
    files.pop("1.1.secret")
    if content is not None:
        files["1.1.secret"] = content
    answer = harness.reschedule(1, {"secret": pack_secrets({"B": "3"})}, values={"secrets": ("B",)})
    assert "its secrets cannot be read" in str(error_of(answer))
    changed(harness, every=90.0)


def test_run_waits_for_a_change_in_progress(harness: Harness) -> None:
    change = harness.reschedule(1, {"stdin": b"new"}, values={"stdin": 3})
    job = harness.engine.run_schedule(1, None, UNBOUNDED)
    assert harness.spool.blocks == {}
    done(harness, change)
    assert done(harness, job) == 1
    assert harness.spool.blocks[1]["stdin"] == b"new"
    assert harness.job(1).spec.stdin == 3


def test_run_that_waits_for_the_end_of_its_schedule_submits_nothing(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    RecurringSubmitter(harness.engine, harness.clock).start()
    ended = harness.unschedule(1)
    job = harness.engine.run_schedule(1, None, UNBOUNDED)
    harness.clock.advance(60.0)
    done(harness, ended)
    assert isinstance(error_of(job), NoSuchJob)
    assert (harness.spool.blocks, caplog.records) == ({}, [])


CHANGES = st.sampled_from(
    [
        ({"stdin": b"two"}, {"values": {"stdin": 3}}),
        ({"script": b"ls"}, {"values": {"script": 2}}),
        ({"secret": pack_secrets({"A": "9"})}, {"values": {"secrets": ("A",)}}),
        ({}, {"values": {"env": {"A": "1"}}}),
        ({}, {"command": "ls"}),
        ({}, {"every": 90.0}),
    ]
)


@given(st.lists(CHANGES, max_size=5))
def test_files_are_those_of_the_blocks_after_any_changes(
    changes: list[tuple[dict[str, bytes], dict[str, Any]]],
) -> None:
    harness = opened()
    done(harness, harness.schedule(60.0, BLOCKS, **OPTIONS))
    for blocks, change in changes:
        changed(harness, blocks, **change)
        assert set(harness.spool.schedule_files) == harness.queue_state.schedules.file_names()
        spec = harness.queue_state.schedules.get(1).spec
        assert set(run(harness)) == set(spec.block_names)
    versions = [event.version for event in harness.journal.events if isinstance(event, Rescheduled)]
    assert versions == sorted(versions)
