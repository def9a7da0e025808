"""The files of a journal: which are valid, in what order they are read, and where each record is.

``NNNNNNNN.journal`` are the segments, numbered from 1. ``NNNNNNNN.snapshot`` replaces all segments up to that
number and all earlier snapshots; replaced files that have not been removed yet are ignored.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count, repeat
from operator import add
from typing import NamedTuple, TypeVar, cast

from taskqd.errors import JournalDamaged, StoreFailed
from taskqd.model.events import Opened, Record, RecordPosition, Replayed
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.replay import Content, RecordBatch, Replay, first_sequence

MAX_OPENED_BYTES = 4096
"""Bytes. The first line of a segment is shorter than this, so one read of this size has all of it."""

Value = TypeVar("Value")

_VALID_NAME = re.compile(r"([0-9]{8})\.(journal|snapshot)")
_JOURNAL_FILE = re.compile(r"[0-9]{8}\.(journal|snapshot|snapshot\.new|moved)")


class Layout(NamedTuple):
    """The newest snapshot (0 if none), the segments after it, and the names of the files that it replaces."""

    snapshot: int
    segments: list[int]
    obsolete: list[str]


class JournalEnd(NamedTuple):
    """The end of the durable records: the size of the last segment up to there, and the last record's number.

    Bytes after it may belong to a write in progress.
    """

    segment: int
    size: int
    sequence: int


class SegmentSpan(NamedTuple):
    """A segment, and its first and last valid record; ``last`` is None for the last segment."""

    number: int
    first: int
    last: int | None


class Segments:
    """The files in a journal's ``directory``.

    A snapshot has a negative number: minus that of the last segment that it replaces.
    """

    def __init__(self, directory: str, filesystem: Filesystem) -> None:
        self.directory = directory
        self._filesystem = filesystem
        self._descriptors: dict[int, int] = {}

    def path(self, number: int) -> str:
        """Return the path of a segment, or of a snapshot if the number is negative."""
        return os.path.join(self.directory, f"{abs(number):08}.{'journal' if number > 0 else 'snapshot'}")

    def relocations_path(self, number: int) -> str:
        """Return the path of the list of records whose position has moved into snapshot ``number``."""
        return os.path.join(self.directory, f"{number:08}.moved")

    def layout(self) -> Layout:
        """List the files; raises JournalDamaged if a segment is missing, and OSError."""
        names = self._filesystem.list_directory(self.directory)
        found = [(int(match[1]), match[2]) for name in names if (match := _VALID_NAME.fullmatch(name))]
        snapshot = max((number for number, kind in found if kind == "snapshot"), default=0)
        segments = sorted(number for number, kind in found if kind == "journal" and number > snapshot)
        for expected, number in enumerate(segments, snapshot + 1):
            if number != expected:
                raise JournalDamaged(
                    f"{self.path(expected)} is missing, but segment {number} is there; "
                    "restore the file from a copy"
                )
        valid = {os.path.basename(self.path(number)) for number in [-snapshot, *segments] if number}
        known = [name for name in names if _JOURNAL_FILE.fullmatch(name)]
        return Layout(snapshot, segments, [name for name in known if name not in valid])

    def replay(
        self, layout: Layout, replay: Replay, on_batch: Callable[[RecordBatch], object] = lambda _: None
    ) -> Iterator[Sequence[tuple[Replayed, RecordPosition]]]:
        """Yield all valid events with their positions, oldest first, many at a time.

        ``replay`` tells afterwards where the journal ends. ``on_batch`` is called with the records before
        they are yielded.
        """
        for number, batch in self.batches(layout, replay):
            if not isinstance(batch.records[0], Opened):  # it is the only record of its batch
                on_batch(batch)
                events = cast("Sequence[Replayed]", batch.records)
                yield list(zip(events, positions(number, batch), strict=True))

    def batches(self, layout: Layout, replay: Replay) -> Iterator[tuple[int, RecordBatch]]:
        """Yield the number of a file and records of it, for all valid records but the first of a snapshot."""
        for number, last in self.bounds(layout):
            path = self.path(number)
            content = self.content(number)
            if number < 0:
                batches = replay.read_snapshot(path, content)
            else:
                batches = replay.read_segment(path, content, last)
            for batch in batches:
                yield number, batch

    def bounds(self, layout: Layout) -> Iterator[tuple[int, int | None]]:
        """Yield the number of each valid file and its last valid record, None if all of it is valid."""
        for file in self.files(layout):
            yield file.number, file.last if file.number > 0 else None

    def files(self, layout: Layout) -> Iterator[SegmentSpan]:
        """Yield each valid file with its first and last valid record; a snapshot begins with 0."""
        spans = self.spans(layout)
        if layout.snapshot:
            yield SegmentSpan(-layout.snapshot, 0, spans[0].first - 1 if spans else None)
        yield from spans

    def spans(self, layout: Layout) -> list[SegmentSpan]:
        """Return the valid records of each segment; a segment without a complete first line has none.

        A record is valid if no later segment begins with its number or a lower one (journal.py).
        """
        firsts = {number: self.first_sequence(number) for number in layout.segments}
        begun = [(number, first) for number, first in firsts.items() if first is not None]
        lasts = [first - 1 for _, first in begun[1:]]
        return [SegmentSpan(*start, last) for start, last in zip(begun, [*lasts, None], strict=False)]

    def content(self, number: int) -> Content:
        """Return the content of a file. A snapshot is mapped, since it may be large and never changes."""
        return (
            self._filesystem.read_file(self.path(number))
            if number > 0
            else self._filesystem.map_file(self.path(number))
        )

    def first_sequence(self, number: int) -> int | None:
        """Return the number of a segment's first record, None if that was not written completely."""
        head = self._filesystem.read_file(self.path(number), MAX_OPENED_BYTES)
        return first_sequence(self.path(number), head, len(head) == MAX_OPENED_BYTES)

    def read(self, position: RecordPosition) -> Record:
        """Return the record at a position; raises StoreFailed if it cannot be read back."""
        number, offset, length = position
        try:
            if number not in self._descriptors:
                self._descriptors[number] = self._filesystem.open(self.path(number))
            return decode(self._filesystem.read(self._descriptors[number], length, offset))[1]
        except (OSError, JournalDamaged) as error:
            raise StoreFailed(f"{self.path(number)}, byte {offset} cannot be read: {error}") from None

    def locate(self, position: RecordPosition) -> str:
        """Return the file and the line of a position, for an error message."""
        number, offset, _ = position
        line = self.content(number)[:offset].count(b"\n") + 1
        return f"{self.path(number)}, line {line}"

    def remove_obsolete(self, number: int) -> int:
        """Remove the files that a snapshot replaces, and return the size of the snapshot; blocks."""
        for name in self.layout().obsolete:
            self._filesystem.remove(os.path.join(self.directory, name))
        return self._filesystem.size(self.path(-number)) or 0

    def close_replaced(self, number: int) -> None:
        """Close the files up to segment ``number``, which a snapshot replaces."""
        for replaced in [one for one in self._descriptors if one <= number and one != -number]:
            self._filesystem.close(self._descriptors.pop(replaced))

    def close(self) -> None:
        """Close all files."""
        for descriptor in self.detach_descriptors():
            self._filesystem.close(descriptor)

    def detach_descriptors(self) -> list[int]:
        """Return the descriptors of all open files, which the caller must close."""
        descriptors = list(self._descriptors.values())
        self._descriptors.clear()
        return descriptors


def positions(number: int, batch: RecordBatch) -> Iterator[RecordPosition]:
    """Yield the positions of the records of a batch in file ``number``."""
    lengths = [*map(len, batch.lines)]
    offsets = map(add, accumulate(lengths, initial=batch.start), count())
    return zip(repeat(number), offsets, lengths, strict=False)


def retry_if_compacted(read: Callable[[], Value]) -> Value:
    """Return the result of ``read``; call it again if a file has just been replaced by a snapshot."""
    while True:
        try:
            return read()
        except FileNotFoundError as error:
            if not _VALID_NAME.fullmatch(os.path.basename(error.filename or "")):
                raise
