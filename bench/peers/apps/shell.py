"""The task that all three libraries are given: run a command by the shell, and tell its exit code."""

import subprocess
import time
from collections.abc import Callable

PAUSE = 0.005


def run(command: str) -> int:
    """Run it."""
    return subprocess.run(["sh", "-c", command], check=False).returncode


def wait(ended: Callable[[], int], jobs: int) -> None:
    """Return once so many have ended."""
    while ended() < jobs:
        time.sleep(PAUSE)
