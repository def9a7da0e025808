"""Replay: reads a journal back, and decides which lines are valid.

Lines are decoded many at a time, which is fast. Only if one of them is invalid are they decoded one by one,
to report which one it is and why.

The last segment may end with a write that a crash has interrupted. Its lines are ignored, because they were
never acknowledged. ``Replay.read_segment`` and ``_torn_bytes`` distinguish them from damage.
"""

from collections.abc import Iterator, Sequence
from operator import lt
from typing import NamedTuple, Protocol, TypeVar, overload

from taskqd.errors import JournalDamaged
from taskqd.model.events import FORMAT, Opened, Record, Snapshot
from taskqd.storage.journal.codec import decode, decode_events, starts_batch

BATCH_BYTES = 65_536
"""Bytes of lines that are decoded together, or one line if that is longer."""
PREALLOCATION_FORMAT = 4
"""Since this format the last segment may have blank lines after its records, and batches are marked."""

Header = TypeVar("Header", Opened, Snapshot)
"""The first record of a file."""


class Content(Protocol):
    """The content of a file: bytes, or a memory map."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...
    def rfind(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


class RecordBatch(NamedTuple):
    """Consecutive records of a file, their numbers, and their lines without newlines.

    ``start`` is the offset of the first line in bytes.
    """

    start: int
    lines: Sequence[bytes]
    sequences: Sequence[int]
    records: Sequence[Record]

    @property
    def end(self) -> int:
        """The offset after the last line and its newline."""
        return self.start + sum(map(len, self.lines)) + len(self.lines)


class _Consecutive:
    """The order of a segment's records: consecutive numbers up to ``last``, if that is not None."""

    def __init__(self, last: int | None) -> None:
        self._last = last

    def is_over(self, before: int) -> bool:
        """Whether record ``before`` is the last valid one."""
        return self._last is not None and before >= self._last

    def fits(self, before: int, sequences: Sequence[int]) -> bool:
        """Whether ``sequences`` may follow record ``before``."""
        is_within = self._last is None or sequences[-1] <= self._last
        return is_within and sequences == [*range(before + 1, before + 1 + len(sequences))]

    def check(self, before: int, sequence: int, record: Record) -> None:
        """Raise JournalDamaged unless a record may follow record ``before``."""
        self.check_number(before, sequence)
        if isinstance(record, Opened | Snapshot):
            raise JournalDamaged("only the first record of a segment may be an Opened record")

    def check_number(self, before: int, sequence: int) -> None:
        """Raise JournalDamaged unless a number may follow ``before``."""
        if sequence != before + 1:
            raise JournalDamaged(f"it is record {sequence}, expected {before + 1}")


class _Ascending:
    """The order of a snapshot's records: ascending numbers up to ``last``; see ``_Consecutive``."""

    def __init__(self, last: int) -> None:
        self._last = last

    def is_over(self, _: int) -> bool:
        return False

    def fits(self, before: int, sequences: Sequence[int]) -> bool:
        is_within = before < sequences[0] and sequences[-1] <= self._last
        return is_within and all(map(lt, sequences, sequences[1:]))

    def check(self, before: int, sequence: int, record: Record) -> None:
        if not before < sequence <= self._last or isinstance(record, Opened | Snapshot):
            raise JournalDamaged(f"record {sequence} cannot follow {before} in a snapshot up to {self._last}")


