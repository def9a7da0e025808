"""The daemon and its machine: shortages of processes and descriptors, signals, process 1, inheritance."""

import ctypes
import os
import pty
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Command, Daemon, environment, is_alive
from tests.end_to_end.wire import Wire, until
from tests.support import other_users

ENDED = (0, -signal.SIGTERM)
"""The ends of twistd after SIGTERM: some versions send the signal to themselves at the end."""
UNUSED_UID = 54_321
"""A uid that no process has."""
UNUSED = [signal.SIGUSR2, signal.SIGALRM, signal.SIGIO, signal.SIGQUIT, signal.SIGVTALRM, signal.SIGPROF, 40]


class Started(Daemon):
    """A daemon that another program starts: ``before`` precedes its command line."""

    before: Command = []  # noqa: RUF012 - each test has its own

    def command(self, pid_file: Path | None = None) -> Command:
        return [*self.before, *super().command(pid_file)]


@pytest.fixture(name="made")
def made_daemons(tmp_path: Path) -> Iterator[list[Daemon]]:
    """Return a list of daemons that are closed with the test."""
    made: list[Daemon] = []
    yield made
    complaints = [complaint for daemon in made for complaint in daemon.close()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def start(made: list[Daemon], place: Path, *before: str, slots: int = 2) -> Started:
    daemon = Started(place, slots=slots)
    daemon.before = [*before]
    made.append(daemon)
    daemon.start()
    return daemon


def submit(wire: Wire, count: int, command: str) -> list[int]:
    return [wire.submit(command) for _ in range(count)]


# Shortages.


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
def test_shortage_of_processes_fails_no_job_and_passes(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = Started(tmp_path, slots=50)
    made.append(daemon)
    # An ordinary user, to whom limits apply, but with access to any checkout and directory.
    capabilities = "+dac_override,+dac_read_search"
    daemon.before = [
        *("setpriv", f"--reuid={UNUSED_UID}", f"--regid={UNUSED_UID}", "--clear-groups"),
        *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--"),
        *("prlimit", "--nproc=12", "--"),
    ]
    daemon.start()
    wire = daemon.connect()
    blockers = submit(wire, 12, "sleep 60")
    last = submit(wire, 1, "true")[0]
    until(lambda: wire.stats()["shortage"] is not None, "the shortage")
    assert "Resource temporarily unavailable" in wire.stats()["shortage"]["detail"]
    shown = "the machine lacks what a start needs"
    until(lambda: shown in wire.ask(f"WHY {last}"), "the reason, which a trial start hides for a moment")
    wire.cancel(*blockers)
    assert wire.wait(last) == "COMPLETED"
    jobs = submit(wire, 300, "exec sleep 0.01")  # without a fork in the job, which could fail
    for job in jobs:
        assert wire.wait(job) == "COMPLETED", (wire.show(job), wire.result(job))
    assert {wire.show(job)["attempts"] for job in jobs} == {1}
    until(lambda: wire.stats()["shortage"] is None, "its end")
    logged = [line for line in daemon.log.splitlines() if re.search("no job starts|jobs start again", line)]
    assert len(logged) % 2 == 0
    assert len(logged) <= 10
    assert "no job starts for now" in logged[0]
    assert "jobs start again" in logged[-1]


def test_slots_are_reduced_to_what_the_descriptors_allow(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = start(made, tmp_path, "/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", slots=200)
    wire = daemon.connect()
    assert wire.stats()["slots"] == 35
    assert "35 slots in place of slots = 200" in daemon.log
    jobs = submit(wire, 150, "head -c 5000 /dev/zero; sleep 0.2; echo x >&2; head -c 5000 /dev/zero >&2")
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}


def test_daemon_raises_its_descriptor_limit_and_jobs_get_the_original(
    tmp_path: Path, made: list[Daemon]
) -> None:
    limits = 'ulimit -S -n 300; ulimit -H -n 2000; exec "$@"'
    daemon = start(made, tmp_path, "/bin/sh", "-c", limits, "sh", slots=100)
    wire = daemon.connect()
    assert wire.stats()["slots"] == 100
    assert wire.run("ulimit -S -n; ulimit -H -n").stdout == b"300\n2000\n"
    assert wire.run("--nofile=64 ulimit -n").stdout == b"64\n"


# Signals.


def test_unused_signals_are_ignored(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("sleep 0.5; echo done; grep SigIgn /proc/self/status")
    wire.wait_running(job)
    for number in (*UNUSED, signal.SIGUSR1, signal.SIGHUP):
        os.kill(one.pid, number)
    assert wire.wait(job) == "COMPLETED"
    done, ignored = wire.result(job).stdout.split(b"\n", 1)
    assert done == b"done"
    libc = 1 << 31 | 1 << 32
    assert not int(ignored.split()[1], 16) & ~libc
    assert "SIGHUP is ignored" in one.log
    assert one.stop() in ENDED


BLOCK = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_signals_blocked_or_ignored_by_the_parent_are_reset(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = start(made, tmp_path, sys.executable, "-c", BLOCK)
    wire = daemon.connect()
    assert wire.run("exit 3").exit_code == "3"
    shown = wire.run("grep -E 'Sig(Blk|Ign)' /proc/self/status").stdout.decode().splitlines()
    masks = {line.split(":\t")[0]: int(line.split(":\t")[1], 16) for line in shown}
    assert (masks["SigBlk"], masks["SigIgn"] & ~(1 << 31 | 1 << 32)) == (0, 0)
    assert daemon.stop() in ENDED


def on_terminal(daemon: Daemon, before: str) -> int:
    """Start a daemon from a shell on a terminal; return the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        line = ["/bin/sh", "-c", f'{before} "$@" >>"$0" 2>&1 & wait', daemon.log_file, *daemon.command()]
        os.execvpe("/bin/sh", list(map(str, line)), environment())
    until(lambda: daemon.pid_file.exists() and _answers(daemon), "the daemon to answer")
    daemon.started_elsewhere(int(daemon.pid_file.read_text()))
    return terminal


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.connect().ask("PING") == "OK"
    except OSError:
        return False


def test_hangup_of_the_terminal_stops_the_daemon_in_order(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = Daemon(tmp_path, "--on-stop", "requeue")
    made.append(daemon)
    terminal = on_terminal(daemon, "")
    wire = daemon.connect()
    job = wire.submit("echo on; sleep 60")
    until(lambda: wire.output(job, "stdout").data, "the job to print")
    os.close(terminal)
    until(lambda: not is_alive(daemon.pid), "the daemon to end")
    assert "the terminal is gone, so the daemon stops" in daemon.log
    assert not daemon.pid_file.exists()
    daemon.start()
    assert daemon.connect().show(job)["runs"][0]["detail"] == "the daemon was stopped while it ran"


def test_daemon_under_nohup_outlives_its_terminal(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = Daemon(tmp_path)
    made.append(daemon)
    os.close(on_terminal(daemon, "nohup"))
    time.sleep(0.3)  # time to end, if it did
    assert daemon.connect().run("echo on").stdout == b"on\n"


# Process 1.


@other_users.only_root
@pytest.mark.needs("unshare")
def test_daemon_as_process_1_leaves_no_zombie_and_reports_exit_codes(
    tmp_path: Path, made: list[Daemon]
) -> None:
    before = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
    daemon = Started(tmp_path, slots=4)
    daemon.before = [*before]
    made.append(daemon)
    launched = daemon.launch()
    until(lambda: _answers(daemon), "the daemon to answer")
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    daemon.started_elsewhere(int(children[0]))
    wire = daemon.connect()
    leave = "(setsid sleep 0.05 &) ; (setsid sleep 0.1 &)"
    jobs = [wire.submit(f"{leave} ; exit {code}") for code in range(1, 60)]
    for code, job in enumerate(jobs, 1):
        assert (wire.wait(job), wire.result(job).exit_code) == ("FAILED", str(code))
    assert b"taskqd.runner" in wire.run("cat /proc/$PPID/cmdline").stdout
    until(lambda: zombies(daemon.pid) == 0, "the orphans to be reaped")
    daemon.stop()
    launched.wait(10)


def zombies(parent: int) -> int:
    found = 0
    for name in os.listdir("/proc"):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += fields[:2] == ["Z", str(parent)]
    return found


# What jobs inherit.


def test_job_inherits_the_daemon_s_time_zone_only(tmp_path: Path, made: list[Daemon]) -> None:
    daemon = start(made, tmp_path, "env", "TZ=Asia/Tokyo", "OLDPWD=/daemons", "X=1")
    wire = daemon.connect()
    assert wire.run('date +%Z; echo "$OLDPWD$X"').stdout == b"JST\n\n"
    assert wire.run("--cwd=/tmp env | grep OLDPWD").stdout == b""
    assert wire.run("--env=TZ=UTC date +%Z").stdout == b"UTC\n"


@other_users.only_root
def test_job_does_not_inherit_the_daemon_s_oom_score(tmp_path: Path, made: list[Daemon]) -> None:
    score = 'echo -300 >/proc/self/oom_score_adj; exec "$@"'
    daemon = start(made, tmp_path, "/bin/sh", "-c", score, "sh")
    wire = daemon.connect()
    if Path(f"/proc/{daemon.pid}/oom_score_adj").read_text() != "-300\n":
        pytest.skip("root may not lower the score here (CAP_SYS_RESOURCE)")
    assert wire.run("cat /proc/self/oom_score_adj") == (b"0\n", b"", "0")


def test_daemon_whose_directory_was_removed_runs_jobs_at_home(tmp_path: Path, made: list[Daemon]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    daemon = start(made, tmp_path, "/bin/sh", "-c", f'cd {gone}; exec "$@"', "sh")
    wire = daemon.connect()
    assert wire.run("pwd").stdout == f"{gone}\n".encode()
    gone.rmdir()
    home = wire.run("cd; pwd").stdout
    assert wire.run("pwd; bash -c pwd") == (home * 2, b"", "0")
    assert wire.run("--cwd=/tmp pwd").stdout == b"/tmp\n"


# Files of jobs.


def hang(directory: Path) -> int:
    """Mount a file system that never answers; it ends when the returned descriptor is closed."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hung", os.fsencode(directory), b"fuse", 0, options.encode()):
        os.close(device)
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    return device


@other_users.only_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no FUSE here")
def test_hanging_file_system_blocks_only_jobs_that_use_it(daemon: DaemonFactory) -> None:
    one = daemon(slots=8)
    hung = one.place / "hung"
    hung.mkdir()
    device = hang(hung)
    try:
        wire = one.connect()
        held = [wire.submit(f"--cwd={hung} echo never") for _ in range(3)]
        script = f"#!{hung}/python\n1\n".encode()
        held += [wire.submit(f"--script={len(script)}", script) for _ in range(3)]
        began = time.monotonic()
        assert wire.run("echo on").stdout == b"on\n"
        assert wire.ask("PING") == "OK"
        assert time.monotonic() - began < 5
        wire.cancel(*held)
        assert {wire.wait(job) for job in held} == {"CANCELLED"}
        assert one.stop() in ENDED
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(hung), 2)
        os.close(device)


def test_output_removed_during_the_job_is_reported_as_lost(running: Daemon, wire: Wire) -> None:
    job = wire.submit(
        "head -c 9000 /dev/zero; while [ ! -e go ]; do sleep 0.02; done; echo end; echo why >&2"
    )
    wire.wait_running(job)
    path = running.state / "output" / str(job // 1000) / f"{job}.1.stdout"
    until(path.exists, "the output")
    path.unlink()
    (running.place / "go").touch()
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert shown["reason"] == "output"
    assert f"{path} was removed while the job ran" in shown["detail"]
    assert wire.output(job, "stderr").data == b"why\n"


def test_output_lost_after_the_end_is_refused_and_the_connection_stays(running: Daemon, wire: Wire) -> None:
    for size in (9_000, 200_000):
        job = wire.submit(f"head -c {size} /dev/zero")
        assert wire.wait(job) == "COMPLETED"
        path = running.state / "output" / str(job // 1000) / f"{job}.1.stdout"
        os.truncate(path, 1000)
        for line in (f"RESULT {job}", f"OUTPUT {job} stdout", f"FOLLOW {job}"):
            assert "ERROR STORE_FAILED" in wire.ask(line), line
        path.unlink()
        assert "ERROR STORE_FAILED" in wire.ask(f"RESULT {job}")
    assert wire.ask("PING") == "OK"


@pytest.mark.parametrize(
    "script, reason, detail",
    [
        (b"\x7fELF\x02\x01\x01\x00", "spawn", "its script is a program (ELF)"),
        (b"#!/bin/sh\r\necho hi\r\n", "spawn", "with a carriage return behind it"),
        (b"#!/no/such/interpreter -x\n", "spawn", "the interpreter /no/such/interpreter"),
        (b"#!/usr/bin/env sh\necho hi\n", None, ""),
    ],
)
def test_script_runs_by_its_interpreter_or_is_refused_with_the_reason(
    wire: Wire, script: bytes, reason: str | None, detail: str
) -> None:
    job = wire.submit(f"--script={len(script)}", script)
    assert wire.wait(job) == ("FAILED" if reason else "COMPLETED")
    shown = wire.show(job)
    assert shown["reason"] == reason
    assert detail in (shown["detail"] or "")


def test_missing_directory_is_reported_as_a_failed_spawn(wire: Wire, tmp_path: Path) -> None:
    job = wire.submit(f"--cwd={tmp_path}/none echo never")
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["exit_code"]) == ("spawn", None)
    assert shown["detail"] == f"could not be started: there is no directory {tmp_path}/none"
