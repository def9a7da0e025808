"""The files of a journal: which are valid, in what order, and where their records are."""

from pathlib import Path

import pytest

from taskqd.errors import JournalDamaged, Lagged, StoreFailed
from taskqd.model.events import Ended, Event, JobEvent, Opened, Paused, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import job_event_reader, reader
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.reader import SegmentReader
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import JournalEnd, Layout, Segments, positions
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import START
from tests.fakes.filesystem import FakeFilesystem
from tests.support.journals import ran, replay, split_events, story, submitted, write

OPENED = Opened(at=START, format=1, store="s", boot="b", next_id=1)


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, JobEvent)]


def upto(sequence: int) -> JournalEnd:
    """Return a journal end after a record."""
    return JournalEnd(99, 10**9, sequence)


def all_of(finding: JobEventFinder) -> list[tuple[int, Event]]:
    """Return all events that a finder returns."""
    found: list[tuple[int, Event]] = []
    while not finding.is_over:
        found += finding.read_batch()
    return found


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
    shown = [segments.locate(position) for _, position in segments.replay(segments.layout(), Replay())]
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


# Events of jobs.


@pytest.mark.parametrize("at_once", [1, 7, 100, 10**6])
def test_finder_returns_all_events_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(job_event_reader, "SEARCH_READ_BYTES", at_once)
    events = story(25)
    write(tmp_path, *split_events(events, 3))
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
    segments = Segments(str(tmp_path), Filesystem())
    known = replay(tmp_path)
    for job_id in range(1, 27):
        found = all_of(JobEventFinder(segments, Filesystem(), (job_id,), upto(10**6)))
        assert [event for _, event in found] == [event for event in known if ids([event]) == [job_id]]
        assert [number for number, _ in found] == sorted(number for number, _ in found)


def test_finder_ignores_events_that_only_mention_the_job(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1, 'echo {"id":2,'), submitted(2, "x"), submitted(12), submitted(20)])
    assert all_of(JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (2,), upto(100))) == [
        (3, submitted(2, "x"))
    ]


def test_finder_ignores_refused_and_undurable_records(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [*ran(1)])
    first = tmp_path / "00000001.journal"
    first.write_bytes(first.read_bytes() + encode(ran(1)[0], 3))
    segments = Segments(str(tmp_path), Filesystem())
    assert [number for number, _ in all_of(JobEventFinder(segments, Filesystem(), (1,), upto(100)))] == [
        2,
        4,
        5,
        6,
    ]
    assert [number for number, _ in all_of(JobEventFinder(segments, Filesystem(), (1,), upto(5)))] == [
        2,
        4,
        5,
    ]
    last = tmp_path / "00000002.journal"
    last.write_bytes(last.read_bytes()[:-2])
    assert [number for number, _ in all_of(JobEventFinder(segments, Filesystem(), (1,), upto(100)))] == [
        2,
        4,
        5,
    ]


def test_finder_does_not_read_after_the_durable_end(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [*ran(1)])
    last = tmp_path / "00000002.journal"
    end = JournalEnd(2, last.stat().st_size, 6)
    for rest in (b'half a line of job "id":1,\n', encode(ran(1)[0], 7), b"\n" * 999 + b'"id":1,\n'):
        whole = last.read_bytes()
        last.write_bytes(whole + rest)
        assert [
            number
            for number, _ in all_of(
                JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (1,), end)
            )
        ] == [
            2,
            4,
            5,
            6,
        ]
        last.write_bytes(whole)
    (tmp_path / "00000003.journal").write_bytes(encode(OPENED, 7) + b'"id":1,\n')
    assert [
        number
        for number, _ in all_of(
            JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (1,), end)
        )
    ] == [
        2,
        4,
        5,
        6,
    ]


def test_finder_refuses_a_damaged_line_of_the_job_only(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2)])
    path = tmp_path / "00000001.journal"
    path.write_bytes(path.read_bytes().replace(b'"id":2,"at":17', b'"id":2,"at":18'))
    segments = Segments(str(tmp_path), Filesystem())
    assert len(all_of(JobEventFinder(segments, Filesystem(), (1,), upto(100)))) == 1
    with pytest.raises(JournalDamaged):
        all_of(JobEventFinder(segments, Filesystem(), (2,), upto(100)))


