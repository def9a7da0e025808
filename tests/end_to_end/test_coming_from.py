"""docs/coming-from.md: task-spooler, nq, at and beanstalkd of Debian do what the page says, and so do we.

Each test runs both programs. ``line`` names the rows of the page that it covers; each row of these sections
must be covered, or be in ``NOT_RUN``. pueue is not in Debian, and Slurm needs a cluster: of those sections
only our commands and options are checked.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click
import pytest

from taskqd.cli.app import taskq as command_group
from taskqd.config.settings import SETTINGS
from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import CHECKOUT, TASKQ, Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

PAGE = (CHECKOUT / "docs" / "coming-from.md").read_text("utf-8")
RUN = {
    "task-spooler (tsp, ts)": "tsp",
    "nq": "nq",
    "at, batch, cron": "at",
    "beanstalkd": "beanstalkd",
}
NOT_RUN = {
    "`30 4 * * 1-5 CMD` in a crontab": "cron looks at its tables once per minute",
    "mail with the output": "at calls /usr/sbin/sendmail; test_hooks runs a mail hook",
    "`/etc/at.allow`": "the file is the machine's; tests of roles: test_roles",
}
_covered: dict[str, set[str]] = {section: set() for section in RUN}

Test = TypeVar("Test", bound=Callable[..., None])


def rows(section: str) -> list[list[str]]:
    """Return the cells of the table in a section."""
    lines = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def line(section: str, *cells: str) -> Callable[[Test], Test]:
    """Mark a test as that of the rows with these first cells; it needs the program of the section."""
    _covered[section] |= set(cells)
    return pytest.mark.needs(RUN[section])


tsp_line = "task-spooler (tsp, ts)"
at_line = "at, batch, cron"
Run = Callable[..., str]


def run(*words: str, place: Path, code: int = 0, stdin: str = "", **variables: str) -> str:
    """Run a command; return its output, both streams."""
    done = subprocess.run(
        words,
        cwd=place,
        env=environment() | variables,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout.strip()


@pytest.fixture
def ours(running: Daemon, wire: Wire, tmp_path: Path) -> Run:
    """Return a function that runs taskq and returns its output."""

    def call(*words: str, code: int = 0, **variables: str) -> str:
        variables["TASKQ_ADDRESS"] = f"unix:{running.socket}"
        return run(str(TASKQ), *words, place=tmp_path, code=code, **variables)

    return call


@pytest.fixture
def tsp(tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs tsp with a server of this test."""

    def call(*words: str, code: int = 0, **variables: str) -> str:
        variables |= {"TS_SOCKET": str(tmp_path / "ts"), "TMPDIR": str(tmp_path)}
        return run("tsp", *words, place=tmp_path, code=code, **variables)

    yield call
    call("-K")


def test_every_row_is_run_or_has_a_reason() -> None:
    named = {section: {row[0] for row in rows(section)} for section in RUN}
    reasons = set(NOT_RUN) & named[at_line]
    assert reasons == set(NOT_RUN)
    assert {section: cells | (reasons & named[section]) for section, cells in _covered.items()} == named


@pytest.mark.parametrize("section", ["pueue", "Slurm, on one machine", *RUN])
def test_our_commands_and_options_exist(section: str) -> None:
    context = click.Context(command_group)
    of_daemon = {f"--{name}" for name in SETTINGS} | {"--limit"}
    for row in rows(section):
        for span in re.findall(r"`([^`]+)`", row[1].replace("\\|", "|")):
            words = span.split()
            name = words[1] if words[0] == "taskq" else words[0]
            command = command_group.get_command(context, name)
            assert command or words[0] != "taskq", span
            command = command or command_group.get_command(context, "submit")
            assert command
            given = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
            assert given <= {option for each in command.params for option in each.opts} | of_daemon, span


# task-spooler


