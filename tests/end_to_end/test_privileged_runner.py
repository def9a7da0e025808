"""Root's runner for an unprivileged daemon, over its socket: what it does, and what it does not believe."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon import CHECKOUT, is_alive
from tests.end_to_end.wire import DEADLINE, until
from tests.support import other_users
from tests.support.privileged_runner import HIDDEN, PrivilegedRunner
from tests.support.runner_process import PLAIN, Json, Link

pytestmark = [other_users.only_root, pytest.mark.needs("setpriv", "prlimit")]

OWN_BITS = 0o027
"""The mode bits that no file of the runner's directory has: others have none, the group may not write."""


@pytest.fixture(name="runner")
def a_runner() -> Iterator[PrivilegedRunner]:
    """Return a runner that may import and open nothing of its files after the start."""
    with other_users.open_place() as place:
        violations = place / "violations"
        sealed = [sys.executable, "-m", "tests.support.sealed_runner", str(violations)]
        runner = PrivilegedRunner(place, other_users.user("daemon"), command=sealed)
        try:
            runner.wait_for_start()
            yield runner
        finally:
            runner.close()
        assert violations.read_text() == ""


@pytest.fixture(name="link")
def a_link(runner: PrivilegedRunner) -> Link:
    return runner.attach()


def restart(runner: PrivilegedRunner) -> str:
    """Kill the runner and start the next one; return the name of the dead one."""
    dead = runner.name
    runner.signal(signal.SIGKILL)
    runner.wait_for_exit()
    runner.process = runner.launch()
    runner.wait_for_start()
    return dead


# What it does.


@pytest.mark.parametrize("name", other_users.NAMES)
def test_job_has_ids_and_groups_of_its_user_and_no_rights_of_root(
    runner: PrivilegedRunner, link: Link, name: str
) -> None:
    user = other_users.user(name)
    command = "id -u; id -g; id -G; id -ru; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status; env"
    assert link.welcome["changes_users"] is True
    text = runner.run(link, runner.make_start(1, command, user=name))["stdout"]["text"]
    uid, gid, groups, real, *rest = text.splitlines()
    assert (int(uid), int(real), int(gid)) == (user.uid, user.uid, user.gid)
    assert set(map(int, groups.split())) == set(os.getgrouplist(name, user.gid))
    assert {line.split()[1].strip("0") for line in rest if line.startswith("Cap")} == {""}
    assert [line for line in rest if not line.startswith(("Cap", "PWD="))] == [
        f"TASKQ_RUN={runner.store}.1.1.0000000100000001"
    ]


def test_job_of_another_user_is_suspended_and_continued(runner: PrivilegedRunner, link: Link) -> None:
    start = runner.make_start(1, "setsid sleep 300 & exec sleep 300")
    named = {name: start[name] for name in ("id", "attempt", "word")}
    runner.send_start(link, start)
    pid = link.wait_for("spawned")["pid"]
    until(lambda: len(runner.processes()) == 2, "both processes")

    def states() -> set[str]:
        texts = [Path(f"/proc/{each}/stat").read_text() for each in runner.processes()]
        return {text.rpartition(")")[2].split()[0] for text in texts}

    link.send({"t": "suspend", **named})
    until(lambda: states() == {"T"}, "both to stop")
    link.send({"t": "continue", **named, "word": "f" * 16})  # an attempt that it does not know
    link.send({"t": "continue", **named})
    until(lambda: states() == {"S"}, "both to go on")
    link.send({"t": "suspend", **named}, {"t": "end", **named, "why": "cancelled", "number": 15})
    assert link.wait_for("ended")["signal"] == 15
    assert not is_alive(pid)
    assert runner.processes() == []


def test_script_and_stdin_are_copied_for_the_user_and_removed_at_the_end(
    runner: PrivilegedRunner, link: Link
) -> None:
    word = "0000000100000001"
    script = runner.jobs / f"1.1.{word}.script"
    command = f"cat; cat /dev/stdin; sh {script}; ls -n {runner.jobs}; wc -c < {runner.jobs}/1.1.{word}.run"
    ended = runner.run(link, runner.make_start(1, command), {"script": b"id -un\n", "stdin": b"in\n"})
    assert ended["stdout"]["text"] == "in\nin\ngames\n"
    assert ended["stderr"]["text"].count("Permission denied") == 2
    assert runner.copies() == []


