"""Measures how long clients wait, in an open loop: of SUBMIT, and of SUBMIT and WAIT of ``true`` jobs.

Requests come at planned times, whether or not earlier ones have been answered, and their latency counts
from the planned time (bench/c/arrivals.c). So a pause of the server counts for all requests that were due
meanwhile, which a client that waits for each reply before it sends the next request does not see.

Capacity is the rate of CAPACITY_CLIENTS clients, each of which sends its next request when the last one is
answered. Loads are percentages of it. On the simulated slow disks (slow_disk.py) SUBMIT comes at half of the
capacity without a slow disk, jobs at half of what runs on that disk.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.ended_store import write_store
from bench.load import Latency
from bench.peers import beanstalkd, redis
from bench.place import Failed
from bench.report import number
from bench.results import Measured, Table

LOADS = (10, 50, 90)
"""Percentages of the capacity."""
HALF = 50
SECONDS = 4.0
"""The length of the plan of each load."""
QUICK_SECONDS = 0.2
CLIENTS = 1000
"""Connections of the open loop: up to this number of requests are unanswered."""
WAITING_CLIENTS = 200
"""The same if each request waits for a job; each connection has run a job before the load begins."""
CAPACITY_CLIENTS = 100
SUBMISSIONS = 20_000
JOBS = 1_000
ENDED = 300_000
"""Ended jobs of the store of which a snapshot is written meanwhile."""
SLOW_DISKS = (0.005, 0.02)
"""Seconds that a sync takes on a simulated slow disk."""
LAPS = 3

Arrive = Callable[[float, float], Latency]
"""Sends requests: how many per second, and for how many seconds."""


class Load(NamedTuple):
    """A row of the table: a request, its server, what goes on besides, and the percentage of the capacity."""

    what: str
    who: str
    beside: str
    percent: int


class Found(NamedTuple):
    """The rates and latencies of the turns of a row."""

    rates: list[float]
    latencies: list[Latency]


class Turns:
    """Collects the latencies of all turns by row."""

    def __init__(self, bench: Bench) -> None:
        self.found: dict[Load, Found] = {}
        self._seconds = bench.many(1, 0) * SECONDS or QUICK_SECONDS

    def add(self, load: Load, capacity: float, arrive: Arrive) -> None:
        """Measure one row at its percentage of the capacity."""
        rate = capacity * load.percent / 100
        found = self.found.setdefault(load, Found([], []))
        found.rates.append(rate)
        found.latencies.append(arrive(rate, self._seconds))

    def rows(self) -> Iterator[list[str]]:
        """Yield the cells of the table: medians of the turns, times in milliseconds."""
        for load, found in self.found.items():
            by_field = zip(*(latency[1:6] for latency in found.latencies), strict=True)
            times = [number(1000 * statistics.median(values)) for values in by_field]
            unanswered = statistics.median(latency.most for latency in found.latencies)
            rate = statistics.median(found.rates)
            yield [*load[:3], f"{load.percent} %", number(rate), *times, number(unanswered)]


def measure(bench: Bench) -> Measured:
    """Measure all rows in each turn."""
    turns = Turns(bench)
    for _ in bench.turns(LAPS):
        capacity = _submissions(bench, turns)
        _beside_snapshot(bench, turns, capacity)
        slow_disks = SLOW_DISKS[: bench.many(len(SLOW_DISKS), 0)]
        for seconds in slow_disks:
            _slow_submissions(bench, turns, capacity, seconds)
        for seconds in (0.0, *slow_disks):
            _jobs(bench, turns, seconds)
        _peers(bench, turns)
    text = (
        "Requests at planned times with random (exponential) intervals, latency from the planned time to the "
        "reply, in ms. *Late* is the percentile 99.9 of the time from the planned time to the sending: the "
        "part that the load generator, or a lack of free connections, has caused. *Unanswered* is the "
        "highest number of requests under way. Slow disks are simulated: each `fdatasync` of the daemon "
        f"takes at least that long. A snapshot is one of {ENDED:,} ended jobs, written from the beginning on."
    )
    head = ["what", "who", "beside", "load", "per second", "p50", "p99", "p99.9", "max", "late", "unanswered"]
    return Measured(tables=[Table("Latency in an open loop", text, head, list(turns.rows()))])


def _submissions(bench: Bench, turns: Turns) -> float:
    """Measure SUBMIT at each load; return the capacity."""
    with _paused(bench) as server:
        capacity = server.submit(bench.many(SUBMISSIONS, 400), CAPACITY_CLIENTS, 1).rate
        for percent in _loads(bench):
            turns.add(Load("SUBMIT", "taskqd", "", percent), capacity, _submitting(bench, server))
    return capacity


def _beside_snapshot(bench: Bench, turns: Turns, capacity: float) -> None:
    home = bench.home("snapshot")
    write_store(str(home / "state"), bench.many(ENDED, 1_000))
    more = ("--retention-count=10000000", "--retention-age=3650d", "--retention-memory=none")
    with daemon.running(home, bench.programs, more=more) as server:
        if _snapshot_bytes(server):
            raise Failed("the snapshot was complete before the load began")
        server.ask("PAUSE")
        turns.add(Load("SUBMIT", "taskqd", "a snapshot", HALF), capacity, _submitting(bench, server))
        if not bench.is_quick and not _snapshot_bytes(server):
            bench.say("the snapshot was still being written at the end of the load")


def _snapshot_bytes(server: Daemon) -> int:
    stats = msgspec.json.decode(server.ask("STATS").removeprefix("STATS "))
    return int(stats["store"]["snapshot_bytes"])


def _slow_submissions(bench: Bench, turns: Turns, capacity: float, seconds: float) -> None:
    with _paused(bench, seconds) as server:
        turns.add(Load("SUBMIT", "taskqd", _disk(seconds), HALF), capacity, _submitting(bench, server))


def _jobs(bench: Bench, turns: Turns, seconds: float) -> None:
    """Measure SUBMIT and WAIT at each load, or on a slow disk at half of its capacity."""
    with daemon.running(bench.home("ours"), bench.programs, sync_seconds=seconds) as server:
        server.round_trips(1)  # the runner has started when it ends
        clients = bench.many(WAITING_CLIENTS, 10)
        capacity = server.true_rate(bench.many(JOBS // 5 if seconds else JOBS, 20))
        for percent in (HALF,) if seconds else _loads(bench):
            load = Load("SUBMIT + WAIT of `true`, 4 slots", "taskqd", _disk(seconds), percent)
            arrive = partial(server.arrivals, clients=clients, command="true", is_waited_for=True)
            turns.add(load, capacity, arrive)


def _loads(bench: Bench) -> tuple[int, ...]:
    return LOADS[: bench.many(len(LOADS), 1)]


def _submitting(bench: Bench, server: Daemon) -> Arrive:
    return partial(server.arrivals, clients=bench.many(CLIENTS, 50))


def _disk(seconds: float) -> str:
    return f"a disk that syncs in {1000 * seconds:g} ms" if seconds else ""


@contextmanager
def _paused(bench: Bench, sync_seconds: float = 0.0) -> Iterator[Daemon]:
    with daemon.running(bench.home("ours"), bench.programs, sync_seconds=sync_seconds) as server:
        server.ask("PAUSE")
        yield server


def _peers(bench: Bench, turns: Turns) -> None:
    if not redis.missing():
        with redis.running(bench.home("redis"), redis.DURABLE) as path:
            _peer(bench, turns, ("RPUSH", "redis, appendfsync always"), path, redis.PUSH, ":")
    if not beanstalkd.missing():
        with beanstalkd.running(bench.home("beanstalkd"), bench.programs) as server:
            names = ("put", "beanstalkd -b -f0")
            _peer(bench, turns, names, server.socket, beanstalkd.PUT, "INSERTED ")


def _peer(
    bench: Bench, turns: Turns, names: tuple[str, str], path: Path, request: bytes, prefix: str
) -> None:
    many = bench.many(SUBMISSIONS, 400)
    capacity = bench.programs.load(path, request, prefix, many, CAPACITY_CLIENTS, 1).rate
    for percent in _loads(bench):
        arrive = partial(bench.programs.arrivals, path, request, prefix, clients=bench.many(CLIENTS, 50))
        turns.add(Load(*names, "", percent), capacity, arrive)
