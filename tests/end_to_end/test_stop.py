"""Stop and drain: running jobs may end, interrupted ones are marked, and no others start."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

STOPPED = "the daemon was stopped while it ran"
RUNNER_KILLED = "its runner was killed while this was the newest job to start"
STUBBORN = "--kill-after=1h trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Return the path of a file that jobs can wait for."""
    return tmp_path / "gate"


def _waits_for(gate: Path) -> str:
    return f"until [ -e {gate} ]; do sleep 0.02; done"


def _submit_running(wire: Wire, command: str) -> int:
    job = wire.submit(command)
    wire.wait_running(job)
    return job


def _wait_until_draining(wire: Wire) -> None:
    until(lambda: wire.stats()["draining"], "the daemon to drain")


# SIGTERM


def test_stop_refuses_new_jobs_and_lets_running_jobs_end(daemon: DaemonFactory, gate: Path) -> None:
    one = daemon("--stop-grace", "1h", slots=1)
    wire, waiting = one.connect(), one.connect()
    job = _submit_running(wire, f"{_waits_for(gate)}; echo done")
    later = wire.submit("--key=later echo $TASKQ_ATTEMPT")
    waiting.send(f"WAIT {job}\r\n".encode())
    one.signal(signal.SIGTERM)
    _wait_until_draining(wire)
    assert wire.ask("SUBMIT true").startswith("ERROR DRAINING ")
    assert one.connect().ask("SUBMIT --key=other true").startswith("ERROR DRAINING ")
    assert wire.ask("SUBMIT --key=later echo $TASKQ_ATTEMPT") == f"JOB_ID {later}", "the key is known"
    assert wire.ask(f"STATUS {job}") == "STATUS RUNNING 0"
    gate.touch()
    assert waiting.line() == "STATUS COMPLETED 100"
    one.wait_for_end()
    one.start()
    wire = one.connect()
    assert wire.result(job) == (b"done\n", b"", "0")
    assert wire.wait(later) == "COMPLETED"
    assert wire.result(later).stdout == b"1\n"
    assert wire.submit("true") == later + 1, "a refused submission uses no id"


def test_job_that_runs_longer_than_the_grace_period_is_ended_with_a_detail(daemon: DaemonFactory) -> None:
    one = daemon("--stop-grace", "500ms")
    wire = one.connect()
    job = _submit_running(wire, "echo begun; sleep 300 & sleep 301")
    until(lambda: wire.output(job, "stdout").data, "its output")
    begin = time.monotonic()
    one.stop()
    assert 0.5 <= time.monotonic() - begin < 20
    assert one.processes() == {}
    one.start()
    wire = one.connect()
    shown = wire.show(job)
    assert [shown[name] for name in ("status", "reason", "detail", "signal", "attempts")] == [
        *("FAILED", "interrupted", STOPPED, "TERM", 1)
    ]
    assert wire.result(job) == (b"begun\n", b"", "-15")


def test_detail_of_a_crash_differs_from_that_of_a_stop(daemon: DaemonFactory) -> None:
    one = daemon("--stop-grace", "1h")
    wire = one.connect()
    job = _submit_running(wire, "sleep 300")
    one.crash()
    one.start()
    shown = one.connect().show(job)
    assert [shown[name] for name in ("status", "reason", "detail", "signal")] == [
        *("FAILED", "interrupted", RUNNER_KILLED, None)
    ]


