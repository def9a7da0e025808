"""Measures the memory per pending job of ``echo hello world``, beside beanstalkd with its binlog."""

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.peers import beanstalkd
from bench.results import Goal, Measured, Row

JOBS = 1_000_000
LAPS = 3
IN_LINE, HELD, REPLAYED = "in line", "held", "held, after a restart"
GOAL = Goal(1.6, is_most=True)


def measure(bench: Bench) -> Measured:
    """Fill the servers one after the other, and return by how much the memory of each has grown."""
    jobs = bench.many(JOBS, 5_000)
    ours: dict[str, list[float]] = {kind: [] for kind in (IN_LINE, HELD, REPLAYED)}
    theirs: list[float] = []
    for _ in bench.turns(LAPS):
        ours[IN_LINE].append(_of_line(bench, jobs))
        held, replayed = _of_held(bench, jobs)
        ours[HELD].append(held)
        ours[REPLAYED].append(replayed)
        if not beanstalkd.missing():
            theirs.append(_of_theirs(bench, jobs))
    title = f"memory per pending job (`echo hello world`), with {jobs:,} jobs"
    missing = beanstalkd.missing()
    return Measured(
        [
            Row(f"{title}, {kind}", "beanstalkd", "bytes", values, theirs, GOAL, missing=missing)
            for kind, values in ours.items()
        ]
    )


def _of_line(bench: Bench, jobs: int) -> float:
    """Return the bytes per job of those that wait in line behind one that uses all slots."""
    with daemon.running(bench.home("line"), bench.programs) as server:
        server.block()
        before = server.memory
        server.submit(jobs)
        return (server.memory - before) / jobs


def _of_held(bench: Bench, jobs: int) -> tuple[float, float]:
    """Return the bytes per job, and the bytes per job after a replay of the journal."""
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
