"""Finds the events of some jobs, while the journal is compacted."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import Deferred
from zope.interface import implementer

from taskqd.model.events import Compacted, Event, JobEvent
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEventReader, InThread
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.job_blocks import ALL_RECORDS, RecordSpan
from taskqd.storage.journal.reader import BATCH_BYTES, as_store_failed, sequence_of
from taskqd.storage.journal.record_search import find_record
from taskqd.storage.journal.segments import JournalEnd, Segments, SegmentSpan, retry_if_compacted

SEARCH_READ_BYTES = 1024**2
"""Bytes that a search reads at a time, or one line if that is longer."""
MAX_SEARCH_BYTES = 64 * SEARCH_READ_BYTES
"""Bytes that a search reads before it returns to its caller, who may have disconnected meanwhile."""

_COMPACTED = b' {"type":"compacted",'
"""Part of a line that has all events of a job."""


@implementer(IEventReader)
class JobEventReader:
    """Reads batches of a ``JobEventFinder`` in another thread."""

    def __init__(self, finder: "JobEventFinder", in_thread: InThread) -> None:
        self._finder = finder
        self._in_thread = in_thread

    @property
    def next_sequence(self) -> int:
        return self._finder.next_sequence

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        return Deferred.fromCoroutine(self._read_batch()).addErrback(as_store_failed)

    async def _read_batch(self) -> list[tuple[int, Event]]:
        while not self._finder.is_over:
            events: list[tuple[int, Event]] = await self._in_thread(self._finder.read_batch)
            if events:
                return events
        return []


class _Piece(NamedTuple):
    """Whole lines of a file that are to be searched; ``last`` is the last valid record of the file."""

    file: int
    start: int
    end: int
    last: int


class JobEventFinder:
    """Finds the events of some jobs in files, up to the durable ``end`` of the journal. Blocks.

    Only records within ``spans`` are searched. ``is_over`` tells whether all have been returned. If a
    snapshot replaces a file that is still to be searched, the search begins again, for events from
    ``next_sequence`` on.
    """

    def __init__(
        self,
        segments: Segments,
        filesystem: Filesystem,
        job_ids: tuple[int, ...],
        end: JournalEnd,
        spans: Sequence[RecordSpan] = ALL_RECORDS,
    ) -> None:
        self.next_sequence = 0
        self.is_over = False
        self._segments = segments
        self._filesystem = filesystem
        self._ids = frozenset(job_ids)
        self._patterns = [b'"id":%d,' % job_id for job_id in self._ids]
        self._end = end
        self._spans = spans
        self._pieces: list[_Piece] | None = None

    def read_batch(self) -> list[tuple[int, Event]]:
        """Return (sequence, event) of the next events; the list may be empty before the end.

        Raises OSError, and JournalDamaged if a line of these jobs cannot be trusted.
        """
        return retry_if_compacted(self._read_batch)

    def _read_batch(self) -> list[tuple[int, Event]]:
        if self._pieces is None:
            self._pieces = list(self._find_pieces())
        events: list[tuple[int, Event]] = []
        searched = size = 0
        while self._pieces and searched < MAX_SEARCH_BYTES and size < BATCH_BYTES:
            piece = self._pieces[0]
            chunk, is_last = self._read_chunk(piece)
            position = 0
            for start, end in _find_lines(chunk, self._patterns):
                line = chunk[start:end]
                position = end + 1
                if sequence_of(line) >= self.next_sequence or _COMPACTED in line:
                    self._decode(line, piece.last, events)
                    size += len(line)
                    if size >= BATCH_BYTES:
                        break
            else:
                position = len(chunk)
            searched += position
            if is_last and position == len(chunk):
                del self._pieces[0]
            else:
                self._pieces[0] = piece._replace(start=piece.start + position)
        self.is_over = not self._pieces
        return events

    def _find_pieces(self) -> Iterator[_Piece]:
        """Yield the parts of the files that have the spans."""
        for file in self._segments.files(self._segments.layout()):
            if file.number > self._end.segment:
                return
            last = self._end.sequence if file.last is None else min(self._end.sequence, file.last)
            spans = [span for span in self._spans if file.first <= (span.last or last) and span.first <= last]
            if spans:
                yield from self._find_spans(file, last, spans)

    def _find_spans(self, file: SegmentSpan, last: int, spans: Sequence[RecordSpan]) -> Iterator[_Piece]:
        """Yield the parts of a file that have some spans."""
        path = self._segments.path(file.number)
        descriptor = self._open(path)
        try:
            size = self._filesystem.size(path) or 0
            if file.number == self._end.segment:
                size = min(size, self._end.size)
            for span in spans:
                start, end = 0, size
                if span.first > file.first:
                    start = find_record(partial(self._filesystem.read, descriptor), size, span.first)
                if span.last is not None and span.last < last:
                    end = find_record(partial(self._filesystem.read, descriptor), size, span.last + 1)
                yield _Piece(file.number, start, end, last)
        finally:
            self._filesystem.close(descriptor)

    def _read_chunk(self, piece: _Piece) -> tuple[bytes, bool]:
        """Return the next complete lines of a part, and whether they are its last ones."""
        descriptor = self._open(self._segments.path(piece.file))
        try:
            left, wanted = piece.end - piece.start, SEARCH_READ_BYTES
            while True:
                chunk = self._filesystem.read(descriptor, min(wanted, left), piece.start)
                complete, is_last = chunk.rfind(b"\n") + 1, len(chunk) < wanted
                if complete or is_last:
                    return chunk[:complete], is_last
                wanted *= 2
        finally:
            self._filesystem.close(descriptor)

    def _open(self, path: str) -> int:
        try:
            return self._filesystem.open(path)
        except FileNotFoundError:
            self._pieces = None
            raise

    def _decode(self, line: bytes, last: int, events: list[tuple[int, Event]]) -> None:
        sequence, record = decode(line)
        found: Sequence[tuple[int, JobEvent]] = ()
        if isinstance(record, Compacted):
            found = record.numbered(sequence)
        elif isinstance(record, JobEvent):
            found = [(sequence, record)]
        for number, event in found:
            if self.next_sequence <= number <= last and event.id in self._ids:
                events.append((number, event))
                self.next_sequence = number + 1


def _find_lines(content: bytes, patterns: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each line that contains one of ``patterns``; ``end`` excludes the newline."""
    at = 0
    positions = {pattern: content.find(pattern) for pattern in patterns}
    while True:
        found = min((position for position in positions.values() if position >= 0), default=-1)
        if found < 0:
            return
        start, end = content.rfind(b"\n", at, found) + 1, content.find(b"\n", found)
        yield max(start, at), end
        at = end + 1
        for pattern, position in positions.items():
            if 0 <= position < at:
                positions[pattern] = content.find(pattern, at)
