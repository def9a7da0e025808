"""Reads events back from the segments: all from a number on, or those of some jobs."""

from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import JournalDamaged, Lagged, StoreFailed
from taskqd.model.events import Event, JobEvent, Opened, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEventReader, InThread
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.segments import JournalEnd, Segments, SegmentSpan, retry_if_compacted

SEARCH_READ_BYTES = 1024**2
"""A search reads and looks through this many bytes at a time, or one line where that is longer."""
MAX_SEARCH_BYTES = 64 * SEARCH_READ_BYTES
"""A search that has looked through this many bytes lets its caller decide whether it goes on."""
BATCH_BYTES = 65_536
"""A reading takes in so many bytes of the journal at a time, or one line where that is longer."""


class SegmentReader:
    """The events from record ``next`` on, a portion at a time, while the journal grows and is condensed.

    A snapshot has not every event of what it took the place of: it is not read from.
    """

    def __init__(self, segments: Segments, filesystem: Filesystem, first: int) -> None:
        self.next_sequence = first
        self._segments = segments
        self._filesystem = filesystem
        self._span = SegmentSpan(0, 0, 0)
        self._offset = 0

    def read_batch(self, last: int) -> list[tuple[int, Event]]:
        """Return (sequence, event) of those that follow, up to record ``last``; none if that was reached.

        Blocks. Raises Lagged where they are not there any more, OSError, and JournalDamaged.
        """
        return retry_if_compacted(lambda: self._portion(last))

    def _portion(self, last: int) -> list[tuple[int, Event]]:
        found: list[tuple[int, Event]] = []
        while not found and self.next_sequence <= last:
            if self._span.last is None or self.next_sequence > self._span.last:
                self._look_for_span()
            found = self._read(last if self._span.last is None else min(last, self._span.last))
        return found

    def _look_for_span(self) -> None:
        layout = self._segments.layout()
        spans = self._segments.spans(layout)
        if spans and self.next_sequence < spans[0].first:
            raise Lagged(spans[0].first)
        # Of two that begin with one number, the earlier was refused: it ends before it begins.
        span = next((span for span in reversed(spans) if span.first <= self.next_sequence), None)
        if span is None:
            raise JournalDamaged(
                f"record {self.next_sequence} is in no segment of {self._segments.directory}"
            )
        if span.number != self._span.number:
            self._offset = 0
        self._span = span

    def _read(self, last: int) -> list[tuple[int, Event]]:
        """Read on in the segment, to the end of a portion that has any event, or to record ``last``."""
        found: list[tuple[int, Event]] = []
        path = self._segments.path(self._span.number)
        descriptor = self._open(path)
        try:
            length = BATCH_BYTES
            while not found and self.next_sequence <= last:
                piece = self._filesystem.read(descriptor, length, self._offset)
                whole = piece.rfind(b"\n") + 1
                if not whole and len(piece) < length:
                    raise JournalDamaged(f"{path} ends before its record {self.next_sequence}")
                self._take(piece[:whole], last, found)
                length = BATCH_BYTES if whole else 2 * length
        finally:
            self._filesystem.close(descriptor)
        return found

    def _open(self, path: str) -> int:
        try:
            return self._filesystem.open(path)
        except FileNotFoundError:
            self._span = SegmentSpan(0, 0, 0)
            raise

    def _take(self, lines: bytes, last: int, found: list[tuple[int, Event]]) -> None:
        at = 0
        while at < len(lines) and self.next_sequence <= last:
            end = lines.index(b"\n", at)
            if _sequence_of(lines[at:end]) >= self.next_sequence:
                sequence, record = decode(lines[at:end])
                if sequence != self.next_sequence:
                    raise JournalDamaged(f"record {sequence} stands where {self.next_sequence} was expected")
                if not isinstance(record, Opened | Snapshot):
                    found.append((sequence, record))
                self.next_sequence += 1
            at = end + 1
        self._offset += at