@line(tsp_line, "`tsp CMD`", "`tsp -t 3` / `-c 3`", "`tsp -w 3`, `-s 3`, `-i 3`")
def test_tsp_and_submit_run_a_command_whose_state_and_output_are_kept(tsp: Run, ours: Run) -> None:
    command = ("sh", "-c", "echo out; exit 3")
    theirs = tsp(*command)
    tsp("-w", theirs, code=3)
    assert tsp("-c", theirs, code=3) == tsp("-t", theirs, code=3) == "out"
    assert tsp("-s", theirs) == "finished"
    assert "exit code 3" in tsp("-i", theirs)
    job = ours("submit", *command)
    assert ours("wait", job, code=3) == "FAILED (exit 3)"
    assert ours("log", job) == "out"
    assert ours("log", "-f", job, code=3) == "out"
    assert ours("status", job) == "FAILED (exit 3)"
    assert "exit_code: 3" in ours("show", job)


@line(tsp_line, "`tsp -f CMD` / `-fn CMD`")
def test_tsp_in_the_foreground_and_run_exit_as_the_command(tsp: Run, ours: Run) -> None:
    command = ("sh", "-c", "echo out; exit 3")
    assert tsp("-fn", *command, code=3) == "out"
    assert ours("run", *command, code=3) == "out"


@line(tsp_line, "`tsp -n CMD`")
def test_output_is_not_kept_if_the_user_does_not_want_it(tsp: Run, ours: Run) -> None:
    theirs = tsp("-n", "echo", "out")
    tsp("-w", theirs)
    assert "not stored" in tsp("-c", theirs, code=255)
    job = ours("submit", "--stdout", "/dev/null", "--merge", "echo", "out")
    ours("wait", job)
    assert ours("output", job) == f"taskq: job {job} writes its stdout to /dev/null"


@line(tsp_line, "`tsp`", "`tsp -L L CMD`")
def test_tsp_and_list_show_labels(tsp: Run, ours: Run) -> None:
    tsp("-L", "mine", "true")
    assert "[mine]true" in tsp()
    job = ours("submit", "--label", "mine", "true")
    assert job in ours("list", "--label", "mine")


@line(tsp_line, "`tsp -S 4` / `tsp -S`", "`tsp -N 2 CMD`")
def test_slots_of_tsp_and_of_the_daemon_limit_what_runs(tsp: Run, ours: Run) -> None:
    tsp("-S", "4")
    assert tsp("-S") == "4"
    tsp("-S", "2")
    first, second = tsp("sleep", "60"), tsp("-N", "2", "true")
    assert (tsp("-s", first), tsp("-s", second)) == ("running", "queued")
    assert ours("slots", "2") == "2"
    first = ours("submit", "sleep", "60")
    second = ours("submit", "--slots", "2", "true")
    until(lambda: ours("status", first) == "RUNNING", "the job to run")
    assert ours("status", second) == "PENDING"


@line(tsp_line, "`tsp -D 3 CMD`")
def test_job_after_one_that_failed_does_not_run(tsp: Run, ours: Run, tmp_path: Path) -> None:
    first = tsp("false")
    second = tsp("-D", first, "touch", "theirs")
    tsp("-w", first, code=1)
    until(lambda: tsp("-s", second) == "skipped", "the job to be skipped")
    job = ours("submit", "false")
    dependent = ours("submit", "--after", job, "touch", "ours")
    assert ours("wait", dependent, code=1).splitlines()[0].startswith("FAILED (dependency")
    assert not (tmp_path / "theirs").exists()
    assert not (tmp_path / "ours").exists()


