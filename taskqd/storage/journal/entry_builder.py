"""Numbers and encodes records, and assigns them to segments, before they are written."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from taskqd.model.events import Record
from taskqd.storage.journal.codec import encode_all
from taskqd.storage.journal.entry_writer import Entry, EntryKind
from taskqd.storage.journal.segments import JournalEnd


class EntryBuilder:
    """Builds entries that follow each other, whether those before are durable yet or not.

    ``segment`` and ``size`` are where the next entry goes, ``sequence`` is the number of the last record.
    """

    def __init__(self) -> None:
        self.segment = 0
        self.size = 0
        self.sequence = 0
        self._sealed: dict[int, int] = {}  # number of an earlier segment -> its size

    @property
    def sealed_bytes(self) -> int:
        """The bytes in earlier segments that no snapshot replaces."""
        return sum(self._sealed.values())

    def resume_at(self, end: JournalEnd, segments: dict[int, int]) -> None:
        """Continue after the records that were there at the start; ``segments`` has the size of each."""
        self.segment, self.size, self.sequence = end
        self._sealed = segments

    def build(self, records: Sequence[Record], kind: EntryKind, continues_batch: bool) -> Entry:
        """Return the next entry; ``continues_batch`` tells that other records are in its batch before it."""
        first = self.sequence + 1
        lines = encode_all(records, first, continues_batch)
        position = (self.segment, self.size, len(lines[0]) - 1)
        joined = b"".join(lines)
        self.sequence += len(lines)
        self.size += len(joined)
        return Entry(records, first, joined, position, Deferred(), kind)

    def rotate(self) -> None:
        """Seal the current segment; entries go to the next one."""
        self._sealed[self.segment] = self.size
        self.segment += 1
        self.size = 0

    def rewind(self, end: JournalEnd, last_created: int) -> None:
        """Forget the entries that were refused: those after the durable ``end`` of the journal.

        ``last_created`` is the last segment that has a file. All its records may have been refused.
        """
        self.sequence, self.segment = end.sequence, last_created
        self.size = end.size if end.segment == last_created else 0
        self._sealed = {number: size for number, size in self._sealed.items() if number < last_created}

    def forget(self, number: int) -> None:
        """Forget the sizes of all segments up to ``number``: a snapshot replaces them."""
        self._sealed = {segment: size for segment, size in self._sealed.items() if segment > number}
