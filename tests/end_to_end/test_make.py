"""``make SHELL=taskq .SHELLFLAGS=run``: the lines of recipes are jobs (docs/recipes.md)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.wire import until

NUMBERS = " ".join(map(str, range(1, 41)))
MAKEFILE = f"""\
all: a b c d

many: {NUMBERS}

%: %.in
\tcp $< $@; echo made $@

{NUMBERS}:
\techo $@ > $@

large: .SHELLFLAGS = run --slots 2 --memory 4G
large:
\tulimit -v > $@

waits:
\ttouch running; until [ -e go ]; do sleep 0.1; done; echo ended > $@

after: waits
\tcat waits > $@

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


def start(
    daemon: Daemon, place: Path, *words: str, flags: tuple[str, ...] = (".SHELLFLAGS=run",)
) -> "subprocess.Popen[str]":
    taskq = Path(sys.executable).parent
    variables = {"TASKQ_ADDRESS": f"unix:{daemon.socket}", "PATH": f"{taskq}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["make", "SHELL=taskq", *flags, *words],
        cwd=place,
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def make(daemon: Daemon, place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    with start(daemon, place, *words) as started:
        stdout, stderr = started.communicate(timeout=60)
    return subprocess.CompletedProcess(started.args, started.returncode, stdout, stderr)


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


@pytest.mark.needs("make")
def test_forty_lines_run_although_another_one_fails(daemon: DaemonFactory, place: Path) -> None:
    one = daemon()
    done = make(one, place, "-j", "4", "-k", "many", "bad")
    assert done.returncode == 2
    assert [(place / str(n)).read_text() for n in range(1, 41)] == [f"{n}\n" for n in range(1, 41)]
    statuses = [job["status"] for job in one.connect().list("--limit=100")]
    assert sorted(statuses) == ["COMPLETED"] * 40 + ["FAILED"]


@pytest.mark.needs("make")
def test_options_of_a_target_are_those_of_its_jobs(daemon: DaemonFactory, place: Path) -> None:
    one = daemon(slots=2)
    with start(one, place, "large", flags=()) as started:
        _, stderr = started.communicate(timeout=60)
    assert (started.returncode, stderr) == (0, "")
    assert (place / "large").read_text() == f"{4 << 20}\n"
    assert one.connect().show(1)["slots"] == 2


@pytest.mark.needs("make")
def test_make_goes_on_after_a_restart_of_the_daemon(daemon: DaemonFactory, place: Path) -> None:
    one = daemon("--on-stop", "leave")
    with start(one, place, "after") as started:
        until((place / "running").exists, "the line that waits")
        one.restart()
        (place / "go").touch()
        _, stderr = started.communicate(timeout=60)
    assert started.returncode == 0, stderr
    assert (place / "after").read_text() == "ended\n"


@pytest.mark.needs("make")
def test_ctrl_c_of_make_cancels_what_runs_and_what_waits(daemon: DaemonFactory, place: Path) -> None:
    one = daemon(slots=1)
    flags = (".SHELLFLAGS=run --on-interrupt cancel",)
    with start(one, place, "-j", "4", "waits", "many", flags=flags) as started:
        until((place / "running").exists, "the line that waits")
        wire = one.connect()
        until(lambda: len(wire.list("--status=PENDING,RUNNING")) == 4, "four jobs")
        os.killpg(started.pid, signal.SIGINT)
        started.communicate(timeout=60)
    assert started.returncode != 0
    assert wire.list("--status=PENDING,RUNNING") == []
    [running, *others] = sorted(wire.list(), key=lambda job: "running" not in job["command"])
    assert running["status"] == "CANCELLED"
    # Each `taskq run` cancels its own job. Another may start in the free slot, and end before that.
    assert {job["status"] for job in others} <= {"CANCELLED", "COMPLETED"}