@line(tsp_line, "`tsp -u 3`")
def test_urgent_job_is_the_next_one(tsp: Run, ours: Run, tmp_path: Path) -> None:
    (tmp_path / "fifo").mkdir()
    tsp("sh", "-c", "until [ -e go ]; do sleep 0.05; done")
    tsp("sh", "-c", "echo first >>theirs")
    tsp("-u", tsp("sh", "-c", "echo urgent >>theirs"))
    ours("set-queue", "urgent", "--slots", "1")
    ours("submit", "-q", "urgent", "until [ -e go ]; do sleep 0.05; done")
    last = ours("submit", "-q", "urgent", "echo first >>ours")
    ours("set", ours("submit", "-q", "urgent", "echo urgent >>ours"), "--priority", "1")
    (tmp_path / "go").touch()
    ours("wait", last)
    tsp("-w", "1")
    assert (tmp_path / "theirs").read_text() == (tmp_path / "ours").read_text() == "urgent\nfirst\n"


@line(tsp_line, "`tsp -k 3` / `-r 3` / `-C`")
def test_kill_remove_and_clear(tsp: Run, ours: Run) -> None:
    running, waiting = tsp("sleep", "60"), tsp("true")
    tsp("-r", waiting)
    tsp("-k", running)
    tsp("-w", running, code=255)
    assert "killed by signal" in tsp("-i", running)
    tsp("-C")
    assert len(tsp().splitlines()) == 1
    ours("set-queue", "kill", "--slots", "1")
    running, waiting = (ours("submit", "-q", "kill", *each) for each in (("sleep", "60"), ("true",)))
    until(lambda: ours("status", running) == "RUNNING", "the job to run")
    ours("cancel", waiting)
    ours("remove", waiting)
    ours("cancel", running)
    assert ours("wait", running, code=143).startswith("CANCELLED")
    ours("remove", "--queue", "kill", "--status", "COMPLETED,FAILED,CANCELLED", "--yes")
    assert ours("list", "--queue", "kill", "--all") == ""


