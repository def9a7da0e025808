"""Measures submissions and jobs per second on disks that sync in 1, 5 and 20 ms, beside the machine's disk.

The slow disks are simulated (slow_disk.py). Each figure takes a second or two: the number of requests depends
on the time of a sync.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.report import number
from bench.results import Measured, Table

DISKS = (0.0, 0.001, 0.005, 0.02)
"""Seconds that a sync takes at least; 0 is the disk of the machine."""
SECONDS = 1.5
"""The time for which the number of requests is chosen."""
LAPS = 3
ONE_SLOT = "one"
"""The queue whose jobs run one after the other."""


class Figure(NamedTuple):
    """A rate: requests per cycle, and its syncs and seconds without them, as far as known before."""

    title: str
    requests: int
    syncs: int
    seconds: float
    rate: Callable[[Daemon, int], float]

    def count(self, sync: float) -> int:
        """Return the number of requests that take about SECONDS on a disk."""
        return max(2, int(SECONDS * self.requests / (self.seconds + self.syncs * sync)))


FIGURES = [
    Figure("SUBMIT, 1 client", 1, 1, 0.0003, lambda server, n: server.submit(n, 1, 1, "--hold").rate),
    Figure(
        "SUBMIT, 20 clients, one at a time",
        20,
        1,
        0.0007,
        lambda server, n: server.submit(n, 20, 1, "--hold").rate,
    ),
    Figure(
        "SUBMIT, 20 clients, 100 pipelined",
        2000,
        1,
        0.01,
        lambda server, n: server.submit(n, 20, 100, "--hold").rate,
    ),
    Figure("SUBMIT + WAIT of `true`, 1 client", 1, 3, 0.002, lambda server, n: 1 / server.round_trips(n)),
    Figure(
        "`true` jobs, a queue of 1 slot",
        1,
        2,
        0.002,
        lambda server, n: server.true_rate(n, f"--queue={ONE_SLOT} true"),
    ),
    Figure("`true` jobs, 4 slots", 4, 2, 0.003, lambda server, n: server.true_rate(n)),
]


def measure(bench: Bench) -> Measured:
    """Measure all figures on each disk in turns."""
    disks = DISKS[: bench.many(len(DISKS), 2)]
    found: dict[tuple[str, float], list[float]] = {}
    for _ in bench.turns(LAPS):
        for sync in disks:
            with daemon.running(bench.home("disk"), bench.programs, sync_seconds=sync) as server:
                server.ask(f"SET-QUEUE {ONE_SLOT} --slots=1")
                server.round_trips(1)  # the runner has started when it ends
                for figure in FIGURES:
                    count = bench.many(figure.count(sync), 4)
                    found.setdefault((figure.title, sync), []).append(figure.rate(server, count))
    rows = [
        [figure.title, *(number(statistics.median(found[figure.title, sync])) for sync in disks)]
        for figure in FIGURES
    ]
    head = ["per second", "this disk", *(f"{1000 * sync:g} ms" for sync in disks[1:])]
    text = (
        "Rates by the time that an `fdatasync` of the daemon takes at least: slow disks are simulated "
        "(bench/slow_disk.py)."
    )
    return Measured(tables=[Table("On slower disks", text, head, rows)])
