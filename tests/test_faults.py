"""A sample of the fault sweep; ``python -m tests.support.faults`` tries every fault."""

import errno
import os
import re
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from taskqd.model.events import Output, Record
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import entry_builder, segment_writer
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.journal import Journal
from taskqd.storage.journal.segment_writer import SegmentWriter
from taskqd.storage.journal.segments import JournalEnd
from taskqd.storage.journal.snapshot_survey import Part, SnapshotSurvey
from taskqd.storage.spool.output_stream import OutputStream
from taskqd.storage.spool.spool import Spool
from tests.fakes.filesystem import CHECKS
from tests.support import faults as sweep_module
from tests.support.faults import NO_FAULT, Fault, FaultyFilesystem, Mode, RuleViolation, faults, run_scenario
from tests.support.journals import run_bounded, sweep

STEP = 229
"""Every 229th fault is tried here."""
ANY = range(1, sys.maxsize)
"""All numbers of calls."""


def test_run_without_a_fault_makes_every_call_and_command() -> None:
    scenario = run_scenario(NO_FAULT)
    assert not {name for name in scenario.counts if "refused" in name}
    about_jobs = {"SUBMIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "HOLD", "RELEASE", "SET"}
    assert set(scenario.counts) == about_jobs | {"PAUSE", "RESUME", "SET-QUEUE", "SCHEDULE", "UNSCHEDULE"}
    assert (
        set(scenario.faulty.calls) == {name for name in vars(Filesystem) if not name.startswith("_")} - CHECKS
    )
    assert scenario.faulty.calls.count("rename") > 1, "the run has no snapshot"
    assert scenario.faulty.calls.count("create") > 15, "the run has too few segments"


def test_sweep_of_faults_finds_no_wrong_reply_and_no_lost_data() -> None:
    said = sweep("tests.support.faults", STEP)
    calls, tried = re.findall("[0-9]+", said)[:2]
    assert int(calls) > 600
    assert int(tried) > 70
    assert "'SUBMIT refused': " in said


# The sweep detects faulty code.


def seen(mode: Mode, call: str, wrong: Any, step: int = 3, numbers: Container[int] = ANY) -> bool:
    """Whether the sweep reports any of a few faults of ``call`` while the patch ``wrong`` is active.

    It tries every ``step``-th of the calls with these ``numbers``.
    """
    names = run_scenario(NO_FAULT).faulty.calls
    wanted = [
        fault
        for fault in faults(names)
        if (fault.mode, fault.code, names[fault.number - 1]) == (mode, errno.EIO, call)
        and fault.number in numbers
    ]
    with wrong:
        for fault in wanted[::step]:
            try:
                run_scenario(fault)
            except RuleViolation:
                return True
    return False


def test_sweep_detects_a_refused_end_that_stays_in_the_journal() -> None:
    assert seen(Mode.CRASH, "sync", mock.patch.object(SegmentWriter, "discard_failed"))


def test_sweep_detects_a_journal_that_does_not_retry() -> None:
    assert seen(Mode.ONCE, "write_at", mock.patch.object(Journal, "_retry"))


def test_sweep_detects_a_reply_before_the_sync() -> None:
    def write(self: Any, content: bytes, records: int) -> None:
        number, size, sequence = self.end
        self._filesystem.write_at(self._descriptor, content, size)
        self.end = JournalEnd(number, size + len(content), sequence + records)

    assert seen(Mode.SUDDEN, "write_at", mock.patch.object(SegmentWriter, "write", write))


def test_sweep_detects_batch_lines_without_marks_when_torn() -> None:
    def unmarked(records: Sequence[Record], first: int, continues_batch: bool = False) -> list[bytes]:
        return [encode(record, sequence) for sequence, record in enumerate(records, first)]

    def is_seen(torn: float) -> bool:
        with mock.patch.object(sweep_module, "TORN", torn):
            return seen(Mode.SUDDEN, "write_at", wrong, step=1)

    wrong = mock.patch.object(entry_builder, "encode_all", unmarked)
    assert any(map(is_seen, (0.2, 0.1, 0.4))), (
        "few such batches occur in a run, so three tear rates are tried"
    )


def test_sweep_detects_blanks_left_before_a_large_write() -> None:
    def can_append(self: Any, size: int) -> bool:
        if size > segment_writer.MAX_SMALL_WRITE:
            large.add(len(self._filesystem.calls) + 2)  # the sync; the right code truncates and writes
        return size > segment_writer.MAX_SMALL_WRITE or sound(self, size)

    def is_seen(torn: float) -> bool:
        with mock.patch.object(sweep_module, "TORN", torn):
            return seen(Mode.SUDDEN, "write_at", wrong, step=1, numbers=tuple(large))

    sound = SegmentWriter.can_append
    large: set[int] = set()
    wrong = mock.patch.object(SegmentWriter, "can_append", can_append)
    with wrong:
        run_scenario(NO_FAULT)
    assert any(map(is_seen, (0.1, 0.2, 0.4))), (
        "few such batches occur in a run, so three tear rates are tried"
    )


def test_sweep_detects_output_that_is_not_synced() -> None:
    def finish(self: Any, descriptor: int) -> Output:
        self._filesystem.sync_directory(os.path.dirname(self._path))
        size = self._filesystem.size(self._path) or 0
        self._filesystem.close(descriptor)
        return Output(size, self.dropped + self.size - size)

    with mock.patch.object(
        sweep_module, "SYNC_INTERVAL_BYTES", 1 << 40
    ):  # else most is synced before the end
        assert seen(Mode.POWER_CUT, "write", mock.patch.object(OutputStream, "_finish", finish))


def test_sweep_detects_blocks_that_are_not_synced() -> None:
    def store_blocks(self: Any, job_id: int, blocks: dict[str, bytes]) -> Any:
        with mock.patch.object(FaultyFilesystem, "_note_name"):  # directories are never synced
            return sound(self, job_id, blocks)

    sound = Spool.store_blocks
    assert seen(Mode.POWER_CUT, "close", mock.patch.object(Spool, "store_blocks", store_blocks))


def test_sweep_detects_a_snapshot_that_omits_a_record() -> None:
    def parts(self: Any, packed: bytes) -> list[Part]:
        return sound(self, packed)[:-1]

    sound = SnapshotSurvey.parts
    assert seen(Mode.ONCE, "rename", mock.patch.object(SnapshotSurvey, "parts", parts))


# The sweep is limited by CPU time and progress.


def test_sweep_on_a_busy_machine_is_not_timed_out() -> None:
    code = "import time\nfor _ in range(8): sum(range(500_000)); time.sleep(0.25)\nprint('done')"
    assert run_bounded([sys.executable, "-c", code], cpu=20, idle_timeout=1.5, interval=0.1) == "done\n"


@pytest.mark.parametrize(
    "code, why",
    [
        ("while True: pass", "ended with -9"),
        ("import time; time.sleep(60)", "has used no CPU time for 1 s"),
        ("print('wrong'); raise SystemExit(3)", "ended with 3: wrong"),
    ],
)
def test_sweep_that_spins_hangs_or_fails_raises(code: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        run_bounded([sys.executable, "-c", code], cpu=1, idle_timeout=1.0, interval=0.1)


# The file system of the sweep.


def test_faulty_disk_keeps_synced_data_after_a_power_cut(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem(NO_FAULT)
    filesystem.make_directory(str(tmp_path / "a"))
    paths = [str(tmp_path / "a" / name) for name in ("synced", "nameless", "half")]
    descriptors = [filesystem.create(path) for path in paths]
    for descriptor in descriptors:
        filesystem.write(descriptor, b"12345")
        filesystem.sync(descriptor)
        filesystem.write(descriptor, b"6789")
    filesystem.sync(descriptors[0])
    filesystem.sync_directory(str(tmp_path / "a"))
    late = filesystem.create(str(tmp_path / "a" / "late"))
    filesystem.sync(late)
    filesystem.let_go()
    filesystem.cut_power()
    assert {name: (tmp_path / "a" / name).read_bytes() for name in os.listdir(tmp_path / "a")} == {
        "synced": b"123456789",
        "nameless": b"12345",
        "half": b"12345",
    }


def test_faulty_disk_keeps_any_sectors_of_an_unsynced_overwrite(tmp_path: Path) -> None:
    found = set()
    for number in range(1, 200):
        filesystem = FaultyFilesystem(Fault(-number, errno.EIO))
        path = str(tmp_path / str(number))
        descriptor = filesystem.create(path)
        filesystem.write(descriptor, b"." * 2000)
        filesystem.sync(descriptor)
        filesystem.sync_directory(str(tmp_path))
        filesystem.write_at(descriptor, b"o" * 100, 0)
        filesystem.sync(descriptor)
        filesystem.write_at(descriptor, b"x" * 1100, 500)
        filesystem.write_at(descriptor, b"lost", 2000)
        filesystem.let_go()
        filesystem.cut_power()
        content = Path(path).read_bytes()
        assert re.fullmatch(
            rb"o{100}\.{400}(x{12}|\.{12})(x{512}|\.{512})(x{512}|\.{512})(x{64}|\.{64})\.{400}", content
        )
        found.add(content)
    assert len(found) == 16


def test_faulty_disk_loses_data_after_a_failed_sync(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem(Fault(6, errno.EIO, False, Mode.ONCE))
    path = str(tmp_path / "a")
    descriptor = filesystem.create(path)
    filesystem.sync_directory(str(tmp_path))
    filesystem.write(descriptor, b"123")
    while len(filesystem.calls) < 5:
        filesystem.sync(descriptor)
    with pytest.raises(OSError, match="Input/output error"):
        filesystem.sync(descriptor)
    filesystem.write(descriptor, b"456")
    filesystem.sync(descriptor)
    filesystem.let_go()
    filesystem.cut_power()
    assert Path(path).read_bytes() == b"123"
