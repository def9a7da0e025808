"""The events since a number, read from the files of a journal."""

from pathlib import Path

import pytest

from taskqd.errors import JournalDamaged, Lagged
from taskqd.model.events import Compacted, Event, Opened, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import reader
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.reader import SegmentReader
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.support.journals import ran, split_events, story, submitted, write
from tests.unit.storage.journal.samples import OPENED, since


@pytest.mark.parametrize("at_once", [1, 100, 1000, 10**6])
def test_reader_returns_all_events_in_any_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", at_once)
    write(tmp_path, *split_events(story(25), 3))
    segments, reading = Segments(str(tmp_path), Filesystem()), Replay()
    known: list[tuple[int, Event]] = []
    for _, batch in segments.batches(segments.layout(), reading):
        for sequence, record in zip(batch.sequences, batch.records, strict=True):
            if not isinstance(record, Opened | Snapshot | Compacted):
                known.append((sequence, record))
    last = reading.sequence
    for first in range(1, last + 2, 7):
        assert since(tmp_path, first, last) == [found for found in known if found[0] >= first]
    assert since(tmp_path, 1, 40) == [found for found in known if found[0] <= 40]
    assert since(tmp_path, last + 1, last) == []


def test_reader_continues_when_the_journal_has_grown(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)])
    reading = SegmentReader(Segments(str(tmp_path), Filesystem()), Filesystem(), 1)
    assert reading.read_batch(2) == [(2, submitted(1))]
    assert reading.read_batch(2) == []
    write(tmp_path, [submitted(1), submitted(2)])
    assert reading.read_batch(3) == [(3, submitted(2))]
    write(tmp_path, [submitted(1), submitted(2)], [], [submitted(3)])
    assert reading.read_batch(4) == []
    assert reading.read_batch(6) == [(6, submitted(3))]


def test_reader_ignores_refused_records(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)], [submitted(3)])
    refused = encode(OPENED, 3) + encode(submitted(8), 4)
    for number in (1, 2):
        path = tmp_path / f"{number:08}.journal"
        for rest in (refused, refused[:-20], b"half a li"):
            whole = path.read_bytes()
            path.write_bytes(whole + rest)
            assert since(tmp_path, 1, 6) == [(2, submitted(1)), (4, submitted(2)), (6, submitted(3))]
            path.write_bytes(whole)


def test_reader_ignores_a_segment_whose_first_line_was_refused(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [], [submitted(3)])
    (tmp_path / "00000003.journal").write_bytes(encode(OPENED, 3) + encode(submitted(3), 4))
    for begun in (b"", b"7", encode(OPENED, 3), encode(OPENED, 3)[:-1], encode(OPENED, 3) + b"x"):
        (tmp_path / "00000002.journal").write_bytes(begun)
        assert since(tmp_path, 1, 4) == [(2, submitted(1)), (4, submitted(3))]


def test_reader_raises_lagged_with_the_oldest_number_after_a_compaction(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1)], [submitted(2)], [submitted(3)])
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
    for first in (1, 5):
        with pytest.raises(Lagged) as lagged:
            since(tmp_path, first, 9)
        assert (lagged.value.sequence, str(lagged.value)) == (6, "6")
    assert since(tmp_path, 6, 9) == [(7, submitted(2)), (9, submitted(3))]


def test_reader_finishes_a_replaced_segment_until_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 10)
    write(tmp_path, [submitted(1), submitted(2), submitted(3)], [submitted(4)])
    segments = Segments(str(tmp_path), Filesystem())
    reading = SegmentReader(segments, Filesystem(), 1)
    assert reading.read_batch(6) == [(2, submitted(1))]
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
    assert reading.read_batch(6) == [(3, submitted(2))]
    segments.remove_obsolete(1)
    with pytest.raises(Lagged, match="5"):
        reading.read_batch(6)


def test_reader_retries_when_a_segment_is_replaced_between_two_calls(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)])

    class Once(Filesystem):
        def read_file(self, path: str, max_bytes: int | None = None) -> bytes:
            if path.endswith("1.journal") and not (tmp_path / "00000001.snapshot").exists():
                SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
                Segments(str(tmp_path), Filesystem()).remove_obsolete(1)
            return super().read_file(path, max_bytes)

    assert since(tmp_path, 3, 4, Once()) == [(4, submitted(2))]


@pytest.mark.parametrize("damage", [b"x" * 20, b"00000000 x y", b"00000000 3 {}"])
def test_reader_refuses_a_damaged_line(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, [submitted(1), submitted(2)])
    path = tmp_path / "00000001.journal"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damage, b""]))
    with pytest.raises(JournalDamaged):
        since(tmp_path, 1, 3)


def test_reader_refuses_a_missing_record(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2), submitted(3)])
    path = tmp_path / "00000001.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    for left in (lines[:2], [*lines[:2], *lines[3:]]):
        path.write_bytes(b"".join(left))
        with pytest.raises(JournalDamaged):
            since(tmp_path, 1, 4)
    (tmp_path / "00000001.journal").unlink()
    with pytest.raises(JournalDamaged):
        since(tmp_path, 1, 4)
