"""Finds the events of some jobs, while the journal is compacted."""

from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from taskqd.model.events import Compacted, Event, JobEvent
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEventReader, InThread
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.reader import BATCH_BYTES, as_store_failed, sequence_of
from taskqd.storage.journal.segments import JournalEnd, Segments, retry_if_compacted

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


class JobEventFinder:
    """Finds the events of some jobs in files, up to the durable ``end`` of the journal. Blocks.

    ``is_over`` tells whether all have been returned. If a snapshot replaces a file that is still to be
    searched, the snapshot is searched from its beginning for events from ``next_sequence`` on.
    """

    def __init__(
        self, segments: Segments, filesystem: Filesystem, job_ids: tuple[int, ...], end: JournalEnd
    ) -> None:
        self.next_sequence = 0
        self.is_over = False
        self._segments = segments
        self._filesystem = filesystem
        self._ids = frozenset(job_ids)
        self._patterns = [b'"id":%d,' % job_id for job_id in self._ids]
        self._end = end
        self._files: list[tuple[int, int]] | None = None  # to search: number, last valid record
        self._offset = 0

    def read_batch(self) -> list[tuple[int, Event]]:
        """Return (sequence, event) of the next events; the list may be empty before the end.

        Raises OSError, and JournalDamaged if a line of these jobs cannot be trusted.
        """
        return retry_if_compacted(self._read_batch)

    def _read_batch(self) -> list[tuple[int, Event]]:
        if self._files is None:
            self._files = list(self._find_files())
        events: list[tuple[int, Event]] = []
        searched = size = 0
        while self._files and searched < MAX_SEARCH_BYTES and size < BATCH_BYTES:
            number, last = self._files[0]
            chunk, is_last = self._read_chunk(number)
            position = 0
            for start, end in _find_lines(chunk, self._patterns):
                line = chunk[start:end]
                position = end + 1
                if sequence_of(line) >= self.next_sequence or _COMPACTED in line:
                    self._decode(line, last, events)
                    size += len(line)
                    if size >= BATCH_BYTES:
                        break
            else:
                position = len(chunk)
            searched += position
            self._offset += position
            if is_last and position == len(chunk):
                del self._files[0]
                self._offset = 0
        self.is_over = not self._files
        return events

    def _find_files(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each valid file, and its last valid record."""
        self._offset = 0
        for number, last in self._segments.bounds(self._segments.layout()):
            if number <= self._end.segment:
                yield number, self._end.sequence if last is None else min(self._end.sequence, last)

    def _read_chunk(self, number: int) -> tuple[bytes, bool]:
        """Return the next complete lines of a file, and whether they are its last ones."""
        descriptor = self._open(self._segments.path(number))
        try:
            left = self._end.size - self._offset if number == self._end.segment else None
            wanted = SEARCH_READ_BYTES
            while True:
                length = wanted if left is None else min(wanted, left)
                chunk = self._filesystem.read(descriptor, length, self._offset)
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
            self._files = None
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
