"""SHUTDOWN and ``taskq shutdown``: who may stop the daemon, and what has happened when the reply arrives."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskqd.client import Client
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECTED
from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, Daemon, environment
from tests.end_to_end.wire import DEADLINE, until


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


@pytest.mark.parametrize("is_local", [True, False])
def test_library_waits_and_follows_across_a_shutdown_and_a_restart(
    daemon: DaemonFactory, is_local: bool
) -> None:
    one = daemon(tcp=True)
    address = f"unix:{one.socket}" if is_local else f"tcp:127.0.0.1:{one.port}"
    job = one.connect().submit("--hold echo done")
    with Client(address, one.token) as waiting, Client(address, one.token) as following:
        news: list[str] = []
        following.on_news = news.append
        pieces = following.follow(job)
        assert not next(pieces).data
        with ThreadPoolExecutor() as threads:
            waited = threads.submit(waiting.wait, job)
            until(lambda: one.connect().stats()["connections"] >= 4, "both to be connected")
            assert one.connect().ask("SHUTDOWN --wait").startswith("OK 0 ")
            one.wait_for_end()
            one.start()
            one.connect().ask(f"RELEASE {job}")
            assert b"".join(piece.data for piece in pieces) == b"done\n"
            assert waited.result(DEADLINE) == ("COMPLETED", 100)
    assert news == [CONNECTION_LOST, RECONNECTED]


def test_library_follows_a_running_job_across_a_crash_without_gap_or_repetition(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one, gate = daemon(), tmp_path / "gate"
    job = one.connect().submit(f"seq 1 20000; until [ -e {gate} ]; do sleep 0.02; done; seq 20001 40000")
    received = bytearray()
    with Client(f"unix:{one.socket}") as client:
        for piece in client.follow(job):
            received += piece.data
            if received.endswith(b"\n20000\n") and not gate.exists():
                one.kill()
                one.start()
                gate.touch()
    assert bytes(received) == b"".join(b"%d\n" % number for number in range(1, 40_001))
    assert one.connect().show(job)["attempts"] == 1
