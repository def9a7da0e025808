"""Replay of segments and snapshots: damaged, lost and moved lines are refused."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import JournalDamaged
from taskqd.model.events import (
    FORMAT,
    Opened,
    Record,
    Removed,
    Retried,
    Snapshot,
    Submitted,
)
from taskqd.storage.journal import replay as module
from taskqd.storage.journal.codec import decode, encode
from taskqd.storage.journal.replay import RecordBatch, Replay, first_sequence
from tests.unit.storage.journal.records import LINES, OPENED, RECORDS, SEGMENT, line_of


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
        (BATCH + line_of(b'6 {"type":"exploded","id":1}') + BLANKS, 6),
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
    inner = line_of(b'3 {"type":"retried","id":1,"at":1.5,"by":"ann"}').decode()
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


# Segments that are empty or have lines that cannot be decoded.


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
        (line_of(b""), "cannot decode its record"),
        (line_of(b"1"), "cannot decode its record"),
        (line_of(b"x {}"), "cannot decode its record"),
        (line_of(b"9" * 5000 + b" {}"), "cannot decode its record"),
        (line_of(b"1 {}"), "cannot decode its record"),
        (line_of(b"1 null"), "cannot decode its record"),
        (line_of(b"1 " + b"[" * 100_000), "cannot decode its record"),
        (line_of(b'1 {"type":"started","x":' + b"[" * 100_000), "cannot decode its record"),
        (line_of(b'1 {"type":"exploded","id":1}'), "cannot decode its record"),
        (line_of(b'1 {"type":"opened","at":"x"}'), "cannot decode its record"),
        (
            line_of(b'1 {"type":"opened","at":1.0,"format":1,"store":"\xff","boot":"","next_id":1}'),
            "cannot decode its record",
        ),
    ],
)
def test_undecodable_line_is_refused_with_its_place(content: bytes, why: str) -> None:
    refusal = _refusal(content)
    assert refusal.startswith("segment-1, line ")
    assert why in refusal
    assert "\n" not in refusal
