"""Measures ``true`` jobs per second when each end removes a job by retention, beside a fresh daemon.

    python -m bench.steady [jobs]       in turns, with the CPU time of the daemon per job

The store of the daemon in its steady state has 100,000 ended jobs, as many as the default retention keeps, in
a snapshot. Such a daemon makes the next snapshot after some 70,000 more jobs, so none is made meanwhile.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from bench.bench import Bench
from bench.daemon import Daemon
from bench.ended_store import compact, write_store
from bench.load import Programs
from bench.results import Goal, Measured, Row

JOBS = 4_000
ENDED = 100_000
"""Ended jobs that the default of ``[retention] count`` keeps."""
GOAL = Goal(0.95)
TITLE = "`true` jobs per second, each end removing one by retention, slots = 4"


def measure(bench: Bench) -> Measured:
    """Run both daemons in turns."""
    ended = bench.many(ENDED, 1_000)
    steady: list[float] = []
    fresh: list[float] = []
    for _ in bench.turns():
        for rates, known in ((steady, ended), (fresh, 0)):
            daemon = _daemon(bench.home("steady"), bench.programs, known, ended)
            rates.append(_rate(daemon, bench.many(JOBS, 50))[0])
    return Measured([Row(TITLE, "a fresh daemon", "/s", steady, fresh, GOAL)])


def _daemon(home: Path, programs: Programs, known: int, count: int) -> Daemon:
    """Return a daemon that keeps ``count`` ended jobs, and has ``known`` of them."""
    if known:
        write_store(str(home / "state"), known)
        compact(home / "state")
    return Daemon(home, programs, more=[f"--retention-count={count}", "--retention-age=3650d"])


def _rate(daemon: Daemon, jobs: int) -> tuple[float, float]:
    """Return the jobs per second, and the seconds of CPU of the daemon per job."""
    daemon.start()
    try:
        daemon.true_rate(max(50, jobs // 10))
        before = cpu(daemon.pid)
        rate = daemon.true_rate(jobs)
        return rate, (cpu(daemon.pid) - before) / jobs
    finally:
        daemon.stop()


def cpu(pid: int) -> float:
    """Return the seconds of CPU that all threads of a process have used."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def main() -> None:
    """Print the rates and the CPU time per job of each turn, and the ratios of the medians."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    found: dict[str, list[tuple[float, float]]] = {"steady": [], "fresh": []}
    with tempfile.TemporaryDirectory(prefix="taskqd-bench-") as directory:
        place = Path(directory)
        programs = Programs(place)
        for turn in range(5):
            for name, known in (("steady", ENDED), ("fresh", 0)):
                home = place / f"{name}{turn}"
                home.mkdir()
                found[name].append(_rate(_daemon(home, programs, known, ENDED), jobs))
                rate, seconds = found[name][-1]
                print(f"{name}: {rate:,.0f}/s, {seconds * 1e6:.0f} us of CPU per job", flush=True)
    rates, times = (
        {name: statistics.median(each[index] for each in turns) for name, turns in found.items()}
        for index in (0, 1)
    )
    print(f"steady / fresh: {rates['steady'] / rates['fresh']:.2f} of the rate,", end=" ")
    print(f"{times['steady'] / times['fresh']:.2f} of the CPU time")


if __name__ == "__main__":
    main()
