"""Measures a start with a million jobs in the journal, to the first reply, beside beanstalkd."""

from bench.bench import Bench
from bench.daemon import Daemon
from bench.peers import beanstalkd
from bench.peers.beanstalkd import Beanstalkd
from bench.results import Goal, Measured, Row

JOBS = 1_000_000
GOAL = Goal(2, is_most=True)


def measure(bench: Bench) -> Measured:
    """Fill both, then start and stop them in turns."""
    jobs = bench.many(JOBS, 2_000)
    mine = Daemon(bench.home("ours"), bench.programs)
    mine.start()
    try:
        mine.fill(jobs)
    finally:
        mine.stop()
    peer = None if beanstalkd.missing() else _filled(bench, jobs)
    bench.say(f"{jobs:,} jobs are in the journal")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in bench.turns():
        ours.append(_start(mine))
        if peer:
            theirs.append(_start(peer))
    what = f"start with {jobs:,} jobs in the journal, to the first reply"
    return Measured(
        [Row(what, "beanstalkd -b with the same", "s", ours, theirs, GOAL, missing=beanstalkd.missing())]
    )


def _filled(bench: Bench, jobs: int) -> Beanstalkd:
    """Fill without syncs, which makes the same binlog in less time; the measured starts sync."""
    home = bench.home("beanstalkd")
    with beanstalkd.running(home, bench.programs, beanstalkd.UNSYNCED) as server:
        server.put(jobs)
    return Beanstalkd(home, bench.programs)


def _start(server: Daemon | Beanstalkd) -> float:
    try:
        return server.start()
    finally:
        server.stop()