class Replay:
    """Reads a snapshot and segments in order, and yields their records.

    ``sequence`` is the number of the last record read, ``opened`` the last Opened or Snapshot. In the last
    file, records take up ``good_bytes``, an interrupted write after them ``torn_bytes``; the rest is blank.

    An invalid line raises JournalDamaged with the file's path and the line's number, after all records before
    it have been yielded.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.opened: Opened | Snapshot | None = None
        self.good_bytes = 0
        self.torn_bytes = 0
        self._good_lines = 0

    def read_snapshot(self, path: str, content: Content) -> Iterator[RecordBatch]:
        """Yield the records of a snapshot, except its first one."""
        self.good_bytes = self._good_lines = 0
        try:
            first, snapshot = _read_header(content, Snapshot)
            last = self._note(first).sequences[0]
            self.sequence = 0  # the records that follow are older than the first line
            yield from self._read_rest(content, _Ascending(last))
            found = self._good_lines - 1
            if found != snapshot.records:
                raise JournalDamaged(f"the file has {found} records, expected {snapshot.records}")
            self.sequence = last
        except JournalDamaged as error:
            raise self._with_place(path, error) from None

    def read_segment(self, path: str, content: Content, last: int | None) -> Iterator[RecordBatch]:
        """Yield the records of a segment up to number ``last``; its first record is a batch by itself.

        Later records were refused when they were written. ``last`` is None for the last segment, which may
        end with preallocated blank lines and with a write that was interrupted.
        """
        self.good_bytes = self.torn_bytes = self._good_lines = 0
        order = _Consecutive(last)
        try:
            if not order.is_over(self.sequence):
                first, _ = _read_header(content, Opened)
                order.check_number(self.sequence, first.sequences[0])
                yield self._note(first)
                yield from self._read_rest(content, order)
            if last is not None and self.sequence < last:
                raise JournalDamaged(
                    f"the segment ends with record {self.sequence}, but the next one continues after {last}"
                )
        except JournalDamaged as error:
            if last is not None or not self._is_end(content):
                raise self._with_place(path, error) from None

    def _is_end(self, content: Content) -> bool:
        """Whether the last segment may end where a record could not be read: the rest is blank or torn."""
        rest = content[self.good_bytes :]
        torn = _torn_bytes(rest) if self._may_be_preallocated() else None
        if torn is None and b"\n" not in rest:
            torn = len(rest)
        self.torn_bytes = torn or 0
        return torn is not None

    def _may_be_preallocated(self) -> bool:
        """Whether the segment may have blank lines: not before its first line is durable."""
        has_header = self.good_bytes > 0
        return has_header and self.opened is not None and self.opened.format >= PREALLOCATION_FORMAT

    def _read_rest(self, content: Content, order: _Consecutive | _Ascending) -> Iterator[RecordBatch]:
        while self.good_bytes < len(content) and not order.is_over(self.sequence):
            lines = _complete_lines(content, self.good_bytes, BATCH_BYTES)
            events = decode_events(lines)
            if events is not None and order.fits(self.sequence, events[0]):
                yield self._note(RecordBatch(self.good_bytes, lines, *events))
            else:
                yield from self._read_one_by_one(lines, order)

    def _read_one_by_one(self, lines: list[bytes], order: _Consecutive | _Ascending) -> Iterator[RecordBatch]:
        for line in lines:
            if order.is_over(self.sequence):
                return
            sequence, record = decode(line)
            order.check(self.sequence, sequence, record)
            yield self._note(RecordBatch(self.good_bytes, [line], [sequence], [record]))

    def _note(self, batch: RecordBatch) -> RecordBatch:
        """Update the attributes for a batch that is about to be yielded."""
        record = batch.records[0]
        if isinstance(record, Opened | Snapshot):
            self.opened = record
        self.sequence, self.good_bytes = batch.sequences[-1], batch.end
        self._good_lines += len(batch.lines)
        return batch

    def _with_place(self, path: str, error: JournalDamaged) -> JournalDamaged:
        return _with_place(path, self._good_lines + 1, error)


def first_sequence(path: str, head: bytes, is_truncated: bool = False) -> int | None:
    """Return the number of a segment's first record, None if that was not written completely.

    ``head`` is the beginning of the segment. If it ``is_truncated``, it is longer than any first line. Raises
    JournalDamaged if the line is invalid.
    """
    if b"\n" not in head and not is_truncated:
        return None
    try:
        return decode(*_complete_lines(head, 0, 1))[0]
    except JournalDamaged as error:
        raise _with_place(path, 1, error) from None


def _read_header(content: Content, kind: type[Header]) -> tuple[RecordBatch, Header]:
    """Return the first line of a file, and its record; raises JournalDamaged if it is invalid."""
    lines = _complete_lines(content, 0, 1)
    sequence, record = decode(*lines)
    if not isinstance(record, kind):
        raise JournalDamaged(f"the first record is not {kind.__name__}")
    if record.format > FORMAT:
        raise JournalDamaged(
            f"its format is {record.format}, but this version of taskqd reads formats up to {FORMAT}"
        )
    return RecordBatch(0, lines, [sequence], [record]), record


def _complete_lines(content: Content, start: int, size: int) -> list[bytes]:
    """Return the lines that end within ``size`` bytes, or one longer line.

    Raises JournalDamaged if no line ends.
    """
    end = content.rfind(b"\n", start, start + size)
    if end < 0:
        end = content.find(b"\n", start + size)
    if end < 0:
        raise JournalDamaged("it has no end")
    return content[start:end].split(b"\n")


def _torn_bytes(rest: bytes) -> int | None:
    """Return the size of the torn batch in ``rest``, the bytes after the valid records; None if it is damage.

    A batch overwrites blank lines. If a crash interrupts that, some sectors are written and the others still
    blank; at least the last line is blank, and the file may end with NULs if it had just grown. A batch is
    written only after the one before is durable: so if a later line starts another batch, the invalid line
    had been acknowledged, and was damaged afterwards.
    """
    if not (b"\n" + rest).rstrip(b"\0").endswith(b"\n\n"):
        return None
    written = rest.rstrip(b"\n\0")
    return None if any(map(starts_batch, written.split(b"\n"))) else len(written)


def _with_place(path: str, line: int, error: JournalDamaged) -> JournalDamaged:
    return JournalDamaged(
        f"{path}, line {line} cannot be trusted: {error}. Nothing was changed; "
        "restore the file from a copy, or see docs/operations.md"
    )
