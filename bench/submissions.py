"""Measures submissions per second, each on disk before its reply, beside redis and beanstalkd.

The load generator is the same. No job starts meanwhile: the daemon is paused, and the others have no worker.
Every turn has a new server of each kind. redis shares a sync between the commands that it reads together, as
taskqd does; beanstalkd syncs each job. So a slower disk favours taskqd and redis.
"""

from typing import NamedTuple

from bench import daemon
from bench.bench import Bench
from bench.peers import beanstalkd, redis
from bench.results import Goal, Measured, Row


class Kind(NamedTuple):
    """A way to submit. The numbers of submissions, ours and theirs, take a second or two.

    ``goal`` is beside redis, ``goal_alone`` beside beanstalkd.
    """

    title: str
    clients: int
    depth: int
    ours: int
    theirs: int
    pushes: int
    goal: float
    goal_alone: float


KINDS = [
    Kind("submissions, 20 clients, one request at a time", 20, 1, 20_000, 15_000, 40_000, 0.9, 2.5),
    Kind("submissions, 20 clients, 100 pipelined", 20, 100, 150_000, 20_000, 600_000, 0.4, 15),
    Kind("submissions, 1 client, one at a time", 1, 1, 5_000, 10_000, 8_000, 0.7, 0.5),
]
IN_MEMORY = 300_000
IN_MEMORY_GOAL = 0.5
DURABLE_NAME = "beanstalkd -b -f0"
IN_MEMORY_NAME = "beanstalkd without binlog"
REDIS_NAME = "redis RPUSH, appendfsync always"


def measure(bench: Bench) -> Measured:
    """Measure all kinds, one after the other."""
    rows = []
    for kind in KINDS[1:2] if bench.is_quick else KINDS:  # the second has all peers
        ours, theirs = _turns(bench, kind)
        note = f"{kind.ours:,} of ours, {kind.theirs:,} of beanstalkd's, {kind.pushes:,} of redis' per turn"
        for name, goal in (
            (REDIS_NAME, kind.goal),
            (DURABLE_NAME, kind.goal_alone),
            (IN_MEMORY_NAME, IN_MEMORY_GOAL),
        ):
            if name in theirs:
                lacking = redis.missing() if name == REDIS_NAME else beanstalkd.missing()
                values = theirs[name]
                rows.append(Row(kind.title, name, "/s", ours, values, Goal(goal), note=note, missing=lacking))
    return Measured(rows)


def _turns(bench: Bench, kind: Kind) -> tuple[list[float], dict[str, list[float]]]:
    """Return the submissions per second of taskqd, and of each peer by name."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {REDIS_NAME: [], DURABLE_NAME: []}
    if kind.depth > 1:
        theirs[IN_MEMORY_NAME] = []
    for _ in bench.turns():
        ours.append(_of_ours(bench, kind))
        if not redis.missing():
            many = bench.many(kind.pushes, 100)
            pushed = redis.push(bench.home("redis"), bench.programs, many, kind.clients, kind.depth)
            theirs[REDIS_NAME].append(pushed.rate)
        if not beanstalkd.missing():
            theirs[DURABLE_NAME].append(_of_theirs(bench, kind, kind.theirs, beanstalkd.DURABLE))
        if not beanstalkd.missing() and kind.depth > 1:
            many = IN_MEMORY
            theirs[IN_MEMORY_NAME].append(_of_theirs(bench, kind, many, beanstalkd.WITHOUT_BINLOG))
    return ours, theirs


def _of_ours(bench: Bench, kind: Kind) -> float:
    with daemon.running(bench.home("ours"), bench.programs) as ours:
        ours.ask("PAUSE")
        return ours.submit(bench.many(kind.ours, 100), kind.clients, kind.depth).rate


def _of_theirs(bench: Bench, kind: Kind, many: int, options: tuple[str, ...]) -> float:
    with beanstalkd.running(bench.home("beanstalkd"), bench.programs, options) as theirs:
        return theirs.put(bench.many(many, 100), kind.clients, kind.depth).rate
