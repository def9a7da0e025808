"""One record of the journal <-> one line of text; docs/journal.md has the format.

A line is ``<checksum> <sequence> <json>``: the CRC-32 of all that follows the first space, in eight hex
digits; the number of the record, from 1 through all segments; the record. So replay detects lines that were
damaged, lost, repeated or moved (replay.py), and ``cut -d' ' -f3- | jq`` shows the records.

Lines are written in batches, each after the one before is durable. A line that is not the first of its batch
has a ``+`` before its number. So a line without ``+`` proves that all lines before it were durable.
"""

import re
from collections.abc import Sequence
from functools import reduce
from operator import or_
from struct import pack
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskqd.errors import JournalDamaged
from taskqd.model.events import (
    EVENTS,
    RECORDS,
    Changed,
    Compacted,
    Record,
    Replayed,
    Scheduled,
    Submitted,
)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(reduce(or_, RECORDS))
_EVENT_DECODER: msgspec.json.Decoder[Replayed] = msgspec.json.Decoder(reduce(or_, (Compacted, *EVENTS)))
_DECODE_ERRORS = (ValueError, RecursionError, msgspec.MsgspecError)
"""The errors of decoding a text that is not a record."""
_STARTS_BATCH = re.compile(rb'[0-9a-f]{8} [0-9]+ \{"type":"')
"""The beginning of a line without ``+``. No part of another line matches: JSON escapes quotes in strings."""


_OLD_COMMAND = b'"spec":{"command":'
"""In the JSON of a record that has the command in its spec. JSON escapes quotes, so it is in no text."""


class _OldSpec(Struct, frozen=True):
    command: str = ""


class _Old(Struct):
    """A record of format 3 or older, which has the command in its spec."""

    spec: _OldSpec = _OldSpec()


_OLD_DECODER = msgspec.json.Decoder(_Old)


def encode(record: Record, sequence: int, continues_batch: bool = False) -> bytes:
    """Return the line of a record with its newline; ``continues_batch`` if it is not the first of a batch."""
    return encode_all((record,), sequence, continues_batch)[0]


def encode_all(records: Sequence[Record], sequence: int, continues_batch: bool = False) -> list[bytes]:
    """Return the lines of consecutive records of a batch, of which the first has the number ``sequence``."""
    lines = []
    form = b"+%d %b" if continues_batch else b"%d %b"
    for number, body in enumerate(_ENCODER.encode_lines(records).split(b"\n")[:-1], sequence):
        text = form % (number, body)
        lines.append(b"%08x %b\n" % (crc32(text), text))
        form = b"+%d %b"
    return lines


def pad(line: bytes, size: int) -> bytes:
    """Return a line with spaces behind its JSON, so that it has ``size`` bytes."""
    text = line[9:-1].ljust(size - 10)
    return b"%08x %b\n" % (crc32(text), text)


def decode(line: bytes) -> tuple[int, Record]:
    """Return (sequence, record) of a line without its newline; raises JournalDamaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        raise JournalDamaged("its checksum is wrong")
    number, _, body = text.partition(b" ")
    try:
        return int(number), _upgrade(_DECODER.decode(body), body)
    except _DECODE_ERRORS as error:
        raise JournalDamaged(
            f"its checksum is right, but this version of taskqd cannot decode its record: {error}"
        ) from None


def join_lines(lines: Sequence[bytes], numbers: Sequence[int]) -> bytes:
    """Return the line of a Compacted from the lines of its events, without their newlines, and their numbers.

    The JSON of the events is copied unchanged.
    """
    events = b",".join([line[line.index(b"{") :] for line in lines])
    others = b",".join([b"%d" % number for number in numbers[1:]])
    text = b'%d {"type":"compacted","events":[%b],"numbers":[%b]}' % (numbers[0], events, others)
    return b"%08x %b\n" % (crc32(text), text)


def has_old_command(line: bytes) -> bool:
    """Whether the record of a line has the command in its spec, as up to format 3."""
    return _OLD_COMMAND in line


def starts_batch(line: bytes) -> bool:
    """Whether a line is complete and has no ``+``; its record is not decoded."""
    checksum, _, text = line.partition(b" ")
    return _STARTS_BATCH.match(line) is not None and checksum == b"%08x" % crc32(text)


def decode_events(lines: Sequence[bytes]) -> tuple[list[int], list[Record]] | None:
    """Return the numbers and the events of lines; None if any is damaged, or begins a file.

    Each step is done for all lines, which takes a third of the time of decoding line by line.
    """
    try:
        checksums, numbers, bodies = zip(*[line.split(b" ", 2) for line in lines], strict=True)
        beginnings = map(crc32, [number + b" " for number in numbers])
        found = pack(f">{len(lines)}I", *map(crc32, bodies, beginnings))
        if b" ".join(checksums) != found.hex(" ", 4).encode():
            return None
        sequences = [*map(int, numbers)]
        records: list[Record] = [*map(_EVENT_DECODER.decode, bodies)]
        for index in [index for index, record in enumerate(records) if not getattr(record, "command", True)]:
            records[index] = _upgrade(records[index], bodies[index])
    except _DECODE_ERRORS:
        return None
    return sequences, records


def _upgrade(record: Record, body: bytes) -> Record:
    """Convert a record of an older format to the current one; ``body`` is its JSON."""
    if isinstance(record, Submitted | Changed | Scheduled) and not record.command:
        is_script = record.spec.script is not None
        return record if is_script else replace(record, command=_OLD_DECODER.decode(body).spec.command)
    return record
