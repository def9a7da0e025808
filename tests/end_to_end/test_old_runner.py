"""This release's daemon at a runner of another release, which tests/support/old_runner.py is."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import CHECKOUT
from tests.end_to_end.wire import DEADLINE, until

OLD_RUNNER = CHECKOUT / "tests" / "support" / "old_runner.py"
NAME = "0123456789abcdef"

OldRunner = Callable[[str, Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def old_runner() -> Iterator[OldRunner]:
    """Return a function that starts an old runner for a state directory."""
    started: list[subprocess.Popen[bytes]] = []

    def start(versions: str, state: Path) -> "subprocess.Popen[bytes]":
        state.mkdir(mode=0o700, exist_ok=True)
        file = state.with_name("versions")
        file.write_text(versions)
        process = subprocess.Popen([sys.executable, OLD_RUNNER, file, "--state", state])
        started.append(process)
        lock = state / "runner" / "lock"
        until(lambda: lock.exists() and f"{process.pid} {NAME}" in lock.read_text(), "the old runner")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_runner_of_another_release_is_retired_when_it_is_idle(
    daemon: DaemonFactory, old_runner: OldRunner
) -> None:
    one = daemon(start=False)
    old = old_runner("2", one.state)
    wire = one.start().connect()
    assert old.wait(DEADLINE) == 0
    job = wire.submit("echo $PPID; exit 3")
    assert wire.wait(job) == "FAILED"
    assert int(wire.result(job).stdout) != old.pid


@pytest.mark.parametrize("versions", ["2", "1", "98,99"])
def test_job_at_a_runner_of_another_release_goes_on_and_then_that_is_retired(
    daemon: DaemonFactory, old_runner: OldRunner, tmp_path: Path, versions: str
) -> None:
    gate = tmp_path / "gate"
    one = daemon("--runner", "wait", start=False, slots=4)
    old = old_runner("2", one.state)
    wire = one.start().connect()
    job = wire.submit(f"until [ -e {gate} ]; do sleep 0.02; done; echo $PPID; exit 7")
    cancelled = wire.submit("sleep 300")
    wire.wait_running(job, cancelled)
    one.kill()
    (one.place / "versions").write_text(versions)
    one.options += ["--runner", "start"]
    wire = one.start().connect()
    assert {wire.status(each) for each in (job, cancelled)} == {"RUNNING"}
    wire.cancel(cancelled)
    assert wire.wait(cancelled) == "CANCELLED"
    if versions != "2":
        answer = wire.ask(f"SUSPEND {job}")
        assert answer.startswith("ERROR WRONG_STATE")
        assert "its runner is of release 0.0.1" in answer
        later = wire.submit("echo $PPID")
        assert wire.wait(later) == "COMPLETED"
        assert int(wire.result(later).stdout) != old.pid
    gate.touch()
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (f"{old.pid}\n".encode(), b"", "7")
    assert old.wait(DEADLINE) == 0
    assert wire.wait(wire.submit("true")) == "COMPLETED"
