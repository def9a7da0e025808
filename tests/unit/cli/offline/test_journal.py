"""``taskq journal``: reading a state directory without its daemon."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskqd import cli
from taskqd.cli.offline import journal
from taskqd.model.events import (
    Cancelled,
    Compacted,
    Ended,
    Opened,
    Output,
    Record,
    Removed,
    Snapshot,
    Started,
    Submitted,
)
from taskqd.model.job import Reason, Status
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.segments import Layout, Segments

AT = 1764000000.0


def opened(at: float = AT) -> Opened:
    return Opened(at=at, format=1, store="s", boot="b", next_id=1)


def submitted(number: int, at: float = AT) -> Submitted:
    return Submitted(id=number, at=at, owner="ana", command="x")


def started(number: int, at: float = AT) -> Started:
    return Started(id=number, at=at, attempt=1)


def ended(number: int, at: float = AT) -> Ended:
    return Ended(id=number, at=at, status=Status.COMPLETED, exit_code=0, stdout=Output.inline(b"\xff"))


class Journal:
    """A state directory with the given segments; records are numbered across them."""

    def __init__(self, place: Path, *segments: list[Record]) -> None:
        self.place = place
        self.journal = place / "journal"
        self.journal.mkdir()
        self.sequence = 0
        for number, records in enumerate(segments, 1):
            self.segment(number).write_bytes(self.lines(records))

    def segment(self, number: int) -> Path:
        return self.journal / f"{number:08}.journal"

    def lines(self, records: list[Record]) -> bytes:
        found = []
        for record in records:
            self.sequence += 1
            found.append(encode(record, self.sequence))
        return b"".join(found)


class Outcome(NamedTuple):
    """Exit code and output of a call."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Call = Callable[..., Outcome]


@pytest.fixture(name="call")
def a_call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Return a function that calls ``taskq journal`` in this process."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["taskq", "journal", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        stdout, stderr = capfdbinary.readouterr()
        return Outcome(int(str(end.value.code)), stdout.decode(), stderr.decode())

    return call


@pytest.fixture(name="store")
def a_store(tmp_path: Path) -> Journal:
    """Return a store of two segments: job 1 is COMPLETED, job 2 PENDING, job 3 removed."""
    return Journal(
        tmp_path,
        [opened(), submitted(1), started(1), submitted(3), Cancelled(id=3, at=AT, by="ana", signal=15)],
        [opened(AT + 100), ended(1, AT + 100), submitted(2, AT + 200), Removed(id=3, at=AT + 200, by="ana")],
    )


# verify


def test_verify_prints_a_summary(store: Journal, call: Call) -> None:
    assert call("verify", store.place) == (
        0,
        f"{store.journal}: intact: 2 files, 9 records up to number 9, 2 jobs: 1 pending, 1 completed\n",
        "",
    )
    [facts] = call("verify", "--json", store.place).documents
    assert (facts["records"], facts["last"], facts["torn"]) == (9, 9, None)
    assert facts["jobs"] == {"pending": 1, "running": 0, "completed": 1, "failed": 0, "cancelled": 0}


def test_verify_accepts_empty_journal(tmp_path: Path, call: Call) -> None:
    store = Journal(tmp_path)
    assert call("verify", tmp_path).stdout == (
        f"{store.journal}: intact: 0 files, 0 records up to number 0, 0 jobs\n"
    )


@pytest.mark.parametrize(
    "at,line,size", [(-1, 4, None), (-10, 4, None), (None, 5, 7), ("all but one", 1, 20)], ids=str
)
def test_verify_reports_torn_last_record_without_error(
    store: Journal, call: Call, at: Any, line: int, size: int | None
) -> None:
    last = store.segment(2)
    content = last.read_bytes()
    whole = content.splitlines(keepends=True)
    if at is None:
        last.write_bytes(content + b"1234abc")
    elif at == "all but one":
        last.write_bytes(whole[0][:20])
    else:
        last.write_bytes(content[:at])
        size = len(whole[-1]) + at
    outcome = call("verify", store.place)
    assert (outcome.code, outcome.stderr.count("\n")) == (0, 1)
    assert outcome.stderr.startswith(f"taskq: {last}, line {line} is incomplete ({size} bytes)")
    [facts] = call("verify", "--json", store.place).documents
    assert facts["torn"] == {"path": str(last), "line": line, "size": size}


