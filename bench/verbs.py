"""Measures the daemon's CPU time per request of every verb, with 1,000 to 1,000,000 jobs known.

    python -m bench.verbs [--dir DIRECTORY] [JOBS ...]

Half of the jobs have ended, and the others wait in line. Two further tables have stores of many queues, and
of one large array. CPU time is that of all threads of the daemon, from /proc, so it hardly depends on what
else the machine does: one turn is enough. The list of a user who has five jobs is omitted without root, since
it asks as another user of the machine.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import mixed_store
from bench.bench import Bench
from bench.daemon import Daemon
from bench.ended_store import compact, write_records
from bench.load import Programs
from bench.place import cpu_seconds
from bench.report import number, table
from bench.results import Measured, Table
from bench.transports import token_of
from bench.verb_cases import Case, array_cases, cases, queue_cases
from bench.wire import Wire
from taskqd.model import events

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUEUES = (100, 1_000, 10_000, 50_000)
TASKS = (100, 1_000, 10_000, 100_000)
GROUPS = 3
"""The median of this number of groups of requests counts, so that one garbage collection does not."""
TIMES = 20
"""Requests per group, one after the other."""
SLOW = 0.02
"""Seconds of CPU from which a request is sent once per group."""
SETTLE_TIME = 0.005
"""Seconds after a group in which the threads of the daemon finish."""
FLAT_RATIO = 1.5
FLAT_MICROSECONDS = 100.0
"""A cost is flat if it grows by up to this factor, or this number of microseconds, in the whole table."""
START_TIMEOUT = 300.0
"""Seconds that a start with the largest store may take on a busy machine."""
OPTIONS = (
    "--retention-count=10000000",
    "--retention-age=36500d",
    "--retention-memory=none",
    "--limit=pending=none",
    "--limit=pending-bytes=none",
    "--limit=pending-bytes-per-user=none",
    "--limit=submissions=none",
)
PUBLIC_SOCKET = "public"
"""The socket that every user may connect to."""

Records = Callable[[int], Iterator[events.JobEvent]]
Cases = Callable[[int, str], list[Case]]


class Store(NamedTuple):
    """A kind of store, with its sizes and the cases that are measured with it."""

    title: str
    sizes: tuple[int, ...]
    records: Records
    cases: Cases


STORES = [
    Store(
        "known jobs, half of them ended and half in line",
        SIZES,
        mixed_store.mixed_jobs,
        lambda jobs, token: cases(jobs, GROUPS * TIMES, token),
    ),
    Store(
        "queues, one job in line in each",
        QUEUES,
        mixed_store.queued_jobs,
        lambda queues, _: queue_cases(queues),
    ),
    Store(
        "tasks in line of one array",
        TASKS,
        mixed_store.array,
        lambda tasks, _: array_cases(tasks),
    ),
]


def measure(bench: Bench) -> Measured:
    """Measure all cases with all sizes of each store, once."""
    if bench.is_quick:
        return Measured(tables=[_of_store(bench, STORES[0], SIZES[:1])])
    return Measured(tables=[_of_store(bench, store, store.sizes) for store in STORES])


def _of_store(bench: Bench, store: Store, sizes: Sequence[int]) -> Table:
    found: dict[str, tuple[Case, dict[int, float]]] = {}
    for size in sizes:
        bench.say(f"{size:,} {store.title}")
        home = bench.home("verbs")
        home.chmod(0o711)  # the user who has five jobs connects to a socket in it
        write_records(str(home / "state"), store.records(size))
        compact(home / "state")
        with _running(bench, home) as server:
            for case in store.cases(size, token_of(server)):
                if not (case.is_stranger and os.geteuid()):
                    costs = found.setdefault(case.name, (case, {}))[1]
                    costs[size] = 1e6 * _cost(server, case, bench.many(TIMES, 2))
    rows = [
        [
            f"`{name}`",
            *(number(costs[size]) if size in costs else "-" for size in sizes),
            growth(list(costs.values()), case.why),
        ]
        for name, (case, costs) in found.items()
    ]
    text = "CPU time of the daemon, all threads, per request, in µs; one client, one request at a time."
    head = ["request", *(f"{size:,}" for size in sizes), "growth"]
    return Table(f"Growth of every verb: {store.title}", text, head, rows)


def growth(costs: Sequence[float], why: str) -> str:
    """Say whether costs in microseconds, by growing size, are flat, or else why not."""
    grown = costs[-1] - costs[0]
    if grown <= max(FLAT_MICROSECONDS, (FLAT_RATIO - 1) * costs[0]):
        return "flat"
    return why or f"**x {number(costs[-1] / costs[0])}**"


@contextmanager
def _running(bench: Bench, home: Path) -> Iterator[Daemon]:
    socket = f"--listen=unix:{home / PUBLIC_SOCKET}:mode=666"
    daemon = Daemon(home, bench.programs, slots=1, more=(*OPTIONS, socket))
    daemon.start(START_TIMEOUT)
    try:
        yield daemon
    finally:
        daemon.stop()


def _cost(server: Daemon, case: Case, times: int) -> float:
    """Return the CPU seconds per request: the median of groups of up to ``times`` requests."""
    if case.is_once:
        return _cost_of_group(server, case, range(1))
    first, spent = 0, []
    for _ in range(GROUPS):
        spent.append(_cost_of_group(server, case, range(first, first + times)))
        first += times
        times = 1 if spent[-1] > SLOW else times
    return statistics.median(spent)


def _cost_of_group(server: Daemon, case: Case, numbers: range) -> float:
    with ExitStack() as stack:
        wire = stack.enter_context(closing(_connected(server, case)))
        wire.ask("PING")
        before = cpu_seconds(server.pid)
        for n in numbers:
            if case.is_fresh:
                wire = stack.enter_context(closing(_connected(server, case)))
            wire.ask(case.request(n), case.last, case.lines)
        time.sleep(SETTLE_TIME)
        return (cpu_seconds(server.pid) - before) / len(numbers)


def _connected(server: Daemon, case: Case) -> Wire:
    if not case.is_stranger:
        return Wire(server.socket)
    before = os.getcwd()
    os.chdir(server.home)  # that user may not enter the directories above
    os.seteuid(mixed_store.STRANGER)
    try:
        return Wire(PUBLIC_SOCKET)
    finally:
        os.seteuid(0)
        os.chdir(before)


def main() -> None:
    """Measure and print the tables; with sizes, the first one only."""
    parser = argparse.ArgumentParser(prog="python -m bench.verbs", description=__doc__.partition("\n")[0])
    parser.add_argument("jobs", type=int, nargs="*", help="sizes of the first table, and no others")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))  # noqa: S108 - a fresh directory is made
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tq-", dir=given.dir) as made:
        bench = Bench(Path(made), Programs(Path(made)), 1, is_quick=False)
        for store in STORES[:1] if given.jobs else STORES:
            print("\n".join(table(_of_store(bench, store, given.jobs or store.sizes))), flush=True)


if __name__ == "__main__":
    main()
