"""The journal, for writing: one writer, everything durable before anybody is told of it.

A start opens the store: it takes the lock, replays what is there, cuts off what a crash has torn and begins a
new segment. From then on ``append`` is the only way in.

What holds after an error: a record whose Deferred failed is not in the journal and never will be. A failed
write or sync is final for its segment, since the kernel may have dropped the pages that it could not write.
Nothing is accepted until a new segment could be begun, which is tried again and again; its first record
bears the number behind the last durable one, and so what else stands in the failed segment does not count.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple, cast
from uuid import uuid4

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from taskqd.errors import StartRefused, StoreFailed
from taskqd.model.events import FORMAT, Event, Opened, Position, Record, Snapshot, Submitted
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IJournal, InThread
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.group_commit import GroupCommit
from taskqd.storage.journal.reader import EventReader, JobEventFinder, JobEventReader, SegmentReader
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segment_writer import SegmentWriter
from taskqd.storage.journal.segments import JournalEnd, Layout, Segments
from taskqd.storage.state_directory import acquire_lock

SEGMENT_BYTES = 16 * 1024**2
"""A segment that has reached so many bytes is followed by the next one."""
RETRY_INTERVAL = 1.0
"""After a failure a new segment is tried every so many seconds."""
MAX_BLOCKING_BYTES = 1024**2
"""The reactor waits for no batch of more bytes than that."""

"""Runs a blocking function with its arguments in another thread."""


class _Kind(Enum):
    RECORD = "goes on with the segment"
    ROTATION = "begins the next segment"
    RECOVERY = "begins the next segment after a failure"


class _Entry(NamedTuple):
    """Lines on their way to the disk together: all of them get there, or none does.

    ``sequence`` is the first one's number, ``position`` where it stands.
    """

    records: Sequence[Record]
    sequence: int
    lines: bytes
    position: Position
    durable: "Deferred[Position]"
    kind: _Kind


@implementer(IJournal)
class Journal:
    """The journal below ``directory``/journal, and the lock that keeps a second daemon out.

    ``is_copy`` tells after the replay that the last daemon wrote this journal elsewhere: it was copied or
    moved here, and has another name from then on, so that no process of the original's jobs is taken for one
    of its own. ``snapshot`` is the number of the last segment that a snapshot has taken the place of, 0 for
    none, and ``snapshot_bytes`` the size of that. ``may_block()`` tells whether the reactor may wait for a
    sync, since nobody writes so much now that it would stall. ``last_opened`` is what began the last segment
    that was replayed; ``clock`` is Clocks.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        reactor: Any,
        filesystem: Filesystem,
        boot: str,
        clock: Any,
        in_thread: InThread,
        may_block: Callable[[], bool] = lambda: True,
    ) -> None:
        self.directory = directory
        self.name = ""
        self.last_boot = ""
        self.is_copy = False
        self.last_opened: Opened | Snapshot | None = None
        self.next_id = 1
        self.last_sequence = 0
        self.failure: str | None = None
        self.segment_bytes = SEGMENT_BYTES
        self.snapshot_number = 0
        self.snapshot_bytes = 0
        self._sealed: dict[int, int] = {}
        self.segments = Segments(os.path.join(directory, "journal"), filesystem)
        self._writer = SegmentWriter(self.segments, filesystem)
        self._filesystem = filesystem
        self._reactor = reactor
        self._clock = clock
        self._in_thread = in_thread
        self._boot = boot
        self._identity = ""
        self._locks: tuple[int, ...] = ()
        self._segment = 0
        self._size = 0
        self._sequence = 0
        self._is_broken = False
        self._is_closing = False
        self._writable_waiters: list[Deferred[None]] = []
        self._retry_timer: Any = None
        self._observers: list[Callable[[int, Sequence[Event]], object]] = []
        self._may_wait_for_sync = may_block
        self._group_commit = GroupCommit[_Entry](reactor, self._commit, self._on_committed, self._may_block)

    @property
    def sealed_bytes(self) -> int:
        """The bytes in the segments that are not written to any more, and not condensed yet."""
        return sum(self._sealed.values())

    @property
    def last_durable_segment(self) -> int:
        """The number of the last segment of which a record is durable."""
        end = self._writer.end
        return end.segment if end.size else end.segment - 1

    def lock(self) -> None:
        """Make the directory ours; raises StartRefused if another daemon has it or it can't be used."""
        try:
            self._filesystem.make_directory(self.segments.directory)
            self._locks = acquire_lock(self.directory)
            self._identity = self._writer.identity = self._filesystem.identity(self.segments.directory)
        except OSError as why:
            raise StartRefused(f"the state directory {self.directory} cannot be used: {why}") from None

    def replay(self) -> Iterator[tuple[Event, Position]]:
        """Yield what the journal has, oldest first, then tidy up behind it.

        Raises JournalDamaged where it cannot be trusted, StartRefused where it cannot be read or cut.
        """
        reading = Replay()
        try:
            layout = self.segments.layout()
            yield from self.segments.replay(layout, reading)
            self._tidy(layout, reading)
        except OSError as why:
            raise StartRefused(f"the journal in {self.segments.directory} cannot be read: {why}") from None
        self.last_opened = reading.opened
        if reading.opened is not None:
            self.name, self.last_boot = reading.opened.store, reading.opened.boot
            self.next_id = reading.opened.next_id
            self._take_another_name_if_elsewhere(reading.opened.identity)
        self.last_sequence = self._sequence = reading.sequence
        self._writer.resume_at(JournalEnd(self._segment, self._size, self._sequence))

    def _take_another_name_if_elsewhere(self, last: str) -> None:
        """Give the store another name unless the journal is the directory that it was at the last start.

        Device numbers change with a boot of the machine, so another device tells of a copy only within one.
        """
        if last in ("", self._identity):
            return
        before, self.name = self.name, uuid4().hex
        is_other_inode = last.rpartition(":")[2] != self._identity.rpartition(":")[2]
        self.is_copy = is_other_inode or self.last_boot == self._boot
        if self.is_copy:
            self._log.warn(
                "{directory} is a copy or was moved here from another file system: the store {before} is "
                "named {name} from now on, and no process that the last daemon left running is ended",
                directory=self.directory,
                before=before,
                name=self.name,
            )

    def _tidy(self, layout: Layout, reading: Replay) -> None:
        """Remove what a snapshot replaces and a segment barely begun; cut off what was torn, and blanks."""
        for name in layout.obsolete:
            path = os.path.join(self.segments.directory, name)
            try:
                self._filesystem.remove(path)
            except IsADirectoryError:
                self._log.warn("{path} is a directory, so not the daemon's: it is left alone", path=path)
        segments = layout.segments
        while segments and self.segments.first_sequence(segments[-1]) is None:
            self._filesystem.remove(self.segments.path(segments.pop()))
        self._segment = segments[-1] if segments else layout.snapshot
        self.snapshot_number = layout.snapshot
        if layout.snapshot:
            self.snapshot_bytes = self._filesystem.size(self.segments.path(-layout.snapshot)) or 0
        for number in segments:
            self._sealed[number] = self._size = self._filesystem.size(self.segments.path(number)) or 0
        if segments and reading.good_bytes < self._size:
            self._cut(self.segments.path(self._segment), reading)
            self._size = reading.good_bytes

    def start_writing(self, last_id: int) -> None:
        """Begin the segment that this run of the daemon writes to; appending works from here on."""
        self.name = self.name or uuid4().hex
        self.next_id = max(self.next_id, last_id + 1)
        self._commit_now([self._begin_segment(_Kind.ROTATION)])
        self._group_commit.start()

    def batch_started(self) -> None:
        """Take note that clients are about to be served: what they bring is one batch."""
        self._group_commit.batch_started()

    def batch_ended(self) -> None:
        """Make durable what they have brought."""
        self._group_commit.batch_ended()

    def append(self, event: Event, may_wait: bool = False) -> "Deferred[Position]":
        return self._append((event,), may_wait)

    def append_all(self, events: Sequence[Event]) -> "Deferred[Position]":
        return self._append(events, may_wait=False)

    def _append(self, events: Sequence[Event], may_wait: bool) -> "Deferred[Position]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        if self._size >= self.segment_bytes:
            self._group_commit.submit(self._begin_segment(_Kind.ROTATION))
        last = events[-1]
        if type(last) is Submitted:
            self.next_id = max(self.next_id, last.last_id + 1)
        entry = self._entry(events, _Kind.RECORD, self._group_commit.has_pending)
        self._group_commit.submit(entry, may_wait)
        return entry.durable

    def append_now(self, events: list[Event]) -> list[Position]:
        entries = [self._entry((event,), _Kind.RECORD, at > 0) for at, event in enumerate(events)]
        self._commit_now(entries)
        return [entry.position for entry in entries]

    def add_observer(self, on_durable: Callable[[int, Sequence[Event]], object]) -> None:
        self._observers.append(on_durable)

    def events_since(self, sequence: int) -> "EventReader":
        reading = SegmentReader(self.segments, self._filesystem, sequence)
        return EventReader(reading, lambda: self.last_sequence, self._in_thread)

    def read(self, position: Position) -> Record:
        return self.segments.read(position)

    def events_of(self, *job_ids: int) -> "JobEventReader":
        return JobEventReader(
            JobEventFinder(self.segments, self._filesystem, job_ids, self._writer.end), self._in_thread
        )

    def sizes(self) -> dict[str, int]:
        """Return what STATS tells of the journal's size: segments by number, the rest in bytes."""
        return {
            "segment": self._segment,
            "segment_bytes": self._size,
            "closed_bytes": self.sealed_bytes,
            "snapshot_bytes": self.snapshot_bytes,
        }

    def when_writable(self) -> "Deferred[None]":
        if self.failure is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._writable_waiters.remove)
        self._writable_waiters.append(waiting)
        return waiting

    def compacted(self, number: int, size: int) -> None:
        """Take note that a snapshot of ``size`` bytes has taken the place of all up to segment ``number``.

        Nobody may have a position in those files any more.
        """
        self.snapshot_number, self.snapshot_bytes = number, size
        self._sealed = {segment: left for segment, left in self._sealed.items() if segment > number}
        self.segments.close_replaced(number)

    def check_location(self) -> "Deferred[None]":
        """Look in another thread whether the journal is still in its place, and fail aloud if it is not."""
        number = self._writer.last_created

        def looked(away: OSError | None) -> None:
            # A batch that is under way looks by itself, and a segment that is not the last may be condensed.
            is_busy = self._group_commit.is_committing or self._is_closing
            if (
                away is not None
                and self.failure is None
                and not is_busy
                and number == self._writer.last_created
            ):
                self._is_broken = True
                self._fail(away)

        return self._in_thread(self._look_for, number).addCallback(looked)

    def _look_for(self, number: int) -> OSError | None:
        """Return what is wrong with the place of a segment, None if nothing is; in another thread."""
        try:
            self._writer.check_segment(number)
        except OSError as why:
            return why
        return None

    def close(self) -> "Deferred[None]":
        self._is_closing = True
        if self._retry_timer is not None and self._retry_timer.active():
            self._retry_timer.cancel()
        return self._group_commit.stop().addCallback(self._release_files)

    def _release_files(self, _: None) -> None:
        self.failure = self.failure or "the daemon is stopping"
        for descriptor in (*self.segments.detach_descriptors(), self._writer.detach(), *self._locks):
            try:
                if descriptor is not None:
                    self._filesystem.close(descriptor)
            except OSError as why:  # all that was told is synced
                self._log.warn("a file of the journal could not be closed: {why}", why=why)
        self._locks = ()

    def _cut(self, path: str, reading: Replay) -> None:
        if reading.torn_bytes:
            self._log.warn(
                "{path}: cut off {bytes} bytes of a last write that was not finished when the daemon "
                "stopped; nobody had been told of it",
                path=path,
                bytes=reading.torn_bytes,
            )
        self._filesystem.truncate(path, reading.good_bytes)

    # Lines to be written; in the reactor's thread.

    def _begin_segment(self, kind: _Kind) -> _Entry:
        self._sealed[self._segment] = self._size
        self._segment += 1
        self._size = 0
        opened = Opened(
            at=self._clock.now(),
            format=FORMAT,
            store=self.name,
            boot=self._boot,
            next_id=self.next_id,
            identity=self._identity,
            boot_clock=self._clock.boot(),
            ahead=self._clock.ahead,
        )
        return self._entry((opened,), kind, goes_on=False)

    def _may_block(self, entries: list[_Entry]) -> bool:
        """Whether the reactor may wait for a batch: it is not large, and needs nothing else on the disk."""
        if not self._may_wait_for_sync() or any(entry.kind is not _Kind.RECORD for entry in entries):
            return False
        size = sum([len(entry.lines) for entry in entries])
        return size <= MAX_BLOCKING_BYTES and self._writer.can_append(size)

    def _entry(self, records: Sequence[Record], kind: _Kind, goes_on: bool) -> _Entry:
        """Number and encode records; the first ``goes_on`` with a batch where it is not the first of that."""
        first = self._sequence + 1
        numbered = enumerate(records, first)
        lines = [encode(record, number, goes_on or number > first) for number, record in numbered]
        position = (self._segment, self._size, len(lines[0]) - 1)
        whole = b"".join(lines)
        self._sequence += len(lines)
        self._size += len(whole)
        return _Entry(records, first, whole, position, Deferred(), kind)

    # Lines written; in the committer's thread, and before there is one in the reactor's.

    def _commit_now(self, entries: list[_Entry]) -> None:
        try:
            self._commit(entries)
        except OSError as why:
            raise StartRefused(f"the journal in {self.segments.directory} cannot be written: {why}") from None
        for entry in entries:
            self._notify_observers(entry)

    def _commit(self, entries: list[_Entry]) -> None:
        """Make entries durable. On an error those before the tail's end are in the journal, no others."""
        if self._is_broken and entries[0].kind is not _Kind.RECOVERY:
            raise OSError("an earlier write failed")
        try:
            gathered: list[_Entry] = []
            for entry in entries:
                if entry.kind is not _Kind.RECORD:
                    self._write(gathered)
                    gathered = []
                    self._writer.begin_segment(entry.position[0])
                gathered.append(entry)
            self._write(gathered)
        except Exception:
            if not self._is_broken:
                self._is_broken = True
                self._writer.discard_failed()
            raise
        self._is_broken = False

    def _write(self, entries: list[_Entry]) -> None:
        if entries:
            content = b"".join([entry.lines for entry in entries])
            self._writer.write(content, sum([len(entry.records) for entry in entries]))

    # Lines that came back; in the reactor's thread.

    def _on_committed(self, entries: list[_Entry], error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
        elif entries[0].kind is _Kind.RECOVERY:
            self._resume()
        for entry in entries:
            if error is None or entry.position[:2] < self._writer.end[:2]:
                entry.durable.callback(entry.position)
                self._notify_observers(entry)
            elif entry.kind is _Kind.RECORD:
                entry.durable.errback(StoreFailed(self.failure))

    def _notify_observers(self, entry: _Entry) -> None:
        """Count durable records, and tell of those that are events."""
        self.last_sequence = entry.sequence + len(entry.records) - 1
        if entry.kind is _Kind.RECORD:
            for on_durable in self._observers:
                try:
                    on_durable(entry.sequence, cast("Sequence[Event]", entry.records))
                except Exception:  # noqa: BLE001 - whoever listens must not keep others from theirs
                    self._log.failure("telling of record {sequence} met a bug", sequence=entry.sequence)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = f"the journal in {self.segments.directory} cannot be written: {error}"
            self._log.critical("{why}. Nothing new is accepted until it can be.", why=self.failure)
        if not self._is_closing and (self._retry_timer is None or not self._retry_timer.active()):
            self._retry_timer = self._reactor.callLater(RETRY_INTERVAL, self._retry)

    def _retry(self) -> None:
        if self._group_commit.is_committing:
            self._retry_timer = self._reactor.callLater(RETRY_INTERVAL, self._retry)
            return
        end = self._writer.end
        self._sequence, self._segment = end.sequence, self._writer.last_created
        # Of a segment in which no record is durable nothing counts, and others were counted but not begun.
        self._size = end.size if end.segment == self._segment else 0
        self._sealed = {number: size for number, size in self._sealed.items() if number < self._segment}
        self._group_commit.submit(self._begin_segment(_Kind.RECOVERY))

    def _resume(self) -> None:
        self._log.warn(
            "the journal can be written again, from {path} on", path=self.segments.path(self._segment)
        )
        self.failure = None
        recovered, self._writable_waiters = self._writable_waiters, []
        for waiting in recovered:
            waiting.callback(None)
