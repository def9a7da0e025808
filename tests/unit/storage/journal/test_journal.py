"""Appends are durable before they are acknowledged, replayed after a restart, and refused after a failure."""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from taskqd.errors import JournalDamaged, Lagged, StartRefused, StoreFailed
from taskqd.model.events import (
    FORMAT,
    Cancelled,
    Compacted,
    Ended,
    Event,
    JobEvent,
    Opened,
    Output,
    RecordPosition,
    Started,
    Submitted,
)
from taskqd.model.job import Status
from taskqd.model.spec import Array, Spec
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEventReader, IJournal
from taskqd.storage.journal import commit_thread, job_blocks, segment_writer
from taskqd.storage.journal.codec import decode, encode
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.journal import MAX_BLOCKING_BYTES, RETRY_INTERVAL, Journal
from taskqd.storage.journal.segment_writer import MAX_SMALL_WRITE, PREALLOCATE_AFTER, PREALLOCATION
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import BOOT, START, ThreadReactor, Threads, in_thread
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.filesystem import FakeFilesystem
from tests.fakes.journal import FakeJournal, read_all
from tests.support.journals import fold, story
from tests.support.leaks import LeakWatch
from tests.unit.storage.journal.samples import all_of

SEGMENT = 64 * 1024**2


def submitted(job_id: int, command: str = "true") -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", command=command)


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, JobEvent)]


class Bench:
    """Journals on the same directory, each closed before the next is opened.

    The reactor waits for their commits where it ``may_block``.
    """

    def __init__(self, directory: Path, may_block: bool = True) -> None:
        self.may_block = may_block
        self.directory = directory
        self.journal_path = directory / "journal"
        self.filesystem = FakeFilesystem()
        self.segment_bytes = SEGMENT
        self.journal = self._build()

    def _build(self, boot: str = "boot-1") -> Journal:
        self.reactor = ThreadReactor()
        journal = Journal(
            str(self.directory),
            self.reactor,
            self.filesystem,
            boot,
            self.reactor,
            in_thread,
            lambda: self.may_block,
        )
        journal._group_commit.now = lambda: 0.0  # no commit is slow, on however busy a machine this runs
        journal.segment_bytes = self.segment_bytes
        return journal

    def open(self, boot: str = "boot-1") -> list[Event]:
        """Open a journal as the service does, and return the events that it replays."""
        self.journal = self._build(boot)
        self.journal.lock()
        events = [
            event
            for event, _ in chain.from_iterable(self.journal.replay())
            if not isinstance(event, Compacted)
        ]
        ids = [event.id for event in events if isinstance(event, Submitted)]
        self.journal.start_writing(max(ids, default=0))
        return events

    def append(self, *events: Event) -> list[RecordPosition]:
        """Append events, and return their positions once they are durable."""
        return [self.reactor.until(done) for done in [self.journal.append(event) for event in events]]

    def turn(self) -> None:
        """Run the reactor until no commit is in progress."""
        while self.journal._group_commit.is_committing:
            self.reactor.turn()

    def close(self) -> None:
        if self.journal._locks:
            self.reactor.until(self.journal.close())

    def unlock(self) -> None:
        """Release the lock of a journal that was not started."""
        for descriptor in self.journal._locks:
            os.close(descriptor)
        self.journal._locks = ()

    def crash(self) -> None:
        """End the journal as a crash does, but close its files."""
        self.close()

    def segments(self) -> list[str]:
        return sorted(path.name for path in self.journal_path.iterdir())

    def lines(self, number: int = 1) -> list[bytes]:
        return (self.journal_path / f"{number:08}.journal").read_bytes().splitlines(keepends=True)

    def segment(self, number: int) -> Path:
        return self.journal_path / f"{number:08}.journal"


@pytest.fixture(name="bench", params=[True, False], ids=["here", "in the thread"])
def make_bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path / "state", request.param)
    yield bench
    bench.filesystem.clear_failures()
    bench.close()
    assert bench.filesystem.descriptors == set(), "a closed journal leaves no descriptor"


def test_journal_and_its_fake_provide_the_interface(bench: Bench) -> None:
    bench.open()
    verifyObject(IJournal, bench.journal)
    verifyObject(IJournal, FakeJournal())


# Appending.


def test_append_fires_after_write_and_sync(bench: Bench) -> None:
    bench.open()
    bench.filesystem.calls.clear()
    seen: list[Any] = []
    durable = bench.journal.append(submitted(1))
    durable.addCallback(lambda _: seen.append((bench.filesystem.calls[:], bench.lines()[-1])))
    assert seen == []
    bench.turn()
    [(calls, line)] = seen
    assert calls == ["write_at", "sync"]
    assert decode(line[:-1]) == (2, submitted(1))


def test_appends_fire_in_their_order(bench: Bench) -> None:
    bench.open()
    fired: list[int] = []
    for number in range(1, 8):
        bench.journal.append(submitted(number)).addCallback(lambda _, number: fired.append(number), number)
    assert fired == []
    bench.turn()
    assert fired == [1, 2, 3, 4, 5, 6, 7]


def test_appends_of_one_turn_share_one_sync(bench: Bench) -> None:
    bench.open()
    bench.filesystem.calls.clear()
    done = [bench.journal.append(submitted(number)) for number in range(1, 101)]
    for durable in done:
        bench.reactor.until(durable)
    assert bench.filesystem.calls.count("sync") == bench.filesystem.calls.count("write_at") == 1


def test_append_in_a_callback_is_synced_before_it_fires(bench: Bench) -> None:
    bench.open()
    bench.filesystem.calls.clear()
    fired: list[Any] = []

    def tell(_: Any, number: int) -> None:
        fired.append((number, bench.filesystem.calls.count("sync")))
        if number < 3:
            bench.journal.append(submitted(number + 10)).addCallback(tell, number + 10)

    for number in (1, 2, 3):
        bench.journal.append(submitted(number)).addCallback(tell, number)
    bench.turn()
    assert fired == [(1, 1), (2, 1), (3, 1), (11, 2), (12, 2)]


