"""A snapshot replaces sealed segments atomically and preserves the state."""

import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.errors import JournalDamaged, StartRefused
from taskqd.model.events import (
    FORMAT,
    Cancelled,
    Changed,
    Clocked,
    Compacted,
    CompactedEvent,
    Ended,
    Event,
    Held,
    JobEvent,
    Opened,
    Paused,
    Released,
    Rescheduled,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Snapshot,
    Spawned,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array, Spec
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import snapshot as module
from taskqd.storage.journal.codec import decode, encode
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import START
from tests.fakes.filesystem import FakeFilesystem
from tests.support.faults import plain
from tests.support.journals import fold, lines, ran, removed, replay, split_events, story, submitted, write
from tests.unit.engine.test_engine_walk import STEPS, Walk
from tests.unit.storage.journal.samples import all_of, upto


def write_snapshot(directory: Path, number: int, filesystem: Filesystem | None = None) -> int:
    filesystem = filesystem or Filesystem()
    return SnapshotWriter(Segments(str(directory), filesystem), filesystem, number).write()


def header(path: Path) -> tuple[int, Snapshot]:
    number, record = decode(path.read_bytes().split(b"\n")[0])
    assert isinstance(record, Snapshot)
    return number, record


def known(directory: Path) -> object:
    """Return the state that replay gives, without positions."""
    return plain(fold(replay(directory)))


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_snapshot_copies_lines_of_other_jobs_unchanged_and_in_order(tmp_path: Path) -> None:
    events = story(40)
    write(tmp_path, *split_events(events, 3), [submitted(99)])
    before = [
        line for number in (1, 2, 3) for line in lines((tmp_path / f"{number:08}.journal").read_bytes())
    ]
    count = write_snapshot(tmp_path, 3)
    _, *kept = lines((tmp_path / "00000003.snapshot").read_bytes())
    assert len(kept) == count < len(before)
    copied = [line for line in kept if not isinstance(decode(line[:-1])[1], Compacted)]
    assert set(copied) <= set(before)
    assert [line for line in before if line in set(copied)] == copied
    assert 10 < len(copied) < len(kept) - 10


def test_snapshot_has_one_line_with_all_records_of_an_ended_job(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2), *ran(2)], ran(1), [submitted(3)])
    bodies = {
        line.split(b" ", 2)[2]
        for number in (1, 2)
        for line in lines((tmp_path / f"{number:08}.journal").read_bytes().replace(b"\n", b" \n"))
    }
    assert write_snapshot(tmp_path, 2) == 2
    _, first, second = (tmp_path / "00000002.snapshot").read_bytes().splitlines()
    one, two = (cast("list[CompactedEvent]", ran(job_id)) for job_id in (1, 2))
    number, record = decode(first)
    assert (number, record) == (2, Compacted(events=(submitted(1), one[0], one[2]), numbers=(8, 10)))
    number, record = decode(second)
    assert (number, record) == (3, Compacted(events=(submitted(2), two[0], two[2]), numbers=(4, 6)))
    assert all(body[:-2] in first + second for body in bodies if b'"id"' in body and b"spawned" not in body)


UNJOINED: list[tuple[str, list[Event]]] = [
    ("it was retried", [submitted(1), *ran(1), Retried(id=1, at=START, by="ada"), *ran(1, 2)]),
    ("it runs", [submitted(1), *ran(1)[:2]]),
    ("it waits for a retry", [submitted(1), *ran(1, status=Status.PENDING, reason=Reason.EXIT)]),
    ("another one waits for it", [submitted(1), submitted(2, after=(1,)), *ran(1)]),
    ("it is an array", [submitted(1, array=Array(1, 1)), *ran(2)]),
    ("the clock was set", [submitted(1), Clocked(at=START, boot_clock=1.0, ahead=60.0), *ran(1)]),
]


