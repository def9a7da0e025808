"""Writes a snapshot: the records of sealed segments without those that no longer matter (docs/journal.md).

Omitted are the records of removed jobs, all but the last record about each setting of a queue or schedule,
and holds, releases and changes that later ones supersede (superseded.py). The other lines are copied
unchanged.

A separate process writes it, so that the reactor does not wait for it (compaction.py)::

    python -m taskqd.storage.journal.snapshot JOURNAL NUMBER

writes ``NUMBER.moved``, which has the new position of each ``ended`` record as a line ``<job> <attempt>
<offset> <length>``, and then ``NUMBER.snapshot``, which replaces all segments up to NUMBER atomically: after
an error the journal is as it was.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from taskqd.errors import StartRefused
from taskqd.model.events import (
    Clocked,
    Ended,
    Event,
    InSnapshot,
    JobEvent,
    Opened,
    QueueEvent,
    Record,
    Removed,
    Scheduled,
    Snapshot,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.replay import RecordBatch, Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.superseded import Superseded

SYNC_INTERVAL_BYTES = 8 * 1024**2
"""Bytes that are synced at a time; a larger sync would delay the journal's own syncs."""
NICENESS = 10
"""The nice value of the process: the daemon and jobs take precedence."""


class Line(NamedTuple):
    """A record that is kept, and its line with the newline."""

    record: Record
    text: bytes


