"""Writes are durable, and preallocated blank lines never follow or precede records wrongly."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskqd.storage.journal import segment_writer as module
from taskqd.storage.journal.segment_writer import SegmentWriter
from taskqd.storage.journal.segments import JournalEnd, Segments
from tests.fakes.filesystem import FakeFilesystem

PREALLOCATION, BLOCK_SIZE, MAX_SMALL_WRITE, PREALLOCATE_AFTER = 1000, 64, 100, 3
LINE = b"a line of some bytes\n"
PLAIN = ["write_at", "sync"]


class Filesystem(FakeFilesystem):
    """A file system that may have space for a limited number of blank lines."""

    room_for_blanks = 10**9

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        is_blank = not data.strip(b"\n")
        super().write_at(descriptor, data[: self.room_for_blanks] if is_blank else data, offset)
        if is_blank and len(data) > self.room_for_blanks:
            raise OSError(errno.ENOSPC, "No space left on device")


class Bench:
    """A segment writer, and the bytes written to the segment that it began last."""

    def __init__(self, directory: Path) -> None:
        self.filesystem = Filesystem()
        self.segments = Segments(str(directory), self.filesystem)
        self.writer = SegmentWriter(self.segments, self.filesystem)
        self.number = 0
        self.begin()

    def begin(self) -> None:
        self.number += 1
        self.writer.begin_segment(self.number)
        self.records = b""

    def write(self, content: bytes = LINE) -> list[str]:
        """Write, and return the calls of the file system."""
        self.filesystem.calls.clear()
        self.writer.write(content, content.count(b"\n"))
        self.records += content
        return self.filesystem.calls[:]

    def refused(self) -> None:
        """Write with an error."""
        with pytest.raises(OSError, match="No space left"):
            self.write()
        self.filesystem.clear_failures()
        self.writer.discard_failed()

    def lay_blanks(self) -> None:
        """Write until the segment is preallocated."""
        for _ in range(PREALLOCATE_AFTER + 1):
            self.write()
        assert self.blanks() > 0

    def content(self, number: int = 0) -> bytes:
        return Path(self.segments.path(number or self.number)).read_bytes()

    def blanks(self) -> int:
        """Return the number of blanks; checks that exactly the written bytes precede them."""
        content = self.content()
        assert content.startswith(self.records)
        rest = content[len(self.records) :]
        assert rest == b"\n" * len(rest)
        return len(rest)


@pytest.fixture(name="bench")
def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name, value in {
        "PREALLOCATION": PREALLOCATION,
        "BLOCK_SIZE": BLOCK_SIZE,
        "MAX_SMALL_WRITE": MAX_SMALL_WRITE,
        "PREALLOCATE_AFTER": PREALLOCATE_AFTER,
    }.items():
        monkeypatch.setattr(module, name, value)
    bench = Bench(tmp_path)
    yield bench
    bench.filesystem.clear_failures()
    descriptor = bench.writer.detach()
    if descriptor is not None:
        bench.filesystem.close(descriptor)
    assert bench.filesystem.descriptors == set()


def test_begin_segment_syncs_the_directory_before_any_write(bench: Bench) -> None:
    bench.filesystem.calls.clear()
    bench.begin()
    assert bench.filesystem.calls == ["close", "create", "remove", "sync_directory"]
    assert bench.writer.end == JournalEnd(2, 0, 0)


def test_end_does_not_move_when_a_write_fails(bench: Bench) -> None:
    bench.write(LINE * 2)
    assert bench.writer.end == JournalEnd(1, 2 * len(LINE), 2)
    for call in ("write_at", "sync"):
        bench.filesystem.fail(call, written=5)
        bench.refused()
        assert bench.writer.end == JournalEnd(1, 2 * len(LINE), 2)
        assert bench.content() == LINE * 2


def test_preallocation_starts_after_some_small_writes(bench: Bench) -> None:
    for _ in range(PREALLOCATE_AFTER):
        assert bench.write() == PLAIN
        assert bench.blanks() == 0
    assert bench.write() == PLAIN + PLAIN
    assert PREALLOCATION <= bench.blanks() < PREALLOCATION + BLOCK_SIZE
    assert len(bench.content()) % BLOCK_SIZE == 0


def test_preallocation_is_durable_before_records_overwrite_it(bench: Bench) -> None:
    for _ in range(PREALLOCATE_AFTER):
        bench.write()
    bench.filesystem.fail("sync", after=1)
    bench.refused()
    assert bench.content() == bench.records


def test_write_over_preallocation_keeps_the_file_size(bench: Bench) -> None:
    bench.lay_blanks()
    length = len(bench.content())
    while bench.blanks() > len(LINE):
        assert bench.write() == PLAIN
        assert len(bench.content()) == length


def test_preallocation_keeps_at_least_one_blank_line(bench: Bench) -> None:
    bench.lay_blanks()
    while bench.blanks() > 50:
        bench.write()
    left = bench.blanks()
    assert bench.write(b"#" * (left - 2) + b"\n") == PLAIN
    assert bench.blanks() == 1
    assert bench.write() == PLAIN + PLAIN
    assert bench.blanks() >= PREALLOCATION


def test_large_write_truncates_the_preallocation_first(
    bench: Bench,
) -> None:
    bench.lay_blanks()
    assert bench.write(LINE * 10) == ["truncate", *PLAIN]
    assert bench.blanks() == 0
    assert bench.write(LINE * 10) == PLAIN
    for _ in range(PREALLOCATE_AFTER):
        assert bench.write() == PLAIN
    assert bench.blanks() == 0
    bench.write()
    assert bench.blanks() >= PREALLOCATION


def test_large_write_is_refused_if_truncation_fails(bench: Bench) -> None:
    bench.lay_blanks()
    bench.filesystem.fail("truncate")
    with pytest.raises(OSError, match="No space left"):
        bench.write(LINE * 10)
    bench.filesystem.clear_failures()
    bench.writer.discard_failed()
    assert bench.content() == bench.records


@pytest.mark.parametrize("written", [0, 1, 500])
def test_failed_preallocation_write_does_not_refuse_records(bench: Bench, written: int) -> None:
    for _ in range(PREALLOCATE_AFTER):
        bench.write()

    bench.filesystem.room_for_blanks = written
    assert bench.write() == ["write_at", "truncate", *PLAIN]
    assert bench.content() == bench.records
    for _ in range(2 * PREALLOCATE_AFTER):
        assert bench.write() == PLAIN
    assert bench.content() == bench.records


def test_failed_preallocation_sync_refuses_the_write(
    bench: Bench,
) -> None:
    for _ in range(PREALLOCATE_AFTER):
        bench.write()
    bench.filesystem.fail("sync")
    bench.refused()
    bench.begin()
    for _ in range(2 * PREALLOCATE_AFTER):
        assert bench.write() == PLAIN
    bench.begin()
    bench.lay_blanks()


def test_begin_segment_truncates_the_previous_one_to_its_records(bench: Bench) -> None:
    bench.lay_blanks()
    records = bench.records
    bench.begin()
    assert bench.content(1) == records
    assert bench.content(2) == b""


def test_detach_truncates_the_segment_to_its_records(bench: Bench) -> None:
    bench.lay_blanks()
    descriptor = bench.writer.detach()
    assert descriptor is not None
    bench.filesystem.close(descriptor)
    assert bench.content() == bench.records
    assert bench.writer.detach() is None


def test_failed_truncation_of_a_sealed_segment_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.lay_blanks()
    length = len(bench.content())
    bench.filesystem.fail("truncate", code=errno.EIO)
    bench.begin()
    assert len(bench.content(1)) == length
    [message] = [record.getMessage() for record in caplog.records]
    assert f"{bench.segments.path(1)}: the preallocation at its end could not be truncated" in message


def test_discard_failed_truncates_once(bench: Bench) -> None:
    bench.lay_blanks()
    bench.filesystem.fail("write_at", written=9)
    bench.refused()
    bench.filesystem.calls.clear()
    bench.begin()
    assert "truncate" not in bench.filesystem.calls


def test_write_without_a_segment_is_refused(tmp_path: Path) -> None:
    filesystem = FakeFilesystem()
    with pytest.raises(OSError, match="Bad file descriptor"):
        SegmentWriter(Segments(str(tmp_path), filesystem), filesystem).write(LINE, 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.integers(1, 2 * MAX_SMALL_WRITE) | st.integers(MAX_SMALL_WRITE - 3, MAX_SMALL_WRITE + 3),
        max_size=60,
    )
)
def test_any_writes_precede_the_blanks_and_match_can_append(bench: Bench, sizes: list[int]) -> None:
    bench.begin()
    for size in sizes:
        is_ready = bench.writer.can_append(size)
        before = len(bench.content())
        calls = bench.write(b"#" * (size - 1) + b"\n")
        assert (calls == PLAIN) is is_ready
        assert bench.writer.end[:2] == (bench.number, len(bench.records))
        blanks = bench.blanks()
        assert blanks < PREALLOCATION + BLOCK_SIZE
        assert not (blanks and size > MAX_SMALL_WRITE)
        if is_ready and blanks:
            assert len(bench.content()) == before