@pytest.mark.parametrize("events", [events for _, events in UNJOINED], ids=[why for why, _ in UNJOINED])
def test_snapshot_keeps_separate_lines_of_a_job_if(tmp_path: Path, events: list[Event]) -> None:
    write(tmp_path, events, [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert b"compacted" not in (tmp_path / "00000001.snapshot").read_bytes()
    assert known(tmp_path) == before


def test_snapshot_joins_the_lines_of_both_jobs_when_the_dependent_has_ended(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2, after=(1,)), *ran(1), *ran(2)], [])
    before = known(tmp_path)
    assert write_snapshot(tmp_path, 1) == 2
    assert known(tmp_path) == before


def test_snapshot_keeps_separate_lines_of_a_job_of_format_3(tmp_path: Path) -> None:
    """Their command is in the spec, which only a line with a single record may have."""
    write(tmp_path, [submitted(1, "true"), *ran(1)], [])
    path = tmp_path / "00000001.journal"
    old = []
    for line in path.read_bytes().splitlines():
        text = line[9:].replace(b'"command":"true"', b'"spec":{"command":"true"}')
        old.append(b"%08x %b\n" % (crc32(text), text))
    path.write_bytes(b"".join(old))
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert b"compacted" not in (tmp_path / "00000001.snapshot").read_bytes()
    assert known(tmp_path) == before


def test_snapshot_keeps_a_joined_line_of_a_job_that_was_retried_since(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1)], [Retried(id=1, at=START, by="ada"), *ran(1, 2)], [])
    before = known(tmp_path)
    for number in (1, 2):
        write_snapshot(tmp_path, number)
        Segments(str(tmp_path), Filesystem()).remove_obsolete(number)
        assert known(tmp_path) == before
    _, *kept = lines((tmp_path / "00000002.snapshot").read_bytes())
    assert [type(decode(line[:-1])[1]) for line in kept] == [Compacted, Retried, Started, Ended]


def test_snapshot_joins_the_lines_of_an_older_snapshot_with_later_ones(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), submitted(2)], ran(1), [])
    before = known(tmp_path)
    for number in (1, 2):
        write_snapshot(tmp_path, number)
        Segments(str(tmp_path), Filesystem()).remove_obsolete(number)
        assert known(tmp_path) == before
    _, *kept = lines((tmp_path / "00000002.snapshot").read_bytes())
    assert [type(decode(line[:-1])[1]) for line in kept] == [Compacted, Submitted]


def test_snapshot_omits_superseded_records_of_an_ended_job(tmp_path: Path) -> None:
    held, released = Held(id=1, at=START, by="ada"), Released(id=1, at=START, by="ada")
    write(tmp_path, [submitted(1), held, released, *ran(1)], [])
    before = known(tmp_path)
    assert write_snapshot(tmp_path, 1) == 1
    assert [event.name for event in replay(tmp_path)] == ["submitted", "released", "started", "ended"]
    assert known(tmp_path) == before


def histories(directory: Path, job_ids: Iterable[int]) -> dict[int, list[tuple[int, Event]]]:
    """Return what HISTORY shows of each job, without the records that a snapshot may omit."""
    segments = Segments(str(directory), Filesystem())
    found = {each: all_of(JobEventFinder(segments, Filesystem(), (each,), upto(10**6))) for each in job_ids}
    omitted = Spawned | Held | Released | Changed
    return {
        each: [(number, event) for number, event in events if not isinstance(event, omitted)]
        for each, events in found.items()
    }


def test_history_of_each_job_is_the_same_before_and_after_a_snapshot(tmp_path: Path) -> None:
    write(tmp_path, *split_events(story(60), 5))
    before = histories(tmp_path, fold(replay(tmp_path)).jobs)
    for number in (1, 2, 4):
        write_snapshot(tmp_path, number)
        assert histories(tmp_path, before) == before
        Segments(str(tmp_path), Filesystem()).remove_obsolete(number)
        assert histories(tmp_path, before) == before


@pytest.mark.parametrize("number", [1, 2, 3])
def test_snapshot_preserves_the_state(tmp_path: Path, number: int) -> None:
    write(tmp_path, *split_events(story(40), 4))
    before = known(tmp_path)
    write_snapshot(tmp_path, number)
    assert Segments(str(tmp_path), Filesystem()).layout().snapshot == number
    assert known(tmp_path) == before
    Segments(str(tmp_path), Filesystem()).remove_obsolete(number)
    assert known(tmp_path) == before