def test_interactive_job_can_open_its_stdin_by_name_and_reads_what_is_sent(
    runner: PrivilegedRunner, link: Link
) -> None:
    start = runner.make_start(1, "id -un; exec cat /dev/stdin", interactive=True)
    runner.send_start(link, start)
    named = {name: start[name] for name in ("id", "attempt", "word")}
    link.send({"t": "send", **named, "number": 1, "data": "aW4K", "eof": True})
    assert link.wait_for("sent")["written"] == 3
    assert link.wait_for("ended")["stdout"]["text"] == "games\nin\n"
    refused = runner.run(link, runner.make_start(2, "cat", interactive=True), {"stdin": b"in\n"})
    assert "it is interactive and has a file as its stdin" in refused["detail"]


def test_output_goes_to_the_descriptors_and_stays_the_daemon_s(runner: PrivilegedRunner, link: Link) -> None:
    start = runner.make_start(1, "head -c 9000 /dev/zero; echo no >&2; echo > /dev/stderr")
    paths = runner.send_start(link, start)
    ended = link.wait_for("ended")
    assert ended["stdout"] == {"size": 9000}
    sizes = [list(map(int, line.split(" ")[1:])) for line in ended["order"].splitlines()]
    assert list(map(sum, zip(*sizes, strict=True))) == [9000, ended["stderr"]["size"]]
    assert paths["stdout"].read_bytes() == bytes(9000)
    assert paths["stderr"].read_bytes() == b""


def test_progress_is_the_user_s_and_readable_for_the_daemon(runner: PrivilegedRunner, link: Link) -> None:
    progress = runner.jobs / "1.1.0000000100000001.progress"
    runner.send_start(link, runner.make_start(1, f"echo 40 > {progress}; exec sleep 300"))
    link.wait_for("spawned")

    def as_daemon() -> str:
        with other_users.acting(runner.daemon):
            return progress.read_text()

    until(lambda: as_daemon() == "40\n", "the progress")
    games = other_users.user("games")
    for user in (games, runner.daemon):
        for command in (f"ls {runner.jobs}", f"rm -f {progress}", f"ln -s /etc/shadow {runner.jobs}/link"):
            assert other_users.shell(user, command).returncode != 0, command
    other = other_users.user(other_users.NAMES[-1])
    assert other_users.shell(other, f"cat {progress}").returncode != 0
    assert runner.copies() == ["1.1.0000000100000001.progress", "1.1.0000000100000001.run"]


def test_files_are_closed_to_all_but_root_and_the_daemon_s_group(
    runner: PrivilegedRunner, link: Link
) -> None:
    runner.send_start(link, runner.make_start(1, "exit 3"))
    link.wait_for("ended")
    link.close()
    until(lambda: runner.file("ends").exists(), "the notes")
    found = [runner.directory, *runner.directory.iterdir()]
    assert {path.suffix for path in found} == {"", ".lock", ".sock", ".ends"}
    for path in found:
        status = path.lstat()
        bits = 0o007 if path.suffix == ".sock" else OWN_BITS
        assert (status.st_uid, status.st_gid, status.st_mode & bits) == (0, runner.daemon.gid, 0), path
    assert other_users.shell(runner.daemon, f"cat {runner.file('ends')}").returncode == 0
    assert other_users.shell(other_users.user("games"), f"ls {runner.directory}").returncode != 0


def test_cancel_and_timeout_end_processes_of_the_user(runner: PrivilegedRunner, link: Link) -> None:
    stubborn = "trap '' TERM; sleep 300 & while :; do sleep 0.1; done"
    runner.send_start(link, runner.make_start(1, stubborn, kill_after=0.2))
    link.wait_for("spawned")
    link.send(
        {"t": "end", "id": 1, "attempt": 1, "word": "0000000100000001", "why": "cancelled", "number": 15}
    )
    assert link.wait_for("ended")["reason"] == "cancelled"
    runner.send_start(link, runner.make_start(2, stubborn, kill_after=0.2, timeout=0.3))
    assert link.wait_for("ended")["reason"] == "timeout"
    assert runner.processes() == []


def test_job_of_another_user_is_ended_if_its_tree_uses_too_much_memory(
    runner: PrivilegedRunner, link: Link
) -> None:
    fill = "{ head -c 60000000 /dev/zero; sleep 300; } | tail -n 1"  # tail keeps what may be the last line
    runner.send_start(link, runner.make_start(1, f"{fill} & {fill} & wait", memory_max=100_000_000))
    ended = link.wait_for("ended")
    assert (ended["reason"], ended["detail"].split()[-2:]) == ("memory", ["95.4", "MiB"])
    assert 100_000_000 < ended["usage"]["memory_used_peak"] < 200_000_000
    assert runner.processes() == []


