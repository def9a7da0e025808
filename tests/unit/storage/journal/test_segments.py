"""The files of a journal: which are valid, in what order, and where their records are."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import cast

import pytest

from taskqd.errors import JournalDamaged, StoreFailed
from taskqd.model.events import Compacted, Ended, Event, Opened, RecordPosition, Replayed
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Layout, Segments, positions
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.filesystem import FakeFilesystem
from tests.support.journals import ran, replay, split_events, story, submitted, write
from tests.unit.storage.journal.samples import OPENED, all_of, ids, since, upto


def replayed(segments: Segments) -> Iterator[tuple[Replayed, RecordPosition]]:
    return chain.from_iterable(segments.replay(segments.layout(), Replay()))


def names(directory: Path, *present: str) -> Layout:
    directory.mkdir(exist_ok=True)
    for name in present:
        (directory / name).touch()
    return Segments(str(directory), Filesystem()).layout()


@pytest.mark.parametrize(
    "present, snapshot, segments, obsolete",
    [
        ([], 0, [], []),
        (["00000001.journal", "00000002.journal"], 0, [1, 2], []),
        (["00000007.snapshot"], 7, [], []),
        (["00000007.snapshot", "00000008.journal"], 7, [8], []),
        (
            ["00000007.snapshot", "00000006.journal", "00000007.journal", "00000008.journal"],
            7,
            [8],
            ["00000006.journal", "00000007.journal"],
        ),
        (
            ["00000003.snapshot", "00000007.snapshot", "00000008.journal"],
            7,
            [8],
            ["00000003.snapshot"],
        ),
        (
            ["00000001.journal", "00000002.journal", "00000001.moved", "00000001.snapshot.new"],
            0,
            [1, 2],
            ["00000001.moved", "00000001.snapshot.new"],
        ),
        (
            [
                "00000001.journal",
                "README",
                "1.journal",
                "00000001.journal.bak",
                "0000000a.journal",
                "x.moved",
            ],
            0,
            [1],
            [],
        ),
    ],
)
def test_layout_has_the_newest_snapshot_and_later_segments(
    tmp_path: Path, present: list[str], snapshot: int, segments: list[int], obsolete: list[str]
) -> None:
    assert names(tmp_path, *present) == Layout(snapshot, segments, obsolete)


@pytest.mark.parametrize(
    "present, missing",
    [
        (["00000002.journal"], "00000001.journal"),
        (["00000001.journal", "00000003.journal"], "00000002.journal"),
        (["00000004.snapshot", "00000003.journal", "00000006.journal"], "00000005.journal"),
    ],
)
def test_layout_with_a_missing_segment_is_refused(tmp_path: Path, present: list[str], missing: str) -> None:
    with pytest.raises(JournalDamaged, match=f"{tmp_path}/{missing} is missing"):
        names(tmp_path, *present)


def test_replay_reads_valid_files_in_order(tmp_path: Path) -> None:
    events = story(30)
    write(tmp_path, *split_events(events, 4))
    assert replay(tmp_path) == events
    reading = Replay()
    segments = Segments(str(tmp_path), Filesystem())
    found = list(segments.batches(segments.layout(), reading))
    assert sum(isinstance(record, Opened) for _, batch in found for record in batch.records) == 4
    assert reading.sequence == len(events) + 4
    for number, batch in found:
        assert [segments.read(position) for position in positions(number, batch)] == batch.records
    segments.close()


def test_replay_ignores_records_refused_after_a_failed_write(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)], [submitted(3)])
    refused = encode(submitted(9), 3) + encode(submitted(8), 4)
    for rest in (b"", refused, refused[:-20], b"half a li"):
        for number in (1, 2):
            path = tmp_path / f"{number:08}.journal"
            whole = path.read_bytes()
            path.write_bytes(whole + rest)
            assert ids(replay(tmp_path)) == [1, 2, 3]
            path.write_bytes(whole)


def test_replay_ignores_a_segment_that_was_only_begun(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [], [submitted(3)])
    third = encode(OPENED, 3) + encode(submitted(3), 4)
    (tmp_path / "00000003.journal").write_bytes(third)
    for begun in (b"", b"7", encode(OPENED, 3), encode(OPENED, 3)[:-1], encode(OPENED, 3) + b"x"):
        (tmp_path / "00000002.journal").write_bytes(begun)
        assert ids(replay(tmp_path)) == [1, 3]


def test_locate_returns_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2)], [submitted(3)])
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
    segments = Segments(str(tmp_path), Filesystem())
    shown = [segments.locate(position) for _, position in replayed(segments)]
    assert shown == [
        f"{tmp_path}/00000001.snapshot, line 2",
        f"{tmp_path}/00000001.snapshot, line 3",
        f"{tmp_path}/00000002.journal, line 2",
    ]


def test_read_that_fails_raises_store_failed(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)])
    segments = Segments(str(tmp_path), Filesystem())
    for position in [(1, 3, 10), (1, 100_000, 50), (9, 0, 50), (-1, 0, 50)]:
        with pytest.raises(StoreFailed, match="cannot be read"):
            segments.read(position)
    segments.close()


def test_readers_ignore_blanks_and_marks(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)])
    path = tmp_path / "00000001.journal"
    batch = (
        encode(submitted(2), 3)
        + encode(ran(1)[0], 4, continues_batch=True)
        + encode(submitted(3), 5, continues_batch=True)
    )
    path.write_bytes(path.read_bytes() + batch + b"\n" * 100_000)
    segments = Segments(str(tmp_path), Filesystem())
    assert all_of(JobEventFinder(segments, Filesystem(), (1,), upto(5))) == [
        (2, submitted(1)),
        (4, ran(1)[0]),
    ]
    assert [number for number, _ in since(tmp_path, 1, 5)] == [2, 3, 4, 5]
    assert since(tmp_path, 4, 4) == [(4, ran(1)[0])]
    positions = [position for _, position in replayed(segments)]
    assert segments.read(positions[2]) == ran(1)[0]
    segments.close()


# Replaced files.


def test_obsolete_files_are_removed_and_closed(tmp_path: Path) -> None:
    events: list[Event] = [submitted(1), *ran(1)]
    write(tmp_path, events, ran(1, 2)[:0], [submitted(2)])
    filesystem = FakeFilesystem()
    segments = Segments(str(tmp_path), filesystem)
    positions = [position for _, position in replayed(segments)]
    assert isinstance(segments.read(positions[3]), Ended)
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 2).write()
    assert segments.remove_obsolete(2) == (tmp_path / "00000002.snapshot").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002.snapshot", "00000003.journal"]
    assert isinstance(segments.read(positions[3]), Ended), "an open file can be read until it is closed"
    [new] = [position for event, position in replayed(segments) if isinstance(event, Compacted)]
    assert cast("Compacted", segments.read(new)).end_of(1) == segments.read(positions[3])
    segments.close_replaced(2)
    assert len(filesystem.descriptors) == 1
    assert cast("Compacted", segments.read(new)).end_of(1) == events[3]
    segments.close()
    assert filesystem.descriptors == set()
