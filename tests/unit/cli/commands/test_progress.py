"""``taskq progress``: the file of the job."""

import json
from pathlib import Path

import pytest

from tests.support.cli_calls import Call, a_call, plain_environment  # noqa: F401 - these are fixtures


def test_progress_appends_a_line_to_the_file_of_the_job(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_PROGRESS", str(tmp_path / "progress"))
    assert call("progress", "40") == (0, b"", "")
    assert call("progress", "41%", "--json") == (0, b'{"progress": 41}\n', "")
    assert (tmp_path / "progress").read_text() == "40\n41\n"


def test_progress_with_a_text_appends_a_second_line_for_older_daemons(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_PROGRESS", str(tmp_path / "progress"))
    assert call("progress", "40", "epoch  5\nof", "100") == (0, b"", "")
    assert (tmp_path / "progress").read_bytes() == b"40 epoch 5 of 100\n40\n"
    long = call("progress", "41", "\u00e4" * 300, "--json")
    assert json.loads(long.stdout) == {"progress": 41, "progress_text": "\u00e4" * 200}
