"""Fixtures to call ``taskq`` within the process of the test, and to start a fake daemon for it."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskqd import cli
from tests.fakes.daemon import FakeDaemon, Script


class Outcome(NamedTuple):
    """Exit code and output of a call."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Call = Callable[..., Outcome]
Serve = Callable[[Script], FakeDaemon]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove environment variables that influence the output."""
    for name in ("TASKQ_ADDRESS", "TASKQ_TOKEN", "TASKQ_TOKEN_FILE", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="call")
def a_call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Return a function that calls ``taskq`` in this process."""

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["taskq", *words])
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as end:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, before)
        stdout, stderr = capfdbinary.readouterr()
        return Outcome(int(str(end.value.code)), stdout, stderr.decode())

    return call


@pytest.fixture(name="serve")
def a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a function that starts a fake daemon at TASKQ_ADDRESS."""
    opened: list[FakeDaemon] = []

    def serve(script: Script) -> FakeDaemon:
        daemon = FakeDaemon(script, tmp_path)
        opened.append(daemon)
        monkeypatch.setenv("TASKQ_ADDRESS", daemon.address)
        return daemon

    yield serve
    for daemon in opened:
        daemon.close()
