"""Measures the longest hold of the reactor's thread: CPU time that it uses before it serves the next request.

    python -m bench.holds [--jobs 100000] [--dir DIRECTORY] [case ...]

A prober sends PING after PING on a separate connection while a case runs, and reads the CPU time of the
daemon's main thread (/proc/PID/task/PID/schedstat) before each PING and after its reply. The difference is
what the thread has done in one go, whatever else the machine does. For each case the table has the elapsed
time, the CPU time of the daemon, the longest hold, and how long a PING took: the 99th percentile and the
maximum.
"""

import argparse
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.bench import Bench
from bench.daemon import Daemon, running
from bench.ended_store import write_store
from bench.load import Programs
from bench.place import all_descriptors, fresh
from bench.report import number, table
from bench.results import Goal, Measured, Row, Table
from taskqd.storage.journal.compaction import MIN_SEALED_BYTES

JOBS = 100_000
CONNECTIONS = 9_900
"""Nearly as many as may be open by default: the prober and the submissions need some too."""
ARRAYS = 5
"""Arrays whose memory is measured."""
DEPTH = 1000
"""Requests that are sent before their replies are read."""
MIN_QUIET, QUIET = 0.05, 0.3
"""Seconds after an act in which the daemon finishes what is left: as long as the act took, within these."""
POLL_INTERVAL = 0.02
"""Seconds between two looks at STATS."""
START_TIMEOUT = 300.0
"""Seconds that a start with a million ended jobs may take on a busy machine."""
PROBE_INTERVAL = 0.0002
"""Seconds between two PINGs: a hold begins at most this long before the PING that measures it."""
GOAL = Goal(20, is_most=True, is_ratio=False)
HEAD = ["what", "elapsed, s", "CPU of the daemon, s", "longest hold, ms", "PING p99, ms", "PING max, ms"]


class Probes(NamedTuple):
    """The longest hold by CPU time, and the 99th percentile and the maximum of the PINGs, in seconds."""

    hold: float
    p99: float
    longest: float


class Hold(NamedTuple):
    """A row of the table: elapsed and CPU seconds, and the findings of the prober meanwhile."""

    title: str
    seconds: float
    cpu: float
    probes: Probes

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        times = [1000 * one for one in self.probes]
        return [f"{self.title}", f"{self.seconds:.2f}", f"{self.cpu:.2f}", *map(number, times)]


HOLDS: list[Hold] = []
"""All holds that were measured so far."""


def cpu(pid: int, thread: int | None = None) -> float:
    """Return the CPU time of a process's threads, or of one of them, in seconds."""
    threads = os.listdir(f"/proc/{pid}/task") if thread is None else [thread]
    each = (Path(f"/proc/{pid}/task/{one}/schedstat").read_text().split() for one in threads)
    return sum(int(numbers[0]) for numbers in each) / 1e9


