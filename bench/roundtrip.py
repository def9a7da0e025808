"""Measures the time of one job for one client: SUBMIT, then WAIT of ``true``, beside ``subprocess.run``."""

import statistics
import subprocess
import time
from contextlib import closing

from bench import daemon
from bench.bench import Bench
from bench.results import Goal, Measured, Row

TIMES = 300
WARM = 10


def measure(bench: Bench) -> Measured:
    """Alternate between both; each turn gives a median of each."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in bench.turns():
        with daemon.running(bench.home("ours"), bench.programs) as server, closing(server.wire()) as wire:
            pairs = [(server.round_trip(wire), _bare()) for _ in range(WARM + bench.many(TIMES, 20))][WARM:]
        ours.append(1000 * statistics.median(our for our, _ in pairs))
        theirs.append(1000 * statistics.median(their for _, their in pairs))
    what = "SUBMIT + WAIT of `true`, one client, median"
    against = 'Python\'s `subprocess.run(["sh","-c","true"])`'
    note = f"{TIMES} of each per turn"
    return Measured([Row(what, against, "ms", ours, theirs, Goal(4, is_most=True), note=note)])


def _bare() -> float:
    began = time.perf_counter()
    subprocess.run(["sh", "-c", "true"], check=True)
    return time.perf_counter() - began
