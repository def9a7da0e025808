"""The spool stores blocks, reads output from memory or files, and removes both."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from taskqd.errors import StoreFailed
from taskqd.model.events import NOTHING, Output
from taskqd.storage.interfaces import ISpool
from taskqd.storage.spool.output import FLUSH_TIMEOUT
from taskqd.storage.spool.spool import MAX_BLOCKING_HASH, MAX_BLOCKING_READ
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.spool import FakeSpool
from tests.support.leaks import LeakWatch
from tests.unit.storage.spool.samples import Bench, filled, present


def test_spool_and_its_fake_provide_the_interface(bench: Bench) -> None:
    verifyObject(ISpool, bench.spool)
    verifyObject(ISpool, FakeSpool())


def test_directories_are_private_to_their_owner(bench: Bench) -> None:
    made = {path.name: path.stat().st_mode & 0o777 for path in bench.directory.iterdir()}
    assert made == {"output": 0o700, "input": 0o700, "progress": 0o700}
    bench.spool.open()


# Blocks.


def test_digest_of_large_blocks_is_computed_in_a_thread(
    bench: Bench,
) -> None:
    small = bench.spool.digest([b"echo 1", b"in"])
    assert result_of(small) == sha256(b"echo 1in").hexdigest()
    large = bench.spool.digest([bytes(MAX_BLOCKING_HASH), b"!"])
    assert not large.called
    bench.threads.run()
    assert result_of(large) == sha256(bytes(MAX_BLOCKING_HASH) + b"!").hexdigest()


def test_blocks_are_stored_durably_by_job_and_name(bench: Bench) -> None:
    kept = bench.spool.store_blocks(7, {"script": b"echo 1", "stdin": b"\0\xff"})
    bench.filesystem.calls.clear()
    assert not kept.called
    bench.threads.run()
    result_of(kept)
    assert Path(bench.spool.path(7, "script")).read_bytes() == b"echo 1"
    assert Path(bench.spool.path(7, "stdin")).read_bytes() == b"\0\xff"
    calls = [call for call in bench.filesystem.calls if call in ("write", "sync", "sync_directory")]
    assert calls[-6:] == ["write", "sync", "sync_directory"] * 2
    assert bench.filesystem.descriptors == set()


@pytest.mark.parametrize(
    "name, content, is_program",
    [
        ("script", b"#!/usr/bin/python3\n", True),
        ("script", b"echo 1\n", False),
        ("script", b" #!/bin/sh\n", False),
        ("stdin", b"#!/bin/sh\n", False),
        ("secret", b"#!/bin/sh\n", False),
    ],
)
def test_script_with_an_interpreter_line_is_executable(
    bench: Bench, name: str, content: bytes, is_program: bool
) -> None:
    bench.spool.store_blocks(7, {name: content})
    bench.threads.run()
    assert Path(bench.spool.path(7, name)).stat().st_mode & 0o777 == (0o700 if is_program else 0o600)
    assert bench.spool.read_block(7, name) == content
    assert bench.filesystem.descriptors == set()


def test_missing_block_raises_an_os_error(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError, match=r"7\.secret"):
        bench.spool.read_block(7, "secret")


@pytest.mark.parametrize("call", ["make_directory", "create", "write", "sync", "sync_directory"])
def test_failed_store_of_blocks_raises_and_closes_the_file(bench: Bench, call: str) -> None:
    bench.filesystem.fail(call)
    kept = bench.spool.store_blocks(7, {"script": b"echo 1"})
    bench.threads.run()
    assert isinstance(error_of(kept), OSError)
    assert bench.filesystem.descriptors == set()


def test_blocks_of_a_reused_id_are_replaced(bench: Bench) -> None:
    for content in (b"#!/bin/sh\nold", b"new"):
        bench.spool.store_blocks(7, {"script": content})
        bench.threads.run()
    path = Path(bench.spool.path(7, "script"))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)


def test_directories_have_a_limited_number_of_jobs(bench: Bench) -> None:
    parents = {Path(bench.spool.path(job_id, "stdin")).parent for job_id in (1, 999, 1000, 123_456)}
    assert len(parents) == 3
    assert bench.spool.path(1000, "progress") == str(bench.directory / "progress" / "1000")


# Output.


def test_output_in_the_runner_s_memory_is_not_there_yet(bench: Bench) -> None:
    writer = bench.open_output(7, 1)
    writer.write(1, b"hello world")
    sizes = bench.spool.output_sizes(7)
    assert (sizes or {})["stdout_bytes"] == 0
    result_of(writer.close())


def test_output_that_is_written_through_is_read(bench: Bench) -> None:
    writer = bench.open_output(7, 1)
    writer.write(1, b"hello world")
    writer.write_through()
    assert bench.spool.output_sizes(7) == {
        "stdout_bytes": 11,
        "stderr_bytes": 0,
        "stdout_dropped": 0,
        "stderr_dropped": 0,
    }
    assert [bench.read(1, 0, 5), bench.read(1, 6, 100), bench.read(1, 11, 5)] == [
        b"hello",
        b"world",
        b"",
    ]
    closed = writer.close()
    bench.threads.run()
    result_of(closed)


def test_output_that_was_dropped_is_counted_for_the_running_attempt_only(bench: Bench) -> None:
    bench.spool.open_attempt(7, 2)
    bench.spool.note_output(7, 1, (3, 4))
    bench.spool.note_output(8, 2, (5, 6))
    sizes = {"stdout_bytes": 0, "stderr_bytes": 0}
    assert bench.spool.output_sizes(7) == {**sizes, "stdout_dropped": 0, "stderr_dropped": 0}
    bench.spool.note_output(7, 2, (1, 2))
    assert bench.spool.output_sizes(7) == {**sizes, "stdout_dropped": 1, "stderr_dropped": 2}


def test_output_in_a_file_is_read(bench: Bench) -> None:
    writer = bench.open_output(7, 1, 10**9)
    writer.write(2, b"hello ")
    bench.clock.advance(FLUSH_TIMEOUT)
    writer.write(2, b"world")
    assert [bench.read(2, 0, 5), bench.read(2, 6, 100), bench.read(2, 11, 5)] == [b"hello", b"world", b""]
    closed = writer.close()
    bench.threads.run()
    result_of(closed)
    bench.spool.close_attempt(7)
    assert bench.spool.output_sizes(7) is None
    assert bench.read(2, 0, 100) == b"hello world"


def test_attempts_have_separate_files(bench: Bench) -> None:
    for attempt in (1, 2):
        writer = bench.open_output(7, attempt, 10**9)
        writer.write(1, b"%d" % attempt * 5000)
        closed = writer.close()
        bench.threads.run()
        result_of(closed)
        bench.spool.close_attempt(7)
    assert [bench.read(1, 4990, 100, attempt) for attempt in (1, 2)] == [b"1" * 10, b"2" * 10]


@pytest.mark.parametrize("length, is_in_thread", [(MAX_BLOCKING_READ, False), (MAX_BLOCKING_READ + 1, True)])
def test_large_read_is_done_in_another_thread(bench: Bench, length: int, is_in_thread: bool) -> None:
    writer = bench.open_output(7, 1, 10**9)
    writer.write(1, b"x" * 100_000)
    piece = bench.spool.read_output(7, 1, 1, 0, length)
    assert piece.called is not is_in_thread
    bench.threads.run()
    assert len(result_of(piece)) == length
    closed = writer.close()
    bench.threads.run()
    result_of(closed)


@pytest.mark.parametrize("length", [10, MAX_BLOCKING_READ + 1])
def test_failed_read_of_output_fails_with_store_failed(bench: Bench, length: int) -> None:
    piece = bench.spool.read_output(7, 1, 1, 0, length)
    bench.threads.run()
    error = error_of(piece)
    assert isinstance(error, StoreFailed)
    assert "7.1.stdout cannot be read" in str(error)


def test_failed_read_closes_the_file(bench: Bench) -> None:
    writer = bench.open_output(7, 1, 10**9)
    writer.write(1, b"x" * 5000)
    closed = writer.close()
    bench.threads.run()
    result_of(closed)
    bench.filesystem.fail("read")
    assert isinstance(error_of(bench.spool.read_output(7, 1, 1, 0, 10)), StoreFailed)
    assert bench.filesystem.descriptors == set()


def test_output_on_disk_has_the_sizes_after_a_crash(bench: Bench) -> None:
    writer = bench.open_output(7, 2, 10**9)
    writer.write(1, b"x" * 5000)
    assert bench.spool.output_on_disk(7, 2) == (Output(5000), NOTHING)
    assert bench.spool.output_on_disk(7, 1) == (NOTHING, NOTHING)
    closed = writer.close()
    bench.threads.run()
    result_of(closed)


# Removal.


def test_remove_jobs_removes_all_files_of_each(bench: Bench) -> None:
    filled(bench, "7.script", "7.stdin", "7.secret")
    filled(
        bench, "7.1.stdout", "7.2.stderr", "7.2.stdout", "7.2.order", "77.1.stdout", "70.stdin", "9.1.stdout"
    )
    purged = bench.spool.remove_jobs({7: 2, 9: 1})
    assert "7.script" in present(bench)
    bench.threads.run()
    result_of(purged)
    assert present(bench) == {"77.1.stdout", "70.stdin"}
    again = bench.spool.remove_jobs({7: 2})
    bench.threads.run()
    result_of(again)


def test_remove_jobs_that_fails_raises(bench: Bench) -> None:
    filled(bench, "7.stdin")
    bench.filesystem.fail("remove")
    purged = bench.spool.remove_jobs({7: 1})
    bench.threads.run()
    assert isinstance(error_of(purged), OSError)


def test_remove_jobs_tries_the_files_of_all_jobs_before_it_fails(bench: Bench) -> None:
    filled(bench, "8.1.stdout")
    (bench.directory / "input" / "0" / "7.stdin").mkdir(parents=True)
    purged = bench.spool.remove_jobs({7: 0, 8: 1})
    bench.threads.run()
    assert isinstance(error_of(purged), OSError)
    assert "8.1.stdout" not in present(bench)


def test_empty_directory_is_removed_with_its_last_job_and_by_sweep(bench: Bench) -> None:
    filled(bench, "1.stdin", "1.1.stdout", "2.stdin")
    for job_id in (1001, 2001):
        path = bench.directory / "output" / str(job_id // 1000) / f"{job_id}.1.stdout"
        path.parent.mkdir()
        path.touch()
    result_of(ran(bench, bench.spool.remove_jobs({1: 1})))
    assert directories(bench) == {"input/0", "output/1", "output/2"}
    result_of(ran(bench, bench.spool.remove_jobs({2: 0})))
    result_of(ran(bench, bench.spool.remove_jobs({1001: 1})))
    assert directories(bench) == {"output/2"}
    (bench.directory / "input" / "5").mkdir()
    assert bench.spool.sweep(lambda _: None, ()) == 1
    assert directories(bench) == set()
    result_of(ran(bench, bench.spool.store_blocks(3, {"stdin": b"again"})))
    assert directories(bench) == {"input/0"}


def ran(bench: Bench, deferred: "Deferred[None]") -> "Deferred[None]":
    """Run the threads and return the Deferred."""
    bench.threads.run()
    return deferred


def directories(bench: Bench) -> set[str]:
    """Return the numbered directories."""
    found = [path for kind in ("output", "input") for path in (bench.directory / kind).iterdir()]
    return {str(path.relative_to(bench.directory)) for path in found}


def test_directory_that_cannot_be_removed_raises(bench: Bench) -> None:
    filled(bench, "1.stdin")
    bench.filesystem.fail("remove_empty_directory", code=errno.EIO)
    assert isinstance(error_of(ran(bench, bench.spool.remove_jobs({1: 0}))), OSError)


def test_state_directory_that_was_moved_is_not_created_again(bench: Bench) -> None:
    bench.directory.rename(bench.directory.with_name("elsewhere"))
    assert isinstance(
        error_of(ran(bench, bench.spool.store_blocks(3, {"stdin": b"late"}))), FileNotFoundError
    )
    assert not bench.directory.exists()


def test_output_of_an_earlier_attempt_is_read_while_the_next_runs(bench: Bench) -> None:
    first = bench.open_output(7, 1, 10**9)
    first.write(1, b"x" * 5000)
    closed = first.close()
    bench.threads.run()
    result_of(closed)
    bench.spool.close_attempt(7)
    second = bench.open_output(7, 2, 10**9)
    second.write(1, b"abc")
    second.write_through()
    assert bench.read(1, 4999, 10) == b"x"
    assert bench.read(1, 0, 10, attempt=2) == b"abc"
    closed = second.close()
    bench.threads.run()
    result_of(closed)


# Observers.


def test_observer_is_called_at_start_output_and_end(bench: Bench) -> None:
    calls: list[str] = []
    remove = bench.spool.add_output_observer(7, lambda: calls.append(f"{bench.spool.output_sizes(7)}"))
    bench.spool.open_attempt(7, 1)
    bench.spool.note_output(7, 1, (3, 0))
    bench.spool.close_attempt(7)
    assert [("'stdout_dropped': 3" in each, each == "None") for each in calls] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    remove()
    bench.open_output(7, 2, 10**9)
    bench.spool.close_attempt(7)
    assert len(calls) == 3


def test_observer_can_be_added_and_removed_while_a_job_runs(bench: Bench) -> None:
    calls: list[int] = []

    def prints() -> None:
        bench.spool.note_output(7, 1, (0, 0))

    bench.spool.open_attempt(7, 1)
    prints()
    remove = bench.spool.add_output_observer(7, lambda: calls.append(1))
    remove_second = bench.spool.add_output_observer(7, lambda: calls.append(2))
    prints()
    remove()
    prints()
    remove_second()
    prints()
    remove = bench.spool.add_output_observer(7, lambda: calls.append(3))
    prints()
    remove()
    assert calls == [1, 2, 2, 3]


def test_output_is_followed_from_the_first_observer_to_the_last(bench: Bench) -> None:
    followed: list[tuple[int, bool]] = []

    def on_followed(job_id: int, is_followed: bool) -> bool:
        followed.append((job_id, is_followed))
        return True

    bench.spool.on_followed = on_followed
    remove = bench.spool.add_output_observer(7, lambda: None)
    remove_second = bench.spool.add_output_observer(7, lambda: None)
    assert followed == [(7, True)]
    remove()
    remove()
    assert followed == [(7, True)]
    remove_second()
    assert followed == [(7, True), (7, False)]


def test_observer_that_raises_at_start_or_end_is_removed(bench: Bench, logged_errors: LeakWatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a follower")

    remove = bench.spool.add_output_observer(7, fail)
    writer = bench.open_output(7, 1, 10**9)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    remove()
    remove = bench.spool.add_output_observer(7, fail)
    result_of(writer.close())
    bench.spool.close_attempt(7)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    calls: list[int] = []
    remove_second = bench.spool.add_output_observer(7, lambda: calls.append(1))
    remove()
    bench.spool.close_attempt(7)
    assert calls == [1]
    remove_second()
    assert not bench.spool._observers


def test_observer_is_not_called_for_another_job(bench: Bench) -> None:
    calls: list[int] = []
    remove = bench.spool.add_output_observer(7, lambda: calls.append(1))
    bench.spool.open_attempt(8, 1)
    bench.spool.note_output(8, 1, (0, 0))
    bench.spool.close_attempt(8)
    assert calls == []
    remove()
    assert not bench.spool._observers


# Flushing.


def test_flush_of_a_running_attempt_waits_for_its_runner(bench: Bench) -> None:
    followed: list[bool] = []

    def on_followed(_: int, is_followed: bool) -> bool:
        followed.append(is_followed)
        return True

    bench.spool.on_followed = on_followed
    bench.spool.open_attempt(7, 1)
    flushed = bench.spool.flush_output(7)
    assert (flushed.called, followed) == (False, [True])
    bench.spool.note_output(7, 1, (0, 0))
    assert (flushed.called, followed) == (True, [True, False])


def test_flush_fires_at_the_end_of_the_attempt_and_can_be_cancelled(bench: Bench) -> None:
    bench.spool.on_followed = lambda _job_id, _is_followed: True
    for is_cancelled in (False, True):
        bench.spool.open_attempt(7, 1)
        flushed = bench.spool.flush_output(7)
        if is_cancelled:
            flushed.addErrback(lambda failure: failure.trap(CancelledError))
            flushed.cancel()
        bench.spool.close_attempt(7)
        assert flushed.called


def test_flush_without_a_runner_or_an_open_attempt_or_of_a_followed_job_fires_at_once(bench: Bench) -> None:
    assert bench.spool.flush_output(7).called
    bench.spool.open_attempt(7, 1)
    assert bench.spool.flush_output(7).called
    bench.spool.on_followed = lambda _job_id, _is_followed: True
    remove = bench.spool.add_output_observer(7, lambda: None)
    assert bench.spool.flush_output(7).called
    remove()


# Files that are sent to a runner.


def test_output_files_that_stay_empty_are_removed_and_others_are_made_durable(bench: Bench) -> None:
    files = [bench.spool.create_output(7, 1, name) for name in ("stdout", "stderr")]
    os.write(files[0], b"x")
    for descriptor in files:
        os.close(descriptor)
    bench.filesystem.calls.clear()
    finished = bench.spool.finish_output(7, 1)
    bench.threads.run()
    result_of(finished)
    paths = bench.spool.output_paths(7, 1)
    assert (os.path.exists(paths[1]), os.path.exists(paths[2])) == (True, False)
    assert "sync_directory" in bench.filesystem.calls


def test_nothing_is_synced_if_both_output_files_are_empty_or_were_never_made(bench: Bench) -> None:
    os.close(bench.spool.create_output(7, 1, "stdout"))
    bench.filesystem.calls.clear()
    finished = bench.spool.finish_output(7, 1)
    bench.threads.run()
    result_of(finished)
    assert not os.path.exists(bench.spool.output_paths(7, 1)[1])
    assert "sync_directory" not in bench.filesystem.calls
