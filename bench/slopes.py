"""Measures the figures of ``crowded`` with more and more pending jobs, running jobs, and connections."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from bench import daemon
from bench.bench import Bench
from bench.crowded import FIGURES
from bench.daemon import Daemon
from bench.place import all_descriptors
from bench.results import Line, Measured, Point

PENDING = (0, 10_000, 100_000, 1_000_000)
CONNECTIONS = (0, 100, 1_000, 5_000)
RUNNING = (1, 10, 100, 500)
LAPS = 3
FREE_SLOTS = 4
SPARE_FILES = 500
"""Descriptors that this process and the daemon need besides the connections."""
START = "start, to the first reply"
MEMORY = "memory"

Loaded = Callable[[Bench, int], AbstractContextManager[Daemon]]


def pending(bench: Bench) -> Measured:
    """Measure with more pending jobs, all held; also the time of a start, and the memory."""
    at: tuple[int, ...] = (400,) if bench.is_quick else PENDING
    measured = _measure(bench, "jobs pending", at, _with_pending)
    return Measured(lines=[*measured.lines, *_weights(bench, "jobs pending", at)])


def connections(bench: Bench) -> Measured:
    """Measure with more silent connections."""
    at: tuple[int, ...] = (50,) if bench.is_quick else CONNECTIONS
    with all_descriptors() as hard:
        for number in at:
            if number + SPARE_FILES > hard:
                bench.say(f"{number:,} connections are skipped: ulimit -Hn is {hard}")
        at = tuple(number for number in at if number + SPARE_FILES <= hard)
        return _measure(bench, "connections open", at, _with_connections)


def running(bench: Bench) -> Measured:
    """Measure with more running jobs that only sleep, and four free slots."""
    at: tuple[int, ...] = (3,) if bench.is_quick else RUNNING
    return _measure(bench, "jobs running", at, _with_running)


def _measure(bench: Bench, axis: str, sizes: tuple[int, ...], loaded: Loaded) -> Measured:
    """Measure all sizes in each turn, so that a machine that gets slower affects all points."""
    figures = dict(list(FIGURES.items())[: bench.many(len(FIGURES), 1)])
    values: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in figures}
    for turn in bench.turns(LAPS):
        for size in sizes:
            bench.say(f"turn {turn + 1}: {size:,} {axis}")
            with loaded(bench, size) as server:
                for name, figure in figures.items():
                    values[name][size].append(figure(bench, server))
    return Measured(lines=[_line(axis, name, "/s", by_size) for name, by_size in values.items()])


def _line(axis: str, figure: str, unit: str, by_size: dict[int, list[float]]) -> Line:
    return Line(axis, figure, unit, [Point(size, values) for size, values in by_size.items()])


def _weights(bench: Bench, axis: str, sizes: tuple[int, ...]) -> list[Line]:
    starts: dict[int, list[float]] = {}
    memories: dict[int, list[float]] = {}
    for size in sizes:
        server = Daemon(bench.home("weight"), bench.programs)
        server.start()
        try:
            server.fill(size)
            memories[size] = [server.memory / 1024**2]
        finally:
            server.stop()
        starts[size] = []
        for _ in bench.turns(LAPS):
            try:
                starts[size].append(server.start())
            finally:
                server.stop()
    return [_line(axis, START, "s", starts), _line(axis, MEMORY, "MiB", memories)]


@contextmanager
def _with_pending(bench: Bench, size: int) -> Iterator[Daemon]:
    with daemon.running(bench.home("ours"), bench.programs) as server:
        server.fill(size)
        yield server


@contextmanager
def _with_connections(bench: Bench, size: int) -> Iterator[Daemon]:
    with daemon.running(bench.home("ours"), bench.programs) as server, ExitStack() as stack:
        for _ in range(size):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(server.socket))
        server.ask("PING")
        yield server


@contextmanager
def _with_running(bench: Bench, size: int) -> Iterator[Daemon]:
    with daemon.running(bench.home("ours"), bench.programs, slots=size + FREE_SLOTS) as server:
        server.submit(size, clients=1, command="exec sleep 3600")
        while server.jobs()["running"] < size:
            time.sleep(0.01)
        yield server
