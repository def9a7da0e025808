"""Output is inline or in a file, limited, synced in parts, and lost only with an error."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from taskqd.model.events import NOTHING, Output
from taskqd.storage.interfaces import IOutputWriter, OutputLost
from taskqd.storage.spool import output_stream
from taskqd.storage.spool.output import FLUSH_TIMEOUT, REOPEN_INTERVAL, OutputWriter
from taskqd.storage.spool.output_stream import MAX_INLINE_BYTES
from tests.fakes.clocks import Threads, clock
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.filesystem import FakeFilesystem
from tests.fakes.spool import FakeOutputWriter
from tests.support.leaks import LeakWatch

PLENTY = 10**9


class Bench:
    """An output writer on a fake file system, with threads that the test runs."""

    def __init__(self, directory: Path, limit: int = PLENTY) -> None:
        self.filesystem = FakeFilesystem()
        self.clock = clock()
        self.threads = Threads()
        self.paths = {
            1: directory / "output" / "0" / "1.1.stdout",
            2: directory / "output" / "0" / "1.1.stderr",
        }
        self.writer = OutputWriter(
            {number: str(path) for number, path in self.paths.items()},
            self.filesystem,
            self.clock,
            self.threads,
            limit,
            [lambda: self.observed.append(dict(self.sizes()))],
        )
        self.observed: list[dict[int, int]] = []
        self.choked: list[bool] = []
        self.failed: list[str] = []
        self.writer.set_callbacks(self.choked.append, self.failed.append)

    def write(self, stream: int, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(stream, piece)

    def sizes(self) -> dict[int, int]:
        return {number: stream.size for number, stream in self.writer.streams.items()}

    def on_disk(self, stream: int) -> bytes | None:
        return self.paths[stream].read_bytes() if self.paths[stream].exists() else None

    def closing(self) -> "Deferred[tuple[Output, Output]]":
        closed = self.writer.close()
        self.threads.run()
        return closed

    def close(self) -> tuple[Output, Output]:
        return result_of(self.closing())


def measured(outputs: tuple[Output, Output]) -> list[tuple[int, int]]:
    """Return the kept and dropped bytes of each stream."""
    return [(output.size, output.dropped) for output in outputs]


@pytest.fixture(name="bench")
def make_bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    assert bench.filesystem.descriptors == set(), "a closed writer leaves no descriptor"
    assert bench.clock.getDelayedCalls() == [], "a closed writer leaves no timer"


def test_output_writer_and_its_fake_provide_the_interface(bench: Bench) -> None:
    verifyObject(IOutputWriter, bench.writer)
    verifyObject(IOutputWriter, FakeOutputWriter())


def test_observer_that_raises_is_logged_and_removed(bench: Bench, logged_errors: LeakWatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a follower")

    bench.writer.observers.insert(0, fail)
    bench.write(1, b"one", b"two")
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert [sizes[1] for sizes in bench.observed] == [3, 6], "the other observers are called"
    assert fail not in bench.writer.observers
    assert bench.close()[0].size == 6


# Inline or in a file.


def test_no_output_makes_no_file(bench: Bench) -> None:
    assert bench.close() == (NOTHING, NOTHING)
    assert bench.on_disk(1) is bench.on_disk(2) is None
    assert bench.filesystem.calls == []


@pytest.mark.parametrize("data", [b"hello\n", b"\xff\0", b"x" * MAX_INLINE_BYTES])
def test_short_output_of_a_short_attempt_is_inline(bench: Bench, data: bytes) -> None:
    bench.write(1, data[:2], data[2:])
    bench.write(2, data)
    assert bench.close() == (Output.inline(data), Output.inline(data))
    assert bench.filesystem.calls == []


def test_streams_are_separate(bench: Bench) -> None:
    bench.write(1, b"out ")
    bench.write(2, b"err " * 2000)
    bench.write(1, b"put")
    stdout, stderr = bench.close()
    assert (stdout.data, stderr) == (b"out put", Output(8000))
    assert bench.on_disk(1) is None
    assert bench.on_disk(2) == b"err " * 2000


@pytest.mark.parametrize(
    "pieces", [[MAX_INLINE_BYTES, 1], [MAX_INLINE_BYTES + 1], [1, MAX_INLINE_BYTES], [1] * 10 + [9000]]
)
def test_long_output_is_in_a_file_from_its_first_byte(bench: Bench, pieces: list[int]) -> None:
    data = bytes(range(256)) * 100
    written = b""
    for size in pieces:
        bench.write(1, data[len(written) : len(written) + size])
        written = data[: len(written) + size]
    assert bench.on_disk(1) == written
    bench.write(1, b"more")
    assert bench.on_disk(1) == written + b"more"
    assert bench.close()[0] == Output(len(written) + 4)


def test_output_is_written_after_the_flush_timeout(bench: Bench) -> None:
    bench.write(1, b"early")
    bench.clock.advance(FLUSH_TIMEOUT - 0.01)
    assert bench.on_disk(1) is None
    bench.clock.advance(0.02)
    assert bench.on_disk(1) == b"early"
    bench.write(1, b" and late")
    assert bench.on_disk(1) == b"early and late"
    assert bench.close()[0] == Output(14)


def test_later_stream_is_written_after_the_flush_timeout(bench: Bench) -> None:
    bench.write(1, b"early")
    bench.clock.advance(FLUSH_TIMEOUT)
    bench.write(2, b"a late error")
    bench.clock.advance(FLUSH_TIMEOUT)
    assert bench.on_disk(2) == b"a late error"
    assert bench.close() == (Output(5), Output(12))


def test_close_fires_after_files_and_names_are_durable(bench: Bench) -> None:
    bench.write(1, b"x" * 5000)
    closed = bench.writer.close()
    bench.filesystem.calls.clear()
    assert not closed.called
    bench.threads.run()
    assert bench.filesystem.calls[:2] == ["sync", "sync_directory"]
    assert result_of(closed) == (Output(5000), NOTHING)


# The limit.


@pytest.mark.parametrize("limit", [0, 1, 5, 4096, 5000])
@pytest.mark.parametrize("pieces", [[10_000], [1] * 7 + [9993], [4999, 1, 1, 4999], [100] * 100])
def test_output_over_the_limit_is_counted_and_dropped(tmp_path: Path, limit: int, pieces: list[int]) -> None:
    bench = Bench(tmp_path, limit)
    data = bytes(range(256)) * 40
    at = 0
    for size in pieces:
        bench.write(1, data[at : at + size])
        at += size
    stdout, stderr = bench.close()
    assert (stdout.size, stdout.dropped) == (limit, 10_000 - limit)
    assert (stdout.data if limit <= MAX_INLINE_BYTES else bench.on_disk(1)) == data[:limit]
    assert stderr == NOTHING


def test_limit_is_per_stream(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.write(1, b"12345")
    bench.write(2, b"12")
    assert bench.close() == (Output.inline(b"123", 2), Output.inline(b"12"))


def test_sizes_are_known_before_close(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5000)
    bench.write(1, b"x" * 6000)
    out, err = bench.writer.streams[1], bench.writer.streams[2]
    assert (out.size, out.dropped, err.size, err.dropped) == (5000, 1000, 0, 0)
    bench.close()


# Large output.


@pytest.fixture(name="small")
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_stream, "SYNC_INTERVAL_BYTES", 10_000)
    monkeypatch.setattr(output_stream, "MAX_UNSYNCED", 40_000)


@pytest.mark.usefixtures("small")
def test_large_output_is_synced_in_parts_one_at_a_time(bench: Bench) -> None:
    bench.write(1, *[b"x" * 3000] * 3)
    assert bench.threads.waiting == []
    bench.write(1, *[b"x" * 3000] * 5)
    assert len(bench.threads.waiting) == 1
    bench.threads.run()
    assert bench.filesystem.calls.count("sync") == 1
    bench.write(1, b"x" * 3000)
    assert len(bench.threads.waiting) == 1
    assert bench.close()[0] == Output(27_000)


@pytest.mark.usefixtures("small")
def test_backpressure_is_set_while_too_much_is_unsynced(bench: Bench) -> None:
    bench.write(1, *[b"x" * 5000] * 8)
    assert bench.choked == []
    bench.write(1, b"x" * 5000)
    assert bench.choked == [True]
    bench.write(1, b"x" * 5000)
    bench.threads.run()
    assert bench.choked == [True, False]
    bench.write(1, b"x" * 5000)
    bench.threads.run()
    assert bench.choked == [True, False, True, False]
    assert bench.close()[0] == Output(55_000)


@pytest.mark.usefixtures("small")
def test_close_waits_for_the_sync_in_progress(bench: Bench) -> None:
    bench.write(1, b"x" * 20_000)
    assert len(bench.threads.waiting) == 1
    closed = bench.writer.close()
    bench.threads.waiting.pop(0)()
    assert not closed.called
    assert len(bench.threads.waiting) == 1
    bench.threads.run()
    assert result_of(closed)[0] == Output(20_000)


# Failures of the disk.


@pytest.mark.parametrize("call", ["make_directory", "create", "write"])
def test_failed_write_calls_on_failure_once(bench: Bench, call: str) -> None:
    bench.filesystem.fail(call)
    bench.write(1, *[b"x" * 5000] * 3)
    bench.write(2, b"y" * 7000)
    assert bench.failed == ["[Errno 28] No space left on device"]
    assert measured(bench.close()) == [(0, 15_000), (0, 7000)]


def test_partly_failed_write_keeps_the_written_part(bench: Bench) -> None:
    bench.write(1, b"x" * 5000)
    bench.filesystem.fail("write", written=100)
    bench.write(1, b"x" * 1000, b"x" * 1000)
    bench.write(2, b"late")
    assert bench.failed == ["[Errno 28] No space left on device"]
    assert measured(bench.close()) == [(5100, 1900), (0, 4)]


def test_failed_flush_keeps_the_first_bytes_inline(bench: Bench) -> None:
    bench.write(1, b"first words")
    bench.filesystem.fail("create")
    bench.clock.advance(FLUSH_TIMEOUT)
    assert len(bench.failed) == 1
    bench.write(1, b" and last")
    assert bench.close()[0] == Output.inline(b"first words", 9)


@pytest.mark.usefixtures("small")
def test_failed_sync_calls_on_failure_once_and_fails_close(bench: Bench) -> None:
    bench.write(1, b"x" * 20_000)
    bench.filesystem.fail("sync", code=errno.EIO)
    bench.threads.run()
    assert bench.failed == ["[Errno 5] Input/output error"]
    bench.filesystem.clear_failures()
    bench.write(1, b"x" * 20_000)
    assert len(bench.failed) == 1
    assert isinstance(error_of(bench.closing()), OSError)


@pytest.mark.usefixtures("small")
def test_failed_writes_and_syncs_call_on_failure_once(bench: Bench) -> None:
    bench.write(1, b"x" * 20_000)
    bench.filesystem.fail("write")
    bench.filesystem.fail("sync")
    bench.write(1, b"x" * 5000)
    bench.threads.run()
    assert len(bench.failed) == 1
    error_of(bench.closing())


@pytest.mark.usefixtures("small")
def test_failed_sync_ends_the_backpressure(bench: Bench) -> None:
    bench.write(1, b"x" * 50_000)
    bench.filesystem.fail("sync")
    bench.threads.run()
    assert bench.choked == [True, False]
    error_of(bench.closing())


@pytest.mark.parametrize("streams", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("call", ["sync", "sync_directory"])
def test_failed_close_closes_the_files(bench: Bench, call: str, streams: tuple[int, ...]) -> None:
    for stream in streams:
        bench.write(stream, b"x" * 5000)
    bench.filesystem.fail(call)
    assert isinstance(error_of(bench.closing()), OSError)


# Shortage of descriptors.


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_shortage_of_descriptors_sets_backpressure_and_loses_nothing(bench: Bench, code: int) -> None:
    bench.filesystem.fail("create", code=code)
    bench.write(1, b"x" * 5000, b"y" * 10)
    assert (bench.failed, bench.choked, bench.on_disk(1)) == ([], [True], None)
    bench.clock.advance(FLUSH_TIMEOUT)
    bench.clock.advance(REOPEN_INTERVAL)
    assert (bench.failed, bench.choked) == ([], [True])
    bench.filesystem.clear_failures()
    bench.clock.advance(REOPEN_INTERVAL)
    assert bench.choked == [True, False]
    assert bench.on_disk(1) == b"x" * 5000 + b"y" * 10
    assert measured(bench.close()) == [(5010, 0), (0, 0)]


def test_short_output_waits_in_memory_for_a_descriptor(bench: Bench) -> None:
    bench.filesystem.fail("create", code=errno.EMFILE)
    bench.write(2, b"hi")
    bench.clock.advance(FLUSH_TIMEOUT)
    assert (bench.failed, bench.choked) == ([], [True])
    out, err = bench.close()
    assert (out.data, err.data) == (b"", b"hi")
    assert bench.clock.getDelayedCalls() == []


def test_later_stream_waits_for_a_descriptor(bench: Bench) -> None:
    bench.write(1, b"a")
    bench.clock.advance(FLUSH_TIMEOUT)
    bench.filesystem.fail("create", code=errno.EMFILE)
    bench.write(2, b"late")
    assert bench.choked == [True]
    bench.filesystem.clear_failures()
    bench.clock.advance(REOPEN_INTERVAL)
    assert (bench.choked, bench.on_disk(2)) == ([True, False], b"late")
    bench.close()


@pytest.mark.parametrize("code, why", [(errno.EMFILE, "the machine lacks descriptors"), (errno.EIO, "error")])
def test_long_output_without_a_descriptor_at_close_is_lost(bench: Bench, code: int, why: str) -> None:
    bench.filesystem.fail("create", code=errno.EMFILE)
    bench.write(1, b"x" * 5000)
    bench.filesystem.fail("create", code=code)
    assert why in str(error_of(bench.closing()))


def test_long_output_with_a_descriptor_at_close_is_complete(bench: Bench) -> None:
    bench.filesystem.fail("create", code=errno.EMFILE)
    bench.write(1, b"x" * 5000)
    bench.filesystem.clear_failures()
    assert measured(bench.close()) == [(5000, 0), (0, 0)]
    assert bench.on_disk(1) == b"x" * 5000


@pytest.mark.parametrize("stream", [1, 2])
def test_removed_file_fails_close(bench: Bench, stream: int) -> None:
    bench.write(stream, b"x" * 5000)
    bench.paths[stream].unlink()
    bench.write(stream, b"y" * 5000)
    bench.write(3 - stream, b"z" * 6000)
    error = error_of(bench.closing())
    assert isinstance(error, OutputLost)
    assert f"{bench.paths[stream]} was removed while the job ran" in str(error)
    assert measured(error.kept) == [(0, 0) if number == stream else (6000, 0) for number in (1, 2)]


def test_two_removed_files_are_both_named(bench: Bench) -> None:
    bench.write(1, b"x" * 5000)
    bench.write(2, b"x" * 5000)
    for path in bench.paths.values():
        path.unlink()
    error = error_of(bench.closing())
    assert isinstance(error, OutputLost)
    assert error.kept == (NOTHING, NOTHING)
    assert all(str(path) in str(error) for path in bench.paths.values())


def test_removed_directory_fails_close(bench: Bench) -> None:
    bench.write(1, b"x" * 5000)
    shutil.rmtree(bench.paths[1].parent)
    assert isinstance(error_of(bench.closing()), OSError)


def test_truncated_file_fails_close(bench: Bench) -> None:
    bench.write(1, b"x" * 5000)
    os.truncate(bench.paths[1], 10)
    assert "was truncated to 10 bytes while the job ran; the job had printed 5000" in str(
        error_of(bench.closing())
    )


def test_failure_without_callbacks_is_tolerated(tmp_path: Path) -> None:
    filesystem = FakeFilesystem()
    filesystem.fail("create")
    alone = OutputWriter(
        {1: str(tmp_path / "a"), 2: str(tmp_path / "b")}, filesystem, clock(), Threads(), PLENTY, []
    )
    alone.write(1, b"x" * 5000)
    assert measured(result_of(alone.close())) == [(0, 5000), (0, 0)]


# Observers.


def test_observer_is_called_when_output_can_be_read(bench: Bench) -> None:
    bench.write(1, b"abc", b"d" * 5000)
    bench.write(2, b"e")
    assert bench.observed == [{1: 3, 2: 0}, {1: 5003, 2: 0}, {1: 5003, 2: 1}]
    bench.close()


def test_observer_may_be_removed_while_it_is_called(bench: Bench) -> None:
    seen: list[str] = []

    def leave() -> None:
        seen.append("last time")
        bench.writer.observers.remove(leave)

    bench.writer.observers[:] = [leave, lambda: seen.append("other")]
    bench.write(1, b"a", b"b")
    assert seen == ["last time", "other", "other"]
    bench.close()


# Any output.

WRITES = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20), st.integers(1, 400), st.booleans()),
    max_size=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WRITES, st.sampled_from([0, 10, 4096, 5000, PLENTY]))
def test_any_output_is_kept_byte_for_byte_up_to_the_limit(
    tmp_path_factory: pytest.TempPathFactory, writes: list[Any], limit: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("state"), limit)
    printed = {1: b"", 2: b""}
    for stream, data, times, is_later in writes:
        bench.write(stream, data * times)
        printed[stream] += data * times
        if is_later:
            bench.clock.advance(FLUSH_TIMEOUT / 2)
    outputs = bench.close()
    for stream, output in zip((1, 2), outputs, strict=True):
        kept = printed[stream][:limit]
        assert (output.size, output.dropped) == (len(kept), len(printed[stream]) - len(kept))
        assert (bench.on_disk(stream) if output.data is None else output.data) == kept
    assert bench.filesystem.descriptors == set()


# Open files in place of paths.


def given_files(bench: Bench, tmp_path: Path) -> tuple[OutputWriter, dict[int, int]]:
    """Return a writer to two open files, and their descriptors."""
    files = {
        number: os.open(tmp_path / f"given-{number}", os.O_WRONLY | os.O_CREAT, 0o600) for number in (1, 2)
    }
    names = {1: "stdout", 2: "stderr"}
    writer = OutputWriter(names, bench.filesystem, bench.clock, bench.threads, PLENTY, [], files)
    return writer, files


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_short_output_leaves_given_files_empty_and_closes_them(bench: Bench, tmp_path: Path) -> None:
    writer, files = given_files(bench, tmp_path)
    writer.write(1, b"short")
    assert result_of(writer.close()) == (Output.inline(b"short"), NOTHING)
    assert not any(map(is_open, files.values()))
    assert (tmp_path / "given-1").read_bytes() == b""


def test_long_output_is_in_the_given_file_whose_directory_is_not_synced(bench: Bench, tmp_path: Path) -> None:
    writer, files = given_files(bench, tmp_path)
    writer.write(1, bytes(5000))
    bench.filesystem.calls.clear()
    closed = writer.close()
    bench.threads.run()
    assert result_of(closed) == (Output(5000), NOTHING)
    assert not any(map(is_open, files.values()))
    assert (tmp_path / "given-1").read_bytes() == bytes(5000)
    assert "sync" in bench.filesystem.calls
    assert "sync_directory" not in bench.filesystem.calls


def test_given_file_that_was_removed_loses_its_output(bench: Bench, tmp_path: Path) -> None:
    writer, files = given_files(bench, tmp_path)
    writer.write(1, bytes(5000))
    (tmp_path / "given-1").unlink()
    closed = writer.close()
    bench.threads.run()
    assert "stdout was removed while the job ran" in str(error_of(closed))
    assert not any(map(is_open, files.values()))
