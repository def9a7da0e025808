"""Measures what requests that only read cost the daemon, with more and more jobs known.

    python -m bench.read_verbs                       1,000 to 1,000,000 jobs
    python -m bench.read_verbs 1000000 --only LIST   some of them

A store is generated, in which half of the jobs have ended and the others are held. Five jobs have a label, a
queue and an owner that no others have; those of them that have ended have FAILED. A daemon is started with it
for each number of jobs. The table has milliseconds of CPU time of the daemon, all threads, per request: the
median of several. `lines` is the length of the reply. `hold` is the longest time, in CPU milliseconds of the
reactor's thread, that a PING of another client had to wait meanwhile. Without root, the list of a user with 5
jobs is omitted, since it asks as another user of the machine. On a busy machine the hold is too long if this
program waits between its reading of the clock and its PING, so it is the least of several rounds.
"""

import argparse
import os
import pwd
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import place
from bench.daemon import TWISTD
from bench.wire import Wire
from taskqd.model import events
from taskqd.model.job import Reason, Status
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import codec
from taskqd.storage.journal.journal import SEGMENT_BYTES

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUEUES = 5_000
"""Queues of another store, for QUEUES and WHY."""
TIMES = 7
ROUNDS = 3
START_TIMEOUT = 300.0
"""Seconds that a start with the largest store may take on a busy machine."""
STRANGER = 65534
"""The user ID of a user who has five jobs; it is that of no person."""
RARE = 5


class Case(NamedTuple):
    """A request, and the name under which it is listed."""

    name: str
    request: str
    is_stranger: bool = False


def _cases(jobs: int) -> list[Case]:
    middle, ended = jobs * 3 // 4, jobs // 4
    return [
        Case("STATUS", f"STATUS {middle}"),
        Case("SHOW", f"SHOW {ended}"),
        Case("WHY of a held job", f"WHY {middle}"),
        Case("STATS", "STATS"),
        Case("QUEUES", "QUEUES"),
        Case("HISTORY of an ended job", f"HISTORY {ended}"),
        Case("HISTORY of a held job", f"HISTORY {middle}"),
        Case("LIST", "LIST"),
        Case("LIST --limit=1000", "LIST --limit=1000"),
        Case("LIST --reverse", "LIST --reverse"),
        Case("LIST --status=FAILED", "LIST --status=FAILED"),
        Case("LIST --status=RUNNING", "LIST --status=RUNNING"),
        Case("LIST --status=FAILED,CANCELLED", "LIST --status=FAILED,CANCELLED"),
        Case("LIST --queue=rare", "LIST --queue=rare"),
        Case("LIST --owner=rare", "LIST --owner=rare"),
        Case("LIST --label=rare", "LIST --label=rare"),
        Case("LIST --status=FAILED --owner=rare", "LIST --status=FAILED --owner=rare"),
        Case("LIST --owner=ana --queue=q7", "LIST --owner=ana --queue=q7"),
        Case("LIST --owner=bob --queue=q7 (of half, none)", "LIST --owner=bob --queue=q7"),
        Case("LIST of a user with 5 jobs", "LIST", is_stranger=True),
        Case("LIST --match=rare", "LIST --match=rare"),
        Case("LIST --match=none", "LIST --match=none"),
        Case("LIST --key=none", "LIST --key=none"),
        Case("first of `taskq top`", "LIST --status=COMPLETED,FAILED,CANCELLED --tasks --reverse --limit=50"),
    ]


# The store.


def _specs() -> list[Spec]:
    return [DEFAULT_SPEC, Spec(queue="q7"), Spec(label="nightly")]