def test_finder_continues_in_a_snapshot_that_replaces_its_segment(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1)], [submitted(2)])

    class Once(Filesystem):
        def open(self, path: str) -> int:
            if path.endswith("1.journal") and not (tmp_path / "00000001.snapshot").exists():
                SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
                raise FileNotFoundError(2, "No such file", path)
            return super().open(path)

    filesystem = Once()
    assert len(all_of(JobEventFinder(Segments(str(tmp_path), filesystem), filesystem, (1,), upto(100)))) == 3


def test_finder_returns_no_event_twice_after_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_event_reader, "BATCH_BYTES", 1)
    events = [submitted(1), *ran(1), submitted(2)]
    write(tmp_path, events, [submitted(3)])
    segments = Segments(str(tmp_path), Filesystem())
    finding = JobEventFinder(segments, Filesystem(), (1,), upto(100))
    found = finding.read_batch()
    assert [number for number, _ in found] == [2]
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 1).write()
    segments.remove_obsolete(1)
    found += all_of(finding)
    assert [event.name for _, event in found] == ["submitted", "started", "ended"]
    assert [number for number, _ in found] == [2, 3, 5]


def test_finder_returns_to_its_caller_after_max_search_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_event_reader, "SEARCH_READ_BYTES", 100)
    monkeypatch.setattr(job_event_reader, "MAX_SEARCH_BYTES", 200)
    write(tmp_path, [submitted(number) for number in range(1, 20)])
    finding = JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (99,), upto(100))
    assert (finding.read_batch(), finding.is_over) == ([], False)
    assert all_of(finding) == []


def test_finder_raises_if_the_journal_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        all_of(
            JobEventFinder(Segments(str(tmp_path / "nowhere"), Filesystem()), Filesystem(), (1,), upto(100))
        )


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
    positions = [position for _, position in segments.replay(segments.layout(), Replay())]
    assert segments.read(positions[2]) == ran(1)[0]
    segments.close()


# Replaced files.


def test_obsolete_files_are_removed_and_closed(tmp_path: Path) -> None:
    events: list[Event] = [submitted(1), *ran(1)]
    write(tmp_path, events, ran(1, 2)[:0], [submitted(2)])
    filesystem = FakeFilesystem()
    segments = Segments(str(tmp_path), filesystem)
    positions = [position for _, position in segments.replay(segments.layout(), Replay())]
    assert isinstance(segments.read(positions[3]), Ended)
    SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 2).write()
    assert segments.remove_obsolete(2) == (tmp_path / "00000002.snapshot").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002.snapshot", "00000003.journal"]
    assert isinstance(segments.read(positions[3]), Ended), "an open file can be read until it is closed"
    [new] = [
        position
        for event, position in segments.replay(segments.layout(), Replay())
        if isinstance(event, Ended)
    ]
    assert segments.read(new) == segments.read(positions[3])
    segments.close_replaced(2)
    assert len(filesystem.descriptors) == 1
    assert segments.read(new) == events[3]
    segments.close()
    assert filesystem.descriptors == set()


def test_finder_returns_events_of_several_jobs_in_order(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2, 'echo {"id":1,'), *ran(1)], [*ran(2), submitted(3)])
    found = all_of(JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (2, 1), upto(100)))
    assert [(number, str(event.name)) for number, event in found] == [
        *[(2, "submitted"), (3, "submitted"), (4, "started"), (5, "spawned"), (6, "ended")],
        *[(8, "started"), (9, "spawned"), (10, "ended")],
    ]


def test_finder_ignores_events_of_queues(tmp_path: Path) -> None:
    paused = Paused(at=START, by='"id":1,', queue='"id":1,')
    write(tmp_path, [submitted(1), paused])
    assert all_of(JobEventFinder(Segments(str(tmp_path), Filesystem()), Filesystem(), (1,), upto(100))) == [
        (2, submitted(1))
    ]


# Events since a number.


def since(
    directory: Path, first: int, last: int, filesystem: Filesystem | None = None
) -> list[tuple[int, Event]]:
    """Return all events from ``first`` to ``last``, read in batches."""
    reading = SegmentReader(
        Segments(str(directory), filesystem or Filesystem()), filesystem or Filesystem(), first
    )
    found: list[tuple[int, Event]] = []
    while batch := reading.read_batch(last):
        found += batch
    assert reading.next_sequence == max(first, last + 1)
    return found


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
            if not isinstance(record, Opened | Snapshot):
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
