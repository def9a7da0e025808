"""The process tree of a job: which processes end with it, and that attempts never overlap."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, is_alive
from tests.end_to_end.wire import Wire, until

THIEF = r"""perl -e 'open(T, "<", "/proc/self/fd/1"); syswrite(STDOUT, "x"); exit if fork;
for (1 .. 20000) { sysread(T, $_, 1); syswrite(STDOUT, "x") }' """.replace("\n", " ")
"""Leaves a child that reads bytes from the pipe to the daemon, and writes others."""

OWN_GROUPS = {
    "timeout": "timeout 900 sleep 301; true",
    "job control": "bash -c 'set -m; sleep 301 & wait; true'",
    "another group": "sh -c 'perl -e \"setpgrp; exec qw(sleep 301)\"; true'",
}
"""Each has a process in another process group, in the session of the job."""


def test_job_that_reads_its_own_pipe_does_not_block_the_daemon(daemon: DaemonFactory) -> None:
    one = daemon(slots=4)
    wire = one.connect()
    for _ in range(10):
        jobs = [wire.submit(THIEF) for _ in range(4)]
        assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
        assert wire.ask("PING") == "OK"


@pytest.mark.parametrize("command", OWN_GROUPS.values(), ids=OWN_GROUPS.keys())
def test_cancel_ends_another_group_in_the_session(running: Daemon, wire: Wire, command: str) -> None:
    job = wire.submit(command)
    wire.wait_running(job)
    until(lambda: any("sleep 301" in line for line in running.processes().values()), "its child")
    wire.ask(f"CANCEL {job}")
    assert wire.wait(job) == "CANCELLED"
    assert running.processes() == {}


def test_timeout_ends_processes_that_have_left_the_session(running: Daemon, wire: Wire) -> None:
    job = wire.submit("--timeout=500ms setsid sleep 301 & sleep 302")
    assert wire.wait(job) == "FAILED"
    assert running.processes() == {}


def test_exit_ends_the_session_and_spares_processes_that_left_it(running: Daemon, wire: Wire) -> None:
    job = wire.submit("setsid sleep 301 >&- 2>&- & timeout 900 sleep 302 >&- 2>&- & sleep 0.3")
    assert wire.wait(job) == "COMPLETED"
    until(lambda: not any("302" in line for line in running.processes().values()), "its session to end")
    assert list(running.processes().values()) == ["sleep 301 "]
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)


def test_leftovers_of_ended_jobs_are_ended_at_the_start_after_a_crash(
    daemon: DaemonFactory,
) -> None:
    one = daemon(slots=4)
    wire = one.connect()
    jobs = [wire.submit("--kill-after=60s trap '' TERM; sleep 301 & exit 0") for _ in range(20)]
    jobs.append(wire.submit("--kill-after=60s trap '' TERM; setsid sleep 302 & exit 0"))
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
    until(lambda: sorted(one.processes().values()) == ["sleep 301 "] * 20 + ["sleep 302 "], "the leftovers")
    one.crash()
    one.start()
    assert list(one.processes().values()) == ["sleep 302 "]
    for pid in one.processes():
        os.kill(pid, signal.SIGKILL)


def test_retry_starts_after_all_processes_of_earlier_attempts_are_gone(
    running: Daemon, wire: Wire, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    command = f"flock -n {lock} true || exit 7; setsid flock {lock} sleep 301 & sleep 0.3; exit 1"
    job = wire.submit(f"--retries=1 --retry-delay=1ms {command}")
    assert wire.wait(job) == "FAILED"
    assert wire.show(job)["exit_code"] == 1, "not 7: the lock was free"
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)


def test_requeued_job_runs_after_a_stop_and_never_twice_at_a_time(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    one = daemon("--on-stop", "requeue")
    wire = one.connect()
    job = wire.submit(f"timeout 600 flock -n {lock} sh -c 'echo held; sleep 301' || exit 9")
    until(lambda: wire.output(job, "stdout").data, "its lock to be held")
    one.stop()
    assert one.processes() == {}
    one.start()
    wire = one.connect()
    wire.wait_running(job)
    until(lambda: wire.output(job, "stdout").data or wire.status(job) != "RUNNING", "the second attempt")
    assert wire.status(job) == "RUNNING"
    wire.ask(f"CANCEL {job}")
    assert wire.wait(job) == "CANCELLED"
    assert one.processes() == {}


def test_stopped_job_is_shown_as_stopped_and_gets_the_signal_of_a_cancel(wire: Wire) -> None:
    job = wire.submit("--kill-after=60 trap 'echo cleaned; exit 0' TERM; kill -STOP $$; sleep 301")
    until(lambda: wire.show(job).get("stopped"), "the job to be stopped")
    began = time.monotonic()
    wire.ask(f"CANCEL {job}")
    assert wire.wait(job) == "CANCELLED"
    assert time.monotonic() - began < 30
    assert wire.result(job).stdout == b"cleaned\n"
    assert "stopped" not in wire.show(job)


def test_leftovers_cost_the_daemon_and_its_runner_little_cpu_time(daemon: DaemonFactory) -> None:
    one = daemon(slots=4)
    wire = one.connect()
    jobs = [wire.submit("--kill-after=36500d (trap '' TERM; exec sleep 300) >&- 2>&- &") for _ in range(100)]
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
    processes = one.pid, one.runner
    before = sum(map(_cpu, processes))
    time.sleep(1)
    assert sum(map(_cpu, processes)) - before < 0.25
    for pid in one.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, one.processes())), "them to go")


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


VICTIM = r"""perl -e 'use POSIX; $number = shift;
for (1 .. 20000) {
  if (!($pid = fork)) { exit 0 if $$ != $number; POSIX::setsid(); sleep 4; exit 7 }
  waitpid($pid, 0);
  if ($pid == $number) { print $? >> 8; exit 0 }
}' """.replace("\n", " ")
"""Starts a session with a given number as soon as that is free, and prints 7 if it lives for 4 s."""


@pytest.mark.needs("unshare")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_session_with_a_reused_number_is_not_signalled(daemon: DaemonFactory) -> None:
    one = daemon(start=False, slots=2)
    limit = 'echo 400 > /proc/sys/kernel/pid_max || exit; "$@" & wait'
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", limit, "sh"]
    before = _pid_max()
    if subprocess.run([*apart, "true"], check=False).returncode or _pid_max() != before:
        pytest.skip("this kernel has no limit of process numbers for each PID namespace")
    process = one.launch([*apart, *one.command()])
    try:
        until(one.answers, "the daemon to answer")
        wire = one.connect()
        wire.run("for each in $(seq 300); do /bin/true; done")  # a number below 300 is never reused
        job = wire.submit("--kill-after=2 (trap '' TERM; sleep 0.7) >&- 2>&- & sleep 0.2; echo $$")
        assert wire.wait(job) == "COMPLETED"
        assert wire.run(VICTIM + wire.result(job).stdout.decode().strip()).stdout == b"7"
    finally:
        process.kill()
        process.wait()


def _pid_max() -> str:
    return Path("/proc/sys/kernel/pid_max").read_text()
