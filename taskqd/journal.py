"""One record of the journal <-> one line of text, and the rules by which lines are trusted again.

A line is ``<checksum> <sequence> <json>``: the CRC-32 of what follows the first space, in eight hex digits;
the record's number, counted up by one from 1 through all segments; the record. So a line that was damaged,
lost, repeated or moved is found, and ``cut -d' ' -f3- | jq`` reads the rest. docs/journal.md is the format.

Lines are written in batches, each once the one before it is durable. A line that goes on with the batch of
the line before it has a ``+`` before its number, so one without it tells that all before it was acknowledged.
"""

import re
from collections.abc import Iterator
from typing import Protocol, overload
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskqd.errors import JournalDamaged
from taskqd.events import FORMAT, Changed, Opened, Record, Scheduled, Snapshot, Submitted

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


FORMAT_WITH_BLANKS = 4
"""Since this format the last segment may have blank lines behind its records, and batches are marked."""
_BEGINS_BATCH = re.compile(rb'[0-9a-f]{8} [0-9]+ \{"type":"')
"""How a line without a mark begins. No piece of another one does: within JSON's texts quotes are escaped."""


class _OldSpec(Struct, frozen=True):
    command: str = ""


class _Old(Struct):
    """Up to format 3 the command stood in the spec."""

    spec: _OldSpec = _OldSpec()


_WITH_COMMANDS = (Submitted, Changed, Scheduled)
_OLD_DECODER = msgspec.json.Decoder(_Old)