def test_interrupted_attempt_uses_a_retry(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = _submit_running(wire, "--retries=1 --retry-delay=1ms [ $TASKQ_ATTEMPT -gt 1 ] || sleep 300; exit 9")
    one.restart()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert (wire.show(job)["attempts"], wire.show(job)["reason"]) == (2, "exit")


def test_requeued_job_runs_again_without_using_a_retry(daemon: DaemonFactory) -> None:
    one = daemon("--on-stop", "requeue")
    wire = one.connect()
    plain = _submit_running(wire, "echo $TASKQ_ATTEMPT; [ $TASKQ_ATTEMPT -gt 2 ] || sleep 300")
    retried = _submit_running(
        wire, "--retries=1 --retry-delay=1ms [ $TASKQ_ATTEMPT -gt 2 ] || sleep 300; exit 9"
    )
    one.restart()
    one.connect().wait_running(plain, retried)
    one.restart()
    wire = one.connect()
    assert wire.wait(plain) == "COMPLETED"
    assert wire.result(plain).stdout == b"3\n"
    assert wire.wait(retried) == "FAILED"
    assert [wire.show(job)["attempts"] for job in (plain, retried)] == [3, 4]
    ends = [event for event in wire.history(plain) if event["type"] == "ended"]
    assert [(end["status"], end.get("reason"), end.get("detail")) for end in ends] == [
        ("PENDING", "interrupted", STOPPED),
        ("PENDING", "interrupted", STOPPED),
        ("COMPLETED", None, None),
    ]


def test_job_being_cancelled_is_not_requeued(daemon: DaemonFactory) -> None:
    one = daemon("--on-stop", "requeue")
    wire = one.connect()
    job = wire.submit(STUBBORN)
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    assert wire.ask(f"CANCEL {job}") == "STATUS RUNNING 0"
    one.signal(signal.SIGTERM)
    _wait_until_draining(wire)
    one.stop()
    one.start()
    assert one.connect().wait(job) == "CANCELLED"


def test_crash_requeues_nothing(daemon: DaemonFactory) -> None:
    one = daemon("--on-stop", "requeue")
    job = _submit_running(one.connect(), "sleep 300")
    one.crash()
    one.start()
    assert one.connect().wait(job) == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_kills_running_jobs(daemon: DaemonFactory, number: signal.Signals) -> None:
    one = daemon("--stop-grace", "1h")
    wire = one.connect()
    job = wire.submit(STUBBORN)
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    one.signal(signal.SIGTERM)
    _wait_until_draining(wire)
    time.sleep(0.3)
    assert one.is_running
    begin = time.monotonic()
    one.end(number)
    assert time.monotonic() - begin < 9, "sooner than a first signal kills them"
    assert one.processes() == {}
    one.start()
    shown = one.connect().show(job)
    assert [shown[name] for name in ("status", "reason", "detail", "signal")] == [
        *("FAILED", "interrupted", STOPPED, "KILL")
    ]


def test_stop_that_leaves_jobs_closes_waits_without_an_answer(daemon: DaemonFactory, gate: Path) -> None:
    one = daemon("--on-stop", "leave", "--stop-grace", "1h")
    wire, waiting, following = one.connect(), one.connect(), one.connect()
    job = _submit_running(wire, f"{_waits_for(gate)}; echo done; exit 3")
    assert (wire.stats()["on_stop"], wire.stats()["on_stop_reason"]) == ("leave", None)
    waiting.send(f"WAIT {job}\r\n".encode())
    following.send(f"FOLLOW {job}\r\n".encode())
    one.signal(signal.SIGTERM)
    one.signal(signal.SIGTERM)
    one.wait_for_end()
    assert (waiting.rest(), following.rest()) == (b"", b"")
    gate.touch()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (b"done\n", b"", "3")
    assert wire.show(job)["attempts"] == 1


def test_sigint_ends_jobs_that_a_stop_would_leave_and_a_second_one_kills_them(
    daemon: DaemonFactory,
) -> None:
    one = daemon("--on-stop", "leave", "--stop-grace", "1h")
    wire = one.connect()
    job = wire.submit(STUBBORN)
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    one.signal(signal.SIGINT)
    _wait_until_draining(wire)
    assert wire.stats()["on_stop"] == "interrupt"
    one.signal(signal.SIGTERM)  # changes nothing, as it would leave the jobs
    assert wire.ask(f"STATUS {job}") == "STATUS RUNNING 0"
    assert one.end(signal.SIGINT) == -signal.SIGINT
    assert one.processes() == {}
    one.start()
    shown = one.connect().show(job)
    assert [shown[name] for name in ("status", "reason", "detail", "signal")] == [
        *("FAILED", "interrupted", STOPPED, "KILL")
    ]


def test_kill_during_a_stop_is_a_crash(daemon: DaemonFactory) -> None:
    one = daemon("--stop-grace", "1h")
    wire = one.connect()
    job = _submit_running(wire, "sleep 300")
    one.signal(signal.SIGTERM)
    _wait_until_draining(wire)
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.show(job)["detail"] == RUNNER_KILLED
    assert not wire.stats()["draining"]
    assert wire.run("echo alive").stdout == b"alive\n"


# DRAIN


def _taskq(one: Daemon, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("taskq"), *words],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        text=True,
    )


def test_drained_daemon_answers_and_starts_nothing(daemon: DaemonFactory, gate: Path) -> None:
    one = daemon(slots=1)
    wire = one.connect()
    job = _submit_running(wire, _waits_for(gate))
    later, other = wire.submit("echo later"), wire.submit("true")
    assert not wire.stats()["draining"]
    assert [wire.ask("DRAIN"), wire.ask("DRAIN")] == ["OK", "OK"]
    assert wire.stats()["draining"]
    assert wire.ask("SUBMIT true").startswith("ERROR DRAINING ")
    wire.send(b"SUBMIT --stdin=5 cat\r\nhello\r\n")
    assert wire.line().startswith("ERROR DRAINING ")
    assert wire.ask("PING") == "OK"
    shown = _taskq(one, "drain")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "draining: 1 running\n", "")
    gate.touch()
    shown = _taskq(one, "drain", "--wait", "--json")
    assert (shown.returncode, shown.stdout) == (0, '{"draining": true, "running": 0}\n')
    assert wire.status(job) == "COMPLETED"
    assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"
    assert wire.ask(f"CANCEL {other}") == "STATUS CANCELLED 0"
    time.sleep(0.3)
    assert {wire.status(each) for each in (job, later)} == {"PENDING"}
    assert _taskq(one, "submit", "true").returncode == 1
    one.restart()
    wire = one.connect()
    assert {wire.wait(each) for each in (job, later)} == {"COMPLETED"}


def test_retry_that_becomes_due_in_a_drain_runs_after_the_next_start(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--retries=1 --retry-delay=300ms [ $TASKQ_ATTEMPT = 2 ]")
    until(lambda: wire.show(job)["reason"] == "retrying", "its first failure")
    wire.ask("DRAIN")
    time.sleep(0.6)
    assert wire.show(job)["attempts"] == 1
    one.restart()
    assert one.connect().wait(job) == "COMPLETED"