# Whom and what it does not believe.


def test_only_the_daemon_s_user_may_connect(runner: PrivilegedRunner) -> None:
    assert runner.hello_as(0) == b""
    assert runner.attach().welcome["runner"] == runner.name
    with (
        socket.socket(socket.AF_UNIX) as other,
        pytest.raises(PermissionError),
        other_users.acting(other_users.user("games")),
    ):
        other.connect(str(runner.file("sock")))


@pytest.mark.parametrize(
    "fields, detail",
    [
        ({"user": "root"}, "root is root, and it runs nothing as root"),
        ({"user": "no-such-user"}, "this machine has no user no-such-user"),
        ({"user": "0"}, "this machine has no user 0"),
        ({"user": ""}, "the daemon names no user"),
        ({"user": None}, "the daemon names no user"),
        ({"uid": 5}, "the daemon must not set uid"),
        ({"env": {"LD_PRELOAD": "/tmp/evil.so"}}, "its variable LD_PRELOAD does not begin with TASKQ_ENV_"),
        ({"env": {"PATH": "/tmp"}}, "its variable PATH does not begin with TASKQ_ENV_"),
        ({"env": {HIDDEN: "x"}}, "does not begin with TASKQ_ENV_"),
        ({"env": {f"{HIDDEN}A=B": "x"}}, "does not begin with TASKQ_ENV_"),
        ({"env": {"TASKQ_RUN": "x.1.1"}}, "its variable TASKQ_RUN does not begin with TASKQ_ENV_"),
        ({"mark": "x.1.1"}, "the daemon must not set mark"),
        ({"stdin": "/etc/shadow"}, "the daemon must not set stdin"),
        ({"stdout": "/etc/cron.d/x", "stderr": "/etc/cron.d/y"}, "must not set stdout, stderr"),
        ({"order": "/etc/cron.d/x"}, "must not set order"),
        ({"word": "../../../../../etc/x"}, "its id, its attempt or its word is malformed"),
        ({"word": "0000000100000001\n"}, "its id, its attempt or its word is malformed"),
        ({"id": 0}, "its id, its attempt or its word is malformed"),
        ({"attempt": -1}, "its id, its attempt or its word is malformed"),
        ({"argv": []}, "it has no program"),
        ({"encoding": "idna"}, "its encoding is unknown"),
        ({"kill_after": -1.0}, "one of its durations is negative or infinite"),
        ({"max_output": -1}, "its limit of output is negative"),
        ({"files": []}, "its files are none"),
    ],
)
def test_start_that_decides_what_is_root_s_own_is_refused(
    runner: PrivilegedRunner, link: Link, fields: Json, detail: str
) -> None:
    before = open_files(runner)
    start = {**runner.make_start(1, "echo never"), **fields}
    if "files" in fields:
        link.send(start)
    else:
        runner.send_start(link, start)
    ended = link.wait_for("ended")
    assert ended["reason"] == "spawn"
    assert detail in ended["detail"]
    assert "exit_code" not in ended
    assert runner.copies() == []
    assert open_files(runner) == before
    assert not [path for path in Path("/etc").iterdir() if path.name == "x"]


def open_files(runner: PrivilegedRunner) -> int:
    return len(os.listdir(f"/proc/{runner.process.pid}/fd"))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory", "read-only", "path", "proc"])
def test_descriptor_that_is_no_open_regular_file_is_refused(
    runner: PrivilegedRunner, link: Link, kind: str
) -> None:
    before = open_files(runner)
    near, far = socket.socketpair()
    reading, writing = os.pipe()
    (runner.spool / "file").touch()
    make: dict[str, Callable[[], int]] = {
        "pipe": lambda: writing,
        "socket": near.fileno,
        "device": lambda: os.open("/dev/null", os.O_WRONLY),
        "directory": lambda: os.open("/", os.O_RDONLY),
        "read-only": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "path": lambda: os.open(runner.spool / "file", os.O_PATH),
        "proc": lambda: os.open("/proc/self/comm", os.O_WRONLY),
    }
    descriptor = make[kind]()
    ended = runner.run(link, runner.make_start(1, "echo never"), stdout=descriptor)
    assert ended["reason"] == "spawn"
    assert re.search("its stdout is (no|in a file system without blocks)", ended["detail"])
    assert open_files(runner) == before
    ended = runner.run(link, runner.make_start(2, "echo never"), stdin=writing)
    assert "its stdin is no regular file" in ended["detail"]
    for each in (reading, writing):
        os.close(each)
    near.close()
    far.close()


