"""One record of the journal <-> one line of text.

A line is ``<checksum> <sequence> <json>``: the CRC-32 of what follows the first space, in eight hex digits;
the record's number, counted up by one from 1 through all segments; the record. So a line that was damaged,
lost, repeated or moved is found, and ``cut -d' ' -f3- | jq`` reads the rest. docs/journal.md is the format,
and replay.py has the rules by which lines are trusted again.

Lines are written in batches, each once the one before it is durable. A line that goes on with the batch of
the line before it has a ``+`` before its number, so one without it tells that all before it was acknowledged.
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
from taskqd.model.events import EVENTS, RECORDS, Changed, Event, Record, Scheduled, Submitted

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(reduce(or_, RECORDS))
_EVENT_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(reduce(or_, EVENTS))
_NO_RECORD = (ValueError, RecursionError, msgspec.MsgspecError)
"""What is raised for a text that is no record."""


_BEGINS_BATCH = re.compile(rb'[0-9a-f]{8} [0-9]+ \{"type":"')
"""How a line without a mark begins. No piece of another one does: within JSON's texts quotes are escaped."""


class _OldSpec(Struct, frozen=True):
    command: str = ""


class _Old(Struct):
    """Up to format 3 the command stood in the spec."""

    spec: _OldSpec = _OldSpec()


_OLD_DECODER = msgspec.json.Decoder(_Old)


def encode(record: Record, sequence: int, goes_on: bool = False) -> bytes:
    """Return the line of a record, its newline included; it is marked if it ``goes_on`` with a batch."""
    text = (b"+%d %b" if goes_on else b"%d %b") % (sequence, _ENCODER.encode(record))
    return b"%08x %b\n" % (crc32(text), text)


def decode(line: bytes) -> tuple[int, Record]:
    """Return (sequence, record) of one line without its newline; raises JournalDamaged if it is none."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        raise JournalDamaged("its checksum does not match")
    number, _, body = text.partition(b" ")
    try:
        return int(number), _of_today(_DECODER.decode(body), body)
    except _NO_RECORD as why:
        message = f"its checksum matches but it is no record that this version knows: {why}"
        raise JournalDamaged(message) from None


def begins_batch(line: bytes) -> bool:
    """Whether a line is whole and has no mark, whatever its record is."""
    checksum, _, text = line.partition(b" ")
    return _BEGINS_BATCH.match(line) is not None and checksum == b"%08x" % crc32(text)


def decode_events(lines: Sequence[bytes]) -> tuple[list[int], list[Record]] | None:
    """Return the numbers and the events of some lines, None where ``decode`` has a word to say about any.

    They are looked at all at once, one step after the other: a million take a third of the time.
    """
    texts = [line[9:] for line in lines]
    checksums = pack(f">{len(texts)}I", *map(crc32, texts))
    if b"".join([line[:9] for line in lines]) != (checksums.hex(" ", 4) + " ").encode():
        return None
    try:
        numbers, bodies = zip(*[text.split(b" ", 1) for text in texts], strict=True)
        sequences = [*map(int, numbers)]
        records: list[Record] = [*map(_EVENT_DECODER.decode, bodies)]
        for at in [at for at, record in enumerate(records) if not getattr(record, "command", True)]:
            records[at] = _of_today(records[at], bodies[at])
    except _NO_RECORD:
        return None
    return sequences, records


def _of_today(record: Record, body: bytes) -> Record:
    """Return what a record of any format says as one of today's; ``body`` is its JSON."""
    if isinstance(record, Submitted | Changed | Scheduled) and not record.command:
        is_script = record.spec.script is not None
        return record if is_script else replace(record, command=_OLD_DECODER.decode(body).spec.command)
    return record
