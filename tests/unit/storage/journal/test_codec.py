"""Records round-trip through their lines, also those of older formats."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import JournalDamaged
from taskqd.model.events import (
    Changed,
    Clocked,
    Compacted,
    Ended,
    Held,
    Opened,
    Output,
    Paused,
    Record,
    Released,
    Removed,
    Rescheduled,
    Resized,
    Resumed,
    Scheduled,
    Skipped,
    Snapshot,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import Array, Spec
from taskqd.storage.journal.codec import decode, decode_events, encode, join_lines, pad
from tests.unit.storage.journal.records import LINES, OPENED, RECORDS, line_of

MORE_LINES: list[tuple[Record, bytes]] = [
    (
        Submitted(
            id=2,
            at=1764000006.0,
            owner="ann",
            command="x",
            spec=Spec(after=(1,), array=Array(1, 9, 2)),
            schedule=4,
        ),
        (
            b'983b0ac3 8 {"type":"submitted","id":2,"at":1764000006.0,"owner":"ann",'
            b'"command":"x","spec":{"after":[1],"array":{"first":1,"last":9,"at_once":2}},"schedule":4}\n'
        ),
    ),
    (
        Skipped(id=2, at=1764000007.0, dependency=1),
        b'76008af1 9 {"type":"skipped","id":2,"at":1764000007.0,"because":1}\n',
    ),
    (
        Held(id=2, at=1764000008.0, by="ann"),
        b'5548a1f3 10 {"type":"held","id":2,"at":1764000008.0,"by":"ann"}\n',
    ),
    (
        Released(id=2, at=1764000009.0, by="ann"),
        b'1bf2b93d 11 {"type":"released","id":2,"at":1764000009.0,"by":"ann"}\n',
    ),
    (
        Changed(id=2, at=1764000010.0, by="ann", command="x", spec=Spec(queue="q", priority=-1)),
        (
            b'0e6c9c92 12 {"type":"changed","id":2,"at":1764000010.0,"by":"ann",'
            b'"command":"x","spec":{"queue":"q","priority":-1}}\n'
        ),
    ),
    (
        Removed(id=2, at=1764000011.0, by="retention"),
        b'665f336e 13 {"type":"removed","id":2,"at":1764000011.0,"by":"retention"}\n',
    ),
    (
        Ended(id=1, at=1764000012.0, status=Status.COMPLETED, exit_code=0, usage=Usage(0.25, 0.5, 4096)),
        (
            b'6a80b16c 14 {"type":"ended","id":1,"at":1764000012.0,"status":"COMPLETED",'
            b'"exit_code":0,"usage":{"user":0.25,"system":0.5,"memory":4096}}\n'
        ),
    ),
    (
        Resized(at=1764000013.0, by="ann", queue="q", slots=0),
        b'c36e5ce4 15 {"type":"resized","at":1764000013.0,"by":"ann","queue":"q","slots":0}\n',
    ),
    (
        Resized(at=1764000014.0, by="ann", queue="q"),
        b'1a792af3 16 {"type":"resized","at":1764000014.0,"by":"ann","queue":"q"}\n',
    ),
    (
        Paused(at=1764000015.0, by="ann", queue="q"),
        b'02c2e5be 17 {"type":"paused","at":1764000015.0,"by":"ann","queue":"q"}\n',
    ),
    (Resumed(at=1764000016.0, by="ann"), b'7b6cec84 18 {"type":"resumed","at":1764000016.0,"by":"ann"}\n'),
    (
        Paused(at=1764000017.0, by="ann", schedule=4),
        b'5ffcceeb 19 {"type":"paused","at":1764000017.0,"by":"ann","schedule":4}\n',
    ),
    (
        Scheduled(at=1764000018.0, by="ann", schedule=4, command="x", cron="0 4 * * *", overlap=True),
        (
            b'fd0b4ff9 20 {"type":"scheduled","at":1764000018.0,"by":"ann","schedule":4,'
            b'"command":"x","cron":"0 4 * * *","overlap":true}\n'
        ),
    ),
    (
        Unscheduled(at=1764000019.0, by="ann", schedule=4),
        b'c11a1118 21 {"type":"unscheduled","at":1764000019.0,"by":"ann","schedule":4}\n',
    ),
    (
        Clocked(at=1764007220.0, boot_clock=120.5, ahead=7200.0),
        b'638e1609 22 {"type":"clocked","at":1764007220.0,"boot_clock":120.5,"ahead":7200.0}\n',
    ),
    (
        Clocked(at=1764000020.0, boot_clock=120.5),
        b'cdbd7b57 23 {"type":"clocked","at":1764000020.0,"boot_clock":120.5}\n',
    ),
    (
        Changed(id=2, at=1764000021.0, by="ann", command="x", spec=Spec(at=1764000121.0), is_delay=True),
        (
            b'930719a9 24 {"type":"changed","id":2,"at":1764000021.0,"by":"ann","command":"x",'
            b'"spec":{"at":1764000121.0},"is_delay":true}\n'
        ),
    ),
    (
        Opened(at=1764000022.0, format=5, store="s", boot="b", next_id=3, boot_clock=122.5, ahead=7200.0),
        (
            b'87ad2d83 25 {"type":"opened","at":1764000022.0,"format":5,"store":"s","boot":"b","next_id":3,'
            b'"boot_clock":122.5,"ahead":7200.0}\n'
        ),
    ),
    (
        Started(id=1, at=1764000023.0, attempt=3, word="00c0ffee00c0ffee", runner="0123456789abcdef"),
        (
            b'cdf31d52 26 {"type":"started","id":1,"at":1764000023.0,"attempt":3,"wo'
            b'rd":"00c0ffee00c0ffee","runner":"0123456789abcdef"}\n'
        ),
    ),
    (
        Ended(id=1, at=1764000024.0, status=Status.COMPLETED, exit_code=0, ended_at=1764000023.5),
        (
            b'cf8535fa 27 {"type":"ended","id":1,"at":1764000024.0,"status":"COMPLET'
            b'ED","exit_code":0,"ended_at":1764000023.5}\n'
        ),
    ),
    (
        Rescheduled(at=1764000025.0, by="ann", schedule=4, command="y", every=60.0),
        (
            b'10769f47 28 {"type":"rescheduled","at":1764000025.0,"by":"ann",'
            b'"schedule":4,"command":"y","every":60.0}\n'
        ),
    ),
    (
        Rescheduled(at=1764000026.0, by="ann", schedule=4, spec=Spec(script=9), every=60.0, version=2),
        (
            b'fc8c223f 29 {"type":"rescheduled","at":1764000026.0,"by":"ann",'
            b'"schedule":4,"spec":{"script":9},"every":60.0,"version":2}\n'
        ),
    ),
]
"""The other kinds of records, and fields that were added later."""


OLD_LINES = [
    (
        LINES[1],
        'b6df9dfc 2 {"type":"submitted","id":1,"at":1764000001.5,"owner":"ann",'
        '"spec":{"command":"echo Grüße","retries":2,"env":{"A":"1"}}}'.encode(),
    ),
    (
        MORE_LINES[0],
        (
            b'b8ef3ad3 8 {"type":"submitted","id":2,"at":1764000006.0,"owner":"ann",'
            b'"spec":{"command":"x","after":[1],"array":{"first":1,"last":9,"at_once":2}},"schedule":4}'
        ),
    ),
    (
        MORE_LINES[4],
        (
            b'95444382 12 {"type":"changed","id":2,"at":1764000010.0,"by":"ann",'
            b'"spec":{"command":"x","queue":"q","priority":-1}}'
        ),
    ),
    (
        MORE_LINES[12],
        (
            b'1911540b 20 {"type":"scheduled","at":1764000018.0,"by":"ann","schedule":4,'
            b'"spec":{"command":"x"},"cron":"0 4 * * *","overlap":true}'
        ),
    ),
]
"""Current records, and their lines in format 3."""


def test_void_end_is_encoded() -> None:
    taken_back = Ended(
        id=1,
        at=1764000004.0,
        status=Status.PENDING,
        reason=Reason.SPAWN,
        detail="no more processes",
        is_free=True,
        is_void=True,
    )
    line = (
        b'a538dfe7 7 {"type":"ended","id":1,"at":1764000004.0,"status":"PENDING","reason":"spawn",'
        b'"detail":"no more processes","is_free":true,"is_void":true}\n'
    )
    assert encode(taken_back, 7) == line
    assert decode(line[:-1]) == (7, taken_back)


def test_end_with_leftover_processes_has_their_session() -> None:
    ended = Ended(id=1, at=1764000004.0, status=Status.COMPLETED, exit_code=0, pid=4242)
    line = encode(ended, 7)
    assert line.endswith(
        b' 7 {"type":"ended","id":1,"at":1764000004.0,"status":"COMPLETED","exit_code":0,"pid":4242}\n'
    )
    assert decode(line[:-1]) == (7, ended)


@pytest.mark.parametrize("now, old", OLD_LINES, ids=[line[:8].decode() for _, line in OLD_LINES])
def test_command_in_the_spec_of_format_3_is_decoded(now: tuple[Record, bytes], old: bytes) -> None:
    record, line = now
    assert decode(old)[1] == decode(line[:-1])[1] == record


def test_script_of_an_old_format_has_no_command() -> None:
    text = b'2 {"type":"submitted","id":1,"at":1.5,"owner":"ann","spec":{"script":5}}'
    assert decode(b"%08x %b" % (crc32(text), text))[1] == Submitted(
        id=1, at=1.5, owner="ann", spec=Spec(script=5)
    )


@pytest.mark.parametrize("number", range(1, len(LINES + MORE_LINES) + 1))
def test_record_round_trips_through_its_line(number: int) -> None:
    record, line = (LINES + MORE_LINES)[number - 1]
    assert encode(record, number) == line
    assert decode(line.removesuffix(b"\n")) == (number, record)


TEXT = st.text(st.characters(codec="utf-8"))
EVENTS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Submitted,
        id=st.integers(1, 2**60),
        at=st.floats(0, 1e12),
        owner=TEXT,
        command=TEXT,
        spec=st.builds(
            Spec,
            label=st.none() | TEXT,
            env=st.dictionaries(TEXT, TEXT),
            timeout=st.none() | st.floats(0, 1e10),
            max_output=st.integers(0, 2**63 - 1),
        ),
    ),
    st.builds(
        Ended,
        id=st.integers(1, 2**60),
        at=st.floats(0, 1e12),
        status=st.sampled_from(Status),
        reason=st.none() | st.sampled_from(Reason),
        detail=st.none() | TEXT,
        stdout=st.builds(Output.inline, st.binary()),
        stderr=st.builds(Output, size=st.integers(0, 2**60), dropped=st.integers(0, 2**60)),
    ),
)


@given(EVENTS, st.integers(1, 2**62))
def test_any_event_round_trips_through_one_line(event: Record, number: int) -> None:
    line = encode(event, number)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line[:-1]) == (number, event)


MARKED = line_of(b'+7 {"type":"retried","id":1,"at":1764000005.0,"by":"ann"}')[:-1]
NO_EVENTS = [
    b"",
    b"x",
    line_of(b"1")[:-1],
    line_of(b"1 {}")[:-1],
    line_of(b"x " + LINES[1][1][11:-1])[:-1],
    LINES[0][1][:-1],
    LINES[1][1][:-1].upper(),
    LINES[1][1][:-2],
    LINES[1][1][:8] + b"_" + LINES[1][1][9:-1],
    b" " + LINES[1][1][:-1],
]
"""Texts that are not lines, or not lines of events."""


def _each(lines: list[bytes]) -> tuple[list[int], list[Record]] | None:
    """Return the events of lines decoded one by one; None if any cannot be decoded."""
    try:
        found = [decode(line) for line in lines]
    except JournalDamaged:
        return None
    if any(isinstance(record, Opened | Snapshot) for _, record in found):
        return None
    return [number for number, _ in found], [record for _, record in found]


@given(
    st.lists(
        st.builds(encode, EVENTS, st.integers(1, 2**62)).map(lambda line: line[:-1])
        | st.sampled_from([line[:-1] for one, line in LINES + MORE_LINES if not isinstance(one, Opened)])
        | st.sampled_from([line for _, line in OLD_LINES] + [MARKED]),
        min_size=1,
    ),
    st.none() | st.tuples(st.integers(0, 100), st.sampled_from(NO_EVENTS)),
)
def test_decode_events_agrees_with_decode(lines: list[bytes], other: tuple[int, bytes] | None) -> None:
    assert decode_events(lines) == _each(lines) is not None
    if other is not None:
        lines.insert(other[0], other[1])
        assert decode_events(lines) is None


@pytest.mark.parametrize("number", [1, 17, 10**12])
def test_line_that_continues_a_batch_is_marked_and_decoded(number: int) -> None:
    line = encode(RECORDS[2], number, continues_batch=True)
    assert line[8:].startswith(b" +%d {" % number)
    assert decode(line[:-1]) == (number, RECORDS[2])
    with pytest.raises(JournalDamaged):
        decode(line.replace(b" +", b" ")[:-1])


@pytest.mark.parametrize("kind, more", [(Opened, {}), (Snapshot, {"records": 0})])
def test_header_has_the_journal_identity_since_format_5(
    kind: type[Opened | Snapshot], more: dict[str, int]
) -> None:
    record = kind(at=1.5, format=5, store="s", boot="b", next_id=1, identity="2049:131077", **more)
    line = encode(record, 1)
    assert b',"identity":"2049:131077"' in line
    assert decode(line[:-1]) == (1, record)
    older = line[9:].replace(b',"identity":"2049:131077"', b"").rstrip()
    _, found = decode(b"%08x %b" % (crc32(older), older))
    assert isinstance(found, kind)
    assert found.identity == ""


@pytest.mark.parametrize(
    "line", [b"", b"x", LINES[0][1], b" " + LINES[0][1][:-1], LINES[0][1][1:-1], line_of(b"1 {}")]
)
def test_decode_of_an_undecodable_line_raises(line: bytes) -> None:
    with pytest.raises(JournalDamaged):
        decode(line)


def test_joined_lines_decode_to_a_compacted_with_all_events() -> None:
    submitted, started = Submitted(id=3, at=1.5, owner="ann", command="é"), Started(id=3, at=2.5, attempt=1)
    ended = Ended(id=3, at=3.5, status=Status.COMPLETED, exit_code=0)
    events = ((5, submitted), (8, started), (9, ended))
    lines = [encode(event, number, continues_batch=number > 5)[:-1] for number, event in events]
    joined = join_lines(lines, [5, 8, 9])
    record = Compacted(events=(submitted, started, ended), numbers=(8, 9))
    assert decode(joined[:-1]) == (5, record)
    assert decode_events([joined[:-1]]) == ([5], [record])
    for line in lines:
        assert line.split(b" ", 2)[2] in joined


def test_padded_line_has_its_size_and_decodes_to_the_same_record() -> None:
    line = encode(OPENED, 1)
    padded = pad(line, len(line) + 7)
    assert len(padded) == len(line) + 7
    assert decode(padded[:-1]) == decode(line[:-1])
    assert pad(line, len(line)) == line
