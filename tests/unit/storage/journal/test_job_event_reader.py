"""The events of jobs, found in the files of a journal."""

from pathlib import Path

import pytest

from taskqd.errors import JournalDamaged
from taskqd.model.events import Paused
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import job_event_reader
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.segments import JournalEnd, Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import START
from tests.support.journals import ran, replay, split_events, story, submitted, write
from tests.unit.storage.journal.samples import OPENED, all_of, ids, upto


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