DAMAGES: list[tuple[str, Callable[[Journal], object], str]] = [
    (
        "a flipped bit",
        lambda it: it.segment(1).write_bytes(it.segment(1).read_bytes().replace(b'"x"', b'"y"', 1)),
        "00000001.journal, line 2 cannot be trusted: its checksum is wrong",
    ),
    (
        "a missing line",
        lambda it: it.segment(2).write_bytes(
            b"".join(it.segment(2).read_bytes().splitlines(keepends=True)[::2])
        ),
        "00000002.journal, line 2 cannot be trusted: it is record 8, expected 7",
    ),
    ("a missing segment", lambda it: it.segment(1).unlink(), "00000001.journal is missing"),
    (
        "an illegal transition",
        lambda it: it.segment(3).write_bytes(it.lines([opened(), started(1)])),
        "00000003.journal, line 2 is inconsistent: started is not possible for job 1, which is COMPLETED",
    ),
    (
        "a newer format",
        lambda it: it.segment(3).write_bytes(
            it.lines([Opened(at=AT, format=99, store="s", boot="b", next_id=1)])
        ),
        "00000003.journal, line 1 cannot be trusted: its format is 99",
    ),
]


@pytest.mark.parametrize("damage,text", [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_verify_reports_file_and_line_of_damage(
    store: Journal, call: Call, damage: Callable[[Journal], object], text: str
) -> None:
    damage(store)
    before = {path: path.read_bytes() for path in store.journal.iterdir()}
    outcome = call("verify", store.place)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert f"/journal/{text}" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in store.journal.iterdir()} == before


def test_verify_ignores_torn_record_before_a_later_segment(store: Journal, call: Call) -> None:
    store.segment(2).write_bytes(store.segment(2).read_bytes() + encode(started(1), 10) + b"half a l")
    store.segment(3).write_bytes(store.lines([opened()]))
    assert call("verify", store.place).stdout.endswith(
        "3 files, 10 records up to number 10, 2 jobs: 1 pending, 1 completed\n"
    )


def test_verify_reports_missing_journal(tmp_path: Path, call: Call) -> None:
    assert call("verify", tmp_path) == (1, "", f"taskq: {tmp_path}/journal: No such file or directory\n")


@pytest.mark.parametrize("rest,size", [(b"", 0), (b"x\n\n\nhalf a li\n", 13)])
def test_verify_ignores_preallocated_lines_and_reports_torn_batch(
    store: Journal, call: Call, rest: bytes, size: int
) -> None:
    now = Opened(at=AT, format=4, store="s", boot="b", next_id=1)
    last = store.segment(3)
    last.write_bytes(store.lines([now, submitted(5)]) + rest + b"\n" * 5000)
    [facts] = call("verify", "--json", store.place).documents
    assert facts["torn"] == ({"path": str(last), "line": 3, "size": size} if size else None)
    assert facts["last"] == 11
    assert call("dump", store.place).documents[-1]["seq"] == 11


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_batch_visible_before_an_earlier_one_is_read_again(
    store: Journal, call: Call, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    now = Opened(at=AT, format=4, store="s", boot="b", next_id=1)
    head, one, two = (store.lines([record]) for record in (now, submitted(5), submitted(6)))
    store.segment(3).write_bytes(head + b"\n" * len(one) + two + b"\n" * 999)
    whole_content = Filesystem.read_file

    def content(disk: Filesystem, path: str, max_bytes: int | None = None) -> bytes:
        found = whole_content(disk, path, max_bytes)
        if path == str(store.segment(3)) and max_bytes is None:
            store.segment(3).write_bytes(head + one + two + b"\n" * 999)
        return found

    monkeypatch.setattr(Filesystem, "read_file", content)
    outcome = call(command, store.place)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "12 records" in outcome.stdout or len(outcome.documents) == 12


# dump


def test_dump_prints_records_with_number_and_time(store: Journal, call: Call) -> None:
    outcome = call("dump", store.place)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert [document["seq"] for document in outcome.documents] == list(range(1, 10))
    assert outcome.documents[4] == {
        "seq": 5,
        "type": "cancelled",
        "id": 3,
        "at": "2025-11-24T16:00:00.000Z",
        "by": "ana",
        "signal": 15,
    }
    assert outcome.documents[6]["stdout"] == {"size": 1, "base64": "/w=="}


def test_dump_formats_all_times_of_an_end(tmp_path: Path, call: Call) -> None:
    again = Ended(
        id=1, at=AT, status=Status.PENDING, reason=Reason.EXIT, retry_at=AT + 1.5, ended_at=AT - 1.5
    )
    store = Journal(tmp_path, [opened(), submitted(1), started(1), again])
    document = call("dump", store.place).documents[-1]
    assert document["retry_at"] == "2025-11-24T16:00:01.500Z"
    assert document["ended_at"] == "2025-11-24T15:59:58.500Z"


@pytest.mark.parametrize(
    "options,numbers",
    [
        (["--job", 1], [2, 3, 7]),
        (["--job", 4], []),
        (["--since", "2025-11-24T16:01:40Z"], [6, 7, 8, 9]),
        (["--since", "2025-11-24T17:03:20.000+01:00"], [8, 9]),
        (["--job", 1, "--since", "2025-11-24t16:00:00.001z"], [7]),
    ],
)
def test_dump_filters_by_job_and_time(
    store: Journal, call: Call, options: list[object], numbers: list[int]
) -> None:
    documents = call("dump", store.place, *options).documents
    assert [document["seq"] for document in documents] == numbers


def test_dump_is_sanitized_on_a_terminal(store: Journal, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = Submitted(id=4, at=AT, owner="ana", command="\x1b]0;x\x07 \x9b2J \x7f")
    content = store.segment(2).read_bytes()
    store.segment(2).write_bytes(content + encode(evil, 10))
    assert "\x9b" in call("dump", store.place).stdout
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = call("dump", store.place).stdout
    assert r'"command":"\u001b]0;x\u0007 \u009b2J ^?"' in shown
    assert shown.isascii()


def test_dump_prints_records_before_damage_and_reports_it(store: Journal, call: Call) -> None:
    store.segment(2).write_bytes(store.segment(2).read_bytes().replace(b"ana", b"ben", 1))
    outcome = call("dump", store.place)
    assert (outcome.code, [document["seq"] for document in outcome.documents]) == (1, list(range(1, 8)))
    assert "00000002.journal, line 3 cannot be trusted" in outcome.stderr


# snapshots


def compact(store: Journal) -> None:
    """Replace the first segment by a snapshot, as a running daemon does; job 3 was removed."""
    kept = store.segment(1).read_bytes().splitlines(keepends=True)[1:3]
    header = Snapshot(at=AT, format=1, store="s", boot="b", next_id=4, records=len(kept))
    (store.journal / "00000001.snapshot").write_bytes(encode(header, 5) + b"".join(kept))
    store.segment(1).unlink()


@pytest.fixture(name="compacting")
def a_snapshot_meanwhile(store: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact the journal after the reader has listed its files."""
    whole_layout = Segments.layout
    todo = [compact]

    def layout(segments: Segments) -> Layout:
        found = whole_layout(segments)
        if todo:
            todo.pop()(store)
        return found

    monkeypatch.setattr(Segments, "layout", layout)


def without_job_3(store: Journal) -> None:
    removed = Removed(id=3, at=AT + 200, by="ana")
    content = store.segment(2).read_bytes()
    store.segment(2).write_bytes(content.replace(encode(removed, 9), encode(submitted(4), 9)))


def test_snapshot_is_read_instead_of_the_segments_it_replaces(store: Journal, call: Call) -> None:
    without_job_3(store)
    compact(store)
    summary = "2 files, 6 records up to number 9, 3 jobs: 2 pending, 1 completed\n"
    assert call("verify", store.place).stdout.endswith(summary)
    assert [document["seq"] for document in call("dump", store.place).documents] == [2, 3, 6, 7, 8, 9]


def test_verify_starts_again_after_compaction(store: Journal, call: Call, compacting: None) -> None:
    without_job_3(store)
    assert call("verify", store.place).stdout.endswith(
        "2 files, 6 records up to number 9, 3 jobs: 2 pending, 1 completed\n"
    )


def test_dump_prints_nothing_twice_after_compaction(
    store: Journal, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_job_3(store)
    whole_content = Filesystem.read_file

    def content(disk: Filesystem, path: str, max_bytes: int | None = None) -> bytes:
        if max_bytes is None and path == str(store.segment(2)) and store.segment(1).exists():
            compact(store)
            raise FileNotFoundError(2, "No such file or directory", path)
        return whole_content(disk, path, max_bytes)

    monkeypatch.setattr(Filesystem, "read_file", content)
    outcome = call("dump", store.place)
    assert [document["seq"] for document in outcome.documents] == list(range(1, 10))


# progress bar


def test_large_journal_shows_a_progress_bar_on_a_terminal(
    store: Journal, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PROGRESS_BAR_SIZE", 10)
    monkeypatch.setenv("TERM", "xterm")
    outcome = call("verify", store.place)
    assert outcome.stderr == "", "no bar if stderr is no terminal"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "/" in call("verify", store.place).stderr


def test_dump_prints_the_records_of_a_compacted_job_one_by_one(tmp_path: Path, call: Call) -> None:
    ended = Ended(id=1, at=AT + 200, status=Status.COMPLETED)
    record = Compacted(events=(submitted(1), started(1), ended), numbers=(4, 6))
    store = Journal(tmp_path, [opened(), record])
    documents = call("dump", store.place).documents[1:]
    assert [(each["seq"], each["type"], each["id"]) for each in documents] == [
        (2, "submitted", 1),
        (4, "started", 1),
        (6, "ended", 1),
    ]
    assert [each["type"] for each in call("dump", store.place, "--job", 1).documents] == [
        "submitted",
        "started",
        "ended",
    ]
    since = call("dump", store.place, "--since", "2025-11-24T16:03:00Z").documents
    assert [each["type"] for each in since] == ["ended"]