def test_snapshot_omits_all_events_of_removed_jobs(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1), submitted(2)], [removed(1)], [submitted(3)])
    assert write_snapshot(tmp_path, 2) == 1
    assert replay(tmp_path) == [submitted(2), submitted(3)]


def test_snapshot_keeps_a_job_that_a_later_segment_removes(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1)], [removed(1), submitted(2)], [])
    write_snapshot(tmp_path, 1)
    assert [event.name for event in replay(tmp_path)] == [
        "submitted",
        "started",
        "ended",
        "removed",
        "submitted",
    ]
    assert sorted(fold(replay(tmp_path)).jobs) == [2]
    write_snapshot(tmp_path, 2)
    assert replay(tmp_path) == [submitted(2)]


def test_snapshot_keeps_the_pid_of_a_running_attempt_only(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), *ran(1), submitted(2), *ran(2)[:2]], [])
    write_snapshot(tmp_path, 1)
    assert [event.id for event in replay(tmp_path) if isinstance(event, Spawned)] == [2]


def test_snapshot_keeps_the_session_of_leftover_processes(tmp_path: Path) -> None:
    *before, end = ran(1)
    write(tmp_path, [submitted(1), *before, replace(end, pid=4242)], [])
    write_snapshot(tmp_path, 1)
    attempt = fold(replay(tmp_path)).jobs[1].attempt
    assert attempt is not None
    assert attempt.pid == 4242


def test_header_has_the_values_of_the_last_segment(
    tmp_path: Path,
) -> None:
    write(tmp_path, [submitted(1)], [submitted(2), removed(2)], [submitted(3)])
    write_snapshot(tmp_path, 2)
    number, found = header(tmp_path / "00000002.snapshot")
    opened = decode((tmp_path / "00000002.journal").read_bytes().split(b"\n")[0])[1]
    assert isinstance(opened, Opened)
    assert (found.at, found.format, found.store, found.boot) == (opened.at, FORMAT, "s", "b")
    assert (number, found.records, found.next_id) == (5, 1, 3)


def test_header_has_the_clocks_of_the_last_segment(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)])
    path = tmp_path / "00000001.journal"
    (_, opened), *rest = [decode(line) for line in path.read_bytes().splitlines()]
    assert isinstance(opened, Opened)
    changed = replace(opened, boot_clock=77.5, ahead=-3600.0)
    path.write_bytes(b"".join(encode(*each) for each in [(changed, 1), *((one, n) for n, one in rest)]))
    write_snapshot(tmp_path, 1)
    found = header(tmp_path / "00000001.snapshot")[1]
    assert (found.boot_clock, found.ahead) == (77.5, -3600.0)


def clocked(ahead: float) -> Clocked:
    return Clocked(at=START + ahead, boot_clock=0.0, ahead=ahead)


def test_snapshot_keeps_clocked_records_that_kept_records_need(tmp_path: Path) -> None:
    write(
        tmp_path,
        [clocked(0.0), submitted(1), clocked(60.0), submitted(2), *ran(2), removed(2), clocked(0.0), *ran(1)],
        [clocked(-60.0), clocked(3600.0), submitted(3), clocked(3600.0), submitted(4), clocked(7.0)],
        [submitted(5)],
    )
    before = fold(replay(tmp_path))
    write_snapshot(tmp_path, 2)
    assert [event for event in replay(tmp_path) if isinstance(event, Clocked)] == [
        clocked(3600.0),
        clocked(7.0),
    ]
    after = fold(replay(tmp_path))
    assert after.ahead == before.ahead == 7.0
    assert [job.ended for job in after.jobs.values()] == [job.ended for job in before.jobs.values()]


def test_snapshot_omits_clocked_records_without_effect(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1), clocked(60.0), submitted(2), *ran(2), removed(2), clocked(0.0)], [])
    write_snapshot(tmp_path, 1)
    assert replay(tmp_path) == [submitted(1)]


def test_next_id_excludes_ids_of_removed_jobs(tmp_path: Path) -> None:
    write(tmp_path, [submitted(7), *ran(7), removed(7)], [], next_id=1)
    write_snapshot(tmp_path, 1)
    assert header(tmp_path / "00000001.snapshot")[1].next_id == 8


