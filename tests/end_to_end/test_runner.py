"""Jobs that outlive the daemon: what becomes of them if the daemon, the runner or their files go away."""

import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, until

LEAVE = ("--on-stop", "leave")
COUNT = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i; sleep 0.1; done; exit 7"
LINES = b"".join(b"line %d\n" % number for number in range(1, 21))
QUICK_STOP = 1.0
"""Seconds for a stop that leaves jobs: it waits for none of them."""


def counting(one: Daemon) -> tuple[Wire, int]:
    """Start a job that counts, and wait until it has printed."""
    wire = one.connect()
    job = wire.submit(COUNT)
    until(lambda: wire.output(job, "stdout").data, "its first lines")
    return wire, job


def check_counted(one: Daemon, job: int) -> None:
    """Check that the job has ended once, with its own code and with all that it printed."""
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (LINES, b"", "7")
    assert [event["type"] for event in wire.history(job)].count("ended") == 1
    assert wire.show(job)["attempts"] == 1


def test_job_goes_on_after_a_kill_of_the_daemon(daemon: DaemonFactory) -> None:
    one = daemon()
    _, job = counting(one)
    runner = one.runner
    one.kill()
    assert one.runner == runner
    one.start()
    assert one.connect().status(job) == "RUNNING"
    check_counted(one, job)


def test_output_is_shown_as_soon_as_it_is_printed(daemon: DaemonFactory, tmp_path: Path) -> None:
    wire = daemon().connect()
    wire.run("true")  # the runner is there
    for number in range(10):
        printed = tmp_path / str(number)
        job = wire.submit(f"echo now; : >{printed}; exec sleep 300")
        until(printed.exists, "the job to print", pause=0.001)
        assert wire.output(job, "stdout").data == b"now\n"
        wire.cancel(job)


def test_job_goes_on_after_a_stop_that_leaves_it(daemon: DaemonFactory) -> None:
    one = daemon(*LEAVE)
    _, job = counting(one)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < QUICK_STOP
    one.start()
    check_counted(one, job)


def test_end_without_a_daemon_is_recorded_with_its_time(daemon: DaemonFactory) -> None:
    one = daemon(*LEAVE)
    wire = one.connect()
    job = wire.submit("echo hello; sleep 0.3; exit 5")
    wire.wait_running(job)
    one.stop()
    until(lambda: not one.processes(), "the job to end")
    ended = time.time()
    time.sleep(1.2)  # the record is that much later than the end
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (b"hello\n", b"", "5")
    completed = datetime.fromisoformat(wire.show(job)["completed_at"].replace("Z", "+00:00")).timestamp()
    assert abs(completed - ended) < 1.0
    assert "ended_at" in wire.history(job)[-1]


def test_job_of_a_daemon_that_hangs_goes_on(daemon: DaemonFactory) -> None:
    one = daemon()
    _, job = counting(one)
    one.signal(signal.SIGSTOP)
    until(lambda: not one.processes(), "the job to end")
    one.signal(signal.SIGCONT)
    check_counted(one, job)


def test_kill_of_the_runner_interrupts_its_jobs_and_another_runner_starts_the_next(
    daemon: DaemonFactory,
) -> None:
    one = daemon(slots=3)
    wire = one.connect()
    quiet, loud = wire.submit("exec sleep 300"), wire.submit("while echo x; do sleep 0.01; done")
    wire.wait_running(quiet, loud)
    before = one.runner
    one.kill_runner()
    for job, more in ((quiet, ""), (loud, " while this was the newest job to start")):
        assert wire.wait(job) == "FAILED"
        shown = wire.show(job)
        assert (shown["reason"], shown["detail"]) == ("interrupted", f"its runner was killed{more}")
    assert wire.run("echo next").stdout == b"next\n"
    assert one.runner != before
    assert not [line for line in one.processes().values() if "sleep 300" in line]