def noted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets, for each write, whether the reactor waits for it."""
    waits: list[bool] = []
    write = bench.journal._entry_writer.write

    def noting(entries: Any) -> None:
        if entries:
            assert threading.current_thread().name == "taskqd-journal"
            waits.append(bench.journal._group_commit.thread.is_awaited)
        write(entries)

    monkeypatch.setattr(bench.journal._group_commit.thread, "_commit", noting)
    return waits


def test_reactor_does_not_wait_for_preallocation_or_truncation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "PREALLOCATE_AFTER", 2)
    bench.open()
    waits = noted(bench, monkeypatch)
    may = bench.may_block
    for command in ("true", "true", "true", "x" * MAX_SMALL_WRITE, "true"):
        bench.append(submitted(bench.journal.next_id, command))
    assert waits == [may, False, may, False, may]


def test_reactor_does_not_wait_for_a_new_segment_or_a_large_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.open()
    waits = noted(bench, monkeypatch)
    may = bench.may_block
    bench.append(submitted(1, "x" * (MAX_BLOCKING_BYTES // 2)))
    bench.append(submitted(2, "x" * MAX_BLOCKING_BYTES))
    bench.journal.segment_bytes = 1
    bench.append(submitted(3))
    bench.journal.segment_bytes = SEGMENT
    bench.append(submitted(4))
    assert waits == [may, False, False, may]


def test_frozen_disk_does_not_block_readers_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with fsfreeze(8): syncs and writes block until the file system is thawed."""
    bench.open()
    [position] = bench.append(submitted(1))
    monkeypatch.setattr(commit_thread, "MAX_WAIT", 0.001)
    bench.filesystem.block()
    written = [bench.journal.append(submitted(2))]
    bench.reactor.turn()
    written.append(bench.journal.append(submitted(3)))
    assert bench.journal.read(position) == submitted(1)
    assert bench.journal.sizes()["segment"] == 1
    assert not any(each.called for each in written)
    bench.filesystem.unblock()
    for each in written:
        bench.reactor.until(each)
    bench.close()
    assert ids(bench.open()) == [1, 2, 3]


def test_new_segment_is_durable_in_its_directory_before_its_appends_fire(bench: Bench) -> None:
    bench.open()
    bench.journal.segment_bytes = 1
    bench.filesystem.calls.clear()
    bench.append(submitted(1))
    made = [call for call in bench.filesystem.calls if call != "remove"]
    assert made == ["close", "create", "sync_directory", "write_at", "sync"]


def marks(bench: Bench, number: int = 1) -> list[bool]:
    """Return for each line of a segment whether it is marked as continuing a batch."""
    return [line.split(b" ")[1].startswith(b"+") for line in bench.lines(number)]


