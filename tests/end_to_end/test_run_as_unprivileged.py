"""run-as = "owner" with a daemon of an ordinary user: only its runner is root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.daemon import CHECKOUT, Command, Daemon, environment, is_alive
from tests.end_to_end.wire import Wire, until
from tests.support import other_users
from tests.support.fork_server import mark
from tests.support.runner_process import PLAIN

pytestmark = [other_users.only_root, pytest.mark.needs("setpriv", "prlimit")]

USER = "daemon"
"""The user of the daemon."""
TWISTD = CHECKOUT / "tests" / "support" / "preloaded_twistd.py"


class Unprivileged(Daemon):
    """A daemon of the user USER, and root's runner for it."""

    def __init__(self, place: Path, *options: str, runs_runner: bool = True) -> None:
        self.user = other_users.user(USER)
        self.runs_runner = runs_runner
        self.runner_processes: list[subprocess.Popen[bytes]] = []
        self.directory = place / "runner"
        self.jobs = place / "runner.jobs"
        self.runner_log = place / "runner.log"
        self.open_socket = place / "sockets" / "open"
        self.open_socket.parent.mkdir()
        os.chown(self.open_socket.parent, self.user.uid, self.user.gid)
        words = ("--listen", f"unix:{self.open_socket}:mode=666", "--run-as", "owner")
        super().__init__(place, *words, "--runner-directory", str(self.directory), *options, slots=4)
        os.chown(self._short, self.user.uid, self.user.gid)

    def command(self, pid_file: Path | None = None) -> Command:
        ids = ["--uid", str(self.user.uid), "--gid", str(self.user.gid)]
        return [sys.executable, TWISTD, "-n", "--pidfile=", *ids, "taskq", *self.options]

    def start_runner(self, *options: str) -> None:
        with self.runner_log.open("ab") as log:
            command = [*PLAIN, "--daemon-user", USER, "--directory", str(self.directory), *options]
            started = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environment(),
                stdout=log,
                stderr=log,
                preexec_fn=partial(mark, self._mark),  # noqa: PLW1509 - it only calls setrlimit(2)
            )
        self.runner_processes.append(started)

    def start(self) -> "Unprivileged":
        if self.runs_runner and not self.runner_pids():
            self.start_runner()
        super().start()
        return self

    def close(self) -> list[str]:
        complaints = super().close()
        for process in self.runner_processes:
            process.kill()
            process.wait()
        return complaints

    def connect_as(self, name: str) -> Wire:
        with other_users.acting(other_users.user(name)):
            self.socket, mine = self.open_socket, self.socket
            try:
                return self.connect()
            finally:
                self.socket = mine


@pytest.fixture(name="place")
def a_place() -> Iterator[Path]:
    with other_users.open_place() as place:
        yield place


@contextmanager
def started(place: Path) -> Iterator[Unprivileged]:
    one = Unprivileged(place)
    try:
        yield one.start()
    finally:
        complaints = one.close()
        assert complaints == []


@pytest.fixture(name="running", scope="module")
def a_daemon() -> Iterator[Unprivileged]:
    """Return a daemon that the tests of jobs share."""
    with other_users.open_place() as place, started(place) as one:
        yield one


@pytest.fixture(name="games")
def a_user(running: Unprivileged) -> Wire:
    return running.connect_as("games")


@pytest.fixture(name="alone")
def a_daemon_for_one_test(place: Path) -> Iterator[Unprivileged]:
    with started(place) as one:
        yield one


@pytest.fixture(name="gamer")
def a_user_of_that(alone: Unprivileged) -> Wire:
    return alone.connect_as("games")


# Jobs.


def test_interactive_job_reads_what_its_owner_sends_and_no_admin_can(
    running: Unprivileged, games: Wire
) -> None:
    job = games.submit("--interactive id -un; exec cat /dev/stdin")
    games.wait_running(job)
    forbidden = f"ERROR FORBIDDEN permission denied: job {job} belongs to another user, who alone may SEND;"
    assert running.connect().ask(f"SEND {job} --eof").startswith(forbidden)
    games.send(b"SEND %d --data=3 --eof\r\nin\n\r\n" % job)
    assert games.line() == "OK 3"
    assert games.wait(job) == "COMPLETED"
    assert games.result(job).stdout == b"games\nin\n"


def test_new_script_is_sent_to_the_runner(games: Wire) -> None:
    job = games.submit("--hold --script=4", b"true")
    games.send(b"SET %d --script=6\r\nid -un\r\n" % job)
    assert games.read_job()["script"] == 6
    assert games.ask(f"RELEASE {job}").startswith("STATUS ")
    assert games.wait(job) == "COMPLETED"
    assert games.result(job).stdout == b"games\n"


def test_daemon_is_no_root_and_jobs_have_all_ids_of_their_owner(running: Unprivileged) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    assert [line.split()[1:] for line in status if line.startswith("Uid")] == [[str(running.user.uid)] * 4]
    for name in other_users.NAMES:
        user, wire = other_users.user(name), running.connect_as(name)
        shown = wire.run("id -u; id -g; id -G; echo $USER $HOME $SHELL").stdout.decode().splitlines()
        assert shown[:2] == [str(user.uid), str(user.gid)]
        assert set(map(int, shown[2].split())) == set(os.getgrouplist(name, user.gid))
        assert shown[3] == f"{name} {user.home} /bin/sh"
        assert wire.show(wire.submit("true"))["owner"] == name


