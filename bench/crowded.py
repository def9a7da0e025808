"""Compares daemons with a million pending jobs, held ones and ones in line, with an empty daemon."""

from collections.abc import Callable
from contextlib import ExitStack

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.results import Goal, Measured, Row

CROWD = 1_000_000
LAPS = 5
SLOTS = 4
GOAL = Goal(0.9)

Figure = Callable[[Bench, Daemon], float]


def one_at_a_time(bench: Bench, server: Daemon) -> float:
    """Return the submissions per second of 20 clients, one request at a time each."""
    return server.submit(bench.many(15_000, 100), 20, 1, "--hold").rate


def pipelined(bench: Bench, server: Daemon) -> float:
    """Return the submissions per second of 20 clients, 100 pipelined each."""
    return server.submit(bench.many(50_000, 400), 20, 100, "--hold").rate


def alone(bench: Bench, server: Daemon) -> float:
    """Return the submissions per second of one client, one at a time."""
    return server.submit(bench.many(3_000, 50), 1, 1, "--hold").rate


def true_jobs(bench: Bench, server: Daemon) -> float:
    """Return the ``true`` jobs per second."""
    return server.true_rate(bench.many(3_000, 30))


def round_trips(bench: Bench, server: Daemon) -> float:
    """Return the inverse of the median time in seconds of SUBMIT and WAIT of ``true``."""
    return 1 / server.round_trips(bench.many(200, 10))


FIGURES: dict[str, Figure] = {
    "SUBMIT + WAIT of `true`, one client": round_trips,
    "`true` jobs, slots = 4": true_jobs,
    "submissions, 1 client": alone,
    "submissions, 20 clients": one_at_a_time,
    "submissions, 20 x 100 pipelined": pipelined,
}
"""All are per second. Figures that leave the fewest jobs in the daemon come first."""


LINE = "line"
"""The queue in which jobs wait behind one that uses its only slot. The measured jobs are in another queue."""


UNLIMITED = ("--limit=pending-bytes=none", "--limit=pending-bytes-per-user=none")
"""A million jobs in a queue that is not the default one are more than the default allows."""


def measure(bench: Bench) -> Measured:
    """Fill two daemons, then measure them and an empty one in turns. Submissions are held in all of them."""
    crowd = bench.many(CROWD, 400)
    kinds = ("held", "in line behind a full queue")
    full: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in FIGURES} for kind in kinds}
    empty: dict[str, list[float]] = {name: [] for name in FIGURES}
    with ExitStack() as stack:
        held, line = (
            stack.enter_context(daemon.running(bench.home(name), bench.programs, slots, UNLIMITED))
            for name, slots in (("held", SLOTS), (LINE, SLOTS + 1))
        )
        held.fill(crowd)
        line.ask(f"SET-QUEUE {LINE} --slots=1")
        line.block(LINE, slots=1)
        line.fill(crowd, f"--queue={LINE}")
        bench.say(f"{crowd:,} jobs are held, {crowd:,} wait in line")
        for _ in bench.turns(LAPS):
            with daemon.running(bench.home("empty"), bench.programs, SLOTS) as other:
                for name, figure in FIGURES.items():
                    for kind, server in zip(kinds, (held, line), strict=True):
                        full[kind][name].append(figure(bench, server))
                    empty[name].append(figure(bench, other))
    return Measured(
        [
            Row(
                f"with {crowd:,} other jobs pending ({kind}): {name}",
                "with none",
                "/s",
                full[kind][name],
                empty[name],
                GOAL,
            )
            for kind in kinds
            for name in FIGURES
        ]
    )
