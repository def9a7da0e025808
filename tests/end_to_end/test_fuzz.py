"""A short run of bin/fuzz: both fuzzers at the real daemon, over all transports that it has."""

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.daemon import CHECKOUT, environment
from tests.end_to_end.wire import DEADLINE
from tests.fuzz.session import Session, save

SECONDS = 4
BAR = 100
"""Other tests run beside this one, so others' median reply, in ms, says little here."""


def fuzz(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *options],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
        check=False,
    )


def test_no_input_breaks_a_rule_of_the_protocol() -> None:
    done = fuzz(f"--minutes={SECONDS / 60}", "--seed=7", f"--bar={BAR}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": every rule held\n")


def test_a_failed_session_can_be_played_again(tmp_path: Path) -> None:
    file = tmp_path / "failed.json"
    sessions = [
        Session("grammar", "unix", "", b"SUBMIT true\nPING\n"),
        Session("bytes", "tcp", "read", b"SUBMIT true\nSTATUS 1\n", end="close"),
        Session("bytes", "tcp", "", b"\xff\xfd\x06GET /\r\n", end="abort"),
    ]
    save(file, sessions, "why")
    done = fuzz(f"--replay={file}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.partition(" over ")[2] for line in done.stderr.splitlines()[1:]]
    assert said[:2] == ["unix: 1 JOB_ID, 1 OK", "tcp: 1 OK, 1 ERROR FORBIDDEN, 1 STATUS"]
