"""Measures short commands of ``taskq`` beside a Python that imports click, and ``taskq submit --from-file``.

CPU time is that of the process, user and system, from wait4(2): unlike the elapsed time it does not depend on
what else the machine does.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import daemon
from bench.bench import Bench
from bench.daemon import BODY, Daemon
from bench.place import environment
from bench.results import Goal, Measured, Row

TIMES = 30
LINES = 100_000
LAPS = 3
TASKQ = str(Path(sys.executable).with_name("taskq"))


COMMANDS = {
    name: (name, "true" if name == "submit" else "1") for name in ("submit", "status", "result", "wait")
}
AGAINST = '`python -c "import click"`'
GOAL = Goal(1.4, is_most=True)


class Took(NamedTuple):
    """The time of a process, in milliseconds."""

    wall: float
    cpu: float


def measure(bench: Bench) -> Measured:
    """Run the commands and Python in turns, then submit the lines of a file."""
    with daemon.running(bench.home("ours"), bench.programs) as server:
        address = f"--address=unix:{server.socket}"
        _took([TASKQ, "run", address, "true"])  # job 1, whose status the commands read
        rows = _rows(bench, address)
        rates = _rates(bench, server, address)
    goal = Goal(60_000, is_ratio=False)
    rows.append(Row(f"`taskq submit --from-file` with {LINES:,} lines", "", "lines/s", rates, goal=goal))
    return Measured(rows)


def _rows(bench: Bench, address: str) -> list[Row]:
    commands = {name: [TASKQ, words[0], address, words[1]] for name, words in COMMANDS.items()}
    commands[AGAINST] = [sys.executable, "-c", "import click"]
    medians: dict[str, list[Took]] = {name: [] for name in commands}
    for _ in bench.turns():
        rounds = [
            {name: _took(command) for name, command in commands.items()}
            for _ in range(1 + bench.many(TIMES, 2))
        ][1:]
        for name, kept in medians.items():
            kept.append(Took(*map(statistics.median, zip(*(took[name] for took in rounds), strict=True))))
    note = f"{TIMES} of each per turn"
    return [
        Row(
            f"`taskq {' '.join(words)}`, whole process, {kind}",
            AGAINST,
            "ms",
            [getattr(took, field) for took in medians[name]],
            [getattr(took, field) for took in medians[AGAINST]],
            GOAL,
            note=note,
        )
        for name, words in COMMANDS.items()
        for kind, field in (("CPU time", "cpu"), ("elapsed", "wall"))
    ]


def _rates(bench: Bench, server: Daemon, address: str) -> list[float]:
    """Return the lines per second of each turn. Everything is paused, so no job starts."""
    server.ask("PAUSE")
    lines = bench.many(LINES, 200)
    file = server.home / "lines"
    file.write_text(f"{BODY}\n" * lines)
    command = [TASKQ, "submit", address, "--from-file", str(file)]
    return [lines / (_took(command).wall / 1000) for _ in bench.turns(LAPS)]


def _took(command: Sequence[str]) -> Took:
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Took(1000 * wall, 1000 * (usage.ru_utime + usage.ru_stime))
