"""Compares a daemon with a million held jobs with an empty one."""

from collections.abc import Callable

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.results import Goal, Measured, Row

CROWD = 1_000_000
LAPS = 5
GOAL = Goal(0.8)

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


def measure(bench: Bench) -> Measured:
    """Fill one daemon, then measure both in turns. Jobs submitted during the measurement are held, too."""
    crowd = bench.many(CROWD, 400)
    full: dict[str, list[float]] = {name: [] for name in FIGURES}
    empty: dict[str, list[float]] = {name: [] for name in FIGURES}
    with daemon.running(bench.home("full"), bench.programs) as server:
        server.fill(crowd)
        bench.say(f"{crowd:,} jobs are held")
        for _ in bench.turns(LAPS):
            with daemon.running(bench.home("empty"), bench.programs) as other:
                for name, figure in FIGURES.items():
                    full[name].append(figure(bench, server))
                    empty[name].append(figure(bench, other))
    return Measured(
        [
            Row(
                f"with {crowd:,} other jobs pending (held): {name}",
                "with none",
                "/s",
                full[name],
                empty[name],
                GOAL,
            )
            for name in FIGURES
        ]
    )
