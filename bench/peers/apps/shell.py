"""The task of all three libraries: run a command by the shell, and return its exit code."""

import subprocess
import time
from collections.abc import Callable

POLL_INTERVAL = 0.005
"""Seconds."""


def run(command: str) -> int:
    """Run a command by the shell, and return its exit code."""
    return subprocess.run(["sh", "-c", command], check=False).returncode


def wait(ended: Callable[[], int], jobs: int) -> None:
    """Wait until ``jobs`` jobs have ended."""
    while ended() < jobs:
        time.sleep(POLL_INTERVAL)