def test_batch_marks_all_lines_but_the_first(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    for number in (2, 3, 4):
        bench.journal.append(submitted(number))
    bench.turn()
    bench.reactor.until(bench.journal.append_all([submitted(5), submitted(6)]))
    bench.journal.append_now([submitted(7), submitted(8)])
    assert marks(bench) == [False, False, *(False, True, True), *(False, True), *(False, True)]
    bench.close()
    assert ids(bench.open()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_appends_during_a_commit_form_the_next_batch(bench: Bench) -> None:
    bench.open()
    bench.may_block = False
    bench.journal.append(submitted(1))
    bench.reactor.turn()
    assert bench.journal._group_commit.is_committing
    for number in (2, 3):
        bench.journal.append(submitted(number))
    bench.turn()
    assert marks(bench) == [False, False, False, True]


def test_segment_begun_within_a_batch_starts_a_new_batch(bench: Bench) -> None:
    bench.open()
    bench.journal.append(submitted(1))
    bench.journal.append(submitted(2))
    bench.journal.segment_bytes = 1
    bench.journal.append(submitted(3))
    bench.journal.segment_bytes = SEGMENT
    bench.journal.append(submitted(4))
    bench.turn()
    assert (marks(bench), marks(bench, 2)) == ([False, False, True], [False, True, True])


# Reading.


def test_read_returns_the_record_at_its_position(bench: Bench) -> None:
    bench.open()
    bench.journal.segment_bytes = 600
    events: list[Event] = [
        Ended(id=n, at=START, status=Status.COMPLETED, stdout=Output.inline(b"\xff" * n)) for n in range(20)
    ]
    positions = bench.append(*events)
    assert [bench.journal.read(position) for position in positions] == events
    assert {number for number, _, _ in positions} == set(range(1, len(bench.segments()) + 1))
    assert len(bench.segments()) > 3


def test_position_is_valid_after_a_restart(bench: Bench) -> None:
    bench.open()
    positions = bench.append(submitted(1), submitted(2, "echo é"))
    bench.close()
    bench.journal = bench._build()
    bench.journal.lock()
    assert [position for _, position in chain.from_iterable(bench.journal.replay())] == positions
    assert [bench.journal.read(position) for position in positions] == [submitted(1), submitted(2, "echo é")]
    bench.journal.start_writing(2)


@pytest.mark.parametrize("position", [(1, 3, 10), (1, 100_000, 50), (9, 0, 50)])
def test_read_that_fails_raises_store_failed(bench: Bench, position: RecordPosition) -> None:
    bench.open()
    bench.append(submitted(1))
    with pytest.raises(StoreFailed, match="cannot be read"):
        bench.journal.read(position)
    assert bench.journal.failure is None


def test_locate_names_the_file_and_the_line(bench: Bench) -> None:
    bench.open()
    positions = bench.append(submitted(1), submitted(2))
    assert [bench.journal.segments.locate(position) for position in positions] == [
        f"{bench.segment(1)}, line 2",
        f"{bench.segment(1)}, line 3",
    ]


# Segments.


def test_full_segment_is_followed_by_the_next_one(bench: Bench) -> None:
    bench.segment_bytes = 500
    bench.open()
    events = [submitted(number) for number in range(1, 31)]
    bench.append(*events)
    assert len(bench.segments()) > 5
    numbers = []
    for number in range(1, len(bench.segments()) + 1):
        records = [decode(line[:-1]) for line in bench.lines(number)]
        numbers += [sequence for sequence, _ in records]
        first = records[0][1]
        assert isinstance(first, Opened)
        assert first.next_id == records[1][1].id  # type: ignore[union-attr]
        assert not any(isinstance(record, Opened) for _, record in records[1:])
        assert bench.segment(number).stat().st_size < 500 + 200
    assert numbers == list(range(1, len(numbers) + 1))
    bench.close()
    assert bench.open() == events


def test_segment_is_full_when_it_reaches_its_size(bench: Bench) -> None:
    bench.open()
    size = bench.segment(1).stat().st_size
    bench.journal.segment_bytes = size + 1
    bench.append(submitted(1))
    assert len(bench.segments()) == 1
    bench.journal.segment_bytes = bench.segment(1).stat().st_size
    bench.append(submitted(2))
    assert len(bench.segments()) == 2


def test_start_begins_a_segment_that_names_store_and_boot(bench: Bench) -> None:
    bench.open(boot="boot-1")
    name = bench.journal.name
    bench.append(submitted(1))
    bench.close()
    bench.open(boot="boot-2")
    assert bench.journal.last_boot == "boot-1"
    assert bench.journal.name == name
    assert re.fullmatch("[0-9a-f]{32}", name)
    [(_, first)] = [decode(line[:-1]) for line in bench.lines(2)]
    journal = bench.filesystem.identity(str(bench.journal_path))
    assert first == Opened(
        at=START,
        format=FORMAT,
        store=name,
        boot="boot-2",
        next_id=2,
        identity=journal,
        boot_clock=BOOT,
        ahead=0.0,
    )
    bench.close()
    bench.open()
    assert bench.journal.last_boot == "boot-2"


def test_new_stores_have_different_names(bench: Bench, tmp_path: Path) -> None:
    bench.open()
    other = Bench(tmp_path / "other")
    other.open()
    assert other.journal.name != bench.journal.name
    other.close()


def test_start_logs_and_ignores_a_directory_named_like_a_snapshot(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    stray = bench.journal_path / "00000009.snapshot.new"
    stray.mkdir()
    assert bench.open() == [submitted(1)]
    assert stray.is_dir()
    assert f"{stray} is a directory, which the daemon has not made; it is ignored" in caplog.text


def test_copied_store_is_renamed_and_logged_once(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    name = bench.journal.name
    bench.append(submitted(1))
    bench.close()
    shutil.copytree(bench.directory, tmp_path / "copy")
    copy = Bench(tmp_path / "copy")
    assert copy.open() == [submitted(1)]
    assert copy.journal.is_copy
    assert copy.journal.name != name
    [said] = [record.getMessage() for record in caplog.records if "copy" in record.getMessage()]
    assert name in said
    assert copy.journal.name in said
    copied = copy.journal.name
    for again, expected in ((copy, copied), (bench, name)):
        again.close()
        again.open()
        assert (again.journal.is_copy, again.journal.name) == (False, expected)
    copy.close()


def test_store_moved_within_its_file_system_keeps_its_name(bench: Bench, tmp_path: Path) -> None:
    bench.open()
    name = bench.journal.name
    bench.close()
    bench.directory.rename(tmp_path / "moved")
    moved = Bench(tmp_path / "moved")
    moved.open()
    assert (moved.journal.is_copy, moved.journal.name) == (False, name)
    moved.close()


@pytest.mark.parametrize(
    "last, boot, is_copy, has_its_name",
    [
        ("8:100", "boot-1", False, True),
        ("8:100", "boot-2", False, True),
        ("9:100", "boot-1", True, False),
        ("9:100", "boot-2", False, False),
        ("8:101", "boot-1", True, False),
        ("8:101", "boot-2", True, False),
        ("", "boot-1", False, True),
        ("", "boot-2", False, True),
    ],
)
def test_copy_is_detected_by_inode_and_within_a_boot_by_device(
    bench: Bench, last: str, boot: str, is_copy: bool, has_its_name: bool
) -> None:
    bench.journal_path.mkdir(parents=True)
    opened = Opened(at=START, format=FORMAT, store="s", boot="boot-1", next_id=1, identity=last)
    bench.segment(1).write_bytes(encode(opened, 1))
    bench.filesystem.identities[str(bench.journal_path)] = "8:100"
    bench.open(boot)
    assert (bench.journal.is_copy, bench.journal.name == "s") == (is_copy, has_its_name)


def test_foreign_files_beside_the_segments_are_not_touched(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    (bench.journal_path / "00000009.journal.bak").write_bytes(b"a copy")
    (bench.journal_path / "README").write_bytes(b"mine")
    assert bench.open() == [submitted(1)]
    assert (bench.journal_path / "README").read_bytes() == b"mine"


def test_files_are_private_to_their_owner(bench: Bench) -> None:
    bench.open()
    for path in (bench.directory, bench.journal_path):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (bench.segment(1), bench.directory / "lock"):
        assert path.stat().st_mode & 0o777 == 0o600


# Ids.


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_next_id_follows_the_highest_id_in_any_order(bench: Bench, order: tuple[int, ...]) -> None:
    bench.open()
    bench.append(*map(submitted, order))
    assert bench.journal.next_id == 4
    bench.close()
    bench.open()
    assert bench.journal.next_id == 4


def test_next_id_of_a_segment_header_is_not_reused(bench: Bench) -> None:
    bench.journal_path.mkdir(parents=True)
    opened = Opened(at=START, format=FORMAT, store="s", boot="b", next_id=100)
    bench.segment(1).write_bytes(encode(opened, 1))
    assert bench.open() == []
    assert bench.journal.next_id == 100


# After a crash.


def test_replay_after_close_returns_all_events(bench: Bench) -> None:
    assert bench.open() == []
    events: list[Event] = [
        submitted(1),
        Started(id=1, at=START, attempt=1),
        Cancelled(id=1, at=START, by="ada", signal=15),
    ]
    bench.append(*events)
    bench.close()
    assert bench.open() == events
    bench.append(submitted(2))
    bench.close()
    assert bench.open() == [*events, submitted(2)]


def test_torn_last_line_is_truncated_and_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2))
    bench.close()
    whole = bench.segment(1).read_bytes()
    last = len(bench.lines()[-1])
    for cut in range(1, last):
        for path in bench.journal_path.iterdir():
            path.unlink()
        bench.segment(1).write_bytes(whole[:-cut])
        caplog.clear()
        assert bench.open() == [submitted(1)]
        [message] = [record.getMessage() for record in caplog.records]
        assert str(bench.segment(1)) in message
        assert f"cut off {last - cut} bytes" in message
        assert bench.segment(1).read_bytes() == whole[:-last]
        bench.close()


def test_journal_that_ends_with_a_complete_line_is_not_truncated(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    assert bench.open() == [submitted(1)]
    assert caplog.records == []


def with_blanks(bench: Bench) -> int:
    """Append until the segment is preallocated, and return the id of the last job."""
    for number in range(1, PREALLOCATE_AFTER + 3):
        bench.append(submitted(number))
    assert bench.segment(1).read_bytes().endswith(b"\n" * (PREALLOCATION // 2))
    return PREALLOCATE_AFTER + 2


def killed(bench: Bench) -> bytes:
    """Close the journal and restore the content that its segment had before; return it."""
    content = bench.segment(1).read_bytes()
    bench.close()
    bench.segment(1).write_bytes(content)
    return content


def test_sealed_segment_has_no_blanks_and_sizes_exclude_them(
    bench: Bench,
) -> None:
    bench.open()
    with_blanks(bench)
    size = bench.journal.sizes()["segment_bytes"]
    bench.close()
    content = bench.segment(1).read_bytes()
    assert len(content) == size
    assert not content.endswith(b"\n\n")


def test_blanks_left_by_a_crash_are_truncated_without_a_log_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    last = with_blanks(bench)
    size = bench.journal.sizes()["segment_bytes"]
    killed(bench)
    assert ids(bench.open()) == list(range(1, last + 1))
    assert bench.segment(1).stat().st_size == size == bench.journal.sealed_bytes
    assert caplog.records == []


def test_batch_torn_over_blanks_is_truncated_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    last = with_blanks(bench)
    size = bench.journal.sizes()["segment_bytes"]
    for number in (1, 2, 3):
        bench.journal.append(submitted(last + number))
    bench.turn()
    first = bench.lines()[last + 1]
    content = killed(bench)
    bench.segment(1).write_bytes(content.replace(first, b"\n" * len(first)))
    assert ids(bench.open()) == list(range(1, last + 1))
    assert bench.segment(1).stat().st_size == size
    [message] = [record.getMessage() for record in caplog.records]
    torn = len(content.rstrip(b"\n")) - size
    assert message.startswith(f"{bench.segment(1)}: cut off {torn} bytes of a last write")
    bench.append(submitted(last + 1))


def test_damaged_batch_before_a_later_one_is_refused(bench: Bench) -> None:
    bench.open()
    with_blanks(bench)
    line = bench.lines()[PREALLOCATE_AFTER]
    content = killed(bench)
    bench.segment(1).write_bytes(content.replace(line, b"\n" * len(line)))
    with pytest.raises(
        JournalDamaged, match=rf"{re.escape(str(bench.segment(1)))}, line {PREALLOCATE_AFTER + 1} "
    ):
        bench.open()
    bench.unlock()


@pytest.mark.parametrize("left", [b"", b"7", b'e6a4f3a0 3 {"type":"opened"'])
def test_segment_without_a_complete_first_line_is_begun_again(bench: Bench, left: bytes) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    bench.segment(2).write_bytes(left)
    assert bench.open() == [submitted(1)]
    assert bench.segments() == ["00000001.journal", "00000002.journal"]
    bench.append(submitted(2))
    bench.close()
    assert bench.open() == [submitted(1), submitted(2)]


@pytest.mark.parametrize(
    "damage, line",
    [
        (lambda lines: [lines[0], lines[1].replace(b"true", b"trve"), *lines[2:]], 2),
        (lambda lines: [lines[0], b"\n", *lines[1:]], 2),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:3], b"\0" * 40 + b"\n"], 4),
        (lambda lines: lines[1:], 1),
    ],
)
def test_damaged_line_is_refused_with_file_and_line_and_changes_nothing(
    bench: Bench, damage: Any, line: int
) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2), submitted(3))
    bench.close()
    damaged = b"".join(damage(bench.lines()))
    bench.segment(1).write_bytes(damaged)
    bench.journal = bench._build()
    bench.journal.lock()
    with pytest.raises(JournalDamaged, match=rf"{re.escape(str(bench.segment(1)))}, line {line} "):
        list(bench.journal.replay())
    assert bench.segments() == ["00000001.journal"]
    assert bench.segment(1).read_bytes() == damaged
    bench.unlock()


def test_torn_line_before_the_last_segment_is_damage(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    bench.open()
    bench.close()
    bench.segment(1).write_bytes(bench.segment(1).read_bytes()[:-3])
    with pytest.raises(JournalDamaged, match=r"00000001\.journal, line 2 .*has no end"):
        bench.open()
    bench.unlock()


@pytest.mark.parametrize("missing", [1, 2])
def test_missing_segment_is_refused_by_name(bench: Bench, missing: int) -> None:
    for number in (1, 2, 3):
        bench.open()
        bench.append(submitted(number))
        bench.close()
    bench.segment(missing).unlink()
    with pytest.raises(JournalDamaged, match=f"{bench.segment(missing)} is missing"):
        bench.open()
    bench.unlock()


def test_newer_format_is_refused(bench: Bench) -> None:
    bench.journal_path.mkdir(parents=True)
    opened = Opened(at=START, format=FORMAT + 1, store="s", boot="b", next_id=1)
    bench.segment(1).write_bytes(encode(opened, 1))
    with pytest.raises(JournalDamaged, match=f"line 1 .*format is {FORMAT + 1}.*up to {FORMAT}"):
        bench.open()
    bench.unlock()


# The lock.


def test_second_journal_on_a_directory_is_refused_with_the_pid(bench: Bench) -> None:
    bench.open()
    second = Bench(bench.directory)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartRefused) as refusal:
        second.journal.lock()
    assert len(os.listdir("/proc/self/fd")) == before
    assert str(os.getpid()) in str(refusal.value)
    assert str(bench.directory) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    bench.append(submitted(1))


def test_close_releases_the_lock(bench: Bench) -> None:
    bench.open()
    bench.close()
    bench.open()


def test_lock_file_of_a_killed_daemon_does_not_refuse_a_start(bench: Bench) -> None:
    bench.directory.mkdir()
    (bench.directory / "lock").write_text("1234567890\n")
    bench.open()
    assert (bench.directory / "lock").read_text() == f"{os.getpid()}\n"


def test_state_directory_that_cannot_be_used_is_refused(bench: Bench) -> None:
    bench.directory.write_bytes(b"a file")
    with pytest.raises(StartRefused, match=f"the state directory {bench.directory} cannot be used"):
        bench.journal.lock()


# Failures of the disk.


@pytest.mark.parametrize(
    "call, written", [("write_at", 0), ("write_at", 1), ("write_at", 60), ("write_at", 10_000), ("sync", 0)]
)
def test_failed_write_refuses_its_record_and_all_later_ones(
    bench: Bench, call: str, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.filesystem.fail(call, code=errno.EIO, written=written)
    refused = [bench.journal.append(submitted(2))]
    bench.reactor.turn()
    if not bench.may_block:  # these gather behind what is under way
        refused += [bench.journal.append(submitted(number)) for number in (3, 4)]
    bench.turn()
    assert isinstance(error_of(refused[0]), StoreFailed)
    assert bench.journal.failure is not None
    assert "Input/output error" in bench.journal.failure
    bench.filesystem.clear_failures()
    for late in (*refused[1:], bench.journal.append(submitted(5))):
        assert isinstance(error_of(late), StoreFailed)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    bench.close()
    assert bench.open() == [submitted(1)]
    bench.append(submitted(2))


@pytest.mark.parametrize("count", [1, PREALLOCATE_AFTER + 2])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced by a copy", "without its last segment"])
def test_removed_or_moved_journal_refuses_appends_and_loses_no_acknowledged_event(
    bench: Bench, tmp_path: Path, how: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    events: list[Event] = [submitted(number) for number in range(1, count + 1)]
    for event in events:
        bench.append(event)
    elsewhere = tmp_path / "elsewhere"
    if how == "without its last segment":
        bench.segment(1).unlink()
    else:
        bench.directory.rename(elsewhere)
    if how == "removed":
        shutil.rmtree(elsewhere)
    elif how == "replaced by a copy":
        shutil.copytree(elsewhere, bench.directory)
    before = bench.segment(1).read_bytes() if how == "replaced by a copy" else b""
    refused = bench.journal.append(submitted(count + 1))
    with pytest.raises(StoreFailed, match=r"written: /\S+ was removed"):
        bench.reactor.until(refused)
    assert "CRITICAL" in [record.levelname for record in caplog.records]
    try_again(bench)
    assert bench.journal.failure is not None, "the next start would refuse records after a gap"
    if before:
        assert bench.segments() == ["00000001.journal"]
        assert bench.segment(1).read_bytes() == before
    if how == "moved":
        elsewhere.rename(bench.directory)
        try_again(bench)
        assert bench.journal.failure is None
        bench.append(submitted(count + 1))
        bench.close()
        assert bench.open() == [*events, submitted(count + 1)]


@pytest.mark.parametrize("is_whole", [True, False])
def test_check_location_detects_a_moved_journal_without_a_write(bench: Bench, is_whole: bool) -> None:
    bench.open()
    result_of(bench.journal.check_location())
    assert bench.journal.failure is None
    away = bench.directory if is_whole else bench.segment(1)
    away.rename(away.with_name("elsewhere"))
    for _ in range(2):
        result_of(bench.journal.check_location())
    assert bench.journal.failure is not None
    assert "was removed or moved while the daemon ran" in bench.journal.failure
    assert isinstance(error_of(bench.journal.append(submitted(1))), StoreFailed)
    away.with_name("elsewhere").rename(away)
    try_again(bench)
    assert bench.journal.failure is None
    bench.append(submitted(1))


@pytest.mark.parametrize("fails", [False, True])
def test_commit_observers_are_notified_around_the_events_of_a_commit(bench: Bench, fails: bool) -> None:
    seen: list[object] = []

    class Observer:
        def __init__(self, name: str) -> None:
            self.name = name

        def commit_started(self) -> None:
            seen.append((self.name, "started"))

        def commit_ended(self) -> None:
            seen.append((self.name, "ended"))

    bench.open()
    for name in ("a", "b"):
        bench.journal.add_commit_observer(Observer(name))
    if fails:
        bench.filesystem.fail("sync")
    appends = [bench.journal.append(submitted(number)) for number in (1, 2)]
    for append in appends:
        append.addBoth(lambda _: seen.append("event"))
    bench.turn()
    around = [("a", "started"), ("b", "started"), "event", "event", ("a", "ended"), ("b", "ended")]
    assert seen == around


def test_check_location_leaves_a_moved_journal_to_the_commit_in_progress(bench: Bench) -> None:
    bench.open()
    under_way = bench.journal.append(submitted(1))
    bench.directory.rename(bench.directory.with_name("elsewhere"))
    result_of(bench.journal.check_location())
    assert bench.journal.failure is None
    with pytest.raises(StoreFailed):
        bench.reactor.until(under_way)


@pytest.mark.parametrize("call", ["create", "sync_directory", "close", "write_at", "sync"])
def test_segment_that_cannot_be_begun_refuses_its_records(bench: Bench, call: str) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.journal.segment_bytes = 1
    bench.filesystem.fail(call)
    refused = bench.journal.append(submitted(2))
    with pytest.raises(StoreFailed):
        bench.reactor.until(refused)
    bench.filesystem.clear_failures()
    bench.close()
    assert bench.open() == [submitted(1)]


def test_records_durable_before_a_failure_in_their_batch_succeed(bench: Bench) -> None:
    bench.open()
    first = bench.journal.append(submitted(1))
    second = bench.journal.append(submitted(2))
    bench.journal.segment_bytes = 1
    third = bench.journal.append(submitted(3))
    bench.filesystem.fail("create")
    bench.turn()
    result_of(first)
    result_of(second)
    assert isinstance(error_of(third), StoreFailed)
    bench.filesystem.clear_failures()
    bench.close()
    assert bench.open() == [submitted(1), submitted(2)]


def test_failed_write_that_cannot_be_truncated_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.filesystem.fail("sync")
    bench.filesystem.fail("truncate")
    refused = bench.journal.append(submitted(1))
    bench.turn()
    assert isinstance(error_of(refused), StoreFailed)
    [message] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"{bench.segment(1)}: the failed write at its end could not be truncated" in message


def test_unexpected_exception_in_a_write_is_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.open()
    monkeypatch.setattr(bench.journal._entry_writer, "_write_to_segment", lambda _: 1 / 0)
    refused = bench.journal.append(submitted(1))
    bench.turn()
    assert isinstance(error_of(refused), StoreFailed)
    assert bench.journal.failure is not None


@pytest.mark.parametrize("call", ["list_directory", "read_file", "open", "size", "truncate"])
def test_journal_that_cannot_be_read_or_truncated_refuses_the_start(bench: Bench, call: str) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    with bench.segment(1).open("ab") as file:
        file.write(b"torn")
    bench.filesystem.fail(call, code=errno.EACCES)
    with pytest.raises(StartRefused, match="Permission denied") as refusal:
        bench.open()
    assert "\n" not in str(refusal.value)
    bench.unlock()


@pytest.mark.parametrize("call", ["create", "write_at", "sync", "sync_directory"])
def test_journal_that_cannot_be_written_refuses_the_start(bench: Bench, call: str) -> None:
    bench.journal.lock()
    list(bench.journal.replay())
    bench.filesystem.fail(call)
    with pytest.raises(StartRefused, match=r"cannot be written: .*No space left"):
        bench.journal.start_writing(0)
    bench.filesystem.clear_failures()
    bench.unlock()
    left = bench.journal._segment_writer.detach()
    bench.filesystem.close(left) if left is not None else None


# append_now.


def test_append_now_returns_when_events_are_durable(bench: Bench) -> None:
    bench.open()
    bench.filesystem.calls.clear()
    positions = bench.journal.append_now([submitted(1), submitted(2)])
    assert bench.filesystem.calls == ["write_at", "sync"]
    assert [bench.journal.read(position) for position in positions] == [submitted(1), submitted(2)]
    assert bench.journal.append_now([]) == []
    bench.append(submitted(3))
    bench.close()
    assert bench.open() == [submitted(1), submitted(2), submitted(3)]


def test_append_now_that_fails_refuses_the_start(bench: Bench) -> None:
    bench.open()
    bench.filesystem.fail("sync")
    with pytest.raises(StartRefused, match="No space left"):
        bench.journal.append_now([submitted(1)])
    bench.filesystem.clear_failures()
    bench.close()
    assert bench.open() == []


# close.


def test_close_waits_for_the_commit_in_progress_then_refuses_appends(bench: Bench) -> None:
    bench.open()
    done = [bench.journal.append(submitted(number)) for number in (1, 2, 3)]
    closed = bench.journal.close()
    assert not closed.called
    bench.reactor.until(closed)
    for durable in done:
        result_of(durable)
    assert isinstance(error_of(bench.journal.append(submitted(4))), StoreFailed)
    assert bench.open() == [submitted(1), submitted(2), submitted(3)]


def test_failed_journal_can_be_closed(bench: Bench) -> None:
    bench.open()
    bench.filesystem.fail("sync")
    bench.journal.append(submitted(1)).addErrback(lambda failure: failure.trap(StoreFailed))
    bench.reactor.until(bench.journal.close())
    assert "No space left" in (bench.journal.failure or "")
    bench.filesystem.clear_failures()
    assert bench.open() == []


# Any sequence of appends, failures and restarts.


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=4),
    segment_bytes=st.sampled_from([1, 300, 700, SEGMENT]),
    failure=st.none()
    | st.tuples(
        st.sampled_from(["write_at", "sync", "create", "truncate"]), st.integers(0, 5), st.integers(0, 400)
    ),
    blanks=st.sampled_from(
        [(PREALLOCATION, MAX_SMALL_WRITE, PREALLOCATE_AFTER), (500, 200, 0), (500, 500, 1), (2000, 1000, 0)]
    ),
)
def test_replay_returns_acknowledged_events_and_no_refused_ones(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[list[int]],
    segment_bytes: int,
    failure: tuple[str, int, int] | None,
    blanks: tuple[int, int, int],
) -> None:
    sizes: dict[str, Any] = dict(
        zip(("PREALLOCATION", "MAX_SMALL_WRITE", "PREALLOCATE_AFTER"), blanks, strict=True), BLOCK_SIZE=64
    )
    with mock.patch.multiple(segment_writer, **sizes):
        _live(Bench(tmp_path_factory.mktemp("state")), runs, segment_bytes, failure)


def _live(
    bench: Bench, runs: list[list[int]], segment_bytes: int, failure: tuple[str, int, int] | None
) -> None:
    bench.segment_bytes = segment_bytes
    fired: list[int] = []
    next_id = 1
    for run in runs:
        assert bench.open() == [submitted(job_id) for job_id in fired]
        if failure is not None:
            bench.filesystem.fail(failure[0], failure[1], written=failure[2])
        done: list[Deferred[Any]] = []
        for turns in run:
            for _ in range(turns):
                durable = bench.journal.append(submitted(next_id))
                durable.addCallback(lambda _, number: fired.append(number), next_id)
                durable.addErrback(lambda why: why.trap(StoreFailed))
                done.append(durable)
                next_id += 1
            for durable in done[: turns // 2]:
                bench.reactor.until(durable)
        bench.reactor.until(bench.journal.close())
        bench.filesystem.clear_failures()
        assert all(durable.called for durable in done)
    assert fired == sorted(fired)
    assert bench.open() == [submitted(job_id) for job_id in fired]
    bench.close()
    assert bench.filesystem.descriptors == set()


# Recovery.


def failed(bench: Bench, call: str = "sync", **how: Any) -> None:
    """Append an event that is refused."""
    bench.filesystem.fail(call, **how)
    with pytest.raises(StoreFailed):
        bench.reactor.until(bench.journal.append(submitted(bench.journal.next_id)))


def try_again(bench: Bench) -> None:
    """Let the journal try once to begin a segment."""
    bench.reactor.advance(RETRY_INTERVAL)
    bench.turn()


@pytest.mark.parametrize(
    "call, written", [("write_at", 0), ("write_at", 30), ("write_at", 10**6), ("sync", 0)]
)
def test_journal_recovers_from_a_failure_in_a_new_segment(
    bench: Bench, call: str, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.append(submitted(1))
    failed(bench, call, written=written)
    waiting = bench.journal.when_writable()
    bench.filesystem.clear_failures()
    assert bench.journal.failure is not None
    assert not waiting.called
    try_again(bench)
    result_of(waiting)
    assert bench.journal.failure is None
    assert f"journal writable again, starting with segment {bench.segment(2)}" in caplog.text
    result_of(bench.journal.when_writable())
    bench.append(submitted(3), submitted(4))
    bench.close()
    assert ids(bench.open()) == [1, 3, 4]


def test_working_journal_sets_no_retry_timer(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    assert bench.reactor.getDelayedCalls() == []


def test_recovery_is_retried_and_the_failure_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    bench.append(submitted(1))
    failed(bench, "sync")
    for call in ("create", "sync_directory", "write_at", "sync"):
        bench.filesystem.clear_failures()
        bench.filesystem.fail(call)
        try_again(bench)
        assert bench.journal.failure is not None
    bench.filesystem.clear_failures()
    try_again(bench)
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]
    bench.append(submitted(9))
    bench.close()
    assert ids(bench.open()) == [1, 9]


def test_refused_records_that_were_not_truncated_are_ignored_after_recovery(
    bench: Bench,
) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.filesystem.fail("truncate", code=errno.EIO)
    failed(bench, "sync")
    bench.filesystem.clear_failures()
    assert len(bench.lines()) == 3
    try_again(bench)
    bench.append(submitted(7))
    bench.close()
    assert ids(bench.open()) == [1, 7]
    positions = bench.append(submitted(8))
    assert bench.journal.read(positions[0]) == submitted(8)


def test_appends_pending_at_a_failure_are_refused_before_the_retry(bench: Bench) -> None:
    bench.open()
    bench.filesystem.fail("write_at")
    bench.may_block = False
    refused = [bench.journal.append(submitted(1))]
    bench.reactor.turn()
    refused += [bench.journal.append(submitted(number)) for number in (2, 3)]
    bench.reactor.turn()
    bench.reactor.advance(RETRY_INTERVAL)  # a batch is under way: not now
    bench.turn()
    assert all(isinstance(error_of(each), StoreFailed) for each in refused)
    bench.filesystem.clear_failures()
    try_again(bench)
    bench.append(submitted(4))
    bench.close()
    assert ids(bench.open()) == [4]


def test_close_cancels_the_retry(bench: Bench) -> None:
    bench.open()
    failed(bench)
    bench.reactor.until(bench.journal.close())
    assert bench.reactor.getDelayedCalls() == []
    bench.journal._locks = ()


def test_when_writable_may_be_cancelled(bench: Bench) -> None:
    bench.open()
    failed(bench)
    gone, stays = bench.journal.when_writable(), bench.journal.when_writable()
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    bench.filesystem.clear_failures()
    try_again(bench)
    result_of(stays)


@pytest.mark.parametrize("call", ["create", "sync_directory", "write_at", "sync"])
def test_sealed_bytes_exclude_segments_that_could_not_be_begun(bench: Bench, call: str) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2))
    failed(bench, "sync")
    bench.filesystem.fail(call, after=0)
    for _ in range(3):
        try_again(bench)
    closed = bench.segment(1).stat().st_size
    assert bench.journal.sealed_bytes == closed
    bench.filesystem.clear_failures()
    try_again(bench)
    bench.append(submitted(4))
    assert bench.journal.sealed_bytes == closed, "a segment without a durable record is not counted"


def test_sealed_bytes_exclude_a_segment_refused_with_its_batch(bench: Bench) -> None:
    bench.open()
    bench.journal.segment_bytes = 1
    bench.filesystem.fail("sync")
    refused = [bench.journal.append(submitted(number)) for number in range(1, 4)]
    bench.turn()
    for durable in refused:
        assert isinstance(error_of(durable), StoreFailed)
    bench.filesystem.clear_failures()
    bench.journal.segment_bytes = SEGMENT
    try_again(bench)
    assert bench.journal.sealed_bytes == bench.segment(1).stat().st_size


def test_failed_rotation_is_recovered(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.journal.segment_bytes = 1
    failed(bench, "create")
    bench.filesystem.clear_failures()
    try_again(bench)
    bench.journal.segment_bytes = SEGMENT
    bench.append(submitted(3))
    assert bench.segments() == ["00000001.journal", "00000002.journal"]
    bench.close()
    assert ids(bench.open()) == [1, 3]


@pytest.mark.parametrize("times", [1, 2])
def test_close_that_fails_closes_all_files_and_fires(bench: Bench, times: int) -> None:
    bench.open()
    [position] = bench.append(submitted(1))
    bench.journal.read(position)
    bench.filesystem.fail("close", after=times - 1, code=errno.EIO)
    bench.reactor.until(bench.journal.close())
    bench.filesystem.clear_failures()
    assert bench.open() == [submitted(1)]


# Snapshots.


def test_journal_continues_after_a_snapshot_and_removes_replaced_files(bench: Bench) -> None:
    bench.segment_bytes = 300
    bench.open()
    bench.append(*map(submitted, range(1, 9)))
    number = bench.journal.last_durable_segment - 1
    closed = bench.journal.sealed_bytes
    assert number >= 2
    assert closed == sum(bench.segment(each).stat().st_size for each in range(1, number + 1))
    SnapshotWriter(bench.journal.segments, bench.filesystem, number).write()
    assert bench.journal.sizes()["closed_bytes"] == closed
    positions = bench.append(submitted(9))
    size = bench.journal.segments.remove_obsolete(number)
    bench.journal.compacted(number, size)
    assert bench.journal.sizes() == {
        "segment": bench.journal.last_durable_segment,
        "segment_bytes": bench.segment(bench.journal.last_durable_segment).stat().st_size,
        "closed_bytes": bench.journal.sealed_bytes,
        "snapshot_bytes": (bench.journal_path / f"{number:08}.snapshot").stat().st_size,
    }
    assert bench.journal.read(positions[0]) == submitted(9)
    bench.close()
    assert bench.open() == [submitted(each) for each in range(1, 10)]
    assert bench.journal.snapshot_bytes == size
    bench.append(submitted(10))


def test_sealed_bytes_include_segments_sealed_during_a_snapshot(bench: Bench) -> None:
    bench.segment_bytes = 1
    bench.open()
    bench.append(submitted(1), submitted(2))
    number = bench.journal.last_durable_segment - 1
    bench.append(submitted(3), submitted(4))
    bench.journal.compacted(number, 10)
    later = range(number + 1, bench.journal.last_durable_segment)
    assert bench.journal.sealed_bytes == sum(bench.segment(each).stat().st_size for each in later) > 0


def test_start_removes_an_unfinished_snapshot(bench: Bench) -> None:
    bench.segment_bytes = 400
    bench.open()
    bench.append(*map(submitted, range(1, 9)))
    number = bench.journal.last_durable_segment - 1
    SnapshotWriter(bench.journal.segments, bench.filesystem, number).write()
    (bench.journal_path / "00000009.snapshot.new").write_bytes(b"half")
    (bench.journal_path / "00000009.moved").write_bytes(b"1 1 2 3\n")
    bench.close()
    assert bench.open() == [submitted(each) for each in range(1, 9)]
    kept = [f"{number:08}.snapshot", *(f"{each:08}.journal" for each in range(number + 1, number + 3))]
    assert bench.segments() == sorted(kept)


# Events of jobs.


def test_events_of_a_job_are_found_in_few_blocks_whatever_happened_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those that a search of all records finds, also after a snapshot and a restart."""
    monkeypatch.setattr(job_blocks, "MAX_BLOCK_RECORDS", 5)
    monkeypatch.setattr(job_blocks, "MAX_MERGED_IDS", 3)
    bench.segment_bytes = 700
    bench.open()
    events = story(30)
    bench.append(*events)
    known = fold(events).jobs

    def check() -> None:
        end = bench.journal._segment_writer.end
        for job_id in known:
            found = read_all(bench.journal.events_of(job_id))
            assert found == all_of(JobEventFinder(bench.journal.segments, Filesystem(), (job_id,), end))
            assert found[0][1].name == "submitted"

    check()
    number = bench.journal.last_durable_segment - 1
    SnapshotWriter(bench.journal.segments, bench.filesystem, number).write()
    check()
    bench.journal.compacted(number, bench.journal.segments.remove_obsolete(number))
    check()
    assert len(list(bench.journal.forget_jobs(known.__contains__))) > 5
    check()
    bench.close()
    bench.open()
    bench.append(*(Started(id=job_id, at=START, attempt=9) for job_id in known))
    check()


def test_events_of_a_job_returns_all_durable_events(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2), Started(id=1, at=START, attempt=1))
    assert read_all(bench.journal.events_of(1)) == [
        (2, submitted(1)),
        (4, Started(id=1, at=START, attempt=1)),
    ]
    on_its_way = bench.journal.append(Cancelled(id=1, at=START, by="ada", signal=15))
    bench.reactor.until(on_its_way)
    assert len(read_all(bench.journal.events_of(1))) == 3
    assert read_all(bench.journal.events_of(9)) == []


@pytest.mark.parametrize("call", ["list_directory", "read_file"])
def test_events_of_a_job_fails_with_store_failed_if_unreadable(bench: Bench, call: str) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.filesystem.fail(call, code=errno.EIO)
    assert isinstance(error_of(bench.journal.events_of(1).read_batch()), StoreFailed)
    bench.filesystem.clear_failures()
    path = bench.segment(1)
    path.write_bytes(path.read_bytes().replace(b"true", b"trve"))
    assert isinstance(error_of(bench.journal.events_of(1).read_batch()), StoreFailed)
    path.write_bytes(path.read_bytes().replace(b"trve", b"true"))


def test_events_of_several_jobs_returns_all_durable_events(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2), submitted(3))
    assert read_all(bench.journal.events_of(3, 1)) == [(2, submitted(1)), (4, submitted(3))]


def test_next_id_follows_the_tasks_of_an_array(bench: Bench) -> None:
    bench.open()
    array = Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(array=Array(5, 7)))
    bench.append(array)
    assert bench.journal.next_id == 5


# Observers.


def test_observer_is_called_with_the_number_after_the_append_fired(bench: Bench) -> None:
    bench.open()
    seen: list[Any] = []
    bench.journal.add_observer(lambda *call: seen.append((*call, bench.journal.last_sequence)))
    bench.journal.segment_bytes = 1
    for job_id in (1, 2):
        bench.journal.append(submitted(job_id)).addCallback(lambda _, job_id: seen.append(job_id), job_id)
    bench.turn()
    assert seen == [1, (3, (submitted(1),), 3), 2, (5, (submitted(2),), 5)]
    assert decode(bench.lines(2)[1][:-1]) == (3, submitted(1))


def test_observer_gets_events_appended_together_in_one_call(bench: Bench) -> None:
    bench.open()
    seen: list[Any] = []
    bench.journal.add_observer(lambda *call: seen.append((*call, bench.journal.last_sequence)))
    bench.journal.append_all([submitted(1), submitted(2)])
    bench.journal.append(submitted(3))
    bench.turn()
    assert seen == [(2, [submitted(1), submitted(2)], 3), (4, (submitted(3),), 4)]


def test_observer_that_raises_is_logged_and_others_are_called(bench: Bench, logged_errors: LeakWatch) -> None:
    bench.open()
    seen: list[Any] = []
    bench.journal.add_observer(lambda *_: 1 // 0)
    bench.journal.add_observer(lambda sequence, _: seen.append(sequence))
    bench.append(submitted(1), submitted(2))
    assert seen == [2, 3]
    assert len(logged_errors.flush(ZeroDivisionError)) == 2


def test_observer_is_called_for_append_now(bench: Bench) -> None:
    bench.open()
    seen: list[Any] = []
    bench.journal.add_observer(lambda *call: seen.append(call))
    bench.journal.append_now([submitted(1), submitted(2)])
    assert seen == [(2, (submitted(1),)), (3, (submitted(2),))]


def test_observer_is_not_called_for_refused_events(bench: Bench) -> None:
    bench.open()
    seen: list[Any] = []
    bench.journal.add_observer(lambda *call: seen.append(call))
    bench.append(submitted(1))
    failed(bench)
    assert bench.journal.last_sequence == 2
    bench.filesystem.clear_failures()
    try_again(bench)
    bench.append(submitted(3))
    assert seen == [(2, (submitted(1),)), (4, (submitted(3),))]


def test_last_sequence_continues_after_a_restart(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.close()
    bench.open()
    assert bench.journal.last_sequence == 3


# Events since a number.


def read_since(bench: Bench, first: int) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    reading = bench.journal.events_since(first)
    verifyObject(IEventReader, reading)
    while batch := result_of(reading.read_batch()):
        found += batch
    assert reading.next_sequence == bench.journal.last_sequence + 1
    return found


def test_events_since_returns_events_up_to_the_last_notified(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1), submitted(2))
    bench.journal.append(submitted(3))
    assert read_since(bench, 1) == [(2, submitted(1)), (3, submitted(2))]
    bench.turn()
    assert read_since(bench, 3) == [(3, submitted(2)), (4, submitted(3))]
    assert read_since(bench, 5) == []


def test_events_since_the_end_uses_no_thread(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    bench.filesystem.calls.clear()
    assert result_of(bench.journal.events_since(3).read_batch()) == []
    assert bench.filesystem.calls == []


def test_events_since_includes_events_appended_while_reading(bench: Bench) -> None:
    threads = Threads()
    bench.open()
    bench.journal._in_thread = threads
    batch = bench.journal.events_since(1).read_batch()
    bench.append(submitted(1))
    threads.run()
    assert result_of(batch) == [(2, submitted(1))]


def test_events_since_a_compacted_event_fails_with_the_oldest_number(bench: Bench) -> None:
    bench.open()
    bench.journal.segment_bytes = 1
    bench.append(submitted(1), submitted(2))
    SnapshotWriter(bench.journal.segments, bench.filesystem, 1).write()
    lagged = error_of(bench.journal.events_since(1).read_batch())
    assert isinstance(lagged, Lagged)
    assert read_since(bench, lagged.sequence) == [(3, submitted(1)), (5, submitted(2))]


def test_events_since_fails_with_store_failed_if_unreadable(bench: Bench) -> None:
    bench.open()
    bench.append(submitted(1))
    for call, after in (("list_directory", 0), ("read_file", 0), ("open", 1), ("read", 1)):
        bench.filesystem.fail(call, after, errno.EIO)
        assert isinstance(error_of(bench.journal.events_since(1).read_batch()), StoreFailed)
        bench.filesystem.clear_failures()
