"""Runs all measurements and writes bench/RESULTS.md. ``bench/run --list`` names the measurements.

A run with --repeat 1 takes about 20 minutes on two quiet cores, and prints its progress to stderr. Results
are kept in bench/.work, so that --only repeats some measurements and the table still has all. Without --quick
it installs the peers first, from Debian (as root) and PyPI, and names those that it cannot install.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from bench import (
    client,
    crowded,
    disks,
    ended,
    environment,
    holds,
    idle,
    jobs,
    latency,
    machine,
    memory,
    observers,
    order,
    output,
    report,
    roundtrip,
    slopes,
    slots,
    start,
    steady,
    submissions,
    transports,
    verbs,
)
from bench.bench import Bench, Measurement
from bench.load import Programs
from bench.peers import install
from bench.place import CHECKOUT, Failed, Missing, directory
from bench.results import Kept, Measured, Row, Store

MEASUREMENTS = [
    Measurement("submissions", "submissions per second, beside redis and beanstalkd", submissions.measure),
    Measurement("transports", "submissions on TCP and TLS, beside the UNIX socket", transports.measure),
    Measurement("latency", "how long clients wait at 10, 50 and 90 % load, in an open loop", latency.measure),
    Measurement("disks", "submissions and jobs per second on slower disks", disks.measure),
    Measurement("jobs", "jobs per second, beside bare processes and other queues", jobs.measure),
    Measurement("slots", "jobs per second by slots and kind, beside xargs and parallel", slots.measure),
    Measurement("roundtrip", "one job from submission to end, beside subprocess.run", roundtrip.measure),
    Measurement("crowded", "the same with a million other jobs pending", crowded.measure),
    Measurement("memory", "memory per pending job, beside beanstalkd", memory.measure),
    Measurement("start", "a start with a million jobs, beside beanstalkd", start.measure),
    Measurement("ended", "start, snapshot and memory with a million ended jobs", ended.measure),
    Measurement("environment", "disk, memory and CPU time of an inherited environment", environment.measure),
    Measurement("steady", "jobs per second while each end removes an old job", steady.measure),
    Measurement("order", "what the index of the order of both streams costs", order.measure),
    Measurement("output", "a gigabyte of output, beside cat", output.measure),
    Measurement("observers", "clients that watch events or follow output", observers.measure),
    Measurement("holds", "the longest hold of the reactor, by anything", holds.measure),
    Measurement("idle", "CPU time and memory while nothing is asked", idle.measure),
    Measurement("client", "the command line, beside the start of Python", client.measure),
    Measurement("verbs", "growth of the cost of every verb with known jobs", verbs.measure),
    Measurement("pending", "growth of the cost with pending jobs", slopes.pending),
    Measurement("connections", "growth of the cost with connections", slopes.connections),
    Measurement("running", "growth of the cost with running jobs", slopes.running),
]
NAMES = [one.name for one in MEASUREMENTS]
GROWTH = ["verbs", "pending", "connections", "running"]
REPEAT = 5
FOLDER = CHECKOUT / "bench"
STORE = FOLDER / ".work" / "results.json"


def parse(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the measurements and exit")
    parser.add_argument(
        "--only", metavar="NAME,...", type=_names, default=NAMES, help="repeat only these measurements"
    )
    parser.add_argument(
        "--growth", action="store_const", dest="only", const=GROWTH, help="only the growth of the cost"
    )
    parser.add_argument(
        "--repeat", type=int, default=REPEAT, help=f"turns; the median counts [default: {REPEAT}]"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check that the programs work: little of everything, nothing installed",
    )
    parser.add_argument("--no-install", action="store_true", help="install nothing")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a fresh directory is made in it
        help="directory for state directories, on a disk [default: /var/tmp]",
    )
    parser.add_argument("--to", type=Path, help="directory for RESULTS.md and plots/ [default: bench]")
    return parser.parse_args(words)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: see bench/run --list")
    return [name for name in NAMES if name in names]


def main() -> None:
    """Run the selected measurements and write the page; exit with 1 if one of them failed."""
    options = parse(sys.argv[1:])
    if options.list:
        for one in MEASUREMENTS:
            print(f"{one.name:12} {one.title}")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="tq-bench-") as scratch, directory(options.dir) as place:
        sys.exit(1 if _run(options, place, Path(scratch)) else 0)


def _stop(number: int, _: object) -> None:
    """Exit, so that all started servers are ended. Finished measurements are already stored."""
    sys.exit(128 + number)


def _run(options: argparse.Namespace, place: Path, scratch: Path) -> int:
    """Run the measurements and write the page; return the number of failed measurements."""
    # Results of a quick run are kept apart from real ones, and thrown away.
    store = Store(scratch / "results.json" if options.quick else STORE)
    folder = options.to or (scratch if options.quick else FOLDER)
    bench = Bench(place, Programs(place), options.repeat, options.quick)
    if not options.quick and not options.no_install:
        install.install(bench.say)
        bench = Bench(place, Programs(place), options.repeat, options.quick)
    if options.only == NAMES:
        store.clear()
    facts = machine.describe(place)
    failed = 0
    for one in MEASUREMENTS:
        if one.name in options.only:
            failed += not _measure(one, bench, store)
    kept = store.read()
    page = report.write(folder, facts, {name: kept[name] for name in NAMES if name in kept}, options.quick)
    print("\n".join(report.table_of_rows(row for name in options.only for row in kept[name].measured.rows)))
    bench.say(f"written: {page}")
    return failed


def _measure(one: Measurement, bench: Bench, store: Store) -> bool:
    """Run one measurement and store its result, or the reason of its failure; return whether it succeeded."""
    bench.say(f"{one.name}: {one.title}")
    began = time.monotonic()
    is_made = True
    try:
        measured = one.measure(bench)
        measured = measured.unjudged() if bench.is_quick else measured
    except Missing as why:
        bench.say(f"{one.name}: missing: {why}")
        measured = Measured([Row(one.title, "", "", [], missing=str(why))])
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as why:
        bench.say(f"{one.name} failed: {why}")
        is_made = False
        measured = Measured([Row(one.title, "", "", [], failed=str(why).splitlines()[0])])
    took = time.monotonic() - began
    at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    store.keep(one.name, Kept(measured, at, machine.revision(), took, machine.command_line()))
    return is_made


if __name__ == "__main__":
    main()
