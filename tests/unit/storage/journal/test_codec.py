"""Records round-trip through their lines; damaged, lost and moved lines are refused by replay."""

from collections.abc import Iterable
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import JournalDamaged
from taskqd.model.events import (
    FORMAT,
    Cancelled,
    Changed,
    Clocked,
    Ended,
    Held,
    Opened,
    Output,
    Paused,
    Record,
    Released,
    Removed,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Snapshot,
    Spawned,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import Array, Spec
from taskqd.storage.journal import replay as module
from taskqd.storage.journal.codec import decode, decode_events, encode
from taskqd.storage.journal.replay import RecordBatch, Replay, first_sequence

OPENED = Opened(at=1764000000.25, format=1, store="s", boot="b", next_id=1)

LINES: list[tuple[Record, bytes]] = [
    (
        OPENED,
        b'71f38f61 1 {"type":"opened","at":1764000000.25,"format":1,"store":"s","boot":"b","next_id":1}\n',
    ),
    (
        Submitted(
            id=1, at=1764000001.5, owner="ann", command="echo Grüße", spec=Spec(retries=2, env={"A": "1"})
        ),
        '3beb62bb 2 {"type":"submitted","id":1,"at":1764000001.5,"owner":"ann",'
        '"command":"echo Grüße","spec":{"retries":2,"env":{"A":"1"}}}\n'.encode(),
    ),
    (
        Started(id=1, at=1764000002.0, attempt=1),
        b'b74dcd43 3 {"type":"started","id":1,"at":1764000002.0,"attempt":1}\n',
    ),
    (
        Spawned(id=1, at=1764000002.5, pid=4242, started=99),
        b'72b79d5a 4 {"type":"spawned","id":1,"at":1764000002.5,"pid":4242,"started":99}\n',
    ),
    (
        Cancelled(id=1, at=1764000003.0, by="ann", signal=15),
        b'b4e2e8ea 5 {"type":"cancelled","id":1,"at":1764000003.0,"by":"ann","signal":15}\n',
    ),
    (
        Ended(
            id=1,
            at=1764000004.0,
            status=Status.FAILED,
            reason=Reason.SIGNAL,
            signal=9,
            stdout=Output.inline(b"hi\n"),
            stderr=Output.inline(b"\xff"),
        ),
        (
            b'ef2307c6 6 {"type":"ended","id":1,"at":1764000004.0,"status":"FAILED","reason":"signal",'
            b'"signal":9,"stdout":{"size":3,"text":"hi\\n"},"stderr":{"size":1,"base64":"/w=="}}\n'
        ),
    ),
    (
        Retried(id=1, at=1764000005.0, by="ann"),
        b'b3619000 7 {"type":"retried","id":1,"at":1764000005.0,"by":"ann"}\n',
    ),
]
"""Records and their lines, as in docs/journal.md; a change here needs a new format."""

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
]
"""The other kinds of records, and fields that were added later."""

RECORDS = [record for record, _ in LINES]
SEGMENT = b"".join(line for _, line in LINES)


def _line(text: bytes) -> bytes:
    """Return a line with any text and a right checksum."""
    return b"%08x %b\n" % (crc32(text), text)


def _replay(*segments: bytes) -> list[Record]:
    return list(_records(Replay(), segments))


def _read(replay: Replay, content: bytes, upto: int | None) -> list[Record]:
    return [record for batch in replay.read_segment("segment", content, upto) for record in batch.records]


def _records(replay: Replay, segments: Iterable[bytes]) -> Iterable[Record]:
    """Replay segments as `Segments.batches` does: each up to the number that the next one continues after."""
    named = [(f"segment-{number}", content) for number, content in enumerate(segments, 1)]
    firsts = [(name, content, first_sequence(name, content, is_truncated=False)) for name, content in named]
    whole = [one for one in firsts if one[2] is not None]
    for (name, content, _), (*_, following) in pairwise([*whole, ("", b"", None)]):
        for batch in replay.read_segment(name, content, None if following is None else following - 1):
            yield from batch.records


def _refusal(*segments: bytes) -> str:
    with pytest.raises(JournalDamaged) as refusal:
        _replay(*segments)
    return str(refusal.value)


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