def test_output_files_are_opened_as_the_owner(running: Unprivileged, games: Wire) -> None:
    with other_users.open_place() as place:
        place.chmod(0o777)
        job = games.submit(f"--stdout={place}/%j --merge id -un; echo err >&2")
        assert games.wait(job) == "COMPLETED"
        assert ((place / str(job)).owner(), (place / str(job)).read_text()) == ("games", "games\nerr\n")
        for path in ("/root/file", f"{running.directory}/file", f"{running.state}/file"):
            refused = games.run(f"--stdout={path} touch {place}/never")
            assert refused.exit_code == "126"
            assert f"{path}: ".encode() in refused.stderr
        assert games.run("--merge echo out; echo err >&2") == (b"out\nerr\n", b"", "0")
        assert not (place / "never").exists()


def test_job_can_use_its_files_variables_secrets_and_limits(games: Wire) -> None:
    assert games.run("echo out > /dev/stdout; echo err > /dev/stderr")[:2] == (b"out\n", b"err\n")
    assert games.run("--stdin=2 cat; cat /dev/stdin", b"in") == (b"inin", b"", "0")
    assert games.run("--script=22", b"id -un; cd / && echo 2").stdout == b"games\n2\n"
    script = b"#!/usr/bin/env -S cat --\n"
    assert games.run(f"--cwd=/tmp --script={len(script)}", script).stdout == script
    assert games.run("--cwd=/tmp pwd").stdout == b"/tmp\n"
    job = games.submit("--array=1-3 --script=17", b"echo $TASKQ_INDEX")
    assert games.wait(job) == "COMPLETED"
    assert [games.result(f"{job}.{index}").stdout for index in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]
    assert games.run("--nice=5 --nofile=30 nice; ulimit -n").stdout == b"5\n30\n"
    assert games.run("--secret=KEY=hidden echo $KEY").stdout == b"hidden\n"
    shown = games.run("--env=LD_PRELOAD=/nonexistent.so --env=A=1 echo $A; /bin/true")
    assert (shown.stdout, shown.stderr.count(b"/nonexistent.so")) == (b"1\n", 1), "by /bin/true alone"
    block = b"A=1\0HOME=/me\0LD_PRELOAD=/nonexistent.so\0UID=7\0"
    shown = games.run(f"--environment={len(block)} --env=A=2 echo $A $HOME; /bin/true", block)
    assert (shown.stdout, shown.stderr.count(b"/nonexistent.so")) == (b"2 /me\n", 1), "by /bin/true alone"


def test_output_and_progress_are_read_by_the_daemon_and_closed_to_owners(
    running: Unprivileged, games: Wire
) -> None:
    large = games.submit("head -c 100000 /dev/zero; echo end >&2")
    assert games.wait(large) == "COMPLETED"
    assert games.result(large).stdout == bytes(100_000)
    games.run("echo short")
    files = [name for name in running.files("output") if int(name.partition(".")[0]) >= large]
    assert files == [f"{large}.1.stdout"], "what is in the journal needs no file"
    job = games.submit("echo 40 > $TASKQ_PROGRESS; exec sleep 100")
    until(lambda: games.ask(f"STATUS {job}") == "STATUS RUNNING 40", "the progress")
    games.cancel(job)
    hides = games.submit("echo 40 > $TASKQ_PROGRESS; chmod 0 $TASKQ_PROGRESS; echo; exec sleep 100")
    games.wait_running(hides)
    assert games.ask(f"STATUS {hides}").startswith("STATUS RUNNING")
    games.cancel(hides)
    until(lambda: os.listdir(running.jobs) == [], "the files of the jobs to be removed")
    for path in running.state.rglob("*"):
        assert path.lstat().st_uid == running.user.uid, path
        assert not path.is_file() or path.lstat().st_mode & 0o077 == 0, path
    shown = games.run(f"ls {running.state} {running.jobs} {running.directory}; exit 0")
    assert shown.stdout == b""


def test_jobs_of_root_are_forbidden(running: Unprivileged) -> None:
    root = running.connect()
    for request in ("SUBMIT id", "SCHEDULE --every=1s id"):
        assert root.ask(request).startswith("ERROR FORBIDDEN jobs of root would run as root"), request
    assert root.ask("PING").startswith("OK")


def test_end_hook_runs_as_the_daemon_s_user(place: Path) -> None:
    one = Unprivileged(place, "--on-end-command", "id -u; cat > /dev/null")
    try:
        wire = one.start().connect_as("games")
        wire.wait(wire.submit("true"))
        root = one.connect()

        def notices() -> list[int]:
            return [each["id"] for each in root.list("--queue=on_end")]

        [notice] = until(notices, "the end hook")
        assert root.wait(notice) == "COMPLETED"
        assert root.result(notice).stdout == b"%d\n" % one.user.uid
    finally:
        assert one.close() == []