@line(tsp_line, "`TS_ONFINISH`")
def test_program_at_the_end_gets_the_job(tsp: Run, daemon: DaemonFactory, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho $1 $2 >{tmp_path}/theirs\n")
    hook.chmod(0o755)
    tsp("sh", "-c", "exit 3", TS_ONFINISH=str(hook))
    until((tmp_path / "theirs").exists, "their program")
    one = daemon("--on-end-command", f"cat >{tmp_path}/ours")
    job = one.connect().submit("exit 3")
    until(lambda: (tmp_path / "ours").exists() and (tmp_path / "ours").read_text(), "our program")
    until(lambda: (tmp_path / "theirs").read_text() == "0 3\n", "the arguments")
    assert re.search(rf'"id": ?{job}\b.*"exit_code": ?3\b', (tmp_path / "ours").read_text())


# nq


@pytest.fixture
def nq(tmp_path: Path) -> Run:
    """Return a function that runs nq or fq with a directory of this test."""

    def call(*words: str, code: int = 0) -> str:
        return run(*words, place=tmp_path, code=code, NQDIR=str(tmp_path / "nq"))

    return call


@line("nq", "`nq CMD`", "`NQDIR=DIR`", "`fq` / `tq`", "`nq -w ID` / `nq -t ID`", "`kill` of the process")
def test_nq_and_a_queue_with_one_slot_run_one_after_the_other(nq: Run, ours: Run, tmp_path: Path) -> None:
    first = nq("nq", "sh", "-c", "echo $$ >theirs; echo begun; exec sleep 60")
    second = nq("nq", "echo", "second")
    until(lambda: (tmp_path / "theirs").exists() and (tmp_path / "theirs").read_text(), "the first job")
    nq("nq", "-t", second, code=1)
    os.kill(int((tmp_path / "theirs").read_text()), signal.SIGTERM)
    nq("nq", "-w", second)
    nq("nq", "-t", first, second)
    assert "begun" in nq("fq", first)
    ours("set-queue", "nq", "--slots", "1")
    first = ours("submit", "--queue", "nq", "echo begun; exec sleep 60")
    second = ours("submit", "--queue", "nq", "echo", "second")
    until(lambda: ours("output", first) == "begun", "the first job")
    assert ours("status", second) == "PENDING"
    ours("cancel", first)
    assert ours("wait", second) == "COMPLETED"
    assert ours("follow", second) == "second"


# at


@pytest.fixture(scope="module")
def atd() -> Iterator[None]:
    """Run atd, unless the machine does."""
    if os.geteuid():
        pytest.skip("only root can start atd")
    started = subprocess.Popen(["/usr/sbin/atd", "-f"], stderr=subprocess.DEVNULL)
    yield
    started.terminate()
    started.wait()


@pytest.fixture
def at(atd: None, tmp_path: Path) -> Iterator[Run]:
    """Return a function that gives at or batch a command; returns the number of the job."""
    made: list[str] = []

    def call(*words: str, stdin: str, fruit: str = "") -> str:
        said = run(*words, place=tmp_path, stdin=stdin, FRUIT=fruit)
        job = str(re.findall(r"job ([0-9]+) at", said)[0])
        made.append(job)
        return job

    yield call
    left = {row.split()[0] for row in run("atq", place=tmp_path).splitlines()}
    if left & set(made):
        run("atrm", *left & set(made), place=tmp_path)


def time_of(job: str, place: Path) -> datetime:
    """Return the time at which at is to run a job, in the time zone of the machine."""
    [row] = [row for row in run("atq", place=place, LC_ALL="C").splitlines() if row.split()[0] == job]
    return datetime.strptime(" ".join(row.split()[1:6]), "%a %b %d %H:%M:%S %Y").astimezone()


@line(
    at_line,
    r"`echo CMD \| at 04:00`",
    r"`echo CMD \| at now + 10 minutes`",
    "`atq`, `at -c 3`, `atrm 3`",
)
@pytest.mark.parametrize(
    "words,options", [(("04:00",), ("--at", "04:00")), (("now", "+", "10", "minutes"), ("--delay", "10m"))]
)
def test_at_and_submit_agree_on_the_time(
    at: Run, ours: Run, wire: Wire, tmp_path: Path, words: tuple[str, ...], options: tuple[str, ...]
) -> None:
    theirs = at("at", *words, stdin="echo one")
    job = ours("submit", *options, "echo one")
    due = datetime.fromisoformat(wire.show(int(job))["not_before"].replace("Z", "+00:00"))
    assert abs(due - time_of(theirs, tmp_path)) <= timedelta(minutes=1)  # at has whole minutes
    assert "echo one" in run("at", "-c", theirs, place=tmp_path)
    assert f"{job}\tPENDING" in ours("list", "--status", "PENDING")
    assert "command: echo one" in ours("show", job)
    run("atrm", theirs, place=tmp_path)
    ours("cancel", job)
    assert theirs not in [row.split()[0] for row in run("atq", place=tmp_path).splitlines()]
    assert ours("status", job).startswith("CANCELLED")


@line(at_line, "`batch`")
def test_batch_has_a_queue_of_its_name(at: Run, ours: Run, wire: Wire, tmp_path: Path) -> None:
    ran = tmp_path / "theirs"
    at("batch", stdin=f"touch {ran}")
    job = ours("submit", "--queue", "batch", "true")
    assert wire.show(int(job))["queue"] == "batch"
    until(lambda: ran.exists() or " b root" in run("atq", place=tmp_path), "the job to be queued or to run")


@line(at_line, "jobs run as the user who submitted them, with their environment")
def test_at_copies_the_environment_and_submit_does_on_request(at: Run, ours: Run, tmp_path: Path) -> None:
    ran = tmp_path / "theirs"
    at("at", "now", stdin=f"echo $FRUIT >{ran}.part; mv {ran}.part {ran}", fruit="plum")
    until(ran.exists, "the job of at")
    assert ran.read_text() == "plum\n"
    assert ours("run", "echo $FRUIT", FRUIT="plum") == ""
    assert ours("run", "--env", "FRUIT=plum", "echo $FRUIT") == "plum"
    assert ours("run", "--inherit-env", "echo $FRUIT", FRUIT="plum") == "plum"


# beanstalkd


class Tubes:
    """A beanstalkd with a binlog in ``place``, and a connection to it."""

    def __init__(self, place: Path, *options: str, address: str = "") -> None:
        self.place = place
        self.options = options
        self.address = address or f"unix:{place}/socket"
        self.start()

    def start(self) -> None:
        (self.place / "socket").unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] if not self.address.startswith("unix:") else "0"
        where = ["-l", "127.0.0.1", "-p", port] if port != "0" else ["-l", self.address]
        self.process = subprocess.Popen(["beanstalkd", *where, "-b", self.place, "-f0", *self.options])
        until(lambda: self.connect(port), "beanstalkd")

    def connect(self, port: str) -> bool:
        try:
            if port != "0":
                self.socket = socket.create_connection(("127.0.0.1", int(port)), DEADLINE)
            else:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.settimeout(DEADLINE)
                self.socket.connect(str(self.place / "socket"))
        except OSError:
            self.socket.close() if port == "0" else None
            return False
        self.reader = self.socket.makefile("rb")
        return True

    def ask(self, *lines: str) -> str:
        """Send lines; return the first line of the reply, and its body in further ones."""
        self.socket.sendall("".join(f"{each}\r\n" for each in lines).encode())
        reply = self.reader.readline().decode().strip()
        if reply.startswith(("OK ", "RESERVED ")):
            reply += "\n" + self.reader.read(int(reply.split()[-1]) + 2).decode().strip()
        return reply

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.reader.close()
        self.socket.close()
        self.process.send_signal(number)
        self.process.wait()


