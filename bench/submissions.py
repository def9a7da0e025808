"""Measures submissions per second, each on disk before its reply, beside beanstalkd.

The load generator is the same. No job starts meanwhile: the daemon is paused, and beanstalkd has no worker.
Every turn has a new server of each kind.
"""

from typing import NamedTuple

from bench import daemon
from bench.bench import Bench
from bench.peers import beanstalkd
from bench.results import Goal, Measured, Row


class Kind(NamedTuple):
    """A way to submit. The numbers of submissions, ours and theirs, take a second or two."""

    title: str
    clients: int
    depth: int
    ours: int
    theirs: int
    goal: float


KINDS = [
    Kind("submissions, 20 clients, one request at a time", 20, 1, 20_000, 15_000, 2.5),
    Kind("submissions, 20 clients, 100 pipelined", 20, 100, 150_000, 20_000, 8),
    Kind("submissions, 1 client, one at a time", 1, 1, 5_000, 10_000, 0.5),
]
IN_MEMORY = 300_000
IN_MEMORY_GOAL = 0.5
DURABLE_NAME = "beanstalkd -b -f0"
IN_MEMORY_NAME = "beanstalkd without binlog"


def measure(bench: Bench) -> Measured:
    """Measure all kinds, one after the other."""
    rows = []
    for kind in KINDS:
        ours, durable, in_memory = _turns(bench, kind)
        missing = beanstalkd.missing()
        note = f"{kind.ours:,} of ours, {kind.theirs:,} of theirs per turn"
        rows.append(
            Row(kind.title, DURABLE_NAME, "/s", ours, durable, Goal(kind.goal), note=note, missing=missing)
        )
        if kind.depth > 1:
            goal = Goal(IN_MEMORY_GOAL)
            rows.append(Row(kind.title, IN_MEMORY_NAME, "/s", ours, in_memory, goal, missing=missing))
    return Measured(rows)


def _turns(bench: Bench, kind: Kind) -> tuple[list[float], list[float], list[float]]:
    ours: list[float] = []
    durable: list[float] = []
    in_memory: list[float] = []
    for _ in bench.turns():
        ours.append(_of_ours(bench, kind))
        if beanstalkd.missing():
            continue
        durable.append(_of_theirs(bench, kind, kind.theirs, beanstalkd.DURABLE))
        if kind.depth > 1:
            in_memory.append(_of_theirs(bench, kind, IN_MEMORY, beanstalkd.WITHOUT_BINLOG))
    return ours, durable, in_memory


def _of_ours(bench: Bench, kind: Kind) -> float:
    with daemon.running(bench.home("ours"), bench.programs) as ours:
        ours.ask("PAUSE")
        return ours.submit(bench.many(kind.ours, 400), kind.clients, kind.depth).rate


def _of_theirs(bench: Bench, kind: Kind, many: int, options: tuple[str, ...]) -> float:
    with beanstalkd.running(bench.home("beanstalkd"), bench.programs, options) as theirs:
        return theirs.put(bench.many(many, 400), kind.clients, kind.depth).rate