def test_stdin_that_is_too_large_or_only_writable_is_refused(runner: PrivilegedRunner, link: Link) -> None:
    path = runner.spool / "large"
    path.touch()
    os.truncate(path, 2**40)
    large, writable = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    assert "has more than" in runner.run(link, runner.make_start(1, "cat"), stdin=large)["detail"]
    assert "is not open for that" in runner.run(link, runner.make_start(2, "cat"), stdin=writable)["detail"]
    assert runner.copies() == []
    for each in (large, writable):
        os.close(each)


@pytest.mark.parametrize("files", [[], [["stdout", 1, 1], ["stderr", 1, 1]], [["stdout", 1, 1]] * 9])
def test_descriptors_that_are_not_those_of_the_start_close_the_connection(
    runner: PrivilegedRunner, link: Link, files: list[Any]
) -> None:
    runner.run(link, runner.make_start(9, "true"))  # which opens /dev/null for all that follow
    before = open_files(runner)
    start = runner.make_start(1, "echo never")
    if files:
        runner.send_start(link, {**start, "files": files})
        assert link.rest() == []
    else:
        runner.send_start(link, start)
        runner.send_start(link, {**start, "id": 2, "files": []})
        link.wait_for("ended", 2)
        link.close()
    until(lambda: open_files(runner) == before - 1, "the descriptors to be closed")
    again = runner.attach()
    assert runner.run(again, runner.make_start(3, "echo hi"))["stdout"]["text"] == "hi\n"


# Dead runners.


def test_sweep_ends_what_a_killed_runner_has_left(runner: PrivilegedRunner, link: Link) -> None:
    command = "sleep 300 & env -i sleep 300 & setsid sleep 300 & exec sleep 300"
    runner.send_start(link, runner.make_start(1, command))
    pid = link.wait_for("spawned")["pid"]
    games = other_users.user("games")
    mark = {"TASKQ_RUN": f"{runner.store}.1.1.0000000100000001"}
    bystanders = [
        subprocess.Popen(["/bin/sleep", "300"], env=env, user=user, start_new_session=True)
        for env, user in ((mark, 0), (mark, runner.daemon.uid), ({}, games.uid))
    ]

    def members() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            line = (entry / "cmdline").read_bytes() if is_alive(int(entry.name)) else b""
            if line.startswith(b"sleep\0") and entry.stat().st_uid == games.uid:
                found.append(int(entry.name))
        return found

    until(lambda: len(members()) == 4, "the processes of the job")
    try:
        dead = restart(runner)
        assert is_alive(pid)
        again = runner.attach()
        again.send({"t": "sweep", "runner": dead})
        assert again.wait_for("swept")["runner"] == dead
        assert members() == []
        assert [process.poll() for process in bystanders] == [None, None, None]
        assert runner.copies() == []
        assert (runner.directory / f"{dead}.lock").exists()
        again.send({"t": "settled", "runner": dead})
        until(lambda: not (runner.directory / f"{dead}.lock").exists(), "the files to be removed")
    finally:
        for process in bystanders:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["own", "../runner", "../../../../etc/passwd", "0" * 15 + "\n", ""])
def test_dead_runner_that_is_none_is_neither_swept_nor_removed(
    runner: PrivilegedRunner, link: Link, name: str
) -> None:
    named = runner.name if name == "own" else name
    link.send({"t": "sweep", "runner": named}, {"t": "settled", "runner": named})
    assert runner.run(link, runner.make_start(1, "echo hi"))["stdout"]["text"] == "hi\n"
    assert runner.file("lock").exists()
    assert "which it is not" in runner.log.read_text()


