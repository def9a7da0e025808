"""Reads all events from a number on, while the journal grows and is compacted."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import JournalDamaged, Lagged, StoreFailed
from taskqd.model.events import Compacted, Event, Opened, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEventReader, InThread
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.segments import Segments, SegmentSpan, retry_if_compacted

BATCH_BYTES = 65_536
"""Bytes of the journal read per batch, or one line if that is longer."""


@implementer(IEventReader)
class EventReader:
    """Reads batches of a ``SegmentReader`` in another thread, up to the last record that observers know."""

    def __init__(
        self, reader: "SegmentReader", last_sequence: Callable[[], int], in_thread: InThread
    ) -> None:
        self._reader = reader
        self._last_sequence = last_sequence
        self._in_thread = in_thread

    @property
    def next_sequence(self) -> int:
        return self._reader.next_sequence

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        return Deferred.fromCoroutine(self._read_batch()).addErrback(as_store_failed)

    async def _read_batch(self) -> list[tuple[int, Event]]:
        while self.next_sequence <= self._last_sequence():
            events: list[tuple[int, Event]] = await self._in_thread(
                self._reader.read_batch, self._last_sequence()
            )
            if events:
                return events
        return []


class SegmentReader:
    """Reads the events from record ``next_sequence`` on. Blocks.

    Snapshots are not read, because they do not have all events of the segments that they replace.
    """

    def __init__(self, segments: Segments, filesystem: Filesystem, first: int) -> None:
        self.next_sequence = first
        self._segments = segments
        self._filesystem = filesystem
        self._span = SegmentSpan(0, 0, 0)
        self._offset = 0

    def read_batch(self, last: int) -> list[tuple[int, Event]]:
        """Return (sequence, event) of the next events, up to record ``last``; empty if that was reached.

        Raises Lagged if a snapshot has replaced them, OSError, and JournalDamaged.
        """
        return retry_if_compacted(lambda: self._read_batch(last))

    def _read_batch(self, last: int) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = []
        while not events and self.next_sequence <= last:
            if self._span.last is None or self.next_sequence > self._span.last:
                self._find_span()
            events = self._read(last if self._span.last is None else min(last, self._span.last))
        return events

    def _find_span(self) -> None:
        layout = self._segments.layout()
        spans = self._segments.spans(layout)
        if spans and self.next_sequence < spans[0].first:
            raise Lagged(spans[0].first)
        # If two segments begin with the same number, all records of the earlier one were refused.
        span = next((span for span in reversed(spans) if span.first <= self.next_sequence), None)
        if span is None:
            raise JournalDamaged(
                f"record {self.next_sequence} is in no segment of {self._segments.directory}"
            )
        if span.number != self._span.number:
            self._offset = 0
        self._span = span

    def _read(self, last: int) -> list[tuple[int, Event]]:
        """Read on in the segment up to the first events, or to record ``last``."""
        events: list[tuple[int, Event]] = []
        path = self._segments.path(self._span.number)
        descriptor = self._open(path)
        try:
            length = BATCH_BYTES
            while not events and self.next_sequence <= last:
                chunk = self._filesystem.read(descriptor, length, self._offset)
                complete = chunk.rfind(b"\n") + 1
                if not complete and len(chunk) < length:
                    raise JournalDamaged(f"{path} ends before its record {self.next_sequence}")
                self._decode(chunk[:complete], last, events)
                length = BATCH_BYTES if complete else 2 * length
        finally:
            self._filesystem.close(descriptor)
        return events

    def _open(self, path: str) -> int:
        try:
            return self._filesystem.open(path)
        except FileNotFoundError:
            self._span = SegmentSpan(0, 0, 0)
            raise

    def _decode(self, lines: bytes, last: int, events: list[tuple[int, Event]]) -> None:
        start = 0
        while start < len(lines) and self.next_sequence <= last:
            end = lines.index(b"\n", start)
            if sequence_of(lines[start:end]) >= self.next_sequence:
                sequence, record = decode(lines[start:end])
                if sequence != self.next_sequence:
                    path = self._segments.path(self._span.number)
                    raise JournalDamaged(f"{path} has record {sequence}, expected {self.next_sequence}")
                if not isinstance(record, Opened | Snapshot | Compacted):
                    events.append((sequence, record))
                self.next_sequence += 1
            start = end + 1
        self._offset += start


def sequence_of(line: bytes) -> int:
    """Return the number of a line, without verifying its checksum: most lines are skipped by their number."""
    try:
        return int(line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise JournalDamaged("a line has no record number") from None


def as_store_failed(failure: Failure) -> list[tuple[int, Event]]:
    """Translate what a reader raises in a thread to StoreFailed."""
    failure.trap(OSError, JournalDamaged)
    raise StoreFailed(f"the journal cannot be read: {failure.value}")