def test_cancel_and_timeout_end_processes_of_other_users(running: Unprivileged, games: Wire) -> None:
    stubborn = "--kill-after=200ms trap '' TERM; sleep 300 & while :; do sleep 0.1; done"
    job = games.submit(stubborn)
    games.wait_running(job)
    games.cancel(job)
    assert games.wait(job) == "CANCELLED"
    job = games.submit(f"--timeout=300ms {stubborn}")
    assert games.wait(job) == "FAILED"
    assert games.show(job)["reason"] == "timeout"
    games.run("sleep 300 & exit 0")
    running.wait_for_no_process()


@pytest.mark.parametrize("link", ["output", "output/0", "output/0/1.1.stdout"])
def test_link_in_the_state_directory_gives_no_file_of_root_s(place: Path, link: str) -> None:
    """The daemon's user can make links in the state directory, and root opens no path there."""
    one = Unprivileged(place)
    target = place / "target"
    target.mkdir(mode=0o755)
    (target / "file").touch(0o600)
    try:
        wire = one.start().connect_as("games")
        path = one.state / link
        with other_users.acting(one.user):
            path.parent.mkdir(exist_ok=True)
            if path.is_dir():
                path.rmdir()
            path.symlink_to(target / "file" if path.suffix else target)
        job = wire.submit("head -c 10000 /dev/zero")
        wire.wait(job)
        assert wire.show(job)["status"] == ("COMPLETED" if path.suffix else "FAILED")
        assert (target / "file").stat().st_size == 0
        assert [each.name for each in target.iterdir()] == ["file"]
    finally:
        assert one.close() == []


# Kills.


def test_job_outlives_a_killed_daemon_with_its_output_and_code(alone: Unprivileged, gamer: Wire) -> None:
    job = gamer.submit("echo one; sleep 1; head -c 50000 /dev/zero; sleep 1; echo two; exit 3")
    gamer.wait_running(job)
    alone.kill()
    wire = alone.start().connect_as("games")
    assert wire.wait(job) == "FAILED"
    assert wire.result(job)[::2] == (b"one\n" + bytes(50_000) + b"two\n", "3")


def test_job_that_ends_without_a_daemon_is_recorded_from_the_notes(alone: Unprivileged, gamer: Wire) -> None:
    job = gamer.submit("sleep 0.5; echo done")
    gamer.wait_running(job)
    alone.kill()
    until(lambda: any(path.suffix == ".ends" for path in alone.directory.iterdir()), "the notes")
    alone.runner_processes[-1].terminate()
    alone.runner_processes[-1].wait()
    wire = alone.start().connect_as("games")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job).stdout == b"done\n"
    until(lambda: not list(alone.directory.glob("*.ends")), "the notes to be removed")


@pytest.mark.parametrize("kills_daemon", [False, True])
def test_next_runner_ends_what_a_killed_one_has_left_before_a_retry(
    alone: Unprivileged, gamer: Wire, kills_daemon: bool
) -> None:
    job = gamer.submit("--retries=1 --script=15", b"exec sleep 300\n")
    gamer.wait_running(job)
    pid = gamer.process(job)
    if kills_daemon:
        alone.kill()
    alone.kill_runner()
    assert is_alive(pid)
    if kills_daemon:
        alone.runs_runner = False
        alone.start()
    wire = alone.connect_as("games")
    assert wire.ask(f"STATUS {job}").startswith("STATUS RUNNING"), "nothing has ended the process yet"
    other = wire.submit("true")
    assert "no runner" in wire.ask(f"WHY {other}") or "none is connected" in wire.ask(f"WHY {other}")
    assert is_alive(pid)
    alone.start_runner()
    until(lambda: not is_alive(pid), "the old process to end")
    until(
        lambda: wire.show(job)["attempts"] == 2 and wire.ask(f"STATUS {job}").startswith("STATUS RUNNING"),
        "the retry",
    )
    assert wire.wait(other) == "COMPLETED"
    wire.cancel(job)
    until(
        lambda: len(list(alone.directory.glob("*.lock"))) == 1, "the files of the dead runner to be removed"
    )
    alone.wait_for_no_process()


# The start.


def test_submissions_wait_for_a_runner_that_is_not_there_yet(place: Path) -> None:
    one = Unprivileged(place, runs_runner=False)
    try:
        wire = one.start().connect_as("games")
        job = wire.submit("id -un")
        assert "none is connected" in wire.ask(f"WHY {job}")
        hint = f"starts it: as root, taskqd-runner --daemon-user USER --directory {one.directory} --stay"
        assert hint in one.log
        one.start_runner()
        assert wire.wait(job) == "COMPLETED"
        assert wire.result(job).stdout == b"games\n"
    finally:
        assert one.close() == []


def test_start_is_refused_if_the_daemon_is_root(place: Path) -> None:
    one = Unprivileged(place)
    one.user = other_users.user("root")
    try:
        code, line = one.refused()
        assert code == 1
        assert "runner-directory is for a daemon that is not root" in line
    finally:
        one.close()
