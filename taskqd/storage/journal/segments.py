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

from taskqd.errors import JournalDamaged, Lagged, StoreFailed
from taskqd.model.events import Event, JobEvent, Opened, Record, Snapshot
from taskqd.state.queue_state import Position
from taskqd.storage.filesystem import Disk
from taskqd.storage.journal.codec import decode
from taskqd.storage.journal.replay import Content, Portion, Replay, first_sequence

LONGEST_OPENED = 4096
"""The line that begins a segment has fewer bytes than that."""
LOOKED_AT_ONCE = 1024**2
"""A search reads and looks through this many bytes at a time, or one line where that is longer."""
LOOKED_THROUGH = 64 * LOOKED_AT_ONCE
"""A search that has looked through this many bytes lets its caller decide whether it goes on."""
PORTION = 65_536
"""A reading takes in so many bytes of the journal at a time, or one line where that is longer."""

Found = TypeVar("Found")

_NAME = re.compile(r"([0-9]{8})\.(journal|snapshot)")
_OURS = re.compile(r"[0-9]{8}\.(journal|snapshot|snapshot\.new|moved)")


class Layout(NamedTuple):
    """What counts: the newest snapshot's number, 0 for none, and the segments after it; and what does not."""

    snapshot: int
    segments: list[int]
    obsolete: list[str]


class End(NamedTuple):
    """Where what is durable ends: after so many bytes of a segment, with the record ``sequence``.

    What stands behind it may be half there, and is not looked at.
    """

    segment: int
    size: int
    sequence: int


class Span(NamedTuple):
    """A segment by its number, and the first and last of its records that count; None for its end."""

    number: int
    first: int
    last: int | None


class Segments:
    """The files in a journal's ``directory``.

    In a Position, the number of a snapshot is negative: minus that of the last segment it takes the place of.
    """

    def __init__(self, directory: str, disk: Disk) -> None:
        self.directory = directory
        self._disk = disk
        self._readers: dict[int, int] = {}

    def path(self, number: int) -> str:
        """Return the path of a segment, or of a snapshot where the number is negative."""
        return os.path.join(self.directory, f"{abs(number):08}.{'journal' if number > 0 else 'snapshot'}")

    def moved(self, number: int) -> str:
        """Return the path of the list of what has moved into a snapshot."""
        return os.path.join(self.directory, f"{number:08}.moved")

    def layout(self) -> Layout:
        """Look at what is there; raises JournalDamaged if a segment is missing, and OSError."""
        names = self._disk.names(self.directory)
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
        for number, portion in self.portions(layout, reading):
            if not isinstance(portion.records[0], Opened):  # which is a portion of its own
                events = cast("Sequence[Event]", portion.records)
                yield from zip(events, positions(number, portion), strict=True)

    def portions(self, layout: Layout, reading: Replay) -> Iterator[tuple[int, Portion]]:
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

    def spans(self, layout: Layout) -> list[Span]:
        """Return what counts of each segment; one that was barely begun has nothing."""
        firsts = {number: self.first(number) for number in layout.segments}
        whole = [(number, first) for number, first in firsts.items() if first is not None]
        lasts = [first - 1 for _, first in whole[1:]]
        return [Span(*begin, last) for begin, last in zip(whole, [*lasts, None], strict=False)]

    def content(self, number: int) -> Content:
        """Return a whole segment or snapshot; the latter is mapped, as it may be large and never changes."""
        return self._disk.content(self.path(number)) if number > 0 else self._disk.mapped(self.path(number))

    def first(self, number: int) -> int | None:
        """Return the number of a segment's first record, None if that was not wholly written."""
        head = self._disk.content(self.path(number), LONGEST_OPENED)
        return first_sequence(self.path(number), head, len(head) == LONGEST_OPENED)

    def read(self, position: Position) -> Record:
        """Return the record at a position; raises StoreFailed if it cannot be read back."""
        number, offset, length = position
        try:
            if number not in self._readers:
                self._readers[number] = self._disk.open(self.path(number))
            return decode(self._disk.read(self._readers[number], length, offset))[1]
        except (OSError, JournalDamaged) as why:
            raise StoreFailed(f"{self.path(number)}, byte {offset} cannot be read back: {why}") from None

    def find(self, job_ids: tuple[int, ...], end: End) -> "Finding":
        """Return a reading of all events of some jobs, up to the journal's durable end."""
        return Finding(self, self._disk, job_ids, end)

    def since(self, first: int) -> "Reading":
        """Return a reading of all events from a number on."""
        return Reading(self, self._disk, first)

    def locate(self, position: Position) -> str:
        """Return the file and the line of a position, for a person."""
        number, offset, _ = position
        line = self.content(number)[:offset].count(b"\n") + 1
        return f"{self.path(number)}, line {line}"

    def remove_obsolete(self, number: int) -> int:
        """Remove what the snapshot up to a segment has taken the place of, and return its size; blocks."""
        for name in self.layout().obsolete:
            self._disk.remove(os.path.join(self.directory, name))
        return self._disk.size(self.path(-number)) or 0

    def forget(self, upto: int) -> None:
        """Let go of the files that the snapshot up to a segment has taken the place of."""
        for number in [number for number in self._readers if number <= upto and number != -upto]:
            self._disk.close(self._readers.pop(number))

    def close(self) -> None:
        """Let go of all files."""
        for descriptor in self.release():
            self._disk.close(descriptor)

    def release(self) -> list[int]:
        """Return the descriptors of all files that were read from, which are the caller's to close."""
        descriptors = list(self._readers.values())
        self._readers.clear()
        return descriptors


