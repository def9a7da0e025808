"""Measures the CPU time and the memory of a daemon and its runner while jobs sleep and no client asks.

Also with nearly as many silent connections as may be open by default.
"""

import time
from contextlib import ExitStack, closing
from pathlib import Path

from bench import daemon
from bench.bench import Bench
from bench.place import all_descriptors
from bench.results import Goal, Measured, Row

LOADS = ((0, 0), (100, 0), (2_000, 0), (0, 9_900))
"""Numbers of sleeping jobs and of silent connections."""
GOALS = {(2_000, 0): 0.5, (0, 9_900): 0.5}
"""Milliseconds of the daemon's CPU per second."""
SECONDS = 20
SETTLE_TIME = 15
"""Seconds after the last start in which shells start and their processes are recorded."""
LAPS = 1
"""CPU time hardly depends on what else the machine does."""
MIB = 1024**2


def measure(bench: Bench) -> Measured:
    """Measure both processes with each number of jobs."""
    cpu: dict[tuple[str, int, int], list[float]] = {}
    sizes_of_runner: list[float] = []
    for _ in bench.turns(LAPS):
        for jobs, connections in LOADS[: bench.many(len(LOADS), 1)]:
            bench.say(f"idle with {jobs:,} jobs running and {connections:,} connections")
            with ExitStack() as stack:
                stack.enter_context(all_descriptors())
                server = stack.enter_context(
                    daemon.running(bench.home("idle"), bench.programs, slots=jobs + 1)
                )
                server.round_trips(3)
                for _ in range(connections):
                    stack.enter_context(closing(server.wire()))
                if jobs:
                    server.submit(jobs, clients=1, command="exec sleep 3600")
                while server.jobs()["running"] < jobs:
                    time.sleep(daemon.POLL_INTERVAL)
                time.sleep(bench.many(SETTLE_TIME, 0))
                processes = {"the daemon": server.pid, "the runner": server.runner}
                before = {name: _cpu_time(pid) for name, pid in processes.items()}
                began = time.perf_counter()
                time.sleep(0.1 if bench.is_quick else SECONDS)
                for name, pid in processes.items():
                    used = 1000 * (_cpu_time(pid) - before[name]) / (time.perf_counter() - began)
                    cpu.setdefault((name, jobs, connections), []).append(used)
                if not jobs and not connections:
                    sizes_of_runner.append(_own_memory(server.runner) / MIB)
    rows = []
    for (name, jobs, connections), values in cpu.items():
        bound = GOALS.get((jobs, connections)) if name == "the daemon" else None
        silent = f"{connections:,} clients are silent" if connections else "no client asks"
        rows.append(
            Row(
                f"CPU of {name} while {jobs:,} jobs sleep and {silent}",
                "",
                "ms/s",
                values,
                goal=Goal(bound, is_most=True, is_ratio=False) if bound else None,
            )
        )
    goal = Goal(30, is_most=True, is_ratio=False)
    what = "memory of the runner (proportional set size) without jobs"
    return Measured([*rows, Row(what, "", "MiB", sizes_of_runner, goal=goal)])


def _cpu_time(pid: int) -> float:
    """Return the seconds of CPU time of all threads of a process (proc(5), schedstat)."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def _own_memory(pid: int) -> int:
    """Return the proportional set size of a process in bytes: shared pages count in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