class SnapshotWriter:
    """Writes the snapshot of all files up to segment ``number``; reads them twice, to decide and to copy.

    Segment ``number + 1`` must have been begun. Raises JournalDamaged, OSError, and StartRefused if segment
    ``number`` or the one after it is missing.
    """

    def __init__(self, segments: Segments, filesystem: Filesystem, number: int) -> None:
        self._segments = segments
        self._layout = segments.layout()  # once: both readings must read the same files
        self._filesystem = filesystem
        self._number = number
        self._removed: set[int] = set()
        self._running: set[int] = set()
        self._tasks: dict[int, range] = {}
        self._superseded = Superseded()
        self._latest: dict[tuple[object, ...], int] = {}
        self._unscheduled: set[int] = set()
        self._last_schedule = 0
        self._opened: Opened | Snapshot | None = None
        self._last_id = 0

    def write(self) -> int:
        """Write the snapshot and the list of new positions; return the number of records kept."""
        self._read_all()
        count = sum(1 for _ in self._kept_lines())
        path = self._segments.path(-self._number)
        header = self._header(count)
        positions = self._write_lines(path + ".new", header)
        self._write_file(self._segments.relocations_path(self._number), positions)
        self._filesystem.rename(path + ".new", path)
        return count

    def _read_all(self) -> None:
        """Read all records and note what decides which of them are kept."""
        replay = Replay()
        for batch in self._batches(replay):
            for sequence, record in zip(batch.sequences, batch.records, strict=True):
                self._note(sequence, record)
            self._opened = replay.opened

    def _note(self, sequence: int, record: Record) -> None:
        if isinstance(record, JobEvent):
            self._superseded.add(sequence, record)
        if isinstance(record, Submitted):
            self._last_id = max(self._last_id, record.last_id)
            if record.spec.array is not None:
                self._tasks[record.id] = range(record.id + 1, record.last_id + 1)
        elif isinstance(record, Started):
            self._running.add(record.id)
        elif isinstance(record, Ended):
            self._running.discard(record.id)
        elif isinstance(record, Removed):
            self._removed.add(record.id)
            self._removed.update(self._tasks.pop(record.id, ()))
        elif isinstance(record, QueueEvent):
            self._latest[record.subject] = sequence
            if isinstance(record, Unscheduled):
                self._unscheduled.add(record.schedule)
            elif isinstance(record, Scheduled):
                self._last_schedule = max(self._last_schedule, record.schedule)

    def _batches(self, replay: Replay) -> Iterator[RecordBatch]:
        for number, batch in self._segments.batches(self._layout, replay):
            if number > self._number:
                return
            yield batch

    def _kept_lines(self) -> Iterator[Line]:
        """Yield the lines that are kept; a Clocked only if it changes the meaning of the records after it."""
        latest: Line | None = None
        before = ahead = 0.0
        for line in self._candidates():
            if isinstance(line.record, Clocked):
                latest, ahead = line, line.record.ahead
                continue
            if latest is not None and ahead != before:
                before = ahead
                yield latest
            yield line
        if latest is not None and ahead != before:
            yield latest

    def _candidates(self) -> Iterator[Line]:
        for batch in self._batches(Replay()):
            for sequence, record, line in zip(batch.sequences, batch.records, batch.lines, strict=True):
                if not isinstance(record, Opened | Snapshot) and self._is_kept(record, sequence):
                    yield Line(record, line + b"\n")

    def _is_kept(self, event: Event, sequence: int) -> bool:
        if isinstance(event, QueueEvent):
            return self._is_latest(event, sequence)
        if isinstance(event, JobEvent):
            return event.id not in self._removed and self._is_needed(event, sequence)
        return True  # _kept_lines decides about Clocked

    def _is_needed(self, event: JobEvent, sequence: int) -> bool:
        """Whether the state of the job depends on an event."""
        if event.in_snapshot is InSnapshot.UNLESS_SUPERSEDED:
            return sequence not in self._superseded.sequences
        if event.in_snapshot is InSnapshot.WHILE_RUNNING:
            return event.id in self._running
        return event.in_snapshot is InSnapshot.ALWAYS

    def _is_latest(self, event: QueueEvent, sequence: int) -> bool:
        """Whether no later event has replaced this one; the last schedule is kept even if it ended."""
        schedule = getattr(event, "schedule", None)
        if schedule in self._unscheduled:
            return schedule == self._last_schedule and isinstance(event, Scheduled | Unscheduled)
        return self._latest[event.subject] == sequence

    def _header(self, count: int) -> bytes:
        opened, following = self._opened, self._segments.first_sequence(self._number + 1)
        if opened is None or following is None:
            raise StartRefused(
                f"no snapshot can be made up to segment {self._number}: it or the next segment is missing"
            )
        header = Snapshot(
            at=opened.at,
            format=opened.format,
            store=opened.store,
            boot=opened.boot,
            next_id=self._next_id(opened),
            records=count,
            identity=opened.identity,
            boot_clock=opened.boot_clock,
            ahead=opened.ahead,
        )
        return encode(header, following - 1)

    def _next_id(self, opened: Opened | Snapshot) -> int:
        return max(opened.next_id, self._last_id + 1)

    def _write_lines(self, path: str, header: bytes) -> list[bytes]:
        """Write the header and the lines that are kept; return the positions of ends, as lines."""
        positions: list[bytes] = []
        attempts: dict[int, int] = {}

        def lines() -> Iterator[bytes]:
            yield header
            offset = len(header)
            for record, text in self._kept_lines():
                if isinstance(record, Started):
                    attempts[record.id] = record.attempt
                elif isinstance(record, Ended):
                    positions.append(
                        b"%d %d %d %d\n" % (record.id, attempts[record.id], offset, len(text) - 1)
                    )
                yield text
                offset += len(text)

        self._write_file(path, lines())
        return positions

    def _write_file(self, path: str, lines: Iterable[bytes]) -> None:
        descriptor = self._filesystem.create(path)
        try:
            unwritten: list[bytes] = []
            size = 0
            for line in lines:
                unwritten.append(line)
                size += len(line)
                if size >= SYNC_INTERVAL_BYTES:
                    self._flush(descriptor, unwritten)
                    size = 0
            self._flush(descriptor, unwritten)
        finally:
            self._filesystem.close(descriptor)

    def _flush(self, descriptor: int, unwritten: list[bytes]) -> None:
        self._filesystem.write(descriptor, b"".join(unwritten))
        self._filesystem.sync(descriptor)
        unwritten.clear()


def main() -> None:
    """Write the snapshot given by the command line; print an error and exit with 1 if that fails."""
    directory, number = sys.argv[1:]
    os.nice(NICENESS)
    filesystem = Filesystem()
    try:
        SnapshotWriter(Segments(directory, filesystem), filesystem, int(number)).write()
    except (OSError, StartRefused) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
