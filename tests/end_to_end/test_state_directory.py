"""The state directory under the daemon: locked, copied, moved away, and with entries that are not its own."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, is_alive
from tests.end_to_end.wire import until


def lines_with(text: str, part: str) -> list[str]:
    return [line for line in text.splitlines() if part in line]


@pytest.mark.parametrize("removed", ["lock", "journal"])
def test_second_daemon_on_a_state_without_its_lock_is_refused(daemon: DaemonFactory, removed: str) -> None:
    one, other = daemon(), daemon(start=False)
    other.options[other.options.index("--state") + 1] = str(one.state)
    if removed == "lock":
        (one.state / "lock").unlink()
    else:
        (one.state / "journal").rename(one.place / "journal")
    code, said = other.refused()
    assert code == 1
    assert len(lines_with(said, "another daemon, pid")) == 1, said
    assert "Traceback" not in said


def test_copy_beside_the_original_ends_none_of_its_jobs(daemon: DaemonFactory) -> None:
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
