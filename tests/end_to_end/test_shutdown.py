"""SHUTDOWN and ``taskq shutdown``: who may stop the daemon, and what has happened when the reply arrives."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, Daemon, environment
from tests.end_to_end.wire import DEADLINE


def taskq(one: Daemon, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TASKQ, *words],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        text=True,
    )


@pytest.mark.parametrize(
    "options, fate, status", [((), "ended", "FAILED"), (("--on-stop", "requeue"), "requeued", "PENDING")]
)
def test_shutdown_with_end_and_wait_leaves_a_state_directory_that_can_be_copied(
    daemon: DaemonFactory, tmp_path: Path, options: tuple[str, ...], fate: str, status: str
) -> None:
    one = daemon(*options, slots=1)
    wire = one.connect()
    job, later = wire.submit("echo before; exec sleep 300"), wire.submit("--priority=1 true")
    wire.wait_running(job)
    done = taskq(one, "shutdown", "--end", "--wait")
    assert not one.is_running
    assert one.wait_for_end() == 0
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stopped: 1 running job is {fate}\n", "")
    shutil.copytree(one.state, tmp_path / "backup")
    assert one.processes() == {}
    assert "shut the daemon down: 1 running job is " in one.log
    shown = subprocess.run(
        [TASKQ, "journal", "verify", tmp_path / "backup"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown
    one.start()
    wire = one.connect()
    assert wire.wait(later) == "COMPLETED"
    ends = [event for event in wire.history(job) if event["type"] == "ended"]
    assert (ends[0]["status"], ends[0]["reason"]) == (status, "interrupted")


def test_shutdown_answers_at_once_and_with_wait_when_the_jobs_have_ended(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one, gate = daemon("--stop-grace", "1h"), tmp_path / "gate"
    wire, waiting = one.connect(), one.connect()
    job = wire.submit(f"until [ -e {gate} ]; do sleep 0.02; done")
    wire.wait_running(job)
    waiting.send(b"SHUTDOWN --wait --end\r\n")
    assert wire.ask("SHUTDOWN --end") == "OK 1 ended"
    assert wire.ask("SUBMIT true").startswith("ERROR DRAINING ")
    assert wire.ask(f"STATUS {job}") == "STATUS RUNNING 0"
    gate.touch()
    assert waiting.line() == "OK 1 ended"
    assert one.wait_for_end() == 0
    one.start()
    assert one.connect().status(job) == "COMPLETED"


def test_shutdown_over_tcp_needs_remote_control(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    assert one.connect_tcp().ask("SHUTDOWN").startswith("ERROR FORBIDDEN ")
    assert one.connect().ask("PING") == "OK"
    other = daemon("--limit", "remote-control=true", tcp=True)
    env = {"TASKQ_ADDRESS": f"tcp:127.0.0.1:{other.port}", "TASKQ_TOKEN": other.token}
    done = subprocess.run(
        [TASKQ, "shutdown", "--wait", "--json"],
        env=environment() | env,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b'{"shutdown": true, "running": 0, "jobs": "ended"}\n')
    assert other.wait_for_end() == 0
