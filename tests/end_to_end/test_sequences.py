"""docs/coming-from.md: the sequences of task-spooler's and of pueue's users, and ours, do the same.

A row of the page is run unchanged: the code of a cell is a script of /bin/sh. Each row of the two
sections has a test. task-spooler is in Debian; pueue is not, so of its rows only our cell is run.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.end_to_end.daemon import CHECKOUT, TASKQ, Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

PAGE = (CHECKOUT / "docs" / "coming-from.md").read_text("utf-8")
TSP = "Sequences of task-spooler's users"
PUEUE = "Sequences of pueue's users"
PROGRAMS = {
    "fetch": "echo fetch >>ran; echo fetched",
    "build": "echo build >>ran; echo built; echo warning >&2",
    "fail": "exit 3",
    "long": "echo $$ >pid; echo begun; exec sleep 60",
    "ask": 'read answer; echo "$answer" >>ran',
    "gate": ": >blocked; until [ -e open ]; do sleep 0.02; done",
}
"""The programs that the page names, as scripts of /bin/sh; ``gate`` keeps others waiting until it opens."""
SLOTS = {"tsp": "-S", "taskq": "slots"}
"""The words that set the number of jobs that run at once."""


class Row(NamedTuple):
    """A row of the page: what is to be done, by their commands and by ours."""

    name: str
    theirs: str
    ours: str


def script_of(cell: str) -> str:
    """Return the commands of a cell as a script, a line per piece of code."""
    return "\n".join(piece.replace(r"\|", "|") for piece in re.findall(r"`([^`]+)`", cell))


def rows(section: str) -> dict[str, Row]:
    """Return the rows of a section by their names."""
    lines = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    cells = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table)
    return {name: Row(name, script_of(theirs), script_of(ours)) for name, theirs, ours in cells}


class Side:
    """``tsp`` or ``taskq``, in a directory with the programs of the page; ``script`` is that of the row."""

    def __init__(self, name: str, place: Path, script: str, **variables: str) -> None:
        self.name = name
        self.latest = ""
        self.place = place
        self.script = script
        self.environment = environment() | variables
        self.environment["PATH"] = f"{TASKQ.parent}:{self.environment['PATH']}"
        for program, text in PROGRAMS.items():
            (place / program).write_text(f"#!/bin/sh\n{text}\n")
            (place / program).chmod(0o755)

    def run(self, script: str | None = None) -> str:
        """Run a script, by default that of the row; return its output, both streams."""
        done = subprocess.run(
            ["/bin/sh", "-u", "-c", self.script if script is None else script],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        return done.stdout

    @property
    def ran(self) -> list[str]:
        """The programs that have run, in order."""
        file = self.place / "ran"
        return file.read_text().split() if file.exists() else []

    @property
    def job(self) -> str:
        """The variable ``job`` of the scripts: the id of a job."""
        return self.environment["job"]

    @job.setter
    def job(self, job: str) -> None:
        self.environment["job"] = job

    def submit(self, command: str) -> str:
        """Submit a job; return its id."""
        self.latest = self.run(f"{'tsp' if self.name == 'tsp' else 'taskq submit'} {command}").strip()
        assert self.latest.isdigit(), self.latest
        return self.latest

    def block(self) -> None:
        """Occupy all slots until the file ``open`` is there."""
        self.run(f"{self.name} {SLOTS[self.name]} 1")
        self.submit("./gate")
        until((self.place / "blocked").exists, "the job that blocks")


@pytest.fixture
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    """Return the side that the parameter of the test names: a section, a row, and whether it is ours."""
    section, name, is_ours = request.param
    row = rows(section)[name]
    if not is_ours:
        one = Side("tsp", tmp_path, row.theirs, TS_SOCKET=str(tmp_path / "ts"), TMPDIR=str(tmp_path))
        yield one
        one.run("tsp -k; tsp -K")
        return
    running: Daemon = request.getfixturevalue("running")
    wire: Wire = request.getfixturevalue("wire")
    yield Side("taskq", tmp_path, row.ours, TASKQ_ADDRESS=f"unix:{running.socket}")
    assert wire.ask("SET-SLOTS default").startswith("OK")


_covered: dict[str, set[str]] = {TSP: set(), PUEUE: set()}


def row(section: str, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as that of a row: it is called with our side, and with that of tsp."""
    _covered[section].add(name)
    sides = [pytest.param((section, name, True), id="taskq")]
    if section == TSP:
        sides.append(pytest.param((section, name, False), id="tsp", marks=pytest.mark.needs("tsp")))
    return pytest.mark.parametrize("side", sides, indirect=True)


@pytest.mark.parametrize("section", [TSP, PUEUE])
def test_every_sequence_is_run(section: str) -> None:
    assert set(rows(section)) == _covered[section]