MARKED = _line(b'+7 {"type":"retried","id":1,"at":1764000005.0,"by":"ann"}')[:-1]
NO_EVENTS = [
    b"",
    b"x",
    _line(b"1")[:-1],
    _line(b"1 {}")[:-1],
    _line(b"x " + LINES[1][1][11:-1])[:-1],
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


@pytest.mark.parametrize("at_once", [1, 100, 300, 65_536])
@pytest.mark.parametrize("damaged", range(1, len(LINES)))
def test_damaged_line_is_detected_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, at_once: int, damaged: int
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", at_once)
    lines = [line for _, line in LINES]
    lines[damaged] = lines[damaged].replace(b'"id":1', b'"id":2')
    replay = Replay()
    found: list[Record] = []
    with pytest.raises(JournalDamaged, match=f"^segment-1, line {damaged + 1} cannot be trusted: its checks"):
        found.extend(_records(replay, [b"".join(lines)]))
    assert found == RECORDS[:damaged]
    assert (replay.sequence, replay.good_bytes) == (damaged, len(b"".join(lines[:damaged])))


def test_replay_in_batches_agrees_with_replay_line_by_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together, one_by_one = Replay(), Replay()
    assert _read(together, SEGMENT, 7) == RECORDS
    monkeypatch.setattr(module, "decode_events", lambda _: None)
    assert _read(one_by_one, SEGMENT, 7) == RECORDS
    assert vars(together) == vars(one_by_one)


def test_replay_returns_records_with_positions() -> None:
    replay = Replay()
    found = list(replay.read_segment("segment", SEGMENT, None))
    assert [record for batch in found for record in batch.records] == RECORDS
    assert [number for batch in found for number in batch.sequences] == list(range(1, len(LINES) + 1))
    assert [line + b"\n" for batch in found for line in batch.lines] == [line for _, line in LINES]
    assert [batch.start for batch in found] == [0, len(LINES[0][1])]
    assert [batch.end for batch in found] == [len(LINES[0][1]), len(SEGMENT)]
    assert (replay.good_bytes, replay.sequence) == (len(SEGMENT), len(LINES))


def test_journal_truncated_at_any_byte_replays_a_prefix() -> None:
    ends = [0]
    for _, line in LINES:
        ends.append(ends[-1] + len(line))
    for cut in range(len(SEGMENT) + 1):
        replay = Replay()
        whole = sum(end <= cut for end in ends) - 1
        assert list(_records(replay, [SEGMENT[:cut]])) == RECORDS[:whole]
        assert (replay.good_bytes, replay.sequence) == (ends[whole], whole)


def test_truncated_segment_before_the_last_is_refused() -> None:
    last = encode(OPENED, len(LINES) + 1)
    ends = {len(SEGMENT[:at]) for at in range(len(SEGMENT)) if SEGMENT[at - 1 : at] == b"\n"} | {0}
    for cut in range(len(SEGMENT)):
        refusal = _refusal(SEGMENT[:cut], last)
        number = SEGMENT[:cut].count(b"\n") + 1
        if cut in ends - {0}:
            assert refusal.startswith(
                f"segment-1, line {number} cannot be trusted: the segment ends with record {number - 1}, "
            )
        elif number == 1:
            assert refusal.startswith("segment-2, line 1 cannot be trusted: it is record 8, expected 1")
        else:
            assert refusal.startswith(f"segment-1, line {number} cannot be trusted: it has no end")


def test_flipped_bit_is_refused() -> None:
    for at in range(len(SEGMENT)):
        for bit in range(8):
            damaged = bytearray(SEGMENT)
            damaged[at] ^= 1 << bit
            replay = Replay()
            found: list[Record] = []
            try:
                found.extend(_records(replay, [bytes(damaged)]))
            except JournalDamaged as refusal:
                text = str(refusal)
            else:
                text = ""
                # Without its last newline, a journal looks like one with an interrupted write.
                assert at == len(SEGMENT) - 1
            assert found == RECORDS[: len(found)]
            # The first line is checked before any record is returned.
            assert len(found) == replay.sequence == SEGMENT[:at].count(b"\n")
            assert not text or text.startswith(f"segment-1, line {len(found) + 1} cannot be trusted: ")


@given(st.binary())
def test_replay_of_any_bytes_returns_nothing_or_is_refused(data: bytes) -> None:
    try:
        assert _replay(data) == []
    except JournalDamaged as refusal:
        text = str(refusal)
    else:
        text = "segment-1, line 1"
        assert b"\n" not in data
    assert text.startswith("segment-1, line 1")


INDEXES = range(1, len(LINES))


@pytest.mark.parametrize("lost", INDEXES)
def test_lost_line_is_refused(lost: int) -> None:
    lines = [line for _, line in LINES]
    del lines[lost]
    if lost < len(LINES) - 1:
        refusal = _refusal(b"".join(lines))
        assert f"line {lost + 1} cannot be trusted: it is record {lost + 2}, expected {lost + 1}" in refusal
    else:
        assert _replay(b"".join(lines)) == RECORDS[:-1]


@pytest.mark.parametrize("repeated", range(len(LINES)))
def test_repeated_line_is_refused(repeated: int) -> None:
    lines = [line for _, line in LINES]
    lines.insert(repeated, lines[repeated])
    refusal = _refusal(b"".join(lines))
    assert f"segment-1, line {repeated + 2} cannot be trusted" in refusal
    assert f"it is record {repeated + 1}, expected {repeated + 2}" in refusal


@pytest.mark.parametrize("one", range(len(LINES)))
@pytest.mark.parametrize("other", range(len(LINES)))
def test_swapped_lines_are_refused(one: int, other: int) -> None:
    lines = [line for _, line in LINES]
    lines[one], lines[other] = lines[other], lines[one]
    if one == other:
        assert _replay(b"".join(lines)) == RECORDS
    else:
        assert f"segment-1, line {min(one, other) + 1} cannot be trusted" in _refusal(b"".join(lines))


def test_segments_continue_the_numbers_and_begin_with_opened() -> None:
    again = Opened(at=2.0, format=FORMAT, store="s", boot="c", next_id=2)
    more = Retried(id=1, at=3.0, by="bob")
    segments = [SEGMENT, encode(again, 8), encode(again, 9) + encode(more, 10)]
    assert _replay(*segments) == [*RECORDS, again, again, more]
    assert (
        "segment-1, line 8 cannot be trusted: the segment ends with record 7, "
        "but the next one continues after 8" in (_refusal(segments[0], segments[2]))
    )
    assert "segment-1, line 1 cannot be trusted: it is record 8, expected 1" in _refusal(*segments[1:])
    assert "segment-1, line 8 cannot be trusted" in _refusal(segments[0], segments[2], segments[1])


def test_position_is_relative_to_the_segment() -> None:
    replay = Replay()
    assert _read(replay, SEGMENT, 7) == RECORDS
    opened = encode(OPENED, 8)
    assert list(replay.read_segment("segment-2", opened + b"torn", None)) == [
        RecordBatch(0, [opened[:-1]], [8], [OPENED])
    ]
    assert replay.good_bytes == len(opened)
    assert list(replay.read_segment("segment-3", b"torn", None)) == []
    assert replay.good_bytes == 0


@pytest.mark.parametrize("rest", [b"", b"torn", b"x\n", encode(RECORDS[1], 8) + encode(RECORDS[2], 9) + b"t"])
def test_records_after_the_number_of_the_next_segment_are_ignored(rest: bytes) -> None:
    segments = [SEGMENT + rest, encode(OPENED, 8)]
    replay = Replay()
    assert list(_records(replay, segments)) == [*RECORDS, OPENED]
    assert replay.sequence == 8
    replay = Replay()
    assert _read(replay, SEGMENT + rest, 3) == RECORDS[:3]


def test_segment_with_only_refused_records_is_ignored() -> None:
    again = Opened(at=2.0, format=FORMAT, store="s", boot="c", next_id=2)
    assert _replay(SEGMENT, encode(again, 8) + b"torn", encode(OPENED, 8)) == [*RECORDS, OPENED]


def test_first_sequence_is_none_until_the_first_line_is_complete() -> None:
    line = encode(OPENED, 8)
    assert first_sequence("x", line, True) == first_sequence("x", line + b"y\n", False) == 8
    assert [first_sequence("x", line[:cut], False) for cut in range(len(line))] == [None] * len(line)
    with pytest.raises(JournalDamaged, match=r"^x, line 1 cannot be trusted: it has no end"):
        first_sequence("x", line[:-1], True)
    with pytest.raises(JournalDamaged, match=r"^x, line 1 cannot be trusted: its checksum is wrong"):
        first_sequence("x", b"y\n" + line, False)


# Batches over preallocated blanks.

FIRST = [encode(Opened(at=1.5, format=FORMAT, store="s", boot="b", next_id=1), 1), encode(RECORDS[1], 2)]
SECOND = [
    encode(RECORDS[2], 3),
    encode(RECORDS[3], 4, continues_batch=True),
    encode(RECORDS[4], 5, continues_batch=True),
]
GOOD, BATCH = b"".join(FIRST), b"".join(SECOND)
LATER = encode(RECORDS[5], 6)
ONLY_MARKED = encode(RECORDS[5], 6, continues_batch=True)
BLANKS = b"\n" * 1000


def _measured(content: bytes) -> tuple[int, int, int]:
    """Return the number of records, good bytes and torn bytes."""
    replay = Replay()
    count = len(list(_records(replay, [content])))
    return count, replay.good_bytes, replay.torn_bytes


@pytest.mark.parametrize("number", [1, 17, 10**12])
def test_line_that_continues_a_batch_is_marked_and_decoded(number: int) -> None:
    line = encode(RECORDS[2], number, continues_batch=True)
    assert line[8:].startswith(b" +%d {" % number)
    assert decode(line[:-1]) == (number, RECORDS[2])
    with pytest.raises(JournalDamaged):
        decode(line.replace(b" +", b" ")[:-1])


@pytest.mark.parametrize("blanks", [b"", b"\n", BLANKS, b"\n\0", BLANKS + b"\0" * 300, b"\0" * 300])
def test_blanks_after_the_records_are_not_torn(blanks: bytes) -> None:
    count, good, torn = _measured(GOOD + BATCH + blanks)
    assert (count, good) == (5, len(GOOD + BATCH))
    assert torn == (len(blanks) if b"\n" not in blanks else 0)


def test_torn_batch_is_replayed_up_to_the_first_gap() -> None:
    for start in range(len(BATCH)):
        for length in (1, 60, len(BATCH)):
            end = min(start + length, len(BATCH))
            torn = BATCH[:start] + b"\n" * (end - start) + BATCH[end:]
            count, good, _ = _measured(GOOD + torn + BLANKS)
            whole = next((at for at in range(len(BATCH)) if torn[at] != BATCH[at]), len(BATCH))
            assert count == 2 + BATCH[:whole].count(b"\n")
            assert good == len(GOOD) + BATCH.rfind(b"\n", 0, whole) + 1


def test_torn_batch_reports_its_bytes() -> None:
    hole = b"\n" * len(SECOND[1])
    assert _measured(GOOD + SECOND[0] + hole + SECOND[2] + BLANKS) == (
        3,
        len(GOOD + SECOND[0]),
        len(hole + SECOND[2]) - 1,
    )


@pytest.mark.parametrize(
    "rest, line",
    [
        (b"\n" * len(BATCH) + LATER + BLANKS, 3),
        (SECOND[0] + b"\n" + SECOND[2] + LATER + BLANKS, 4),
        (BATCH.replace(b"started", b"stArted") + LATER + BLANKS, 3),
        (BATCH + b"\n" + LATER + BLANKS, 6),
        (BATCH + b"x\n" + LATER + b"\n", 6),
        (BATCH + SECOND[0] + BLANKS, 6),
        (BATCH + _line(b'6 {"type":"exploded","id":1}') + BLANKS, 6),
    ],
)
def test_complete_unmarked_line_after_a_bad_one_is_damage(rest: bytes, line: int) -> None:
    assert f"segment-1, line {line} cannot be trusted" in _refusal(GOOD + rest)


@pytest.mark.parametrize(
    "rest", [b"x\n", b"\nx\n", b"\n\nx", BLANKS + b"x", BLANKS + b"\0\n", b"\0\n", BATCH[:50] + b"\n"]
)
def test_bad_line_in_a_file_without_blanks_at_its_end_is_damage(rest: bytes) -> None:
    assert "segment-1, line 3 cannot be trusted" in _refusal(GOOD + rest)


def test_text_like_a_line_within_a_torn_line_is_not_damage() -> None:
    inner = _line(b'3 {"type":"retried","id":1,"at":1.5,"by":"ann"}').decode()
    line = encode(Submitted(id=1, at=1.5, owner="ann", command=inner), 3)
    for start in range(1, len(line)):
        assert _measured(GOOD + b"\n" * start + line[start:] + BLANKS)[0] == 2


def test_blanks_in_an_older_format_or_before_the_header_are_damage() -> None:
    assert "segment-1, line 8 cannot be trusted" in _refusal(SEGMENT + b"\n\n")
    for content in (b"\n\n", FIRST[0].replace(b"opened", b"Opened") + BLANKS):
        assert "segment-1, line 1 cannot be trusted" in _refusal(content)
        with pytest.raises(JournalDamaged):
            list(Replay().read_segment("segment", content, None))


def test_blanks_at_the_end_of_an_earlier_segment_are_ignored_and_within_it_refused() -> None:
    again = encode(OPENED, 6)
    assert len(_replay(GOOD + BATCH + BLANKS, again)) == 6
    assert len(_replay(GOOD + BATCH + b"\n" + ONLY_MARKED + BLANKS, again)) == 6
    assert "segment-1, line 3 cannot be trusted" in _refusal(GOOD + b"\n" + BATCH + BLANKS, again)


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


# Snapshots.

HEADER = Snapshot(at=1.5, format=1, store="s", boot="b", next_id=3, records=3)
KEPT: list[tuple[int, Record]] = [(2, RECORDS[1]), (3, RECORDS[2]), (6, RECORDS[5])]
SNAPSHOT = b"".join(encode(record, number) for number, record in [(9, HEADER), *KEPT])


def _snapshot(content: bytes, replay: Replay | None = None) -> list[Record]:
    batches = (replay or Replay()).read_snapshot("snapshot", content)
    return [record for batch in batches for record in batch.records]


def test_snapshot_is_replayed_before_the_segments_after_it() -> None:
    replay = Replay()
    (found,) = replay.read_snapshot("snapshot", SNAPSHOT)
    assert list(zip(found.sequences, found.records, strict=True)) == KEPT
    assert list(map(decode, found.lines)) == KEPT
    assert (found.start, found.end) == (len(encode(HEADER, 9)), len(SNAPSHOT))
    assert (replay.sequence, replay.opened) == (9, HEADER)
    assert _read(replay, encode(OPENED, 10), None) == [OPENED]
    with pytest.raises(JournalDamaged, match=r"segment, line 1 .* it is record 12, expected 11"):
        list(replay.read_segment("segment", encode(OPENED, 12), None))


def test_empty_snapshot_is_replayed() -> None:
    header = Snapshot(at=1.5, format=1, store="s", boot="b", next_id=3, records=0)
    replay = Replay()
    assert _snapshot(encode(header, 7), replay) == []
    assert replay.sequence == 7


@pytest.mark.parametrize(
    "content, line, why",
    [
        (b"", 1, "it has no end"),
        (SEGMENT, 1, "the first record is not Snapshot"),
        (SNAPSHOT[:-1], 4, "it has no end"),
        (SNAPSHOT[: SNAPSHOT.rindex(b"\n", 0, -1) + 1], 4, "the file has 2 records, expected 3"),
        (SNAPSHOT + encode(RECORDS[6], 7), 6, "the file has 4 records, expected 3"),
        (SNAPSHOT + encode(RECORDS[6], 6), 5, "record 6 cannot follow 6 in a snapshot up to 9"),
        (SNAPSHOT + encode(RECORDS[6], 10), 5, "record 10 cannot follow 6 in a snapshot up to 9"),
        (SNAPSHOT + encode(OPENED, 7), 5, "record 7 cannot follow 6"),
        (SNAPSHOT + encode(HEADER, 7), 5, "record 7 cannot follow 6"),
        (SNAPSHOT.replace(b"echo", b"ecko"), 2, "its checksum is wrong"),
        (
            encode(Snapshot(at=1.5, format=FORMAT + 1, store="s", boot="b", next_id=3, records=0), 7),
            1,
            f"its format is {FORMAT + 1}, but this version of taskqd reads formats up to {FORMAT}",
        ),
    ],
)
def test_invalid_snapshot_is_refused_with_its_line(content: bytes, line: int, why: str) -> None:
    with pytest.raises(JournalDamaged) as refusal:
        _snapshot(content)
    assert str(refusal.value).startswith(f"snapshot, line {line} cannot be trusted: {why}")


@pytest.mark.parametrize("cut", range(len(SNAPSHOT)))
def test_truncated_snapshot_is_refused(cut: int) -> None:
    with pytest.raises(JournalDamaged):
        _snapshot(SNAPSHOT[:cut])


@pytest.mark.parametrize("record", [HEADER, Removed(id=1, at=1.0, by="ann")])
def test_snapshot_record_within_a_segment_is_refused(record: Record) -> None:
    content = encode(OPENED, 1) + encode(record, 2)
    if record is HEADER:
        assert (
            "line 2 cannot be trusted: only the first record of a segment may be an Opened record"
            in _refusal(content)
        )
    else:
        assert _replay(content) == [OPENED, record]


def test_empty_segment_replays_nothing() -> None:
    assert _replay() == _replay(b"") == _replay(b"", b"") == []
    assert _replay(b"", SEGMENT) == RECORDS
    assert _replay(SEGMENT, b"") == RECORDS


@pytest.mark.parametrize(
    "content, why",
    [
        (encode(RECORDS[1], 1), "the first record is not Opened"),
        (encode(OPENED, 1) + encode(OPENED, 2), "only the first record of a segment may be an Opened record"),
        (
            encode(Opened(at=0.0, format=FORMAT + 1, store="s", boot="b", next_id=1), 1),
            f"its format is {FORMAT + 1}, but this",
        ),
        (b"\n", "its checksum is wrong"),
        (b"00000000\n", "cannot decode its record"),
        (SEGMENT.replace(b"\n", b"\r\n"), "its checksum is wrong"),
        (b" " + SEGMENT, "its checksum is wrong"),
        (SEGMENT[:8].upper() + SEGMENT[8:], "its checksum is wrong"),
        (_line(b""), "cannot decode its record"),
        (_line(b"1"), "cannot decode its record"),
        (_line(b"x {}"), "cannot decode its record"),
        (_line(b"9" * 5000 + b" {}"), "cannot decode its record"),
        (_line(b"1 {}"), "cannot decode its record"),
        (_line(b"1 null"), "cannot decode its record"),
        (_line(b"1 " + b"[" * 100_000), "cannot decode its record"),
        (_line(b'1 {"type":"started","x":' + b"[" * 100_000), "cannot decode its record"),
        (_line(b'1 {"type":"exploded","id":1}'), "cannot decode its record"),
        (_line(b'1 {"type":"opened","at":"x"}'), "cannot decode its record"),
        (
            _line(b'1 {"type":"opened","at":1.0,"format":1,"store":"\xff","boot":"","next_id":1}'),
            "cannot decode its record",
        ),
    ],
)
def test_undecodable_line_is_refused_with_its_place(content: bytes, why: str) -> None:
    refusal = _refusal(content)
    assert refusal.startswith("segment-1, line ")
    assert why in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize(
    "line", [b"", b"x", LINES[0][1], b" " + LINES[0][1][:-1], LINES[0][1][1:-1], _line(b"1 {}")]
)
def test_decode_of_an_undecodable_line_raises(line: bytes) -> None:
    with pytest.raises(JournalDamaged):
        decode(line)
