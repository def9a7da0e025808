"""The progress that jobs report in files."""

import os
from pathlib import Path

import pytest

from tests.unit.storage.spool.samples import Bench


@pytest.mark.parametrize(
    "content, percentage",
    [
        (b"", 0),
        (b"50\n", 50),
        (b"10\n20\n30\n", 30),
        (b"0\n", 0),
        (b"100\n", 100),
        (b"101\n", 100),
        (b"999\n", 100),
        (b" 42 \n", 42),
        (b"42%\n", 42),
        (b"42 %\r\n", 42),
        (b"42.9\n", 42),
        (b"10\n5", 10),
        (b"50", 0),
        (b"50\n\n", 50),
        (b"x" * 10_000 + b"\n77\n", 77),
    ],
)
def test_progress_is_the_percentage_in_the_last_complete_line(
    bench: Bench, content: bytes, percentage: int
) -> None:
    assert bench.reports(content) == percentage


@pytest.mark.parametrize(
    "content",
    [
        b"-1\n",
        b"nonsense\n",
        b"50\nnonsense\n",
        b"1000\n",
        b"0x10\n",
        b"\xff\xfe\n",
        b"\0" * 1000 + b"\n",
        "\u0665\n".encode(),
        b"1" * 10_000 + b"\n",
        b".5\n",
        b"%\n",
        b"\n",
    ],
)
def test_progress_of_other_text_is_zero(bench: Bench, content: bytes) -> None:
    assert bench.reports(content) == 0


def test_progress_without_a_report_is_zero(bench: Bench) -> None:
    assert bench.spool.read_progress(7).percent == 0


def test_progress_file_that_is_a_pipe_does_not_block(bench: Bench) -> None:
    os.mkfifo(bench.spool.path(7, "progress"))
    assert bench.spool.read_progress(7).percent == 0
    bench.spool.close_attempt(7)
    assert not os.path.lexists(bench.spool.path(7, "progress"))


def test_progress_file_that_is_a_link_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"50\n")
    os.symlink(tmp_path / "precious", bench.spool.path(7, "progress"))
    assert bench.spool.read_progress(7).percent == 0
    bench.spool.close_attempt(7)
    assert (tmp_path / "precious").read_bytes() == b"50\n"
    assert not os.path.lexists(bench.spool.path(7, "progress"))


def test_progress_file_that_is_a_directory_is_zero(bench: Bench) -> None:
    os.mkdir(bench.spool.path(7, "progress"))
    assert bench.spool.read_progress(7).percent == 0
    bench.spool.close_attempt(7)


def test_read_progress_closes_its_descriptor(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert bench.reports(b"50\n") == 50
    bench.spool.close_attempt(7)
    os.mkfifo(bench.spool.path(7, "progress"))
    assert bench.spool.read_progress(7).percent == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_progress_is_removed_with_its_attempt(bench: Bench) -> None:
    assert bench.reports(b"50\n") == 50
    bench.spool.close_attempt(7)
    assert bench.spool.read_progress(7).percent == 0
    bench.spool.close_attempt(7)
