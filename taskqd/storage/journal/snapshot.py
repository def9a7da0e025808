"""A snapshot: what is left of the journal's closed segments when removed jobs are left out (docs/journal.md).

Of what was decided about queues and schedules the last word is left, and of the holds, releases and changes
of a job what still counts (superseded.py).

It is made by a process of its own, so that the daemon's reactor does not wait for it::

    python -m taskqd.storage.journal.snapshot JOURNAL NUMBER

takes the place of all segments up to NUMBER by ``NUMBER.snapshot``, at once or not at all. The lines are
copied as they are. ``NUMBER.moved`` tells the daemon where the ends of attempts stand now, a line each:
``<job> <attempt> <offset> <length>``.
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
"""So many bytes are synced at a time, lest the journal's own syncs wait behind a large one."""
NICENESS = 10


class Line(NamedTuple):
    """A record that is kept, and its line with its newline."""

    record: Record
    text: bytes


class SnapshotWriter:
    """Reads what there is up to segment ``number``, first to see what is left of it, and then to write that.

    The segment after it must have been begun. Raises JournalDamaged, OSError, and StartRefused where there is
    nothing up to that number.
    """

    def __init__(self, segments: Segments, filesystem: Filesystem, number: int) -> None:
        self._segments = segments
        self._layout = segments.layout()  # once: another snapshot may come between two readings
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
        """Write the snapshot and the list of what has moved; return how many records were kept."""
        self._survey()
        count = sum(1 for _ in self._kept())
        path = self._segments.path(-self._number)
        header = self._header(count)
        moved = self._write_lines(path + ".new", header)
        self._write_pieces(self._segments.relocations_path(self._number), moved)
        self._filesystem.rename(path + ".new", path)
        return count

    def _survey(self) -> None:
        """See which jobs were removed and which run, what is out of date, and how the last segment began."""
        reading = Replay()
        for portion in self._portions(reading):
            for sequence, record in zip(portion.sequences, portion.records, strict=True):
                self._take_note(sequence, record)
            self._opened = reading.opened

    def _take_note(self, sequence: int, record: Record) -> None:
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

    def _portions(self, reading: Replay) -> Iterator[RecordBatch]:
        for number, portion in self._segments.batches(self._layout, reading):
            if number > self._number:
                return
            yield portion

    def _kept(self) -> Iterator[Line]:
        """Yield the lines that are kept; a Clocked only if it changes how what follows is read."""
        latest: Line | None = None
        before = ahead = 0.0
        for line in self._of_interest():
            if isinstance(line.record, Clocked):
                latest, ahead = line, line.record.ahead
                continue
            if latest is not None and ahead != before:
                before = ahead
                yield latest
            yield line
        if latest is not None and ahead != before:
            yield latest

    def _of_interest(self) -> Iterator[Line]:
        for portion in self._portions(Replay()):
            for sequence, record, line in zip(portion.sequences, portion.records, portion.lines, strict=True):
                if not isinstance(record, Opened | Snapshot) and self._is_kept(record, sequence):
                    yield Line(record, line + b"\n")

    def _is_kept(self, event: Event, sequence: int) -> bool:
        if isinstance(event, QueueEvent):
            return self._is_latest(event, sequence)
        if isinstance(event, JobEvent):
            return event.id not in self._removed and self._is_needed(event, sequence)
        return True  # _kept decides about Clocked

    def _is_needed(self, event: JobEvent, sequence: int) -> bool:
        """Whether the job of an event would be another without it."""
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
            raise StartRefused(f"segment {self._number} is not one that another follows")
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
        """Write the header and all that is kept; return where ends of attempts stand, as lines."""
        moved: list[bytes] = []
        attempts: dict[int, int] = {}

        def pieces() -> Iterator[bytes]:
            yield header
            offset = len(header)
            for record, text in self._kept():
                if isinstance(record, Started):
                    attempts[record.id] = record.attempt
                elif isinstance(record, Ended):
                    moved.append(b"%d %d %d %d\n" % (record.id, attempts[record.id], offset, len(text) - 1))
                yield text
                offset += len(text)

        self._write_pieces(path, pieces())
        return moved

    def _write_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        descriptor = self._filesystem.create(path)
        try:
            gathered: list[bytes] = []
            size = 0
            for piece in pieces:
                gathered.append(piece)
                size += len(piece)
                if size >= SYNC_INTERVAL_BYTES:
                    self._flush(descriptor, gathered)
                    size = 0
            self._flush(descriptor, gathered)
        finally:
            self._filesystem.close(descriptor)

    def _flush(self, descriptor: int, gathered: list[bytes]) -> None:
        self._filesystem.write(descriptor, b"".join(gathered))
        self._filesystem.sync(descriptor)
        gathered.clear()


def main() -> None:
    """Write the snapshot that the command line asks for; exit with 1 and a line on stderr if that fails."""
    directory, number = sys.argv[1:]
    os.nice(NICENESS)
    filesystem = Filesystem()
    try:
        SnapshotWriter(Segments(directory, filesystem), filesystem, int(number)).write()
    except (OSError, StartRefused) as why:
        sys.exit(str(why))


if __name__ == "__main__":
    main()