def probe(pipe: Connection, path: str, pid: int) -> None:
    """Send PINGs until a message arrives on the pipe, then send the Probes."""
    holds, times = [0.0], []
    with socket.socket(socket.AF_UNIX) as wire, open(f"/proc/{pid}/task/{pid}/schedstat", "rb", 0) as stat:
        wire.connect(path)
        pipe.send("begun")
        while not pipe.poll(PROBE_INTERVAL):
            stat.seek(0)
            before, began = int(stat.read().split()[0]), time.perf_counter()
            wire.sendall(b"PING\r\n")
            wire.recv(64)
            times.append(time.perf_counter() - began)
            stat.seek(0)
            holds.append((int(stat.read().split()[0]) - before) / 1e9)
    times.sort()
    pipe.send(Probes(max(holds), times[len(times) * 99 // 100], times[-1]))


@contextmanager
def probing(daemon: Daemon, title: str) -> Iterator[None]:
    """Probe the daemon during the context, and add the result to HOLDS."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=probe, args=(theirs, str(daemon.socket), daemon.pid))
    process.start()
    ours.recv()
    used, began = cpu(daemon.pid), time.perf_counter()
    yield
    took, used = time.perf_counter() - began, cpu(daemon.pid) - used
    time.sleep(min(QUIET, max(MIN_QUIET, took)))
    ours.send("enough")
    found = ours.recv()
    process.join()
    HOLDS.append(Hold(title, took, used, found))
    print(", ".join(HOLDS[-1].cells), file=sys.stderr, flush=True)


def until(is_done: Callable[[], bool]) -> None:
    """Wait until something is true."""
    while not is_done():
        time.sleep(POLL_INTERVAL)


def acts(daemon: Daemon, jobs: int) -> None:
    """Each act on all jobs of a queue, by one request."""
    daemon.ask("PAUSE")
    daemon.submit(jobs, options="--queue=a --hold")
    for request in ("RELEASE", "HOLD", "SET --priority=5", "CANCEL", "RETRY", "CANCEL", "REMOVE"):
        verb, _, options = request.partition(" ")
        filters = "--in-queue=a" if verb == "SET" else "--queue=a"
        line = f"{verb} {filters} {options}".rstrip()
        with probing(daemon, f"{line}, {jobs:,} jobs"):
            reply = daemon.ask(line)
        if reply != f"OK {jobs}":
            print(f"    answered {reply}", file=sys.stderr)


def arrays(daemon: Daemon, jobs: int) -> None:
    """Each act on arrays of a tenth of the jobs and of all: of untouched tasks, then of touched ones."""
    daemon.ask("PAUSE")
    before = daemon.memory
    for _ in range(ARRAYS):
        daemon.ask(f"SUBMIT --array=1-{jobs} true")
    size = (daemon.memory - before) / ARRAYS / jobs
    print(f"{size:.1f} bytes per pending task of {ARRAYS} arrays", file=sys.stderr)
    for count in sorted({min(jobs, max(jobs // 10, 1_000)), jobs}):
        array = _act_on(daemon, f"SUBMIT --array=1-{count} true", count, "untouched").split()[1]
        for request in ("HOLD", "RELEASE", "SET --priority=5", "SET --queue=b", "WHY", "CANCEL", "RETRY"):
            verb, _, options = request.partition(" ")
            _act_on(daemon, f"{verb} {array} {options}".rstrip(), count, "untouched")
        _act_on(daemon, f"CANCEL {array}", count, "untouched")
        _act_on(daemon, f"REMOVE {array}", count, "untouched")
        array = daemon.ask(f"SUBMIT --array=1-{count} true").split()[1]
        _cancel_each(daemon, int(array), count)
        for request in ("RETRY", "HOLD", "RELEASE", "SET --queue=b", "WHY", "CANCEL", "REMOVE"):
            verb, _, options = request.partition(" ")
            _act_on(daemon, f"{verb} {array} {options}".rstrip(), count, "touched")


def _act_on(daemon: Daemon, request: str, count: int, kind: str) -> str:
    verb, _, rest = request.partition(" ")
    options = " ".join(word for word in rest.split() if word.startswith("--") and "array" not in word)
    with probing(daemon, f"{verb} {options}".rstrip() + f", array of {count:,} {kind}"):
        reply = daemon.ask(request)
    if reply.startswith("ERROR"):
        print(f"    answered {reply}", file=sys.stderr)
    return reply


def _cancel_each(daemon: Daemon, array: int, count: int) -> None:
    """Cancel the tasks of an array one by one."""
    with closing(daemon.wire()) as wire:
        for first in range(array + 1, array + 1 + count, DEPTH):
            ids = range(first, min(first + DEPTH, array + 1 + count))
            wire.send("".join(f"CANCEL {job_id}\r\n" for job_id in ids))
            for _ in ids:
                wire.line()


def cascade(daemon: Daemon, jobs: int) -> None:
    """CANCEL --cascade of a job with direct dependents."""
    first = _fan(daemon, jobs)
    with probing(daemon, f"CANCEL --cascade of {jobs:,} dependents"):
        daemon.ask(f"CANCEL {first} --cascade")


def skip(daemon: Daemon, jobs: int) -> None:
    """The failure of direct dependents, after a CANCEL of the job that they need."""
    first = _fan(daemon, jobs)
    failed = daemon.jobs()["failed"] + jobs
    with probing(daemon, f"skip of {jobs:,} dependents"):
        daemon.ask(f"CANCEL {first}")
        until(lambda: daemon.jobs()["failed"] >= failed)


def ready(daemon: Daemon, jobs: int) -> None:
    """The end of a job after which its dependents may start."""
    first = _fan(daemon, jobs, "--after-any")
    daemon.ask("PAUSE")
    with probing(daemon, f"{jobs:,} dependents become ready"):
        daemon.ask(f"CANCEL {first}")
        time.sleep(3 * QUIET)  # they become ready after the reply
    daemon.ask("RESUME")


def _fan(daemon: Daemon, jobs: int, option: str = "--after") -> int:
    first = int(daemon.ask("SUBMIT --hold true").split()[1])
    daemon.submit(jobs, options=f"{option}={first}")
    return first


def close(daemon: Daemon, jobs: int) -> None:
    """The begin of 9,900 connections, submissions beside them, and the end of all at once."""
    connections, depth = min(CONNECTIONS, jobs), min(DEPTH, jobs)
    wires = []
    with probing(daemon, f"begin of {connections:,} connections"):
        for _ in range(connections):
            wires.append(daemon.wire())
            wires[-1].one("PING")
    with probing(daemon, f"{jobs:,} submissions beside them"):
        for _ in range(jobs // depth):
            wires[0].send("SUBMIT --hold true\r\n" * depth)
            for _ in range(depth):
                wires[0].line()
    process = os.fork()
    if not process:
        time.sleep(QUIET)
        os._exit(0)  # the kernel closes the last copies of all sockets in one go
    for wire in wires:
        wire.close()
    with probing(daemon, f"end of {connections:,} connections"):
        os.waitpid(process, 0)
        until(lambda: '"connections":2,' in daemon.ask("STATS"))


def submissions(daemon: Daemon, jobs: int) -> None:
    """Submissions, in which garbage is collected and snapshots are made, and reads of a million jobs."""
    daemon.ask("PAUSE")
    with probing(daemon, f"{10 * jobs:,} submissions"):
        daemon.submit(10 * jobs)
    with probing(daemon, f"{jobs:,} submissions with {10 * jobs:,} pending"):
        last = daemon.submit(jobs).last.split()[1]
    for request in ("LIST --limit=1000", "LIST --status=FAILED", "LIST --match=none", f"HISTORY {last}"):
        with probing(daemon, f"{request} with {11 * jobs:,} pending"), closing(daemon.wire()) as wire:
            wire.ask(request, last="END")


def snapshot(daemon: Daemon, jobs: int) -> None:
    """A snapshot of a million ended jobs, from the start of the daemon to the removal of the old segments."""
    daemon.stop()
    state = daemon.home / "state"
    shutil.rmtree(state)
    write_store(str(state), 10 * jobs)
    daemon.start(START_TIMEOUT)
    with probing(daemon, f"snapshot of {10 * jobs:,} ended jobs"):
        until(lambda: _is_compact(daemon))


def _is_compact(daemon: Daemon) -> bool:
    """Whether the journal has a snapshot, or so little besides that none is due."""
    store = msgspec.json.decode(daemon.ask("STATS").removeprefix("STATS "))["store"]
    return bool(store["closed_bytes"] <= max(MIN_SEALED_BYTES, store["snapshot_bytes"]))


def queues(daemon: Daemon, jobs: int) -> None:
    """QUEUES of half as many queues as jobs."""
    with closing(daemon.wire()) as wire:
        for number in range(jobs // 2):
            wire.send(f"SUBMIT --hold --queue=q{number} true\r\n")
            if number % 1000 == 999:
                for _ in range(1000):
                    wire.line()
        with probing(daemon, f"QUEUES of {jobs // 2:,}"):
            wire.ask("QUEUES", last="END")


CASES = {
    one.__name__: one for one in (acts, arrays, cascade, skip, ready, close, queues, submissions, snapshot)
}
OPTIONS = ("--retention-count=10000000", "--retention-age=36500d", "--retention-memory=none")


def run(programs: Programs, home: Path, jobs: int, *names: str) -> dict[str, list[Hold]]:
    """Run cases with one daemon, and return the holds of each."""
    found = {}
    with all_descriptors(), running(home, programs, more=OPTIONS) as daemon:
        for name in names:
            first = len(HOLDS)
            CASES[name](daemon, jobs)
            found[name] = HOLDS[first:]
    return found


def measure(bench: Bench) -> Measured:
    """Run all cases once: CPU time hardly depends on what else the machine does."""
    jobs, names = bench.many(JOBS, 200), list(CASES)
    found: dict[str, list[Hold]] = {}
    for some in [names] if bench.is_quick else [[name] for name in names]:
        found |= run(bench.programs, bench.home("holds"), jobs, *some)
    rows = []
    for name, holds in found.items():
        longest = max(holds, key=lambda hold: hold.probes.hold)
        title = f"longest hold of the reactor: {(CASES[name].__doc__ or '').rstrip('.')}"
        note = f"the longest was {longest.title}"
        rows.append(Row(title, "", "ms", [1000 * longest.probes.hold], goal=GOAL, note=note))
    return Measured(rows, tables=[_table(HOLDS)])


def _table(holds: Sequence[Hold]) -> Table:
    text = (
        "A hold is the CPU time that the daemon's main thread uses in one go, before it serves the next "
        "request; other clients wait for that long. PINGs come one after the other on a connection meanwhile."
    )
    return Table("Longest holds", text, HEAD, [hold.cells for hold in holds])


def main() -> None:
    """Run the cases, each with a fresh daemon, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.holds", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))  # noqa: S108 - as bench/run
    parser.add_argument("case", nargs="*", choices=[*CASES, []], default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tq-", dir=given.dir) as place:
        programs = Programs(Path(place))
        for name in given.case or CASES:
            run(programs, fresh(Path(place), name), given.jobs, name)
    print("\n".join(table(_table(HOLDS))))


if __name__ == "__main__":
    main()
