"""The files of a journal, for reading: which there are, in what order they count, and what stands where.

``NNNNNNNN.journal`` are the segments, counted up from 1. ``NNNNNNNN.snapshot`` takes the place of all
segments up to that number; what it takes the place of may still be there, and does not count any more.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count, repeat
from operator import add
from typing import NamedTuple, TypeVar, cast

from taskqd.errors import JournalDamaged, StoreFailed
from taskqd.model.events import Event, Opened, Position, Record
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.replay import Content, RecordBatch, Replay, first_sequence

MAX_OPENED_BYTES = 4096
"""The line that begins a segment has fewer bytes than that."""


Value = TypeVar("Value")

_NAME = re.compile(r"([0-9]{8})\.(journal|snapshot)")
_OURS = re.compile(r"[0-9]{8}\.(journal|snapshot|snapshot\.new|moved)")


class Layout(NamedTuple):
    """What counts: the newest snapshot's number, 0 for none, and the segments after it; and what does not."""

    snapshot: int
    segments: list[int]
    obsolete: list[str]


class JournalEnd(NamedTuple):
    """Where what is durable ends: after so many bytes of a segment, with the record ``sequence``.

    What stands behind it may be half there, and is not looked at.
    """

    segment: int
    size: int
    sequence: int


class SegmentSpan(NamedTuple):
    """A segment by its number, and the first and last of its records that count; None for its end."""

    number: int
    first: int
    last: int | None


class Segments:
    """The files in a journal's ``directory``.

    In a Position, the number of a snapshot is negative: minus that of the last segment it takes the place of.
    """

    def __init__(self, directory: str, filesystem: Filesystem) -> None:
        self.directory = directory
        self._filesystem = filesystem
        self._readers: dict[int, int] = {}

    def path(self, number: int) -> str:
        """Return the path of a segment, or of a snapshot where the number is negative."""
        return os.path.join(self.directory, f"{abs(number):08}.{'journal' if number > 0 else 'snapshot'}")

    def relocations_path(self, number: int) -> str:
        """Return the path of the list of what has moved into a snapshot."""
        return os.path.join(self.directory, f"{number:08}.moved")

    def layout(self) -> Layout:
        """Look at what is there; raises JournalDamaged if a segment is missing, and OSError."""
        names = self._filesystem.list_directory(self.directory)
        found = [(int(form[1]), form[2]) for name in names if (form := _NAME.fullmatch(name))]
        snapshot = max((number for number, kind in found if kind == "snapshot"), default=0)
        segments = sorted(number for number, kind in found if kind == "journal" and number > snapshot)
        for expected, number in enumerate(segments, snapshot + 1):
            if number != expected:
                raise JournalDamaged(f"{self.path(expected)} is missing, but a later segment is there")
        counting = {os.path.basename(self.path(number)) for number in [-snapshot, *segments] if number}
        ours = [name for name in names if _OURS.fullmatch(name)]
        return Layout(snapshot, segments, [name for name in ours if name not in counting])

    def replay(self, layout: Layout, reading: Replay) -> Iterator[tuple[Event, Position]]:
        """Yield all events that count, oldest first; ``reading`` tells afterwards where the journal ends."""
        for number, portion in self.batches(layout, reading):
            if not isinstance(portion.records[0], Opened):  # which is a portion of its own
                events = cast("Sequence[Event]", portion.records)
                yield from zip(events, positions(number, portion), strict=True)

    def batches(self, layout: Layout, reading: Replay) -> Iterator[tuple[int, RecordBatch]]:
        """Yield all records that count but the one that begins a snapshot, with the number of their file."""
        for number, upto in self.bounds(layout):
            path = self.path(number)
            content = self.content(number)
            portions = (
                reading.read_snapshot(path, content) if number < 0 else reading.read(path, content, upto)
            )
            for portion in portions:
                yield number, portion

    def bounds(self, layout: Layout) -> Iterator[tuple[int, int | None]]:
        """Yield the number of each file that counts, and its last record that does, None for its end."""
        if layout.snapshot:
            yield -layout.snapshot, None
        for span in self.spans(layout):
            yield span.number, span.last

    def spans(self, layout: Layout) -> list[SegmentSpan]:
        """Return what counts of each segment; one that was barely begun has nothing."""
        firsts = {number: self.first_sequence(number) for number in layout.segments}
        whole = [(number, first) for number, first in firsts.items() if first is not None]
        lasts = [first - 1 for _, first in whole[1:]]
        return [SegmentSpan(*begin, last) for begin, last in zip(whole, [*lasts, None], strict=False)]

    def content(self, number: int) -> Content:
        """Return a whole segment or snapshot; the latter is mapped, as it may be large and never changes."""
        return (
            self._filesystem.read_file(self.path(number))
            if number > 0
            else self._filesystem.map_file(self.path(number))
        )

    def first_sequence(self, number: int) -> int | None:
        """Return the number of a segment's first record, None if that was not wholly written."""
        head = self._filesystem.read_file(self.path(number), MAX_OPENED_BYTES)
        return first_sequence(self.path(number), head, len(head) == MAX_OPENED_BYTES)

    def read(self, position: Position) -> Record:
        """Return the record at a position; raises StoreFailed if it cannot be read back."""
        number, offset, length = position
        try:
            if number not in self._readers:
                self._readers[number] = self._filesystem.open(self.path(number))
            return decode(self._filesystem.read(self._readers[number], length, offset))[1]
        except (OSError, JournalDamaged) as why:
            raise StoreFailed(f"{self.path(number)}, byte {offset} cannot be read back: {why}") from None

    def locate(self, position: Position) -> str:
        """Return the file and the line of a position, for a person."""
        number, offset, _ = position
        line = self.content(number)[:offset].count(b"\n") + 1
        return f"{self.path(number)}, line {line}"

    def remove_obsolete(self, number: int) -> int:
        """Remove what the snapshot up to a segment has taken the place of, and return its size; blocks."""
        for name in self.layout().obsolete:
            self._filesystem.remove(os.path.join(self.directory, name))
        return self._filesystem.size(self.path(-number)) or 0

    def close_replaced(self, upto: int) -> None:
        """Let go of the files that the snapshot up to a segment has taken the place of."""
        for number in [number for number in self._readers if number <= upto and number != -upto]:
            self._filesystem.close(self._readers.pop(number))

    def close(self) -> None:
        """Let go of all files."""
        for descriptor in self.detach_descriptors():
            self._filesystem.close(descriptor)

    def detach_descriptors(self) -> list[int]:
        """Return the descriptors of all files that were read from, which are the caller's to close."""
        descriptors = list(self._readers.values())
        self._readers.clear()
        return descriptors


def positions(number: int, portion: RecordBatch) -> Iterator[Position]:
    """Yield where the records of a portion stand that is in file ``number``."""
    lengths = [*map(len, portion.lines)]
    offsets = map(add, accumulate(lengths, initial=portion.start), count())
    return zip(repeat(number), offsets, lengths, strict=False)


def retry_if_compacted(look: Callable[[], Value]) -> Value:
    """Return what ``look`` finds, looking again where a snapshot has just taken a file's place."""
    while True:
        try:
            return look()
        except FileNotFoundError as why:
            if not _NAME.fullmatch(os.path.basename(why.filename or "")):
                raise