@pytest.fixture
def tubes(tmp_path: Path) -> Iterator[Tubes]:
    made = Tubes(tmp_path, "-z", "100")
    yield made
    made.end()


@line(
    "beanstalkd",
    "`use T` + `put <pri> <delay> <ttr> <bytes>`",
    "`watch`, `reserve`, `delete`",
    "`stats-tube`, `stats-job`, `stats`",
)
def test_jobs_of_a_tube_and_of_a_queue_have_priorities_and_delays(tubes: Tubes, wire: Wire) -> None:
    assert tubes.ask("use T") == "USING T"
    for priority, delay, body in ((5, 0, "low"), (1, 0, "high"), (0, 3600, "late")):
        assert tubes.ask(f"put {priority} {delay} 60 {len(body)}", body).startswith("INSERTED")
    tubes.ask("watch T")
    assert [tubes.ask("reserve").split("\n")[1] for _ in range(2)] == ["high", "low"]
    assert "state: delayed" in tubes.ask("stats-job 3")
    assert "current-jobs-delayed: 1" in tubes.ask("stats-tube T")
    assert "current-jobs-delayed: 1" in tubes.ask("stats")
    assert tubes.ask("delete 1") == "DELETED"
    wire.ask("PAUSE T")
    wire.ask("SET-QUEUE T --slots=1")
    low, high, late = (
        wire.submit(f"--queue=T --priority={priority} --delay={delay} --timeout=60 true")
        for priority, delay in ((0, 0), (5, 0), (9, 3600))
    )
    wire.ask("RESUME T")
    assert {wire.wait(low), wire.wait(high)} == {"COMPLETED"}
    assert wire.show(high)["started_at"] < wire.show(low)["started_at"]
    assert wire.show(late)["status"] == "PENDING"
    assert wire.queues()["T"]["pending"] == 1
    assert wire.stats()["jobs"]["pending"] >= 1


