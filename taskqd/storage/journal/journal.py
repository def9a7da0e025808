"""The journal: appends events durably, one writer per state directory.

Opening: ``Journal.lock``, ``replay`` and ``start_writing``, in this order; from then on ``append`` is the
only way to write.

Invariant: if the Deferred of an append failed, its record is not in the journal and never will be. A failed
write or sync is final for its segment, because the kernel may have dropped pages that it could not write. All
appends then fail until a new segment could be begun, which is retried every RETRY_INTERVAL. The first record
of the new segment has the number after the last durable one, so replay ignores all records of the failed
segment from that number on (replay.py).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import cast
from uuid import uuid4

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from taskqd.errors import StartRefused, StoreFailed
from taskqd.model.events import (
    FORMAT,
    Event,
    Opened,
    Record,
    RecordPosition,
    Replayed,
    Snapshot,
    Submitted,
)
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IClock, ICommitObserver, ICommitReactor, IJournal, InThread, OnDurable
from taskqd.storage.journal.entry_builder import EntryBuilder
from taskqd.storage.journal.entry_writer import Entry, EntryKind, EntryWriter
from taskqd.storage.journal.group_commit import GroupCommit
from taskqd.storage.journal.job_blocks import JobBlocks
from taskqd.storage.journal.job_event_reader import JobEventFinder, JobEventReader
from taskqd.storage.journal.reader import EventReader, SegmentReader
from taskqd.storage.journal.replay import RecordBatch, Replay
from taskqd.storage.journal.segment_writer import SegmentWriter
from taskqd.storage.journal.segments import JournalEnd, Segments
from taskqd.storage.journal.startup import clean_up
from taskqd.storage.state_directory import acquire_lock

SEGMENT_BYTES = 16 * 1024**2
"""Bytes. A segment that has reached this size is followed by the next one."""
RETRY_INTERVAL = 1.0
"""Seconds between two attempts to begin a new segment after a failure."""
MAX_BLOCKING_BYTES = 1024**2
"""Bytes of a batch for which the reactor may wait; a larger one takes too long to write."""

_ID = attrgetter("id")


@implementer(IJournal)
class Journal:
    """The journal in ``directory``/journal.

    ``name`` is the store's name, which marks the processes of its jobs. ``boot`` names this boot of the
    machine. ``may_block()`` tells whether the reactor may wait for a sync: no job can have written so much
    that it would take long.

    After ``replay``: ``is_copy`` tells whether the last daemon wrote this journal in another place; the store
    then has a new name, so that this daemon does not kill processes of the original's jobs. ``last_boot`` is
    the boot of the last daemon, ``last_opened`` the record at the beginning of its last segment.

    ``snapshot_number`` is the number of the last segment that a snapshot replaces (0 if none),
    ``snapshot_bytes`` the size of the snapshot.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        reactor: ICommitReactor,
        filesystem: Filesystem,
        boot: str,
        clock: IClock,
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
        self.segments = Segments(os.path.join(directory, "journal"), filesystem)
        self._filesystem = filesystem
        self._reactor = reactor
        self._clock = clock
        self._in_thread = in_thread
        self._boot = boot
        self._may_block = may_block
        self._identity = ""  # of the journal's directory
        self._locks: tuple[int, ...] = ()
        self._builder = EntryBuilder()
        self._segment_writer = SegmentWriter(self.segments, filesystem)
        self._entry_writer = EntryWriter(self._segment_writer)
        self._group_commit = GroupCommit[Entry](
            reactor, self._entry_writer.write, self._on_committed, self._may_wait_for
        )
        self._job_blocks = JobBlocks()
        self._observers: list[OnDurable] = []
        self._commit_observers: list[ICommitObserver] = []
        self._writable_waiters: list[Deferred[None]] = []
        self._retry_timer: IDelayedCall | None = None
        self._is_closing = False

    # Opening.

    def lock(self) -> None:
        """Lock the state directory, creating it if needed; raises StartRefused."""
        try:
            self._filesystem.make_directory(self.segments.directory)
            self._locks = acquire_lock(self.directory)
            self._identity = self._filesystem.identity(self.segments.directory)
        except OSError as error:
            raise StartRefused(f"the state directory {self.directory} cannot be used: {error}") from None
        self._segment_writer.identity = self._identity

    def replay(self) -> Iterator[Sequence[tuple[Replayed, RecordPosition]]]:
        """Yield all events with their positions, oldest first, many at a time; must be read to its end.

        Then the files are cleaned up.

        Raises JournalDamaged if the journal cannot be trusted, StartRefused if it cannot be read or cleaned
        up. In both cases nothing was changed that the next start needs.
        """
        replay = Replay()
        try:
            layout = self.segments.layout()
            yield from self.segments.replay(layout, replay, self._note_replayed)
            sizes = clean_up(self.segments, self._filesystem, layout, replay)
        except OSError as error:
            raise StartRefused(f"the journal in {self.segments.directory} cannot be read: {error}") from None
        self.snapshot_number, self.snapshot_bytes = sizes.snapshot_number, sizes.snapshot_bytes
        last_segment = max(sizes.segments, default=self.snapshot_number)
        end = JournalEnd(last_segment, sizes.segments.get(last_segment, 0), replay.sequence)
        self._builder.resume_at(end, sizes.segments)
        self._segment_writer.resume_at(end)
        self.last_sequence = replay.sequence
        self.last_opened = replay.opened
        if replay.opened is not None:
            self.name, self.last_boot = replay.opened.store, replay.opened.boot
            self.next_id = replay.opened.next_id
            self._rename_copy(replay.opened.identity)

    def _note_replayed(self, batch: RecordBatch) -> None:
        size = batch.end - batch.start
        self._job_blocks.add(batch.sequences[0], batch.sequences[-1], _job_ids(batch.records), size)

    def _rename_copy(self, last_identity: str) -> None:
        """Give the store a new name if its directory is not the one of the last start (decision 0040).

        Device numbers change when the machine is restarted, so another device with the same inode means a
        copy only within one boot.
        """
        if last_identity in ("", self._identity):
            return
        last_name, self.name = self.name, uuid4().hex
        is_other_inode = last_identity.rpartition(":")[2] != self._identity.rpartition(":")[2]
        self.is_copy = is_other_inode or self.last_boot == self._boot
        if self.is_copy:
            self._log.warn(
                "{directory} is a copy or was moved here from another file system: its store is renamed from "
                "{last_name} to {name}, and processes that the last daemon left running are not ended",
                directory=self.directory,
                last_name=last_name,
                name=self.name,
            )

    def start_writing(self, last_id: int) -> None:
        """Begin a new segment, after which ``append`` works; ``last_id`` is the highest job id in use.

        Raises StartRefused.
        """
        self.name = self.name or uuid4().hex
        self.next_id = max(self.next_id, last_id + 1)
        self._write_now([self._begin_segment(EntryKind.ROTATION)])
        self._group_commit.start()

    # Appending.

    def append(self, event: Event, may_wait: bool = False) -> "Deferred[RecordPosition]":
        return self._append((event,), may_wait)

    def append_all(self, events: Sequence[Event], may_wait: bool = False) -> "Deferred[RecordPosition]":
        return self._append(events, may_wait)

    def _append(self, events: Sequence[Event], may_wait: bool) -> "Deferred[RecordPosition]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        if self._builder.size >= self.segment_bytes:
            self._group_commit.submit(self._begin_segment(EntryKind.ROTATION))
        last = events[-1]
        if type(last) is Submitted:
            self.next_id = max(self.next_id, last.last_id + 1)
        entry = self._builder.build(events, EntryKind.RECORDS, self._group_commit.has_pending)
        self._group_commit.submit(entry, may_wait)
        return entry.durable

    def append_now(self, events: list[Event]) -> list[RecordPosition]:
        entries = [
            self._builder.build((event,), EntryKind.RECORDS, continues_batch=index > 0)
            for index, event in enumerate(events)
        ]
        self._write_now(entries)
        return [entry.position for entry in entries]

    def batch_started(self) -> None:
        """See GroupCommit.batch_started."""
        self._group_commit.batch_started()

    def batch_ended(self) -> None:
        """See GroupCommit.batch_ended."""
        self._group_commit.batch_ended()

    def add_observer(self, on_durable: OnDurable) -> None:
        self._observers.append(on_durable)

    def add_commit_observer(self, observer: ICommitObserver) -> None:
        """Notify an observer before the events of each commit are applied, and after."""
        self._commit_observers.append(observer)

    def when_writable(self) -> "Deferred[None]":
        if self.failure is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._writable_waiters.remove)
        self._writable_waiters.append(waiter)
        return waiter

    # Reading.

    def read(self, position: RecordPosition) -> Record:
        return self.segments.read(position)

    def events_since(self, sequence: int) -> EventReader:
        reader = SegmentReader(self.segments, self._filesystem, sequence)
        return EventReader(reader, lambda: self.last_sequence, self._in_thread)

    def events_of(self, *job_ids: int) -> JobEventReader:
        spans = self._job_blocks.spans(job_ids)
        finder = JobEventFinder(self.segments, self._filesystem, job_ids, self._segment_writer.end, spans)
        return JobEventReader(finder, self._in_thread)

    def sizes(self) -> dict[str, int]:
        return {
            "segment": self._builder.segment,
            "segment_bytes": self._builder.size,
            "closed_bytes": self.sealed_bytes,
            "snapshot_bytes": self.snapshot_bytes,
        }

    @property
    def sealed_bytes(self) -> int:
        """The bytes in the segments before the current one that no snapshot replaces."""
        return self._builder.sealed_bytes

    @property
    def last_durable_segment(self) -> int:
        """The number of the last segment that has a durable record."""
        end = self._segment_writer.end
        return end.segment if end.size else end.segment - 1

    # Maintenance.

    def compacted(self, number: int, size: int) -> None:
        """Note that a snapshot of ``size`` bytes replaces all files up to segment ``number``.

        No position in those files may be used any more.
        """
        self.snapshot_number, self.snapshot_bytes = number, size
        self._builder.forget(number)
        self.segments.close_replaced(number)

    def forget_jobs(self, is_known: Callable[[int], bool]) -> Iterator[None]:
        """Forget where the records of jobs are that are not known any more; yields after each portion."""
        return self._job_blocks.forget(is_known)

    def check_location(self) -> "Deferred[None]":
        """Check in another thread that the current segment has not been moved or removed.

        If it has, appends fail from now on: a record in a moved file would be lost.
        """
        number = self._segment_writer.last_created

        def on_checked(error: OSError | None) -> None:
            # A commit in progress does this check itself. An earlier segment may have been compacted.
            is_current = number == self._segment_writer.last_created
            is_idle = not self._group_commit.is_committing and not self._is_closing
            if error is not None and self.failure is None and is_idle and is_current:
                self._entry_writer.is_broken = True
                self._fail(error)

        return self._in_thread(self._find_location_error, number).addCallback(on_checked)

    def _find_location_error(self, number: int) -> OSError | None:
        try:
            self._segment_writer.check_segment(number)
        except OSError as error:
            return error
        return None

    def close(self) -> "Deferred[None]":
        self._is_closing = True
        if self._retry_timer is not None and self._retry_timer.active():
            self._retry_timer.cancel()
        return self._group_commit.stop().addCallback(self._close_files)

    def _close_files(self, _: None) -> None:
        self.failure = self.failure or "the daemon is stopping"
        segments = (*self.segments.detach_descriptors(), self._segment_writer.detach())
        for descriptor in (*segments, *self._locks):
            try:
                if descriptor is not None:
                    self._filesystem.close(descriptor)
            except OSError as error:  # no data is lost: all acknowledged records have been synced
                self._log.warn(
                    "a file of the journal in {directory} could not be closed: {error}",
                    directory=self.segments.directory,
                    error=error,
                )
        self._locks = ()

    # Entries to be written.

    def _begin_segment(self, kind: EntryKind) -> Entry:
        self._builder.rotate()
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
        return self._builder.build((opened,), kind, continues_batch=False)

    def _may_wait_for(self, entries: list[Entry]) -> bool:
        """Whether the reactor may wait for a batch: it is small, and needs nothing but one write and sync."""
        if not self._may_block() or any(entry.kind is not EntryKind.RECORDS for entry in entries):
            return False
        size = sum([len(entry.lines) for entry in entries])
        return size <= MAX_BLOCKING_BYTES and self._segment_writer.can_append(size)

    def _write_now(self, entries: list[Entry]) -> None:
        try:
            self._entry_writer.write(entries)
        except OSError as error:
            raise StartRefused(
                f"the journal in {self.segments.directory} cannot be written: {error}"
            ) from None
        for entry in entries:
            self._notify_observers(entry)

    # Outcomes.

    def _on_committed(self, entries: list[Entry], error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
        elif entries[0].kind is EntryKind.RECOVERY:
            self._resume()
        for observer in self._commit_observers:
            observer.commit_started()
        for entry in entries:
            if error is None or entry.position[:2] < self._segment_writer.end[:2]:
                entry.durable.callback(entry.position)
                self._notify_observers(entry)
            elif entry.kind is EntryKind.RECORDS:
                entry.durable.errback(StoreFailed(self.failure))
        for observer in self._commit_observers:
            observer.commit_ended()

    def _notify_observers(self, entry: Entry) -> None:
        self.last_sequence = entry.sequence + len(entry.records) - 1
        if entry.kind is EntryKind.RECORDS:
            job_ids, size = _job_ids(entry.records), len(entry.lines)
            self._job_blocks.add(entry.sequence, self.last_sequence, job_ids, size)
            for on_durable in self._observers:
                try:
                    on_durable(entry.sequence, cast("Sequence[Event]", entry.records))
                except Exception:  # noqa: BLE001 - a faulty observer must not keep events from the others
                    self._log.failure(
                        "internal error in an observer of record {sequence}", sequence=entry.sequence
                    )

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = f"the journal in {self.segments.directory} cannot be written: {error}"
            self._log.critical(
                "{failure}. Nothing new is accepted until it can be; the next attempt is in {seconds:g} s",
                failure=self.failure,
                seconds=RETRY_INTERVAL,
            )
        if not self._is_closing and (self._retry_timer is None or not self._retry_timer.active()):
            self._retry_timer = self._reactor.callLater(RETRY_INTERVAL, self._retry)

    def _retry(self) -> None:
        """Begin a new segment after the last durable record."""
        if self._group_commit.is_committing:
            self._retry_timer = self._reactor.callLater(RETRY_INTERVAL, self._retry)
            return
        self._builder.rewind(self._segment_writer.end, self._segment_writer.last_created)
        self._group_commit.submit(self._begin_segment(EntryKind.RECOVERY))

    def _resume(self) -> None:
        self._log.warn(
            "journal writable again, starting with segment {path}",
            path=self.segments.path(self._builder.segment),
        )
        self.failure = None
        waiters, self._writable_waiters = self._writable_waiters, []
        for waiter in waiters:
            waiter.callback(None)


def _job_ids(records: Sequence[Record]) -> Iterable[int]:
    """Return the ids of the jobs of records, 0 for one that is not about a job."""
    try:
        return set(map(_ID, records))
    except AttributeError:
        return [getattr(record, "id", 0) for record in records]
