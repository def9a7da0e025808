"""Measures ``true`` jobs per second, from submission to recorded end, beside bare processes and other queues.

taskqd runs up to four at once, bare processes run two at a time: more are no faster on two cores.
"""

import statistics
import subprocess

from bench import daemon
from bench.bench import Bench
from bench.peers import Runner
from bench.peers.libraries import LIBRARIES
from bench.peers.scrapyd import Scrapyd
from bench.peers.tools import Nq, TaskSpooler
from bench.place import Failed
from bench.results import Bar, Goal, Measured, Row

JOBS = 4_000
PARALLEL = 2
CHART = "`true` jobs per second"
TITLE = f"{CHART}, submitted to durably ended, slots = 4"
LAPS = 3
"""Turns in which the peers are measured, at most."""
RUNNERS: list[tuple[Runner, int, int]] = [
    *((library, 1_500, 6) for library in LIBRARIES),
    (TaskSpooler(), 500, 6),
    (Nq(), 300, 6),
    (Scrapyd(), 40, 2),
]
"""The peers, with the number of jobs of a full run and of a quick one."""
QUICK_RUNNERS = [one for one in RUNNERS if one[0] not in LIBRARIES[1::2]]
"""Without the second configuration of each library, which runs the same programs."""


def measure(bench: Bench) -> Measured:
    """Measure taskqd and bare processes in turns, and all peers in the first turns."""
    ours: list[float] = []
    bare: list[float] = []
    theirs: dict[str, list[float]] = {runner.name: [] for runner, _, _ in RUNNERS}
    notes = {runner.name: runner.note for runner, _, _ in RUNNERS}
    for turn in bench.turns():
        ours.append(_of_ours(bench))
        many = bench.many(JOBS, 50)
        bare.append(many / bench.programs.spawn(many, PARALLEL, ["sh", "-c", "true"]))
        if turn < LAPS:
            _lap(bench, theirs, notes)
    loop = "a C loop" if bench.programs.compiler else "a Python loop (missing: cc)"
    against = f"{loop} of posix_spawn `sh -c true`, {PARALLEL} at a time"
    bars = [
        Bar(CHART, "taskqd", "/s", ours, "4 slots; durable"),
        *(Bar(CHART, name, "/s", values, notes[name]) for name, values in theirs.items()),
        Bar(CHART, loop, "/s", bare, f"{PARALLEL} at a time; no queue at all"),
    ]
    rows = [
        Row(TITLE, against, "/s", ours, bare, Goal(0.5), note=f"{JOBS:,} jobs per turn"),
        _best("the best peer that syncs accepted jobs", ours, theirs, is_durable=True),
        _best("the best peer, including those that sync nothing", ours, theirs, is_durable=False),
    ]
    return Measured(rows, bars=bars)


def _best(against: str, ours: list[float], theirs: dict[str, list[float]], *, is_durable: bool) -> Row:
    asked = [runner.name for runner, _, _ in RUNNERS if runner.is_durable or not is_durable]
    medians = {name: statistics.median(theirs[name]) for name in asked if theirs[name]}
    goal = Goal(1.5 if is_durable else 1)
    lacking = "; ".join(name for name in asked if name not in medians)
    if not medians:
        return Row(TITLE, against, "/s", ours, goal=goal, missing=lacking)
    best = max(medians, key=lambda name: medians[name])
    named = f"{against}: {best}" + (f" (no figure of: {lacking})" if lacking else "")
    return Row(TITLE, named, "/s", ours, theirs[best], goal)


def _of_ours(bench: Bench) -> float:
    with daemon.running(bench.home("ours"), bench.programs) as ours:
        return ours.true_rate(bench.many(JOBS, 50))


def _lap(bench: Bench, theirs: dict[str, list[float]], notes: dict[str, str]) -> None:
    for runner, full, quick in QUICK_RUNNERS if bench.is_quick else RUNNERS:
        if missing := runner.missing():
            notes[runner.name] = f"missing: {missing}"
            continue
        try:
            home = bench.home(runner.name.split(",")[0])
            theirs[runner.name].append(runner.rate(home, bench.programs, bench.many(full, quick)))
        except (Failed, OSError, ValueError, subprocess.SubprocessError) as why:
            if bench.is_quick:
                raise
            bench.say(f"{runner.name}: {why}")
            notes[runner.name] = f"failed: {str(why).strip().splitlines()[-1]}"
