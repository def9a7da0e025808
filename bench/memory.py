"""Memory a pending job, at a million of ``echo hello world``: ours beside beanstalkd's, with its binlog."""

from bench.bench import Bench
from bench.daemon import Daemon
from bench.peers import beanstalkd
from bench.results import Goal, Measured, Row

JOBS = 1_000_000
LAPS = 3
LINE, HELD, READ = "waiting in line", "held", "held, after a restart"
GOAL = Goal(2.3, is_most=True)


def measure(bench: Bench) -> Measured:
    """Fill one after the other; what counts is how much each has grown by."""
    jobs = bench.many(JOBS, 5_000)
    ours: dict[str, list[float]] = {kind: [] for kind in (LINE, HELD, READ)}
    theirs: list[float] = []
    for _ in bench.turns(LAPS):
        ours[LINE].append(_of_line(bench, jobs))
        held, read = _of_held(bench, jobs)
        ours[HELD].append(held)
        ours[READ].append(read)
        if not beanstalkd.missing():
            theirs.append(_of_theirs(bench, jobs))
    what = f"memory a pending job (`echo hello world`), at {jobs:,}"
    missing = beanstalkd.missing()
    return Measured(
        [
            Row(f"{what}, {kind}", "beanstalkd", "bytes", values, theirs, GOAL, missing=missing)
            for kind, values in ours.items()
        ]
    )


def _of_line(bench: Bench, jobs: int) -> float:
    server = Daemon(bench.home("line"), bench.programs)
    server.start()
    try:
        server.ask("PAUSE")
        before = server.memory
        server.submit(jobs)
        return (server.memory - before) / jobs
    finally:
        server.stop()


def _of_held(bench: Bench, jobs: int) -> tuple[float, float]:
    """Return what each takes, and what it takes once it has been read from the journal."""
    server = Daemon(bench.home("held"), bench.programs)
    server.start()
    try:
        before = server.memory
        server.fill(jobs)
        held = (server.memory - before) / jobs
    finally:
        server.stop()
    server.start()
    try:
        return held, (server.memory - before) / jobs
    finally:
        server.stop()


def _of_theirs(bench: Bench, jobs: int) -> float:
    with beanstalkd.running(bench.home("beanstalkd"), bench.programs, beanstalkd.UNSYNCED) as server:
        before = server.memory
        server.put(jobs)
        return (server.memory - before) / jobs
