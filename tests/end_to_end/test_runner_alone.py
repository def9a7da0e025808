"""The runner while no daemon is there: a full disk, quotas, timeouts, and what the next daemon records."""

import os
import signal
from pathlib import Path

from taskqd.execution.notes import read_notes
from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import fill
from tests.end_to_end.wire import until

LEAVE = ("--on-stop", "leave")


def test_ends_on_a_full_disk_stay_in_the_runner_until_a_daemon_takes_them(
    small_disk: Path, daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon("--state", str(small_disk / "state"), *LEAVE, start=False, slots=3)
    one.state = small_disk / "state"
    wire = one.start().connect()
    full = tmp_path / "full"
    wait = f"until [ -e {full} ]; do sleep 0.02; done;"
    quiet, short = wire.submit(f"{wait} exit 5"), wire.submit(f"{wait} echo x; exit 6")
    long = wire.submit(f"{wait} head -c 1000000 /dev/zero; sleep 300")
    wire.wait_running(quiet, short, long)
    runner = one.runner
    one.stop()
    ballast = fill(small_disk)
    full.touch()
    directory = one.state / "runner"
    refused = "3 ends of jobs cannot be noted"
    until(lambda: refused in (directory / "errors").read_text(), "the runner to fail to note all ends")
    assert runner in one.runner_pids()
    ballast.unlink()
    [notes] = directory.glob("*.ends")
    until(lambda: len(read_notes(str(notes)).ends) == 3, "the notes of all ends")
    wire = one.start().connect()
    assert [wire.wait(job) for job in (quiet, short, long)] == ["FAILED"] * 3
    assert [wire.show(job)["exit_code"] for job in (quiet, short)] == [5, 6]
    assert wire.result(short)[0] == b"x\n"
    shown = wire.show(long)
    assert (shown["reason"], shown["stdout_bytes"] < 1_000_000) == ("output", True)
    assert "No space left" in shown["detail"]


def test_output_above_the_quota_is_dropped_while_no_daemon_is_there(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon(*LEAVE)
    wire = one.connect()
    gate = tmp_path / "gate"
    job = wire.submit(
        f"--max-output=100k until [ -e {gate} ]; do sleep 0.02; done; head -c 300000 /dev/zero; exit 7"
    )
    wire.wait_running(job)
    one.stop()
    gate.touch()
    one.wait_for_no_process()
    wire = one.start().connect()
    wire.wait(job)
    shown = wire.show(job)
    assert [shown[name] for name in ("exit_code", "stdout_bytes", "stdout_dropped")] == [7, 102_400, 197_600]


def test_idle_timeout_falls_due_while_no_daemon_is_there(daemon: DaemonFactory) -> None:
    one = daemon(*LEAVE)
    wire = one.connect()
    job = wire.submit("--idle-timeout=700ms echo once; exec sleep 300")
    until(lambda: wire.output(job, "stdout").data, "its output")
    one.stop()
    one.wait_for_no_process()
    wire = one.start().connect()
    wire.wait(job)
    shown = wire.show(job)
    assert (shown["status"], shown["reason"]) == ("FAILED", "timeout")


def test_stop_of_the_runner_alone_ends_its_jobs_and_its_notes_have_their_codes(daemon: DaemonFactory) -> None:
    """As a shutdown of the machine does it: first the daemon, then the runner."""
    one = daemon(*LEAVE)
    wire = one.connect()
    job = wire.submit("trap 'sleep 0.3; exit 4' TERM; echo ready; while :; do sleep 0.02; done")
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    runner = one.runner
    one.stop()
    os.kill(runner, signal.SIGTERM)
    until(lambda: not one.runner_pids(), "the runner to exit")
    wire = one.start().connect()
    wire.wait(job)
    shown = wire.show(job)
    assert [shown[name] for name in ("reason", "detail", "exit_code")] == [
        *("interrupted", "its runner was stopped", 4)
    ]