def test_snapshot_of_a_snapshot_preserves_the_state(tmp_path: Path) -> None:
    events = story(60)
    write(tmp_path, *split_events(events, 6))
    before = known(tmp_path)
    for number in (1, 2, 4, 5):
        write_snapshot(tmp_path, number)
        Segments(str(tmp_path), Filesystem()).remove_obsolete(number)
        assert known(tmp_path) == before
    assert files(tmp_path) == ["00000005.snapshot", "00000006.journal"]


def test_snapshot_can_be_written_twice(tmp_path: Path) -> None:
    write(tmp_path, *split_events(story(20), 2))
    write_snapshot(tmp_path, 1)
    content = (tmp_path / "00000001.snapshot").read_bytes()
    write_snapshot(tmp_path, 1)
    assert (tmp_path / "00000001.snapshot").read_bytes() == content


def test_moved_file_has_the_new_positions_of_ends(tmp_path: Path) -> None:
    write(tmp_path, *split_events(story(30), 2), [])
    write_snapshot(tmp_path, 2)
    content = (tmp_path / "00000002.snapshot").read_bytes()
    moved = [tuple(map(int, line.split())) for line in lines((tmp_path / "00000002.moved").read_bytes())]
    attempts: dict[int, int] = {}
    expected = []
    for event in replay(tmp_path):
        if isinstance(event, Started):
            attempts[event.id] = event.attempt
        if isinstance(event, Ended):
            expected.append((event.id, attempts[event.id], event))
    found: list[tuple[int, int, object]] = []
    for job, attempt, at, length in moved:
        record = decode(content[at : at + length])[1]
        if isinstance(record, Compacted):
            assert attempt == 0
            numbers = [event.attempt for event in record.events if isinstance(event, Started)]
            found += [(job, number, record.end_of(number)) for number in numbers]
        else:
            found.append((job, attempt, record))
    assert sorted(found, key=lambda each: each[:2]) == sorted(expected, key=lambda each: each[:2])
    assert len(found) > 20


@pytest.mark.parametrize("number", [0, 2, 9])
def test_snapshot_of_the_last_segment_is_refused(tmp_path: Path, number: int) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)])
    with pytest.raises((StartRefused, OSError)):
        write_snapshot(tmp_path, number)
    assert files(tmp_path) == ["00000001.journal", "00000002.journal"]


def test_snapshot_before_a_segment_without_a_first_line_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)])
    (tmp_path / "00000002.journal").write_bytes(b"8")
    with pytest.raises(StartRefused, match="it or the next segment is missing"):
        write_snapshot(tmp_path, 1)


def test_snapshot_of_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2)], [])
    path = tmp_path / "00000001.journal"
    path.write_bytes(path.read_bytes().replace(b"true", b"trve"))
    with pytest.raises(JournalDamaged, match="line 2"):
        write_snapshot(tmp_path, 2)
    assert not (tmp_path / "00000002.snapshot").exists()


@pytest.mark.parametrize(
    "call", ["create", "write", "write_at", "sync", "close", "rename", "read_file", "list_directory"]
)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_failed_snapshot_leaves_the_journal_valid(tmp_path: Path, call: str, after: int) -> None:
    write(tmp_path, *split_events(story(20), 2))
    before = known(tmp_path)
    filesystem = FakeFilesystem()
    filesystem.fail(call, after=after, code=errno.ENOSPC, written=10)
    with suppress(OSError):
        write_snapshot(tmp_path, 1, filesystem)
    assert known(tmp_path) == before
    assert filesystem.descriptors == set()
    write_snapshot(tmp_path, 1)
    assert known(tmp_path) == before


def test_snapshot_is_renamed_after_it_is_durable(tmp_path: Path) -> None:
    write(tmp_path, *split_events(story(20), 2))
    filesystem = FakeFilesystem()
    write_snapshot(tmp_path, 1, filesystem)
    made = [call for call in filesystem.calls if call in ("create", "write", "write_at", "sync", "rename")]
    assert made == ["create", "create", "write", "sync", "write", "write_at", "sync", "rename"]


