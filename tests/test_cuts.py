"""A sample of the sweep of damaged journals (tests/support/cuts.py)."""

import re
from pathlib import Path

import pytest

from taskqd.state.queue_state import QueueState
from tests.support.cuts import LAST, judge, make, valid_files
from tests.support.journals import MemoryFilesystem, fold, replay, submitted, sweep, write

STEP = 71
"""The bits of every 71st byte are flipped here."""


@pytest.fixture(name="filesystem", scope="module")
def make_filesystem(tmp_path_factory: pytest.TempPathFactory) -> MemoryFilesystem:
    return make(tmp_path_factory.mktemp("cuts") / "journal")


def test_sweep_journal_has_records_a_snapshot_and_segments(filesystem: MemoryFilesystem) -> None:
    assert valid_files(filesystem) == ["00000002.snapshot", "00000003.journal", "00000004.journal", LAST]
    assert len(replay("", filesystem)) > 300
    assert isinstance(fold(replay("", filesystem)), QueueState)


def test_sweep_of_cuts_and_flips_finds_no_wrong_replay() -> None:
    said = sweep("tests.support.cuts", STEP)
    found = {name: int(number) for name, number in re.findall(r"'([\w ]+)': (\d+)", said)}
    assert found["cuts"] > 1000
    assert found["prefixes"] == 8
    assert found["refusals"] > 3000
    assert found["tears"] >= 256
    assert found["blank refusals"] > 100
    assert found["blank prefixes"] > 500


@pytest.mark.parametrize("name", ["00000002.snapshot", "00000003.journal", "00000004.journal"])
def test_truncated_file_before_the_last_is_refused(filesystem: MemoryFilesystem, name: str) -> None:
    content = filesystem.files[name]
    for cut in range(0, len(content), 7):
        filesystem.files[name] = content[:cut]
        count, said = judge(filesystem, [])
        assert count is None, cut
        assert "cannot be trusted: " in said
    filesystem.files[name] = content


@pytest.mark.parametrize("name", ["00000003.journal", "00000004.journal"])
def test_missing_segment_before_the_last_is_refused_by_name(filesystem: MemoryFilesystem, name: str) -> None:
    content = filesystem.files.pop(name)
    count, said = judge(filesystem, [])
    filesystem.files[name] = content
    assert count is None
    assert f"{name} is missing" in said


def test_segment_with_a_damaged_first_newline_is_not_taken_for_unfinished(tmp_path: Path) -> None:
    write(tmp_path, [submitted(1)], [submitted(2, "#" * 10_000)])
    filesystem = MemoryFilesystem(tmp_path)
    content = filesystem.files["00000002.journal"]
    filesystem.files["00000002.journal"] = content.replace(b"\n", b"\x0b", 1)
    count, said = judge(filesystem, [submitted(1), submitted(2, "#" * 10_000)])
    assert count is None
    assert "00000002.journal, line 1 cannot be trusted" in said
