"""The index of the order of both streams: its entries, its bound, its file, and what a reader makes of it."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from taskqd.storage.spool.output import FLUSH_TIMEOUT, OutputWriter
from taskqd.storage.spool.output_order import (
    ENTRY_SPAN,
    EXACT_BYTES,
    MAX_BYTES,
    MAX_INLINE_BYTES,
    WRITE_BYTES,
    WRITE_INTERVAL,
    Entry,
    OrderIndex,
    OrderParser,
    join_entries,
)
from tests.fakes.clocks import START, Threads, clock
from tests.fakes.deferreds import result_of
from tests.fakes.filesystem import FakeFilesystem

MS = int(START * 1000)


class Indexed:
    """An index and an output writer that has another one, on a fake file system."""

    def __init__(self, directory: Path, has_path: bool = True) -> None:
        self.clock = clock()
        self.filesystem = FakeFilesystem()
        self.threads = Threads()
        self.path = directory / "output" / "0" / "7.1.order"
        path = str(self.path) if has_path else None
        self.set_back = 0.0
        self.index = OrderIndex(path, self.filesystem, self.clock, self.now)
        paths = {number: str(self.path.with_suffix(f".{number}")) for number in (1, 2)}
        self.writer = OutputWriter(
            paths, self.filesystem, self.clock, self.threads, 10**9, [], order_path=path
        )

    def now(self) -> float:
        return self.clock.now() - self.set_back

    def add(self, *reads: tuple[float, int, int]) -> None:
        """Note reads: the seconds before each one, its stream and its size."""
        for seconds, stream, size in reads:
            self.clock.advance(seconds)
            self.index.add(stream, size)

    def close(self) -> list[Entry]:
        """Return the entries of the index in its file, or else in memory."""
        closed = self.index.close(self.threads)
        self.threads.run()
        text = result_of(closed)
        return self.in_file() if text is None else OrderParser().feed(text.encode())

    def close_writer(self) -> list[Entry] | None:
        """Return the entries in the file or of ``order``, None without both."""
        closed = self.writer.close()
        self.threads.run()
        result_of(closed)
        if self.writer.order is not None:
            return OrderParser().feed(self.writer.order.encode())
        return self.in_file() if self.path.exists() else None

    def in_file(self) -> list[Entry]:
        return OrderParser().feed(self.path.read_bytes()) if self.path.exists() else []


@pytest.fixture(name="indexed")
def make_indexed(tmp_path: Path) -> Indexed:
    return Indexed(tmp_path)


# Entries.


def test_entry_ends_with_its_stream_or_after_its_span(indexed: Indexed) -> None:
    reads = [(0.0, 1, 5), (0.02, 1, 2), (0.02, 2, 3), (0.06, 1, 4), (ENTRY_SPAN + 0.001, 1, 1)]
    indexed.add(*reads)
    assert indexed.close() == [
        Entry(MS, 7, 0),
        Entry(MS + 40, 0, 3),
        Entry(MS + 100, 4, 0),
        Entry(MS + 201, 1, 0),
    ]


def test_entries_have_the_time_of_day_also_after_that_was_set(indexed: Indexed) -> None:
    indexed.add((0.0, 1, 1))
    indexed.set_back = 60
    indexed.add((0.0, 2, 1), (1.0, 1, 1))
    assert [entry.at for entry in indexed.close()] == [MS, MS - 60_000, MS - 59_000]


def test_index_is_bounded_and_covers_longer_spans_when_it_is_long(indexed: Indexed) -> None:
    count = 0
    while True:
        written = len(indexed.path.read_bytes()) if indexed.path.exists() else 0
        indexed.add(*[(0.03, 1, 1), (0.03, 2, 1)] * 200)
        count += 200
        indexed.index.write()
        if indexed.path.stat().st_size == written and indexed.path.stat().st_size > EXACT_BYTES + 4096:
            break
    entries = indexed.close()
    exact = [entry for entry in entries if 0 in (entry.stdout, entry.stderr)]
    assert len(exact) > 2000, "the first changes of stream are all there"
    assert entries[: len(exact)] == exact
    spans = [after.at - before.at for before, after in zip(entries[-9:], entries[-8:], strict=False)]
    assert min(spans) > 100, "later entries are longer"
    assert sum(entry.stdout for entry in entries) <= count
    assert indexed.path.stat().st_size <= MAX_BYTES


def test_index_ends_at_its_bound(indexed: Indexed) -> None:
    size = 0
    while size <= MAX_BYTES - 60:
        indexed.add(*[(10**5, 1, 10**12)] * 100)
        indexed.index.write()
        assert indexed.path.stat().st_size > size
        size = indexed.path.stat().st_size
    indexed.add(*[(10**9, 1, 10**12)] * 10)
    indexed.close()
    assert indexed.path.stat().st_size == size <= MAX_BYTES


# The file.


def test_entries_are_written_together_and_after_a_second(indexed: Indexed) -> None:
    indexed.add((0.0, 1, 1))
    assert not indexed.index.must_write
    indexed.add((0.1, 2, 1))
    assert indexed.index.must_write
    indexed.index.write()
    assert indexed.in_file() == [Entry(MS, 1, 0)]
    indexed.add((0.1, 1, 1))
    assert not indexed.index.must_write
    indexed.add((WRITE_INTERVAL, 2, 1))
    assert indexed.index.must_write
    indexed.index.write()
    indexed.add(*[(0.0, 1, 1), (0.0, 2, 1)] * (WRITE_BYTES // 12 + 1))
    assert indexed.index.must_write


def test_index_is_durable_when_it_is_closed(indexed: Indexed) -> None:
    indexed.add((0.0, 1, 1), (0.0, 2, 1))
    closed = indexed.index.close(indexed.threads)
    assert not closed.called
    indexed.threads.run()
    assert result_of(closed) is None
    assert indexed.filesystem.calls[-3:] == ["sync", "sync_directory", "close"]
    assert indexed.filesystem.descriptors == set()


@pytest.mark.parametrize("call", ["create_with_parents", "write", "sync"])
def test_error_of_the_index_does_not_fail_the_output(indexed: Indexed, call: str) -> None:
    indexed.filesystem.fail(call)
    with capturedLogs() as logged:
        indexed.add((0.0, 1, 1), (0.0, 2, 1))
        indexed.index.write()
        indexed.add((0.0, 1, 1), (0.0, 2, 1))
        assert len(indexed.close()) == (4 if call == "sync" else 0)
    assert indexed.filesystem.descriptors == set()
    assert [event["path"] for event in logged] == [str(indexed.path)]


def test_index_is_written_when_the_machine_has_descriptors_again(indexed: Indexed) -> None:
    indexed.filesystem.fail("create_with_parents", code=errno.EMFILE)
    indexed.add((0.0, 1, 1), (0.0, 2, 1))
    indexed.index.write()
    indexed.filesystem.clear_failures()
    assert indexed.close() == [Entry(MS, 1, 0), Entry(MS, 0, 1)]


# What an attempt leaves.


@pytest.mark.parametrize(
    "reads, expected",
    [
        ([], None),
        ([(1, 9)], None),
        ([(1, 9), (1, 9)], None),
        ([(1, 9), (2, 4)], [(9, 0), (0, 4)]),
        ([(2, 4), (1, 9)], [(0, 4), (9, 0)]),
    ],
)
def test_short_output_has_an_index_only_if_it_used_both_streams(
    indexed: Indexed, reads: Sequence[tuple[int, int]], expected: list[tuple[int, int]] | None
) -> None:
    for stream, size in reads:
        indexed.writer.write(stream, b"x" * size)
    entries = indexed.close_writer()
    assert expected == (None if entries is None else [entry[1:] for entry in entries])
    assert not indexed.path.exists()
    assert "create" not in indexed.filesystem.calls


def test_inline_index_is_bounded(indexed: Indexed) -> None:
    for _ in range(2000):
        indexed.writer.write(1, b"o")
        indexed.writer.write(2, b"e")
    entries = indexed.close_writer()
    assert entries is not None
    assert indexed.writer.order is not None
    assert len(indexed.writer.order) <= MAX_INLINE_BYTES
    assert [sum(sizes) for sizes in zip(*[entry[1:] for entry in entries], strict=True)] == [2000, 2000]


def test_output_of_one_stream_and_one_read_has_no_index_file(indexed: Indexed) -> None:
    indexed.writer.write(1, b"early")
    indexed.clock.advance(FLUSH_TIMEOUT)
    assert indexed.close_writer() is None
    assert indexed.writer.order is None


def test_index_file_is_beside_output_in_files(indexed: Indexed) -> None:
    indexed.writer.write(2, b"early")
    indexed.clock.advance(FLUSH_TIMEOUT)
    indexed.writer.write(1, b"later")
    indexed.clock.advance(5)
    indexed.writer.write(1, b"latest")
    assert [entry[1:] for entry in indexed.in_file()] == [(0, 5), (5, 0)], "up to the entry that goes on"
    entries = indexed.close_writer()
    assert entries is not None
    assert [entry[1:] for entry in entries] == [(0, 5), (5, 0), (6, 0)]
    assert indexed.writer.order is None


def test_index_counts_only_what_is_kept(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path)
    paths = {number: str(tmp_path / "output" / "0" / f"8.1.{number}") for number in (1, 2)}
    writer = OutputWriter(paths, indexed.filesystem, indexed.clock, indexed.threads, 4, [])
    for stream in (1, 2, 1, 1):
        writer.write(stream, b"abc")
    result_of(writer.close())
    assert [entry[1:] for entry in OrderParser().feed((writer.order or "").encode())] == [
        (3, 0),
        (0, 3),
        (1, 0),
    ]


def test_write_through_writes_the_index_too(indexed: Indexed) -> None:
    indexed.writer.write(2, b"early")
    indexed.writer.write(1, b"later")
    indexed.writer.write_through()
    assert [entry[1:] for entry in indexed.in_file()] == [(0, 5)]
    indexed.writer.write(2, b"last")
    indexed.writer.write_through()
    assert [entry[1:] for entry in indexed.in_file()] == [(0, 5), (5, 0)]
    indexed.close_writer()


def test_index_without_a_path_stays_in_memory_and_is_bounded(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path, has_path=False)
    for number in range(3000):
        indexed.add((0.05, 1 + number % 2, 10))
    closed = indexed.index.close(indexed.threads)
    text = result_of(closed)
    assert text is not None
    assert len(text) <= MAX_INLINE_BYTES
    entries = OrderParser().feed(text.encode())
    assert [sum(sizes) for sizes in zip(*[entry[1:] for entry in entries], strict=True)] == [15_000, 15_000]
    assert len(entries) > 30
    assert indexed.filesystem.calls == []


# Reading.


@given(st.lists(st.integers(1, 40), max_size=9))
def test_parser_reads_pieces_of_any_size(cuts: list[int]) -> None:
    text = b"1700000000000 5 0\n-20 0 7\n100 3 4\n"
    parser, found, at = OrderParser(), list[Entry](), 0
    for cut in [*cuts, len(text)]:
        found += parser.feed(text[at : at + cut])
        at += cut
    assert found == [Entry(MS, 5, 0), Entry(MS - 20, 0, 7), Entry(MS + 80, 3, 4)]


@pytest.mark.parametrize("tail", [b"12 3", b"\0" * 40, b"1 2\n", b"1 2 x\n5 5 5\n", b"9" * 90 + b"\n5 5 5\n"])
def test_parser_ends_at_a_line_that_is_not_complete(tail: bytes) -> None:
    parser = OrderParser()
    assert parser.feed(b"1700000000000 5 0\n" + tail) == [Entry(MS, 5, 0)]
    assert parser.feed(b"") == []
    if b"\n" in tail or len(tail) > 60:
        assert parser.feed(b"1 1 1\n") == []


def test_joined_entries_keep_the_bytes_and_the_first_times() -> None:
    text = b"1700000000000 5 0\n10 0 7\n10 3 0\n"
    assert join_entries(text, 100) == text
    assert join_entries(text, 30) == b"1700000000000 5 7\n20 3 0\n"
    assert join_entries(text, 1) == b"1700000000000 8 7\n"
