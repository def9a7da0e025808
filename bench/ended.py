"""Measures a million ended jobs: the CPU time of a start and of a snapshot, and the memory of each job.

The store is generated (ended_store.py). The snapshot of it is written by the program that the daemon starts,
and the daemon starts with that snapshot.
"""

from bench.bench import Bench
from bench.daemon import Daemon
from bench.ended_store import write_snapshot, write_store
from bench.results import Goal, Measured, Row
from bench.steady import cpu

JOBS = 1_000_000
SNAPSHOT_GOAL = Goal(10, is_most=True, is_ratio=False)
START_GOAL = Goal(5, is_most=True, is_ratio=False)
MEMORY_GOAL = Goal(500, is_most=True, is_ratio=False)


def measure(bench: Bench) -> Measured:
    """Generate stores, compact them, and start a daemon with each."""
    jobs = bench.many(JOBS, 45_000)
    snapshots: list[float] = []
    starts: list[float] = []
    sizes: list[float] = []
    empty = _start(Daemon(bench.home("empty"), bench.programs))[1]
    for _ in bench.turns(3):
        home = bench.home("ended")
        write_store(str(home / "state"), jobs)
        snapshots.append(write_snapshot(home / "state" / "journal"))
        more = (f"--retention-count={jobs}", "--retention-age=3650d", "--retention-memory=none")
        seconds, memory = _start(Daemon(home, bench.programs, more=more))
        starts.append(seconds)
        sizes.append((memory - empty) / jobs)
    known = f"{jobs:,} ended jobs"
    return Measured(
        [
            Row(f"snapshot of {known}, CPU time", "", "s", snapshots, goal=SNAPSHOT_GOAL),
            Row(f"start with {known}, CPU time to the first reply", "", "s", starts, goal=START_GOAL),
            Row(f"memory per ended job, with {known}", "", "bytes", sizes, goal=MEMORY_GOAL),
        ]
    )


def _start(daemon: Daemon) -> tuple[float, int]:
    """Return the seconds of CPU to the first reply, and the resident memory."""
    daemon.start()
    try:
        return cpu(daemon.pid), daemon.memory
    finally:
        daemon.stop()