@line("beanstalkd", "`release <id> <pri> <delay>`", "`bury`, `kick-job`")
def test_job_is_released_with_a_delay_and_set_aside(tubes: Tubes, wire: Wire) -> None:
    tubes.ask("put 0 0 60 1", "x")
    tubes.ask("reserve")
    assert tubes.ask("release 1 0 3600") == "RELEASED"
    assert "state: delayed" in tubes.ask("stats-job 1")
    assert tubes.ask("kick-job 1") == "KICKED"
    tubes.ask("reserve")
    assert tubes.ask("bury 1 0") == "BURIED"
    assert tubes.ask("reserve-with-timeout 0") == "TIMED_OUT"
    assert tubes.ask("kick-job 1") == "KICKED"
    assert tubes.ask("reserve").startswith("RESERVED 1")
    again = wire.submit("--retries=1 --retry-delay=3600 false")
    until(lambda: wire.show(again)["attempts"] == 1 and wire.status(again) == "PENDING", "the retry")
    held = wire.submit("--delay=1 true")
    wire.ask(f"HOLD {held}")
    assert wire.show(held)["held"]
    wire.ask(f"RELEASE {held}")
    assert wire.wait(held) == "COMPLETED"


@line("beanstalkd", "`touch`")
def test_job_that_shows_signs_of_life_may_go_on(tubes: Tubes, wire: Wire) -> None:
    tubes.ask("put 0 0 2 1", "x")
    tubes.ask("reserve")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert tubes.ask("touch 1") == "TOUCHED"
        time.sleep(0.2)
    assert "state: reserved" in tubes.ask("stats-job 1")
    prints = wire.submit("--idle-timeout=1 for i in 1 2 3 4 5 6; do sleep 0.3; echo; done")
    is_silent = wire.submit("--idle-timeout=1 --kill-after=0 sleep 60")
    assert (wire.wait(prints), wire.wait(is_silent)) == ("COMPLETED", "FAILED")


@line("beanstalkd", "`pause-tube T`")
def test_paused_tube_and_queue_start_nothing(tubes: Tubes, wire: Wire) -> None:
    for request in ("use P", "watch P", "ignore default"):
        tubes.ask(request)
    tubes.ask("put 0 0 60 1", "x")
    assert tubes.ask("pause-tube P 3600") == "PAUSED"
    assert tubes.ask("reserve-with-timeout 0") == "TIMED_OUT"
    wire.ask("PAUSE P")
    job = wire.submit("--queue=P true")
    assert wire.ask(f"WAIT {job} --timeout=0.2").startswith("ERROR TIMED_OUT")
    wire.ask("RESUME P")
    assert wire.wait(job) == "COMPLETED"


@line("beanstalkd", "`-b DIR -f0`")
def test_jobs_survive_a_kill(tubes: Tubes, daemon: DaemonFactory) -> None:
    tubes.ask("put 0 0 60 1", "x")
    tubes.end(signal.SIGKILL)
    tubes.start()
    assert tubes.ask("reserve").startswith("RESERVED 1")
    one = daemon()
    job = one.connect().submit("--delay=3600 true")
    one.crash()
    one.start()
    assert one.connect().status(job) == "PENDING"


@line("beanstalkd", "`-l ADDR -p PORT`")
def test_port_admits_anyone_there_and_asks_for_a_token_here(running: Daemon, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tubes = Tubes(tmp_path, address=f"tcp:{port}")
    try:
        assert tubes.ask("put 0 0 60 1", "x") == "INSERTED 1"
    finally:
        tubes.end()
    assert running.connect_tcp(authenticate=False).ask("SUBMIT true").startswith("ERROR AUTH_REQUIRED")


@line("beanstalkd", "`-z BYTES`")
def test_body_that_is_too_big_is_refused(tubes: Tubes, daemon: DaemonFactory) -> None:
    assert tubes.ask("put 0 0 60 101", "x" * 101) == "JOB_TOO_BIG"
    wire = daemon("--limit", "block=100").connect()
    wire.send(b"SUBMIT --stdin=101 cat\r\n" + b"x" * 101 + b"\r\n")
    assert wire.line().startswith("ERROR TOO_LARGE")