class JobEventFinder:
    """The events of some jobs up to the durable ``end``, a portion at a time, while the journal is condensed.

    ``is_over`` once all were found. Those before number ``next`` have been found already: where a snapshot
    takes the place of a file that was to be read, it is looked through from its beginning.
    """

    def __init__(
        self, segments: Segments, filesystem: Filesystem, job_ids: tuple[int, ...], end: JournalEnd
    ) -> None:
        self.next_sequence = 0
        self.is_over = False
        self._segments = segments
        self._filesystem = filesystem
        self._ids = frozenset(job_ids)
        self._words = [b'"id":%d,' % job_id for job_id in self._ids]
        self._end = end
        self._files: list[tuple[int, int]] | None = None
        self._offset = 0

    def read_batch(self) -> list[tuple[int, Event]]:
        """Return (sequence, event) of some that follow; perhaps none, though it is not over yet.

        Blocks. Raises OSError, and JournalDamaged where a line of these jobs cannot be trusted.
        """
        return retry_if_compacted(self._portion)

    def _portion(self) -> list[tuple[int, Event]]:
        if self._files is None:
            self._files = list(self._layout())
        found: list[tuple[int, Event]] = []
        looked = size = 0
        while self._files and looked < MAX_SEARCH_BYTES and size < BATCH_BYTES:
            number, last = self._files[0]
            piece, is_last = self._piece(number)
            at = 0
            for start, end in _lines_with(piece, self._words):
                line = piece[start:end]
                at = end + 1
                if _sequence_of(line) >= self.next_sequence:
                    self._take(line, last, found)
                    size += len(line)
                    if size >= BATCH_BYTES:
                        break
            else:
                at = len(piece)
            looked += at
            self._offset += at
            if is_last and at == len(piece):
                del self._files[0]
                self._offset = 0
        self.is_over = not self._files
        return found

    def _layout(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each file that counts, and its last record that does."""
        self._offset = 0
        for number, last in self._segments.bounds(self._segments.layout()):
            if number <= self._end.segment:
                yield number, self._end.sequence if last is None else min(self._end.sequence, last)

    def _piece(self, number: int) -> tuple[bytes, bool]:
        """Return the whole lines that are next in a file, and whether they are its last."""
        descriptor = self._open(self._segments.path(number))
        try:
            left = self._end.size - self._offset if number == self._end.segment else None
            wanted = SEARCH_READ_BYTES
            while True:
                length = wanted if left is None else min(wanted, left)
                piece = self._filesystem.read(descriptor, length, self._offset)
                whole, is_last = piece.rfind(b"\n") + 1, len(piece) < wanted
                if whole or is_last:
                    return piece[:whole], is_last
                wanted *= 2
        finally:
            self._filesystem.close(descriptor)

    def _open(self, path: str) -> int:
        try:
            return self._filesystem.open(path)
        except FileNotFoundError:
            self._files = None
            raise

    def _take(self, line: bytes, last: int, found: list[tuple[int, Event]]) -> None:
        sequence, record = decode(line)
        if sequence <= last and isinstance(record, JobEvent) and record.id in self._ids:
            found.append((sequence, record))
            self.next_sequence = sequence + 1


def _sequence_of(line: bytes) -> int:
    """Return the number of a line that is perhaps not wanted, so without a look at its checksum."""
    try:
        return int(line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise JournalDamaged("a line has no number") from None


def _lines_with(content: bytes, words: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where each whole line begins and ends, without its newline, that has one of ``words`` in it."""
    at = 0
    places = {word: content.find(word) for word in words}
    while True:
        found = min((place for place in places.values() if place >= 0), default=-1)
        if found < 0:
            return
        start, end = content.rfind(b"\n", at, found) + 1, content.find(b"\n", found)
        yield max(start, at), end
        at = end + 1
        for word, place in places.items():
            if 0 <= place < at:
                places[word] = content.find(word, at)


@implementer(IEventReader)
class EventReader:
    """The events of a store from a number on; the blocking part is in another thread."""

    def __init__(self, reading: SegmentReader, last_sequence: Callable[[], int], in_thread: InThread) -> None:
        self._reading = reading
        self._last_sequence = last_sequence
        self._in_thread = in_thread

    @property
    def next_sequence(self) -> int:
        return self._reading.next_sequence

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        return Deferred.fromCoroutine(self._portion()).addErrback(_not_found)

    async def _portion(self) -> list[tuple[int, Event]]:
        while self.next_sequence <= self._last_sequence():
            found: list[tuple[int, Event]] = await self._in_thread(
                self._reading.read_batch, self._last_sequence()
            )
            if found:
                return found
        return []


@implementer(IEventReader)
class JobEventReader:
    """The events of some jobs that a store has; the blocking part is in another thread."""

    def __init__(self, finding: JobEventFinder, in_thread: InThread) -> None:
        self._finding = finding
        self._in_thread = in_thread

    @property
    def next_sequence(self) -> int:
        return self._finding.next_sequence

    def read_batch(self) -> "Deferred[list[tuple[int, Event]]]":
        return Deferred.fromCoroutine(self._portion()).addErrback(_not_found)

    async def _portion(self) -> list[tuple[int, Event]]:
        while not self._finding.is_over:
            found: list[tuple[int, Event]] = await self._in_thread(self._finding.read_batch)
            if found:
                return found
        return []


def _not_found(failure: Failure) -> list[tuple[int, Event]]:
    failure.trap(OSError, JournalDamaged)
    raise StoreFailed(f"the journal cannot be read back: {failure.value}")