def _records(jobs: int) -> Iterator[events.JobEvent]:
    """Yield the events of jobs: the first half has ended, the second half is held."""
    now, runner, specs = time.time(), "0123456789abcdef", _specs()
    held = [Spec(queue=spec.queue, label=spec.label, hold=True) for spec in specs]
    rare = {jobs * number // (RARE + 1): number for number in range(1, RARE + 1)}
    for job_id in range(1, jobs + 1):
        is_ended = job_id <= jobs // 2
        kind = job_id % 3
        spec, owner = (specs if is_ended else held)[kind], "ana" if kind else "bob"
        is_rare = job_id in rare
        if is_rare:
            spec, owner = Spec(queue="rare", label="rare", hold=not is_ended), "rare"
        elif job_id - 1 in rare:
            owner = pwd.getpwuid(STRANGER).pw_name
        command = f"echo hello world {job_id}"
        yield events.Submitted(id=job_id, at=now, owner=owner, command=command, spec=spec, origin="pid 1")
        if is_ended:
            yield events.Started(id=job_id, at=now, attempt=1, word=secrets.token_hex(8), runner=runner)
            status, reason = (Status.FAILED, Reason.EXIT) if is_rare else (Status.COMPLETED, None)
            yield events.Ended(
                id=job_id,
                at=now,
                status=status,
                reason=reason,
                exit_code=int(is_rare),
                stdout=events.Output.inline(b"hello world %d\n" % job_id),
            )


def _queue_records(queues: int) -> Iterator[events.JobEvent]:
    """Yield the submissions of a job that takes the only slot, and of one per queue, which wait."""
    now = time.time()
    yield events.Submitted(id=1, at=now, owner="ana", command="exec sleep 3600", spec=DEFAULT_SPEC)
    for job_id in range(2, queues + 2):
        spec = Spec(queue=f"q{job_id}")
        yield events.Submitted(id=job_id, at=now, owner="ana", command="true", spec=spec)


def _array_records(tasks: int) -> Iterator[events.JobEvent]:
    spec = Spec(array=Array(1, tasks), hold=True)
    yield events.Submitted(id=1, at=time.time(), owner="ana", command="true", spec=spec)


def write_store(directory: Path, records: Iterator[events.JobEvent]) -> None:
    """Write a state directory with the segments of a journal."""
    journal = directory / "journal"
    journal.mkdir(parents=True, mode=0o700)
    directory.chmod(0o700)
    identity = Filesystem().identity(str(journal))
    sequence, number, record = 0, 0, next(records, None)
    while record is not None:
        number += 1
        with (journal / f"{number:08}.journal").open("wb") as file:
            sequence += 1
            opened = events.Opened(
                at=time.time(),
                format=events.FORMAT,
                store="b" * 32,
                boot="bench",
                next_id=1,
                identity=identity,
            )
            size = file.write(codec.encode(opened, sequence))
            while record is not None and size < SEGMENT_BYTES:
                sequence += 1
                size += file.write(codec.encode(record, sequence))
                record = next(records, None)


# The daemon.


@contextmanager
def _daemon(home: Path) -> Iterator[tuple[Path, int]]:
    """Run a daemon with the store in ``home``; yield its socket and its process ID."""
    address = home / "socket"
    command: list[str | Path] = [
        TWISTD,
        "-n",
        f"--pidfile={home / 'pid'}",
        "taskq",
        f"--state={home / 'state'}",
    ]
    command += [f"--listen=unix:{address}:mode=666", "--slots=1", "--stop-grace=0", "--on-stop=interrupt"]
    command += ["--retention-count=10000000", "--retention-age=36500d", "--retention-memory=100G"]
    with place.served(command, home, lambda: _answers(address), START_TIMEOUT) as process:
        yield address, process.pid


def _answers(address: Path) -> bool:
    return place.replies(address, b"PING\r\n", b"OK")


def _cpu(pid: int, thread: int | None = None) -> float:
    """Return the CPU seconds of a process, or of one of its threads."""
    tasks = Path(f"/proc/{pid}/task")
    names = [str(thread)] if thread is not None else os.listdir(tasks)
    return sum(int((tasks / name / "schedstat").read_text().split()[0]) for name in names) / 1e9


@contextmanager
def _as_stranger() -> Iterator[None]:
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


def _wire(address: Path, is_stranger: bool) -> Wire:
    if not is_stranger:
        return Wire(address)
    with _as_stranger():
        return Wire(address)


class Pings:
    """Sends PINGs on another connection, in a thread.

    ``longest`` is the longest wait for a reply, in CPU seconds of the daemon's main thread.
    """

    def __init__(self, address: Path, pid: int) -> None:
        self.longest = 0.0
        self._pid = pid
        self._is_over = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(address))
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the connection."""
        self._is_over = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._is_over:
            before = _cpu(self._pid, self._pid)
            self._socket.sendall(b"PING\r\n")
            self._socket.recv(100)
            self.longest = max(self.longest, _cpu(self._pid, self._pid) - before)


class Figure(NamedTuple):
    """The cost of a request: CPU seconds, lines of its reply, and the longest hold in CPU seconds."""

    seconds: float
    lines: int
    hold: float


def _measure(address: Path, pid: int, case: Case) -> Figure:
    verb = case.request.split()[0]
    last = {"STATUS": "STATUS", "SHOW": "JOB", "WHY": "OK", "STATS": "STATS"}.get(verb, "END")
    with closing(_wire(address, case.is_stranger)) as wire:
        wire.ask("PING")
        spent = []
        for _ in range(TIMES):
            before = _cpu(pid)
            reply = wire.ask(case.request, last)
            time.sleep(0.01)  # a thread that read the journal may go on for a moment
            spent.append(_cpu(pid) - before)
        holds = []
        for _ in range(ROUNDS):
            pings = Pings(address, pid)
            pings.start()
            wire.ask(case.request, last)
            pings.stop()
            holds.append(pings.longest)
    return Figure(statistics.median(spent), len(reply) - (last == "END"), min(holds))


def _run(
    home: Path, records: Iterator[events.JobEvent], cases: Sequence[Case], only: str
) -> dict[str, Figure]:
    home.mkdir()
    write_store(home / "state", records)
    figures = {}
    with _daemon(home) as (address, pid):
        for case in cases:
            if case.name.startswith(only) and not (case.is_stranger and os.geteuid()):
                figures[case.name] = _measure(address, pid, case)
                print(f"  {case.name}: {figures[case.name]}", file=sys.stderr, flush=True)
    return figures


def _print(title: str, columns: Sequence[str], rows: dict[str, list[Figure | None]]) -> None:
    print(f"\n{title}\n\n| request | {' | '.join(columns)} | lines | hold |")
    print("| --- |" + " ---: |" * (len(columns) + 2))
    for name, figures in rows.items():
        known = [figure for figure in figures if figure is not None]
        cells = [f"{1000 * figure.seconds:.2f}" if figure else "" for figure in figures]
        print(f"| {name} | {' | '.join(cells)} | {known[-1].lines} | {1000 * known[-1].hold:.1f} |")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.read_verbs", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("jobs", type=int, nargs="*", default=SIZES)
    parser.add_argument("--only", default="", help="only requests that begin with this")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))  # noqa: S108 - a fresh directory is made
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tq-", dir=given.dir) as made:
        Path(made).chmod(0o711)
        rows: dict[str, list[Figure | None]] = {}
        for at, jobs in enumerate(given.jobs):
            print(f"{jobs:,} jobs", file=sys.stderr)
            figures = _run(Path(made) / f"jobs-{jobs}", _records(jobs), _cases(jobs), given.only)
            for name, figure in figures.items():
                rows.setdefault(name, [None] * len(given.jobs))[at] = figure
        _print(
            "CPU milliseconds per request, by the number of known jobs", [f"{n:,}" for n in given.jobs], rows
        )
        others: list[tuple[str, Callable[[int], Iterator[events.JobEvent]], int, list[Case]]] = [
            ("queues", _queue_records, QUEUES, [Case("QUEUES", "QUEUES"), Case("WHY", "WHY 2500")]),
            ("queues", _queue_records, 10 * QUEUES, [Case("QUEUES", "QUEUES"), Case("WHY", "WHY 25000")]),
            (
                "tasks",
                _array_records,
                100_000,
                [Case("LIST", "LIST"), Case("LIST --array=1", "LIST --array=1")],
            ),
        ]
        for what, records, count, cases in others:
            figures = _run(Path(made) / f"{what}-{count}", records(count), cases, given.only)
            if figures:
                _print(f"{count:,} {what}", [f"{count:,}"], {name: [one] for name, one in figures.items()})


if __name__ == "__main__":
    main()
