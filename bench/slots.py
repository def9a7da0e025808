"""Measures jobs per second with 1 to 64 slots, for four kinds of jobs, beside bare processes and tools.

The C loop runs as many processes at once as taskqd has slots, and is neither durable nor a queue.
"""

import subprocess
import time

from bench import daemon
from bench.bench import Bench
from bench.peers.install import program_missing
from bench.place import SERVER_TIMEOUT, environment
from bench.results import Goal, Measured, Row

SLOTS = (1, 2, 4, 16, 64)
KINDS = {"true": 3_000, "/bin/true": 2_000, "sleep 0.01": 800, "python3 -c pass": 200}
"""The number of jobs of each kind per turn, with 4 slots or more; fewer with one or two."""
GOALS = {("true", 1): 0.5, ("true", 4): 0.55, ("true", 16): 0.65}
"""The goals beside the C loop."""
PARALLEL_SLOTS = 4
"""The number of jobs at once of GNU parallel, which is slow: measured once per kind, with fewer jobs."""
LAPS = 3


def measure(bench: Bench) -> Measured:
    """Measure each kind with each number of slots."""
    kinds, numbers = (("true",), (PARALLEL_SLOTS,)) if bench.is_quick else (tuple(KINDS), SLOTS)
    return Measured([row for command in kinds for slots in numbers for row in _rows(bench, command, slots)])


def _rows(bench: Bench, command: str, slots: int) -> list[Row]:
    ours: list[float] = []
    bare: list[float] = []
    theirs: dict[str, list[float]] = {f"xargs -P {slots}": []}
    if slots == PARALLEL_SLOTS:
        theirs[f"parallel -j {slots}"] = []
    jobs = bench.many(KINDS[command] * min(slots, 4) // 4, 4)
    for _ in bench.turns(LAPS):
        with daemon.running(bench.home("ours"), bench.programs, slots) as server:
            server.round_trips(1)  # the runner has started when it ends
            ours.append(server.true_rate(jobs, command))
        bare.append(jobs / bench.programs.spawn(jobs, slots, ["sh", "-c", command]))
        for name, rates in theirs.items():
            if not program_missing(name.split()[0]):
                rates.append(_rate(name, command, jobs if name.startswith("xargs") else jobs // 4))
    title = f"`{command}` jobs, {slots} slot{'s' * (slots > 1)}"
    note = f"{jobs:,} jobs per turn"
    goal = GOALS.get((command, slots))
    rows = [Row(title, "the C loop", "/s", ours, bare, Goal(goal) if goal else None, note=note)]
    for name, rates in theirs.items():
        missing = program_missing(name.split()[0])
        rows.append(Row(title, f"`{name}`", "/s", ours, rates, note=note, missing=missing))
    return rows


def _rate(name: str, command: str, jobs: int) -> float:
    """Return the jobs per second of xargs or parallel, which read a line per job."""
    words = ["-n", "1", "sh", "-c", command] if name.startswith("xargs") else ["--will-cite", "-n0", command]
    began = time.perf_counter()
    subprocess.run(
        [*name.split(), *words],
        input="x\n" * jobs,
        env=environment(),
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
        timeout=2 * SERVER_TIMEOUT,
    )
    return jobs / (time.perf_counter() - began)
