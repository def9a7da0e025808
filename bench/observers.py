"""Measures the daemon's CPU time for clients that WATCH events, and for clients that FOLLOW one job's output.

CPU time is that of all threads of the daemon, from /proc. The cost of an observer is the difference to the
same load without observers.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from bench import daemon
from bench.bench import Bench
from bench.daemon import BODY, Daemon
from bench.place import cpu_seconds
from bench.results import Goal, Measured, Row

OBSERVERS = 100
SUBMISSIONS = 2000
LINES_PER_SECOND = 50
FOLLOW_SECONDS = 4.0
WATCH_GOAL = Goal(3, is_most=True, is_ratio=False)
FOLLOW_GOAL = Goal(5, is_most=True, is_ratio=False)


def measure(bench: Bench) -> Measured:
    """Measure both in turns, with and without observers."""
    observers = bench.many(OBSERVERS, 3)
    watch, follow = [], []
    for _ in bench.turns():
        with daemon.running(bench.home("ours"), bench.programs) as server:
            watch.append(_watch(server, observers, bench.many(SUBMISSIONS, 30)))
        with daemon.running(bench.home("ours"), bench.programs) as server:
            follow.append(_follow(server, observers, bench.many(1, 0) * FOLLOW_SECONDS or 0.2))
    return Measured(
        [
            Row(
                "daemon's CPU per event and WATCH",
                "",
                "µs",
                watch,
                goal=WATCH_GOAL,
                note=f"{observers} clients WATCH, one client submits one job after the other",
            ),
            Row(
                "daemon's CPU for clients that FOLLOW a job",
                "",
                "% of a core",
                follow,
                goal=FOLLOW_GOAL,
                note=f"{observers} clients, a job that prints {LINES_PER_SECOND} lines a second",
            ),
        ]
    )


def _watch(server: Daemon, observers: int, events: int) -> float:
    """Return the microseconds of CPU per event and observer."""
    server.ask("PAUSE")
    alone = _cpu_of_submissions(server, events)
    with _observing(server, "WATCH", observers):
        watched = _cpu_of_submissions(server, events)
    return 1e6 * (watched - alone) / (events * observers)


def _cpu_of_submissions(server: Daemon, events: int) -> float:
    with closing(server.wire()) as wire:
        wire.one(f"SUBMIT {BODY}")
        before = cpu_seconds(server.pid)
        for _ in range(events):
            wire.one(f"SUBMIT {BODY}")
        return cpu_seconds(server.pid) - before


def _follow(server: Daemon, observers: int, seconds: float) -> float:
    """Return the percentage of a core that the observers cost."""
    pause = 1 / LINES_PER_SECOND
    job = server.ask(f"SUBMIT while :; do echo a line of output; sleep {pause}; done").split()[1]
    time.sleep(0.5)
    alone = _cpu_during(server, seconds)
    with _observing(server, f"FOLLOW {job}", observers):
        followed = _cpu_during(server, seconds)
    server.ask(f"CANCEL {job}")
    return 100 * (followed - alone) / seconds


def _cpu_during(server: Daemon, seconds: float) -> float:
    before = cpu_seconds(server.pid)
    time.sleep(seconds)
    return cpu_seconds(server.pid) - before


@contextmanager
def _observing(server: Daemon, request: str, observers: int) -> Iterator[None]:
    """Let clients send a request, and read all that they receive during the context."""
    with ExitStack() as stack:
        poller = stack.enter_context(selectors.DefaultSelector())
        for _ in range(observers):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(server.socket))
            client.sendall(f"{request}\r\n".encode())
            client.recv(65_536)  # the first reply
            poller.register(client, selectors.EVENT_READ)
        ended = threading.Event()
        reader = threading.Thread(target=_read_all, args=(poller, ended))
        reader.start()
        try:
            yield
        finally:
            ended.set()
            reader.join()


def _read_all(poller: selectors.BaseSelector, ended: threading.Event) -> None:
    while not ended.is_set():
        for key, _ in poller.select(0.05):
            key.fileobj.recv(65_536)  # type: ignore[union-attr]
