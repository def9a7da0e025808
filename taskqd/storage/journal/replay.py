"""The journal, for reading back: which lines may follow each other, and what is refused.

Lines are taken in many at a time, which is fast. Only where one of them is not what has to follow, each is
looked at by itself, and it is said which it is and why.
"""

from collections.abc import Iterator, Sequence
from operator import lt
from typing import NamedTuple, Protocol, TypeVar, overload

from taskqd.errors import JournalDamaged
from taskqd.model.events import FORMAT, Opened, Record, Snapshot
from taskqd.storage.journal.codec import begins_batch, decode, decode_events

BATCH_BYTES = 65_536
"""So many bytes of lines are taken in at once, or one line where that is longer."""

FORMAT_WITH_BLANKS = 4
"""Since this format the last segment may have blank lines behind its records, and batches are marked."""

Beginning = TypeVar("Beginning", Opened, Snapshot)
"""What begins a file."""


class Content(Protocol):
    """A whole file as bytes, whether it was read or is mapped into memory."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...
    def rfind(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


class RecordBatch(NamedTuple):
    """Records that follow each other in a file, with their numbers, and their lines without the newline.

    ``start`` is where the first line begins, in bytes.
    """

    start: int
    lines: Sequence[bytes]
    sequences: Sequence[int]
    records: Sequence[Record]

    @property
    def end(self) -> int:
        """Where the last line has ended, its newline included."""
        return self.start + sum(map(len, self.lines)) + len(self.lines)


class _Counted:
    """The order of a segment's records: each has the number behind the one before, up to ``last`` if any."""

    def __init__(self, last: int | None) -> None:
        self._last = last

    def is_over(self, before: int) -> bool:
        """Whether nothing that comes after a record counts any more."""
        return self._last is not None and before >= self._last

    def fits(self, before: int, sequences: Sequence[int]) -> bool:
        """Whether the numbers of some events may come after a record."""
        is_within = self._last is None or sequences[-1] <= self._last
        return is_within and sequences == [*range(before + 1, before + 1 + len(sequences))]

    def check(self, before: int, sequence: int, record: Record) -> None:
        """Raise JournalDamaged where a record may not come after another."""
        self.check_number(before, sequence)
        if isinstance(record, Opened | Snapshot):
            raise JournalDamaged("a segment has one Opened record, its first")

    def check_number(self, before: int, sequence: int) -> None:
        """Raise JournalDamaged where a number may not come after another."""
        if sequence != before + 1:
            raise JournalDamaged(f"it is record {sequence} where {before + 1} was expected")


class _Ascending:
    """The order of a snapshot's records: with gaps, up to number ``last``. The methods are those above."""

    def __init__(self, last: int) -> None:
        self._last = last

    def is_over(self, _: int) -> bool:
        return False

    def fits(self, before: int, sequences: Sequence[int]) -> bool:
        is_within = before < sequences[0] and sequences[-1] <= self._last
        return is_within and all(map(lt, sequences, sequences[1:]))

    def check(self, before: int, sequence: int, record: Record) -> None:
        if not before < sequence <= self._last or isinstance(record, Opened | Snapshot):
            raise JournalDamaged(f"record {sequence} cannot follow {before} in a snapshot of {self._last}")


