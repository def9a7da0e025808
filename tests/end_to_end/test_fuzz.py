"""A short run of bin/fuzz: both fuzzers against a real daemon, over all transports."""

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.daemon import CHECKOUT, environment
from tests.end_to_end.wire import DEADLINE
from tests.fuzz.session import Session, save

SECONDS = 2
BAR = 100
"""Milliseconds that the median reply to other clients may take; high, since other tests run beside it."""


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


def test_random_input_breaks_no_rule_of_the_protocol() -> None:
    done = fuzz(f"--minutes={SECONDS / 60}", "--seed=7", f"--bar={BAR}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": every rule held\n")


def test_failed_session_is_replayed_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "failed.json"
    sessions = [
        Session("grammar", "unix", "", b"SUBMIT true\nPING\n"),
        Session("bytes", "tcp", "read", b"SUBMIT true\nSTATUS 1\n", end="close"),
        Session("bytes", "tcp", "", b"\xff\xfd\x06GET /\r\n", end="abort"),
    ]
    save(file, sessions, "why")
    done = fuzz(f"--replay={file}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.partition(" over ")[2] for line in done.stderr.splitlines()[1:]]
    assert lines[:2] == ["unix: 1 JOB_ID, 1 OK", "tcp: 1 OK, 1 ERROR FORBIDDEN, 1 STATUS"]