def stop_and_go_on(side: Side) -> None:
    """Run the two lines of a row, and check that a job stops, and then does not."""
    side.job = side.submit("./long")
    file = side.place / "pid"
    until(lambda: file.exists() and file.read_text(), "the job")

    def is_stopped() -> bool:
        return Path(f"/proc/{int(file.read_text())}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    stop, go_on = side.script.splitlines()
    side.run(stop)
    until(is_stopped, "the job to stop")
    side.run(go_on)
    until(lambda: not is_stopped(), "the job to go on")


# task-spooler


@row(TSP, "queue two, look at the queue")
def test_two_jobs_are_in_the_list_and_run(side: Side) -> None:
    listing = side.run()
    assert "./fetch" in listing
    assert "./build" in listing
    until(lambda: sorted(side.ran) == ["build", "fetch"], "both jobs")


@row(TSP, "run one, see its output")
def test_output_of_a_job_in_the_foreground_is_shown(side: Side) -> None:
    assert {"built", "warning"} <= set(side.run().split())


@row(TSP, "both streams of the last one, in order")
def test_output_of_the_latest_job_has_both_streams(side: Side) -> None:
    assert side.run().splitlines()[-2:] == ["built", "warning"]


@row(TSP, "the second only if the first succeeds")
def test_job_after_one_that_failed_does_not_run(side: Side) -> None:
    side.run()
    assert side.ran == []
    side.run(side.script.replace("./fail", "./fetch"))
    assert side.ran == ["fetch", "build"]


@row(TSP, "three at once; one that counts for two")
def test_number_of_slots_is_changed_and_a_job_takes_two(side: Side) -> None:
    side.run()
    until(lambda: side.ran == ["build"], "the job")
    assert side.run(f"{side.name} {SLOTS[side.name]}").split()[0] == "3"


@row(TSP, "put one first")
def test_job_that_is_put_first_overtakes_another(side: Side) -> None:
    side.block()
    side.submit("./fetch")
    side.job = side.submit("./build")
    side.run()
    (side.place / "open").touch()
    until(lambda: side.ran == ["build", "fetch"], "both jobs, the last one first")


@row(TSP, "wait for one, with its exit code")
def test_wait_ends_with_the_exit_code_of_the_job(side: Side) -> None:
    side.job = side.submit("./fail")
    assert side.run(f"{side.script}; echo code $?").split()[-2:] == ["code", "3"]


@row(TSP, "stop one for a while")
def test_job_is_stopped_and_goes_on(side: Side) -> None:
    stop_and_go_on(side)


@row(TSP, "your own environment")
def test_job_has_the_variables_of_its_submitter(side: Side) -> None:
    assert side.run().splitlines()[-1] == "plum"


@row(TSP, "end one, take another back, forget what has ended")
def test_ended_and_queued_jobs_are_gone_from_the_list(side: Side) -> None:
    side.block()
    side.environment["running"], side.environment["queued"] = side.latest, side.submit("./build")
    side.run()
    listing = side.run(side.name if side.name == "tsp" else "taskq list --all")
    assert "gate" not in listing
    assert "build" not in listing


# pueue


@row(PUEUE, "queue one, look at the queue")
def test_job_is_in_the_list_and_runs(side: Side) -> None:
    assert "./build" in side.run()
    until(lambda: side.ran == ["build"], "the job")


@row(PUEUE, "its output as it comes; once more, in order; its last lines")
def test_output_is_shown_while_the_job_runs_and_after_it(side: Side) -> None:
    side.block()
    side.job = side.submit("./build")
    (side.place / "open").touch()
    *both, last = side.run().split()
    assert sorted(both) == ["built", "built", "warning", "warning"]
    assert last == "warning"


@row(PUEUE, "answer a question of a running one")
def test_text_that_is_sent_is_the_input_of_the_job(side: Side) -> None:
    side.run()
    until(lambda: side.ran == ["yes"], "the answer")


@row(PUEUE, "change the command of a queued one")
def test_command_that_was_edited_runs_in_place_of_the_other(side: Side) -> None:
    side.block()
    side.job = side.submit("./fetch")
    (side.place / "editor").write_text('#!/bin/sh\nexec sed -i s/fetch/build/ "$1"\n')
    (side.place / "editor").chmod(0o755)
    side.environment["VISUAL"] = str(side.place / "editor")
    assert side.job in side.run()
    (side.place / "open").touch()
    until(lambda: side.ran == ["build"], "the job")


@row(PUEUE, "four at once in a group, wait for all")
def test_wait_is_over_when_all_jobs_of_the_queue_have_ended(side: Side) -> None:
    side.submit("--queue cpu ./fetch")
    side.run()
    assert sorted(side.ran) == ["build", "fetch"]
    assert re.search(r"^cpu\t.*\b4\b", side.run("taskq queues"), re.MULTILINE)


@row(PUEUE, "one after another has succeeded")
def test_job_starts_after_the_one_that_it_names(side: Side) -> None:
    side.block()
    side.job = side.submit("./fetch")
    side.run()
    (side.place / "open").touch()
    until(lambda: side.ran == ["fetch", "build"], "both jobs")


@row(PUEUE, "stop one for a while")
def test_task_is_stopped_and_goes_on(side: Side) -> None:
    stop_and_go_on(side)


@row(PUEUE, "pause a group, go on")
def test_paused_queue_starts_nothing_until_it_is_resumed(side: Side) -> None:
    pause, resume = side.script.splitlines()
    side.run(pause)
    side.submit("--queue cpu ./fetch")
    side.submit("--queue other ./build")
    until(lambda: side.ran == ["build"], "the job of the other queue")
    side.run(resume)
    until(lambda: side.ran == ["build", "fetch"], "the job of the queue")


@row(PUEUE, "set one aside, queue it again")
def test_job_that_is_set_aside_starts_when_it_is_queued_again(side: Side) -> None:
    side.block()
    side.job = side.submit("./fetch")
    hold, release = side.script.splitlines()
    side.run(hold)
    last = side.submit("./build")
    (side.place / "open").touch()
    side.run(f"taskq wait {last}")
    assert side.ran == ["build"]
    side.run(release)
    until(lambda: side.ran == ["build", "fetch"], "the job")


@row(PUEUE, "kill one, run it again, forget what has ended")
def test_job_that_was_killed_runs_again_and_is_removed(side: Side) -> None:
    side.job = side.submit("./long")
    until(lambda: "begun" in side.run("taskq output $job"), "the job")
    kill, again, clean = side.script.splitlines()
    side.run(kill)
    assert "CANCELLED" in side.run("taskq wait $job")
    assert side.run(again).strip() == side.job
    side.run("taskq cancel $job; taskq wait $job")
    side.run(clean)
    assert side.run("taskq list --all") == ""
