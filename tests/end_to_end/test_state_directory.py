"""The state directory: locked, copied, removed or moved while the daemon runs; stale pid files."""

import os
import shutil
import subprocess

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import is_alive
from tests.end_to_end.wire import until


def lines_with(text: str, part: str) -> list[str]:
    return [line for line in text.splitlines() if part in line]


@pytest.mark.parametrize("removed", ["lock", "journal"])
def test_second_daemon_is_refused_if_one_of_the_locks_was_removed(
    daemon: DaemonFactory, removed: str
) -> None:
    one, other = daemon(), daemon(start=False)
    other.options[other.options.index("--state") + 1] = str(one.state)
    if removed == "lock":
        (one.state / "lock").unlink()
    else:
        (one.state / "journal").rename(one.place / "journal")
    code, output = other.refused()
    assert code == 1
    assert len(lines_with(output, "another daemon, pid")) == 1, output
    assert "Traceback" not in output


def test_daemon_on_a_copy_ends_no_job_of_the_original(daemon: DaemonFactory) -> None:
    one, other = daemon(), daemon(start=False)
    wire = one.connect()
    job = wire.submit("exec sleep 300")
    pid = wire.process(job)
    subprocess.run(["cp", "-a", one.state, other.state], check=True)
    other.start()
    shown = other.connect().show(job)
    assert (shown["status"], shown["reason"]) == ("FAILED", "interrupted")
    assert shown["detail"].startswith("this is a copy or was moved")
    assert len(lines_with(other.log, "is a copy or was moved here")) == 1
    assert is_alive(pid)
    assert wire.status(job) == "RUNNING"
    other.kill()
    other.start()
    assert len(lines_with(other.log, "is a copy or was moved here")) == 1
    assert is_alive(pid)
    wire.cancel(job)


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_removed_or_moved_state_directory_is_reported_and_submissions_are_refused(
    daemon: DaemonFactory, how: str
) -> None:
    one = daemon()
    wire = one.connect()
    first = wire.submit("true")
    wire.wait(first)
    elsewhere = one.place / "elsewhere"
    one.state.rename(elsewhere)
    if how == "removed":
        shutil.rmtree(elsewhere)
    until(lambda: wire.stats()["store"]["failure"], "the daemon to notice", deadline=10)
    assert "was removed or moved while the daemon ran" in wire.stats()["store"]["failure"]
    assert wire.ask("SUBMIT true").startswith("ERROR STORE_FAILED ")
    assert len(lines_with(one.log, "Nothing new is accepted until it can be")) == 1
    assert not one.state.exists()
    if how == "moved":
        elsewhere.rename(one.state)
        until(lambda: wire.stats()["store"]["failure"] is None, "the daemon to go on", deadline=10)
        second = wire.submit("true")
        assert wire.wait(second) == "COMPLETED"
        one.kill()
        one.start()
        assert one.connect().wait(second) == "COMPLETED"


def test_submission_right_after_the_state_directory_was_removed_is_refused(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    wire.submit("true")
    shutil.rmtree(one.state)
    assert wire.ask("SUBMIT true").startswith("ERROR STORE_FAILED ")


@pytest.mark.parametrize("left", ["", "{live}", "{dead}"])
def test_pid_file_of_a_dead_daemon_is_removed_at_the_next_start(daemon: DaemonFactory, left: str) -> None:
    one = daemon()
    one.kill()
    one.pid_file.write_text(left.format(live=os.getpid(), dead=one.pid))
    one.start()
    assert one.pid_file.read_text() == str(one.pid)
    assert "removed the pid file" in one.log


def test_pid_file_of_a_running_daemon_refuses_a_start_on_another_state(daemon: DaemonFactory) -> None:
    one, other = daemon(), daemon(start=False)
    other.pid_file = one.pid_file
    with other.launch() as process:
        try:
            assert process.wait(20) == 1
        finally:
            process.kill()
    assert one.pid_file.read_text() == str(one.pid)
    assert "Another twistd server is running" in other.log
    assert one.connect().ask("PING").startswith("OK")