class Content(Protocol):
    """A whole file as bytes, whether it was read or is mapped into memory."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...
    def rfind(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


class _BadLine(Exception):
    """A line is not a record; its text says why."""


def encode(record: Record, sequence: int, goes_on: bool = False) -> bytes:
    """Return the line of a record, its newline included; it is marked if it ``goes_on`` with a batch."""
    text = (b"+%d %b" if goes_on else b"%d %b") % (sequence, _ENCODER.encode(record))
    return b"%08x %b\n" % (crc32(text), text)


def decode(line: bytes) -> tuple[int, Record]:
    """Return (sequence, record) of one line without its newline; raises JournalDamaged if it is none."""
    try:
        return _parse(line)
    except _BadLine as why:
        raise JournalDamaged(str(why)) from None


def _parse(line: bytes) -> tuple[int, Record]:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        raise _BadLine("its checksum does not match")
    number, _, body = text.partition(b" ")
    try:
        record = _DECODER.decode(body)
        if isinstance(record, _WITH_COMMANDS) and not record.command and record.spec.script is None:
            record = replace(record, command=_OLD_DECODER.decode(body).spec.command)
        return int(number), record
    except (ValueError, RecursionError, msgspec.MsgspecError) as why:
        raise _BadLine(f"its checksum matches but it is no record that this version knows: {why}") from None


def first_sequence(name: str, head: bytes, is_more: bool = False) -> int | None:
    """Return the number of a segment's first record, None where that was not wholly written.

    ``head`` is the beginning of the segment, longer than its first line can be if there ``is_more``. Raises
    JournalDamaged where the line can't be trusted.
    """
    end = head.find(b"\n")
    if end < 0 and is_more:
        raise _damaged(name, 1, _BadLine("it does not end"))
    if end < 0:
        return None
    try:
        return _parse(head[:end])[0]
    except _BadLine as why:
        raise _damaged(name, 1, why) from None


class Replay:
    """Reads a snapshot and segments in order and yields their records, refusing whatever cannot be trusted.

    ``sequence`` is the number of the last record that was read, ``opened`` the last Opened or Snapshot;
    ``good_bytes`` is how much of the last segment was whole, and ``torn_bytes`` how much behind that was
    being written when a crash came; the rest is blank. Everything that does not fit raises JournalDamaged
    with the file's name and the line's number.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.opened: Opened | Snapshot | None = None
        self.good_bytes = 0
        self.torn_bytes = 0

    def read_snapshot(self, name: str, content: Content) -> Iterator[tuple[Record, int, int]]:
        """Yield (record, offset, length) of each line of a snapshot; offset and length are in bytes."""
        upto = count = 0
        for number, start, end in _lines(content):
            try:
                sequence, record = self._whole(content, start, end)
                if number == 1:
                    self._open(record, Snapshot)
                    upto = sequence
                    continue
                if not self.sequence < sequence <= upto or isinstance(record, Opened | Snapshot):
                    raise _BadLine(f"record {sequence} cannot follow {self.sequence} in a snapshot of {upto}")
            except _BadLine as why:
                raise _damaged(name, number, why) from None
            self.sequence = sequence
            count += 1
            yield record, start, end - start
        expected = self.opened.records if isinstance(self.opened, Snapshot) else 1
        if count != expected:
            raise _damaged(name, count + 2, _BadLine(f"{expected} records were expected, {count} are there"))
        self.sequence = upto

    def read(self, name: str, content: Content, upto: int | None) -> Iterator[tuple[Record, int, int]]:
        """Yield (record, offset, length) of each line of a segment up to record ``upto``.

        What comes after that was refused when it was written. ``upto`` is None for the last segment: it ends
        with the blanks that are ahead of its records, or with what was being written when the daemon or the
        machine stopped, of which nobody was told.
        """
        self.good_bytes = self.torn_bytes = 0
        for number, start, end in _lines(content):
            if upto is not None and self.sequence >= upto:
                return
            try:
                sequence, record = self._whole(content, start, end)
                if sequence != self.sequence + 1:
                    raise _BadLine(f"it is record {sequence} where {self.sequence + 1} was expected")
                if number == 1:
                    self._open(record, Opened)
                elif isinstance(record, Opened | Snapshot):
                    raise _BadLine("a segment has one Opened record, its first")
            except _BadLine as why:
                if upto is None and self._ends(content, start):
                    return
                raise _damaged(name, number, why) from None
            self.sequence = sequence
            self.good_bytes = end + 1
            yield record, start, end - start
        if upto is not None and self.sequence < upto:
            missing = _BadLine(
                f"it ends with record {self.sequence}, and the next segment goes on after {upto}"
            )
            raise _damaged(name, 1 + sum(1 for _ in _lines(content)), missing)

    def _whole(self, content: Content, start: int, end: int) -> tuple[int, Record]:
        if end < 0:
            raise _BadLine("it does not end")
        return _parse(content[start:end])

    def _ends(self, content: Content, start: int) -> bool:
        """Whether the records of the last segment end before ``start``, where no next one can be read."""
        torn = _torn(content[start:]) if self._may_have_blanks() else None
        if torn is None and content.find(b"\n", start) < 0:
            torn = len(content) - start
        self.torn_bytes = torn or 0
        return torn is not None

    def _may_have_blanks(self) -> bool:
        """Whether blanks may stand in the segment that is read: never before its first line is durable."""
        is_begun = self.good_bytes > 0
        return is_begun and self.opened is not None and self.opened.format >= FORMAT_WITH_BLANKS

    def _open(self, record: Record, kind: type[Opened] | type[Snapshot]) -> None:
        if not isinstance(record, kind):
            raise _BadLine(f"the first record must be {kind.__name__}")
        if record.format > FORMAT:
            raise _BadLine(f"its format is {record.format}, and this taskqd reads formats up to {FORMAT}")
        self.opened = record


def _lines(content: Content) -> Iterator[tuple[int, int, int]]:
    """Yield (number from 1, start, end) of each line; the end of a last one without its newline is -1."""
    start, number = 0, 0
    while start < len(content):
        number += 1
        end = content.find(b"\n", start)
        yield number, start, end
        start = end + 1 if end >= 0 else len(content)


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
    return None if any(map(_begins_batch, written.split(b"\n"))) else len(written)


def _begins_batch(line: bytes) -> bool:
    """Whether a line is whole and has no mark, whatever its record is."""
    checksum, _, text = line.partition(b" ")
    return _BEGINS_BATCH.match(line) is not None and checksum == b"%08x" % crc32(text)


def _damaged(name: str, number: int, why: _BadLine) -> JournalDamaged:
    return JournalDamaged(
        f"{name}, line {number} cannot be trusted: {why}. Nothing was changed; "
        "restore the file from a copy, or see docs/operations.md for what can be done."
    )
