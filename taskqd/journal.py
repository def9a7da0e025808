"""One record of the journal <-> one line of text, and the rules by which lines are trusted again.

A line is ``<checksum> <sequence> <json>``: the CRC-32 of what follows the first space, in eight hex digits;
the record's number, counted up by one from 1 through all segments; the record. So a line that was damaged,
lost, repeated or moved is found, and ``cut -d' ' -f3- | jq`` reads the rest. docs/journal.md is the format.
"""

from collections.abc import Iterator
from zlib import crc32

import msgspec

from taskqd.errors import JournalDamaged
from taskqd.events import FORMAT, Opened, Record

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class _BadLine(Exception):
    """A line is not a record; its text says why."""


def encode(record: Record, sequence: int) -> bytes:
    """Return the line of a record, its newline included."""
    text = b"%d %b" % (sequence, _ENCODER.encode(record))
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
        return int(number), _DECODER.decode(body)
    except (ValueError, RecursionError, msgspec.MsgspecError) as why:
        raise _BadLine(f"its checksum matches but it is no record that this version knows: {why}") from None


class Replay:
    """Reads segments in order and yields their records, refusing whatever cannot be trusted.

    After a segment has been read, ``good_bytes`` is how much of it was whole, and ``sequence`` the number of
    the last record. A line without its newline at the end of the last segment was being written when the
    daemon or the machine stopped: nobody was told of it, and it ends the replay. Everything else that does
    not fit raises JournalDamaged with the segment's name and the line's number.
    """

    def __init__(self, sequence: int = 0) -> None:
        self.sequence = sequence
        self.good_bytes = 0

    def read(self, name: str, content: bytes, is_last: bool) -> Iterator[tuple[Record, int, int]]:
        """Yield (record, offset, length) of each line of a segment; offset and length are in bytes."""
        self.good_bytes = 0
        number = 0
        while self.good_bytes < len(content):
            number += 1
            start = self.good_bytes
            end = content.find(b"\n", start)
            if end < 0 and is_last:
                return
            try:
                if end < 0:
                    raise _BadLine("it does not end")
                sequence, record = _parse(content[start:end])
                self._check(record, sequence, number)
            except _BadLine as why:
                raise JournalDamaged(
                    f"{name}, line {number} cannot be trusted: {why}. Nothing was changed; "
                    "restore the file from a copy, or see docs/operations.md for what can be done."
                ) from None
            self.sequence = sequence
            self.good_bytes = end + 1
            yield record, start, end - start

    def _check(self, record: Record, sequence: int, number: int) -> None:
        if sequence != self.sequence + 1:
            raise _BadLine(f"it is record {sequence} where {self.sequence + 1} was expected")
        if (number == 1) != isinstance(record, Opened):
            raise _BadLine("a segment begins with its one Opened record")
        if isinstance(record, Opened) and record.format > FORMAT:
            raise _BadLine(f"its format is {record.format}, and this taskqd reads formats up to {FORMAT}")
