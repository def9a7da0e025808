"""Writes batches of journal entries to segments; the part of the journal that runs in the commit thread."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from twisted.internet.defer import Deferred

from taskqd.model.events import Record, RecordPosition
from taskqd.storage.journal.segment_writer import SegmentWriter


class EntryKind(Enum):
    """The segment that an entry is written to."""

    RECORDS = "the current segment"
    ROTATION = "the next segment, because the current one is full"
    RECOVERY = "the next segment, because a write to the current one has failed"


class Entry(NamedTuple):
    """Records that are written together: all of them become durable, or none.

    ``sequence`` and ``position`` are those of the first record, ``lines`` are all records encoded.
    """

    records: Sequence[Record]
    sequence: int
    lines: bytes
    position: RecordPosition
    durable: "Deferred[RecordPosition]"
    kind: EntryKind


class EntryWriter:
    """Writes entries with a ``SegmentWriter``, and refuses them after an error until one recovers."""

    def __init__(self, segment_writer: SegmentWriter) -> None:
        self.is_broken = False
        self._segment_writer = segment_writer

    def write(self, entries: list[Entry]) -> None:
        """Make a batch of entries durable.

        After an error, the entries before ``segment_writer.end`` are in the journal, and no others ever will
        be. An entry after a failed one is refused unless its kind is RECOVERY: the kernel may have dropped
        pages that it could not write, so nothing may be appended to that segment.
        """
        if self.is_broken and entries[0].kind is not EntryKind.RECOVERY:
            raise OSError("an earlier write failed")
        try:
            current: list[Entry] = []
            for entry in entries:
                if entry.kind is not EntryKind.RECORDS:
                    self._write_to_segment(current)
                    current = []
                    self._segment_writer.begin_segment(entry.position[0])
                current.append(entry)
            self._write_to_segment(current)
        except Exception:
            if not self.is_broken:
                self.is_broken = True
                self._segment_writer.discard_failed()
            raise
        self.is_broken = False

    def _write_to_segment(self, entries: list[Entry]) -> None:
        if entries:
            lines = b"".join([entry.lines for entry in entries])
            self._segment_writer.write(lines, sum([len(entry.records) for entry in entries]))