def test_large_snapshot_is_synced_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_INTERVAL_BYTES", 500)
    monkeypatch.setattr(module, "LINES_PER_WRITE", 2)
    write(tmp_path, *split_events(story(20), 2))
    filesystem = FakeFilesystem()
    write_snapshot(tmp_path, 1, filesystem)
    assert filesystem.calls.count("sync") > 5
    monkeypatch.undo()
    content = (tmp_path / "00000001.snapshot").read_bytes()
    write_snapshot(tmp_path, 1)
    assert (tmp_path / "00000001.snapshot").read_bytes() == content


def test_snapshot_reads_the_same_files_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot process that a killed daemon left may finish an older snapshot between the two readings."""
    write(tmp_path, [submitted(1), *ran(1)], [removed(1), submitted(2)], [submitted(3)], [])
    before = known(tmp_path)
    snapshot_writer = SnapshotWriter(Segments(str(tmp_path), Filesystem()), Filesystem(), 3)
    header_of = snapshot_writer._header

    def meanwhile(count: int) -> bytes:
        if not (tmp_path / "00000002.snapshot").exists():
            write_snapshot(tmp_path, 2)
        return header_of(count)

    monkeypatch.setattr(snapshot_writer, "_header", meanwhile)
    with suppress(OSError):
        snapshot_writer.write()
    assert known(tmp_path) == before


# Queues, schedules and arrays.


def paused(at: float, queue: str | None = None, schedule: int | None = None) -> Paused:
    return Paused(at=at, by="ada", queue=queue, schedule=schedule)


def resumed(at: float, queue: str | None = None, schedule: int | None = None) -> Resumed:
    return Resumed(at=at, by="ada", queue=queue, schedule=schedule)


def resized(at: float, queue: str, slots: int | None) -> Resized:
    return Resized(at=at, by="ada", queue=queue, slots=slots)


def scheduled(number: int, at: float = 1.0) -> Scheduled:
    return Scheduled(schedule=number, at=at, by="ada", command="true", every=60.0)


def rescheduled(number: int, at: float, **content: Any) -> Rescheduled:
    return Rescheduled(schedule=number, at=at, by="bob", command="false", **content)


def unscheduled(number: int, at: float = 9.0) -> Unscheduled:
    return Unscheduled(schedule=number, at=at, by="ada")


def test_snapshot_keeps_one_of_many_changes_of_a_held_job(tmp_path: Path) -> None:
    spec = Spec(hold=True, env={"A": "x" * 6000})
    changes: list[Event] = [
        Changed(id=1, at=START, by="ana", command="true", spec=replace(spec, label=str(number)))
        for number in range(1000)
    ]
    write(tmp_path, [Submitted(id=1, at=START, owner="ana", command="true", spec=spec), *changes], [])
    before = known(tmp_path)
    assert write_snapshot(tmp_path, 1) == 2
    assert (tmp_path / "00000001.snapshot").stat().st_size < 3 * 6000
    (tmp_path / "00000001.journal").unlink()
    assert known(tmp_path) == before


def test_snapshot_keeps_the_latest_event_of_each_queue_setting(tmp_path: Path) -> None:
    first: list[Event] = [resized(1, "a", 3), paused(2, "a"), paused(3), resized(4, "b", 1), resumed(5, "a")]
    second: list[Event] = [resized(6, "a", 0), resumed(7), paused(8, "a"), paused(9, "c"), paused(10)]
    write(tmp_path, first, second, [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 2)
    assert replay(tmp_path) == [resized(4, "b", 1), second[0], *second[2:]]
    assert known(tmp_path) == before


def test_snapshot_keeps_a_schedule_and_its_pause_until_it_ends(tmp_path: Path) -> None:
    one: list[Event] = [scheduled(1), paused(2, schedule=1), resumed(3, schedule=1), paused(4, schedule=1)]
    two: list[Event] = [scheduled(2), paused(5, schedule=2), unscheduled(2)]
    three: list[Event] = [scheduled(3), paused(6, schedule=3), resumed(7, schedule=3)]
    write(tmp_path, [*one, *two, *three], [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert replay(tmp_path) == [one[0], one[3], three[0], three[2]]
    assert known(tmp_path) == before


def test_snapshot_keeps_the_creation_and_the_last_change_of_a_schedule(tmp_path: Path) -> None:
    job = Submitted(id=1, at=4.0, owner="ada", command="false", schedule=1)
    changes = [rescheduled(1, 2.0, cron="@daily"), rescheduled(1, 6.0, every=90.0, overlap=True)]
    one: list[Event] = [scheduled(1), paused(1.5, schedule=1), changes[0], job, changes[1]]
    two: list[Event] = [scheduled(2), rescheduled(2, 7.0, every=5.0), unscheduled(2), scheduled(3)]
    write(tmp_path, [*one, *two], [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert replay(tmp_path) == [one[0], one[1], job, changes[1], two[3]]
    assert known(tmp_path) == before


def test_snapshot_distinguishes_pauses_of_queues_and_schedules(tmp_path: Path) -> None:
    events: list[Event] = [scheduled(1), paused(1), paused(2, schedule=1), resumed(3, "1"), resumed(4)]
    write(tmp_path, events, [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert replay(tmp_path) == [events[0], *events[2:]]
    assert known(tmp_path) == before


def test_number_of_an_ended_schedule_is_not_reused(
    tmp_path: Path,
) -> None:
    write(tmp_path, [scheduled(1), unscheduled(1), scheduled(2), unscheduled(2)], [])
    write_snapshot(tmp_path, 1)
    assert replay(tmp_path) == [scheduled(2), unscheduled(2)]
    assert fold(replay(tmp_path)).schedules.last_id == 2
    Segments(str(tmp_path), Filesystem()).remove_obsolete(1)
    (tmp_path / "00000002.journal").unlink()
    write_more(tmp_path, 2, [scheduled(3)])
    write_more(tmp_path, 3, [])
    write_snapshot(tmp_path, 2)
    assert replay(tmp_path) == [scheduled(3)]


def write_more(directory: Path, number: int, events: list[Event]) -> None:
    """Write one more segment."""
    reading = Replay()
    segments = Segments(str(directory), Filesystem())
    list(segments.replay(segments.layout(), reading))
    opened = Opened(at=START + number, format=FORMAT, store="s", boot="b", next_id=1)
    lines = [encode(record, at) for at, record in enumerate((opened, *events), reading.sequence + 1)]
    (directory / f"{number:08}.journal").write_bytes(b"".join(lines))


def test_snapshot_preserves_the_latest_job_of_a_schedule(tmp_path: Path) -> None:
    runs = [
        Submitted(id=job_id, at=START + job_id, owner="ada", command="true", schedule=1) for job_id in (1, 2)
    ]
    write(tmp_path, [scheduled(1), runs[0], *ran(1), runs[1], *ran(2), removed(1)], [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert known(tmp_path) == before
    schedule = fold(replay(tmp_path)).schedules.by_id[1]
    assert (schedule.last_job, schedule.last_run_at) == (2, START + 2)


def test_snapshot_omits_tasks_of_a_removed_array_and_reserves_their_ids(tmp_path: Path) -> None:
    held = Held(id=4, at=START, by="ada")
    events: list[Event] = [submitted(1, array=Array(1, 3)), held, *ran(2), *ran(3), submitted(5), *ran(5)]
    cancelled = Cancelled(id=4, at=START, by="ada", signal=15)
    write(tmp_path, [*events, cancelled, removed(1)], [], next_id=1)
    before = known(tmp_path)
    assert write_snapshot(tmp_path, 1) == 1
    assert {event.id for event in replay(tmp_path) if isinstance(event, JobEvent)} == {5}
    assert known(tmp_path) == before


@pytest.mark.parametrize("is_removed", [False, True])
def test_next_id_in_a_snapshot_follows_the_tasks_of_an_array(tmp_path: Path, is_removed: bool) -> None:
    array = submitted(7, array=Array(0, 9))
    cancelled = Cancelled(id=7, at=START, by="ada", signal=15)
    events: list[Event] = [array, cancelled, *([removed(7)] if is_removed else [])]
    write_more(tmp_path, 1, events)
    write_more(tmp_path, 2, [])
    write_snapshot(tmp_path, 1)
    assert header(tmp_path / "00000001.snapshot")[1].next_id == 18


def test_snapshot_keeps_all_of_an_array_but_ended_processes(tmp_path: Path) -> None:
    events = [submitted(1, array=Array(1, 3)), *ran(2), *ran(3, status=Status.FAILED), *ran(4)[:2]]
    write(tmp_path, events, [])
    before = known(tmp_path)
    write_snapshot(tmp_path, 1)
    assert known(tmp_path) == before
    assert [event.id for event in replay(tmp_path) if isinstance(event, Spawned)] == [4]


# main.


def test_main_writes_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nice: list[int] = []
    monkeypatch.setattr(os, "nice", nice.append)
    monkeypatch.setattr(sys, "argv", ["snapshot", str(tmp_path), "1"])
    write(tmp_path, [submitted(1)], [submitted(2)])
    module.main()
    assert (tmp_path / "00000001.snapshot").exists()
    assert nice == [module.NICENESS]


@pytest.mark.parametrize("number, said", [("2", "00000003.journal"), ("1", "No such file")])
def test_main_that_fails_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, said: str
) -> None:
    directory = tmp_path if number == "2" else tmp_path / "nowhere"
    monkeypatch.setattr(os, "nice", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["snapshot", str(directory), number])
    write(tmp_path, [submitted(1)], [submitted(2)])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert said in str(end.value.code)
    assert "\n" not in str(end.value.code)


# Any journal.


@settings(max_examples=60)
@given(
    order=st.permutations(range(1, 13)),
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=5),
    data=st.data(),
)
def test_snapshots_of_any_journal_preserve_the_state(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    job_events = [event for event in story(12) if isinstance(event, JobEvent)]
    by_job = {job_id: [event for event in job_events if event.id == job_id] for job_id in order}
    events: list[Event] = []
    while any(by_job.values()):
        job_id = data.draw(st.sampled_from(sorted(job for job, left in by_job.items() if left)))
        events.append(cast(Event, by_job[job_id].pop(0)))
    places = sorted({min(cut, len(events)) for cut in cuts})
    parts = [events[start:end] for start, end in zip([0, *places], [*places, len(events)], strict=True)]
    write(directory, *parts)
    before = known(directory)
    for number in sorted(data.draw(st.sets(st.integers(1, len(parts) - 1), max_size=3))):
        write_snapshot(directory, number)
        assert known(directory) == before
        if data.draw(st.booleans()):
            Segments(str(directory), Filesystem()).remove_obsolete(number)
            assert known(directory) == before
    reading = Replay()
    segments = Segments(str(directory), Filesystem())
    list(segments.replay(segments.layout(), reading))
    assert reading.sequence == len(events) + len(parts)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(STEPS, max_size=10) | st.lists(STEPS, min_size=20, max_size=80),
    st.lists(st.integers(0, 1000), min_size=2, max_size=4),
    st.data(),
)
def test_snapshots_of_any_sequence_of_commands_preserve_the_state(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], cuts: list[int], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    walk = Walk()
    for act in steps:
        walk.step(*act)
    walk.die()
    events = walk.harness.journal.events
    places = sorted(cut % (len(events) + 1) for cut in cuts)
    parts = [events[start:end] for start, end in zip([0, *places], [*places, len(events)], strict=True)]
    write(directory, *parts)
    before = fold(replay(directory))
    shown = histories(directory, before.jobs)
    for number in sorted(data.draw(st.sets(st.integers(1, len(parts) - 1), max_size=3))):
        write_snapshot(directory, number)
        Segments(str(directory), Filesystem()).remove_obsolete(number)
        after = fold(replay(directory))
        assert plain(after) == plain(before)
        assert histories(directory, shown) == shown
        assert after.schedules == before.schedules
        assert after.dependencies.unsatisfiable == before.dependencies.unsatisfiable
        next_id = header(directory / f"{number:08}.snapshot")[1].next_id
        assert max(next_id - 1, after.last_id) == before.last_id or number < len(parts) - 1