def test_runner_that_stays_starts_its_successor_with_the_same_rights() -> None:
    with other_users.open_place() as place:
        runner = PrivilegedRunner(place, other_users.user("daemon"), "--stay")
        try:
            link = runner.wait_for_start().attach()
            runner.send_start(link, runner.make_start(1, "exec sleep 300"))
            link.wait_for("spawned")
            link.send({"t": "retire"})
            first = runner.name
            until(lambda: runner._lock()[1] not in ("-", first), "the successor")
            pid, runner.name = int(runner._lock()[0]), runner._lock()[1]
            try:
                second = runner.attach()
                assert second.welcome["changes_users"] is True
                assert runner.run(second, runner.make_start(2, "id -un"))["stdout"]["text"] == "games\n"
                assert "1.1.0000000100000001.run" in runner.copies(), "its attempt is not the successor's"
            finally:
                os.kill(pid, signal.SIGKILL)
        finally:
            runner.close()


def test_capabilities_of_the_drop_in_suffice() -> None:
    """The runner has no others under systemd, where it can neither override modes nor change owners."""
    drop_in = CHECKOUT / "etc" / "taskqd-runner.service.d" / "run-as-owner.conf"
    words = re.findall(r"^CapabilityBoundingSet=(CAP_.*)$", drop_in.read_text(), re.MULTILINE)
    kept = [f"+{name.removeprefix('CAP_').lower()}" for line in words for name in line.split()]
    prefix = ["setpriv", f"--bounding-set={','.join(['-all', *kept])}", "--"]
    with other_users.open_place() as place:
        runner = PrivilegedRunner(place, other_users.user("daemon"), command=[*prefix, *PLAIN])
        runner.spool.chmod(0o777)  # for this test, which opens the daemon's files as root
        try:
            link = runner.wait_for_start().attach()
            blocks = {"script": b"id -un\n", "stdin": b"in\n"}
            script = runner.jobs / "1.1.0000000100000001.script"
            start = runner.make_start(1, f"cat; cat /dev/stdin; sh {script}; head -c 9000 /dev/zero")
            ended = runner.run(link, start, blocks)
            assert (ended.get("reason"), ended["stdout"]) == (None, {"size": 9000 + len("in\nin\ngames\n")})
            runner.send_start(link, runner.make_start(2, "setsid sleep 300 & exec sleep 300", timeout=0.3))
            assert link.wait_for("ended")["reason"] == "timeout"
            runner.send_start(link, runner.make_start(3, "exec sleep 300"))
            pid = link.wait_for("spawned")["pid"]
            dead = restart(runner)
            again = runner.attach()
            again.send({"t": "sweep", "runner": dead})
            again.wait_for("swept")
            assert not is_alive(pid)
            again.send({"t": "settled", "runner": dead})
            until(lambda: not (runner.directory / f"{dead}.lock").exists(), "the files to be removed")
            assert runner.copies() == []
            assert "Traceback" not in runner.log.read_text()
        finally:
            runner.close()


# The start.


def refused(*options: str, user: str | None = None) -> str:
    """Return the last line of a runner that does not start."""
    done = subprocess.run(
        [*PLAIN, *options],
        user=None if user is None else other_users.user(user).uid,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "options, line",
    [
        (["--daemon-user", "root"], "taskqd-runner: --daemon-user root: its uid or its gid is 0; "),
        (
            ["--daemon-user", "no-such-user"],
            "taskqd-runner: --daemon-user no-such-user: this machine has no ",
        ),
        (["--directory", "/tmp/x"], "taskqd-runner: error: --directory needs --daemon-user"),
        (
            ["--daemon-user", "daemon", "--state", "/tmp/x"],
            "taskqd-runner: error: --state cannot be used with ",
        ),
    ],
)
def test_start_is_refused_for_wrong_options(options: list[str], line: str) -> None:
    assert refused(*options).startswith(line)


def test_start_is_refused_if_it_is_not_root() -> None:
    program = (
        "from taskqd.runner.main import main; import os; os.setuid(5); main(['--daemon-user', 'daemon'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.stderr.startswith("taskqd-runner: --daemon-user is for a runner of root's")


@pytest.mark.parametrize("what", ["link", "other's", "open"])
def test_start_is_refused_if_others_can_change_the_directory(what: str) -> None:
    with other_users.open_place() as place:
        directory, target = place / "runner", place / "target"
        target.mkdir()
        if what == "link":
            directory.symlink_to(target)
        else:
            directory.mkdir()
            os.chown(directory, 5 if what == "other's" else 0, 0)
            directory.chmod(0o777 if what == "open" else 0o755)
        line = refused("--daemon-user", "daemon", "--directory", str(directory))
        assert "must be a directory of root's that no other user can change" in line
