"""The files of attempts that root's runner makes, seen from the daemon."""

import os
from pathlib import Path

import pytest

from taskqd.storage.spool.runner_files import RunnerFiles

WORD = "0123456789abcdef"


def test_paths_are_those_of_the_runner_s_directory(tmp_path: Path) -> None:
    files = RunnerFiles(str(tmp_path))
    assert files.provide(7, 2, WORD, 5, 60, {"script": "/spool/7.script"}) == {
        "script": f"{tmp_path}/7.2.{WORD}.script",
        "progress": f"{tmp_path}/7.2.{WORD}.progress",
    }
    assert list(tmp_path.iterdir()) == []


def test_progress_is_opened_until_the_attempt_is_forgotten(tmp_path: Path) -> None:
    files = RunnerFiles(str(tmp_path))
    assert files.open_progress(7) is None
    assert files.open({(7, 1, WORD)}) == 0
    with pytest.raises(FileNotFoundError):
        files.open_progress(7)
    path = tmp_path / f"7.1.{WORD}.progress"
    path.write_text("40\n")
    descriptor = files.open_progress(7)
    assert descriptor is not None
    assert os.read(descriptor, 10) == b"40\n"
    os.close(descriptor)
    files.remove(7)
    assert files.open_progress(7) is None
    assert path.exists()
    files.close()


def test_progress_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    files = RunnerFiles(str(tmp_path))
    files.open({(7, 1, WORD)})
    (tmp_path / f"7.1.{WORD}.progress").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        files.open_progress(7)