def test_job_that_was_cancelled_just_before_a_kill_is_ended_once(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(
        "--kill-after=1h trap 'sleep 0.5; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    )
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    assert wire.ask(f"CANCEL {job}") == "STATUS RUNNING 0"
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "CANCELLED"
    assert wire.show(job)["exit_code"] == 4
    assert [event["type"] for event in wire.history(job)].count("ended") == 1


def test_timeout_falls_due_while_no_daemon_is_there(daemon: DaemonFactory) -> None:
    one = daemon(*LEAVE)
    wire = one.connect()
    job = wire.submit("--timeout=500ms sleep 300")
    wire.wait_running(job)
    one.stop()
    one.wait_for_no_process()
    wire = one.start().connect()
    wire.wait(job)
    shown = wire.show(job)
    assert (shown["status"], shown["reason"]) == ("FAILED", "timeout")


def test_jobs_are_ended_when_no_daemon_comes_back_in_time(daemon: DaemonFactory) -> None:
    one = daemon(*LEAVE, "--leave-for", "500ms")
    wire = one.connect()
    job = wire.submit("exec sleep 300")
    until(lambda: wire.show(job)["pid"], "its process")  # else the kill may precede the Start
    one.kill()
    one.wait_for_no_process()
    wire = one.start().connect()
    wire.wait(job)
    shown = wire.show(job)
    assert (shown["reason"], shown["signal"]) == ("interrupted", "TERM")
    assert "leave-for" in shown["detail"]


def test_output_of_64_mib_through_a_restart_is_whole(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    size = 64 * 1024**2
    job = wire.submit(f"yes 0123456789abcde | head -c {size}; sleep 0.2; exit 3")
    until(lambda: wire.show(job)["stdout_bytes"] > 1024**2, "its first MiB")
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert (wire.show(job)["stdout_bytes"], wire.show(job)["exit_code"]) == (size, 3)
    [name] = [name for name in one.files("output") if name.endswith(".stdout")]
    with next(one.state.glob(f"output/*/{name}")).open("rb") as file:
        while block := file.read(1024**2):
            assert block == b"0123456789abcde\n" * (len(block) // 16)


def test_job_goes_on_after_its_runners_socket_was_removed(daemon: DaemonFactory) -> None:
    one = daemon()
    _, job = counting(one)
    for socket in (one.state / "runner").glob("*.sock"):
        socket.unlink()
    one.kill()
    one.start()
    check_counted(one, job)


def start_after_restore(one: Daemon, job: int) -> None:
    """Start the daemon, submit until ids meet, and check that the new job is not taken for the old one."""
    one.start()
    wire = one.connect()
    assert wire.submit("echo new; exit 3") == job
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (b"new\n", b"", "3")
    until(lambda: not one.processes(), "the job of the newer state to end", 15)
    assert wire.result(job) == (b"new\n", b"", "3")


@pytest.mark.parametrize(
    "is_another_directory, logged",
    [(True, "runs jobs of another store"), (False, "which the journal does not know")],
)
def test_older_journal_under_a_living_runner_gives_its_ids_to_new_jobs(
    daemon: DaemonFactory, tmp_path: Path, is_another_directory: bool, logged: str
) -> None:
    one = daemon(*LEAVE)
    one.connect().run("true")
    one.stop()
    journal, backup = one.state / "journal", tmp_path / "backup"
    shutil.copytree(journal, backup)
    wire = one.start().connect()
    old = wire.submit("echo old; exec sleep 300")
    wire.wait_running(old)
    one.stop()
    if is_another_directory:
        journal.rename(tmp_path / "newer")
        shutil.copytree(backup, journal)
    else:
        for file in journal.iterdir():
            file.unlink()
        shutil.copytree(backup, journal, dirs_exist_ok=True)
    start_after_restore(one, old)
    assert logged in one.log


def test_older_copy_of_the_state_directory_gives_its_ids_to_new_jobs(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon(*LEAVE)
    one.connect().run("true")
    one.stop()
    shutil.copytree(one.state, tmp_path / "backup")
    wire = one.start().connect()
    old = wire.submit("echo old; exec sleep 300")
    wire.wait_running(old)
    one.stop()
    shutil.rmtree(one.state)
    shutil.copytree(tmp_path / "backup", one.state)
    start_after_restore(one, old)
