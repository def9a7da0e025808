"""``make SHELL=taskq .SHELLFLAGS=run``: the lines of recipes are jobs (docs/recipes.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment

MAKEFILE = """\
all: a b c d

%: %.in
\tcp $< $@; echo made $@

bad:
\techo before >&2; exit 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "make"
    place.mkdir()
    (place / "Makefile").write_text(MAKEFILE)
    for name in "abcd":
        (place / f"{name}.in").write_text(name)
    return place


def make(daemon: Daemon, place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    taskq = Path(sys.executable).parent
    variables = {"TASKQ_ADDRESS": f"unix:{daemon.socket}", "PATH": f"{taskq}:{os.environ['PATH']}"}
    return subprocess.run(
        ["make", "SHELL=taskq", ".SHELLFLAGS=run", *words],
        cwd=place,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.needs("make")
def test_lines_of_recipes_run_as_jobs_and_print_their_output(daemon: DaemonFactory, place: Path) -> None:
    one = daemon(slots=2)
    done = make(one, place, "-j", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("made")) == [
        *("made a", "made b", "made c", "made d")
    ]
    assert [(place / name).read_text() for name in "abcd"] == ["a", "b", "c", "d"]
    wire = one.connect()
    assert [job["status"] for job in wire.list()] == ["COMPLETED"] * 4


@pytest.mark.needs("make")
def test_line_that_fails_ends_make(daemon: DaemonFactory, place: Path) -> None:
    done = make(daemon(), place, "bad")
    assert done.returncode == 2
    assert "before\n" in done.stderr
    assert "Error 3" in done.stderr
