"""Measures ``taskq submit true`` beside a Python that imports click, and ``taskq submit --from-file``."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import daemon
from bench.bench import Bench
from bench.daemon import BODY, Daemon
from bench.place import environment
from bench.results import Goal, Measured, Row

TIMES = 30
LINES = 100_000
LAPS = 3
TASKQ = str(Path(sys.executable).with_name("taskq"))


def measure(bench: Bench) -> Measured:
    """Run both commands in turns, then submit the lines of a file."""
    ours: list[float] = []
    theirs: list[float] = []
    with daemon.running(bench.home("ours"), bench.programs) as server:
        address = f"--address=unix:{server.socket}"
        for _ in bench.turns():
            pairs = [
                (_took([TASKQ, "submit", address, "true"]), _took([sys.executable, "-c", "import click"]))
                for _ in range(1 + bench.many(TIMES, 2))
            ][1:]
            ours.append(1000 * statistics.median(our for our, _ in pairs))
            theirs.append(1000 * statistics.median(their for _, their in pairs))
        rates = _rates(bench, server, address)
    against = '`python -c "import click"`'
    note = f"{TIMES} of each per turn"
    goal = Goal(30_000, is_ratio=False)
    return Measured(
        [
            Row(
                "`taskq submit true`, whole process", against, "ms", ours, theirs, Goal(2.5, True), note=note
            ),
            Row(f"`taskq submit --from-file` with {LINES:,} lines", "", "lines/s", rates, goal=goal),
        ]
    )


def _rates(bench: Bench, server: Daemon, address: str) -> list[float]:
    """Return the lines per second of each turn. Everything is paused, so no job starts."""
    server.ask("PAUSE")
    lines = bench.many(LINES, 200)
    file = server.home / "lines"
    file.write_text(f"{BODY}\n" * lines)
    command = [TASKQ, "submit", address, "--from-file", str(file)]
    return [lines / _took(command) for _ in bench.turns(LAPS)]


def _took(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