class Reading:
    """The events from record ``next`` on, a portion at a time, while the journal grows and is condensed.

    A snapshot has not every event of what it took the place of: it is not read from.
    """

    def __init__(self, segments: Segments, disk: Disk, first: int) -> None:
        self.next = first
        self._segments = segments
        self._disk = disk
        self._span = Span(0, 0, 0)
        self._offset = 0

    def portion(self, last: int) -> list[tuple[int, Event]]:
        """Return (sequence, event) of those that follow, up to record ``last``; none if that was reached.

        Blocks. Raises Lagged where they are not there any more, OSError, and JournalDamaged.
        """
        return while_condensed(lambda: self._portion(last))

    def _portion(self, last: int) -> list[tuple[int, Event]]:
        found: list[tuple[int, Event]] = []
        while not found and self.next <= last:
            if self._span.last is None or self.next > self._span.last:
                self._look_for_span()
            found = self._read(last if self._span.last is None else min(last, self._span.last))
        return found

    def _look_for_span(self) -> None:
        layout = self._segments.layout()
        spans = self._segments.spans(layout)
        if spans and self.next < spans[0].first:
            raise Lagged(spans[0].first)
        # Of two that begin with one number, the earlier was refused: it ends before it begins.
        span = next((span for span in reversed(spans) if span.first <= self.next), None)
        if span is None:
            raise JournalDamaged(f"record {self.next} is in no segment of {self._segments.directory}")
        if span.number != self._span.number:
            self._offset = 0
        self._span = span

    def _read(self, last: int) -> list[tuple[int, Event]]:
        """Read on in the segment, to the end of a portion that has any event, or to record ``last``."""
        found: list[tuple[int, Event]] = []
        path = self._segments.path(self._span.number)
        descriptor = self._open(path)
        try:
            length = PORTION
            while not found and self.next <= last:
                piece = self._disk.read(descriptor, length, self._offset)
                whole = piece.rfind(b"\n") + 1
                if not whole and len(piece) < length:
                    raise JournalDamaged(f"{path} ends before its record {self.next}")
                self._take(piece[:whole], last, found)
                length = PORTION if whole else 2 * length
        finally:
            self._disk.close(descriptor)
        return found

    def _open(self, path: str) -> int:
        try:
            return self._disk.open(path)
        except FileNotFoundError:
            self._span = Span(0, 0, 0)
            raise

    def _take(self, lines: bytes, last: int, found: list[tuple[int, Event]]) -> None:
        at = 0
        while at < len(lines) and self.next <= last:
            end = lines.index(b"\n", at)
            if _sequence_of(lines[at:end]) >= self.next:
                sequence, record = decode(lines[at:end])
                if sequence != self.next:
                    raise JournalDamaged(f"record {sequence} stands where {self.next} was expected")
                if not isinstance(record, Opened | Snapshot):
                    found.append((sequence, record))
                self.next += 1
            at = end + 1
        self._offset += at


class Finding:
    """The events of some jobs up to the durable ``end``, a portion at a time, while the journal is condensed.

    ``is_over`` once all were found. Those before number ``next`` have been found already: where a snapshot
    takes the place of a file that was to be read, it is looked through from its beginning.
    """

    def __init__(self, segments: Segments, disk: Disk, job_ids: tuple[int, ...], end: End) -> None:
        self.next = 0
        self.is_over = False
        self._segments = segments
        self._disk = disk
        self._ids = frozenset(job_ids)
        self._words = [b'"id":%d,' % job_id for job_id in self._ids]
        self._end = end
        self._files: list[tuple[int, int]] | None = None
        self._offset = 0

    def portion(self) -> list[tuple[int, Event]]:
        """Return (sequence, event) of some that follow; perhaps none, though it is not over yet.

        Blocks. Raises OSError, and JournalDamaged where a line of these jobs cannot be trusted.
        """
        return while_condensed(self._portion)

    def _portion(self) -> list[tuple[int, Event]]:
        if self._files is None:
            self._files = list(self._layout())
        found: list[tuple[int, Event]] = []
        looked = size = 0
        while self._files and looked < LOOKED_THROUGH and size < PORTION:
            number, last = self._files[0]
            piece, is_last = self._piece(number)
            at = 0
            for start, end in _lines_with(piece, self._words):
                line = piece[start:end]
                at = end + 1
                if _sequence_of(line) >= self.next:
                    self._take(line, last, found)
                    size += len(line)
                    if size >= PORTION:
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
            wanted = LOOKED_AT_ONCE
            while True:
                length = wanted if left is None else min(wanted, left)
                piece = self._disk.read(descriptor, length, self._offset)
                whole, is_last = piece.rfind(b"\n") + 1, len(piece) < wanted
                if whole or is_last:
                    return piece[:whole], is_last
                wanted *= 2
        finally:
            self._disk.close(descriptor)

    def _open(self, path: str) -> int:
        try:
            return self._disk.open(path)
        except FileNotFoundError:
            self._files = None
            raise

    def _take(self, line: bytes, last: int, found: list[tuple[int, Event]]) -> None:
        sequence, record = decode(line)
        if sequence <= last and isinstance(record, JobEvent) and record.id in self._ids:
            found.append((sequence, record))
            self.next = sequence + 1


def positions(number: int, portion: Portion) -> Iterator[Position]:
    """Yield where the records of a portion stand that is in file ``number``."""
    lengths = [*map(len, portion.lines)]
    offsets = map(add, accumulate(lengths, initial=portion.start), count())
    return zip(repeat(number), offsets, lengths, strict=False)


def while_condensed(look: Callable[[], Found]) -> Found:
    """Return what ``look`` finds, looking again where a snapshot has just taken a file's place."""
    while True:
        try:
            return look()
        except FileNotFoundError as why:
            if not _NAME.fullmatch(os.path.basename(why.filename or "")):
                raise


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