class Replay:
    """Reads a snapshot and segments in order and yields their records, refusing whatever cannot be trusted.

    ``sequence`` is the number of the last record that was read, ``opened`` the last Opened or Snapshot;
    ``good_bytes`` is how much of the last file was whole, and ``torn_bytes`` how much behind that was being
    written when a crash came; the rest is blank. Everything that does not fit raises JournalDamaged with the
    file's name and the line's number, once all before it has been yielded.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.opened: Opened | Snapshot | None = None
        self.good_bytes = 0
        self.torn_bytes = 0
        self._good_lines = 0

    def read_snapshot(self, name: str, content: Content) -> Iterator[RecordBatch]:
        """Yield the records of a snapshot, but for the one that begins it."""
        self.good_bytes = self._good_lines = 0
        try:
            first, snapshot = _first(content, Snapshot)
            last = self._take(first).sequences[0]
            self.sequence = 0  # those that follow are older than the line that begins it
            yield from self._rest(content, _Ascending(last))
            found = self._good_lines - 1
            if found != snapshot.records:
                raise JournalDamaged(f"{snapshot.records} records were expected, {found} are there")
            self.sequence = last
        except JournalDamaged as why:
            raise self._refusal(name, why) from None

    def read(self, name: str, content: Content, upto: int | None) -> Iterator[RecordBatch]:
        """Yield the records of a segment up to number ``upto``; Opened is a portion of its own.

        What comes after that was refused when it was written. ``upto`` is None for the last segment: it ends
        with the blanks that are ahead of its records, or with what was being written when the daemon or the
        machine stopped, of which nobody was told.
        """
        self.good_bytes = self.torn_bytes = self._good_lines = 0
        order = _Counted(upto)
        try:
            if not order.is_over(self.sequence):
                first, _ = _first(content, Opened)
                order.check_number(self.sequence, first.sequences[0])
                yield self._take(first)
                yield from self._rest(content, order)
            if upto is not None and self.sequence < upto:
                missing = f"it ends with record {self.sequence}, and the next segment goes on after {upto}"
                raise JournalDamaged(missing)
        except JournalDamaged as why:
            if upto is not None or not self._ends(content):
                raise self._refusal(name, why) from None

    def _ends(self, content: Content) -> bool:
        """Whether the records of the last segment end here, where no next one can be read."""
        rest = content[self.good_bytes :]
        torn = _torn(rest) if self._may_have_blanks() else None
        if torn is None and b"\n" not in rest:
            torn = len(rest)
        self.torn_bytes = torn or 0
        return torn is not None

    def _may_have_blanks(self) -> bool:
        """Whether blanks may stand in the segment that is read: never before its first line is durable."""
        is_begun = self.good_bytes > 0
        return is_begun and self.opened is not None and self.opened.format >= FORMAT_WITH_BLANKS

    def _rest(self, content: Content, order: _Counted | _Ascending) -> Iterator[RecordBatch]:
        while self.good_bytes < len(content) and not order.is_over(self.sequence):
            lines = _whole_lines(content, self.good_bytes, BATCH_BYTES)
            events = decode_events(lines)
            if events is not None and order.fits(self.sequence, events[0]):
                yield self._take(RecordBatch(self.good_bytes, lines, *events))
            else:
                yield from self._one_by_one(lines, order)

    def _one_by_one(self, lines: list[bytes], order: _Counted | _Ascending) -> Iterator[RecordBatch]:
        for line in lines:
            if order.is_over(self.sequence):
                return
            sequence, record = decode(line)
            order.check(self.sequence, sequence, record)
            yield self._take(RecordBatch(self.good_bytes, [line], [sequence], [record]))

    def _take(self, portion: RecordBatch) -> RecordBatch:
        """Take note that a portion has been read."""
        record = portion.records[0]
        if isinstance(record, Opened | Snapshot):
            self.opened = record
        self.sequence, self.good_bytes = portion.sequences[-1], portion.end
        self._good_lines += len(portion.lines)
        return portion

    def _refusal(self, name: str, why: JournalDamaged) -> JournalDamaged:
        return _damaged(name, self._good_lines + 1, why)


def first_sequence(name: str, head: bytes, is_more: bool = False) -> int | None:
    """Return the number of a segment's first record, None where that was not wholly written.

    ``head`` is the beginning of the segment, longer than its first line can be if there ``is_more``. Raises
    JournalDamaged where the line can't be trusted.
    """
    if b"\n" not in head and not is_more:
        return None
    try:
        return decode(*_whole_lines(head, 0, 1))[0]
    except JournalDamaged as why:
        raise _damaged(name, 1, why) from None


def _first(content: Content, kind: type[Beginning]) -> tuple[RecordBatch, Beginning]:
    """Return the line that begins a file, and its record; raises JournalDamaged if it cannot do that."""
    lines = _whole_lines(content, 0, 1)
    sequence, record = decode(*lines)
    if not isinstance(record, kind):
        raise JournalDamaged(f"the first record must be {kind.__name__}")
    if record.format > FORMAT:
        raise JournalDamaged(f"its format is {record.format}, and this taskqd reads formats up to {FORMAT}")
    return RecordBatch(0, lines, [sequence], [record]), record


def _whole_lines(content: Content, start: int, size: int) -> list[bytes]:
    """Return the lines that end within ``size`` bytes, or a longer one; JournalDamaged where none ends."""
    end = content.rfind(b"\n", start, start + size)
    if end < 0:
        end = content.find(b"\n", start + size)
    if end < 0:
        raise JournalDamaged("it does not end")
    return content[start:end].split(b"\n")


def _torn(rest: bytes) -> int | None:
    """Return how many bytes of one torn batch are in what follows the good records, None if that is damage.

    A batch was written over blanks. Of one that a crash has torn any sector may be there and any other still
    blank, as at least the last line is; a file that was just made longer may have NULs at its end. A batch is
    only begun once the one before it is durable: if a line behind the bad one begins another, the bad one had
    been acknowledged.
    """
    if not (b"\n" + rest).rstrip(b"\0").endswith(b"\n\n"):
        return None
    written = rest.rstrip(b"\n\0")
    return None if any(map(begins_batch, written.split(b"\n"))) else len(written)


def _damaged(name: str, number: int, why: JournalDamaged) -> JournalDamaged:
    return JournalDamaged(
        f"{name}, line {number} cannot be trusted: {why}. Nothing was changed; "
        "restore the file from a copy, or see docs/operations.md for what can be done."
    )
