"""Submissions a second, each on disk before its reply: ours beside beanstalkd's, by the same load generator.

Nothing is started meanwhile: the daemon is paused, and nobody reserves from beanstalkd. Every turn has a
fresh server of each kind.
"""

from typing import NamedTuple

from bench import daemon
from bench.bench import Bench
from bench.peers import beanstalkd
from bench.results import Goal, Measured, Row


class Kind(NamedTuple):
    """A way to submit; how many are submitted, of ours and of theirs, takes a second or two."""

    what: str
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
UNBOUND = 300_000
UNBOUND_GOAL = 0.5
DURABLE_NAME = "beanstalkd -b -f0"
UNBOUND_NAME = "beanstalkd without binlog"


def measure(bench: Bench) -> Measured:
    """Ask in turn."""
    rows = []
    for kind in KINDS:
        ours, durable, unbound = _turns(bench, kind)
        missing = beanstalkd.missing()
        note = f"{kind.ours:,} of ours, {kind.theirs:,} of theirs a turn"
        rows.append(
            Row(kind.what, DURABLE_NAME, "/s", ours, durable, Goal(kind.goal), note=note, missing=missing)
        )
        if kind.depth > 1:
            goal = Goal(UNBOUND_GOAL)
            rows.append(Row(kind.what, UNBOUND_NAME, "/s", ours, unbound, goal, missing=missing))
    return Measured(rows)


def _turns(bench: Bench, kind: Kind) -> tuple[list[float], list[float], list[float]]:
    ours: list[float] = []
    durable: list[float] = []
    unbound: list[float] = []
    for _ in bench.turns():
        ours.append(_of_ours(bench, kind))
        if beanstalkd.missing():
            continue
        durable.append(_of_theirs(bench, kind, kind.theirs, beanstalkd.DURABLE))
        if kind.depth > 1:
            unbound.append(_of_theirs(bench, kind, UNBOUND, beanstalkd.WITHOUT_BINLOG))
    return ours, durable, unbound


def _of_ours(bench: Bench, kind: Kind) -> float:
    with daemon.running(bench.home("ours"), bench.programs) as ours:
        ours.ask("PAUSE")
        return ours.submit(bench.many(kind.ours, 400), kind.clients, kind.depth).rate


def _of_theirs(bench: Bench, kind: Kind, many: int, options: tuple[str, ...]) -> float:
    with beanstalkd.running(bench.home("beanstalkd"), bench.programs, options) as theirs:
        return theirs.put(bench.many(many, 400), kind.clients, kind.depth).rate
