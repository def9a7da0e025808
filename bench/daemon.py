"""The daemon that is measured, as a process of its own, and the figures that several measurements want."""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from bench.load import Burst, Programs
from bench.place import PATIENCE, Failed, children, end, memory, replies, started
from bench.wire import Wire

TWISTD = Path(sys.executable).with_name("twistd")
BODY = "echo hello world"
WAIT_FOR = 1000
"""WAIT takes so many ids at most."""
PAUSE = 0.005


class Daemon:
    """A daemon in its home, which it leaves as it is when it stops."""

    def __init__(self, home: Path, programs: Programs, slots: int = 4) -> None:
        self.home = home
        self.socket = home / "socket"
        self._programs = programs
        self._command: list[str | Path] = [
            TWISTD,
            "-n",
            f"--pidfile={home / 'pid'}",
            "taskq",
            f"--state={home / 'state'}",
        ]
        self._command += [f"--listen=unix:{self.socket}", f"--slots={slots}", "--stop-grace=0"]

    def start(self) -> float:
        """Start it, and return the seconds to its first reply."""
        began = time.perf_counter()
        self._process = started(self._command, self.home, self._answers)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop it."""
        end(self._process)

    def _answers(self) -> bool:
        return replies(self.socket, b"PING\r\n", b"OK")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """The bytes of memory that it has now."""
        return memory(self.pid)

    def wire(self) -> Wire:
        """Connect."""
        return Wire(self.socket)

    def ask(self, request: str) -> str:
        """Ask one thing on a connection of its own."""
        with closing(self.wire()) as wire:
            return wire.one(request)

    def submit(
        self, total: int, clients: int = 20, depth: int = 100, options: str = "", command: str = BODY
    ) -> Burst:
        """Submit so many jobs, from so many clients, each ``depth`` at once."""
        request = f"SUBMIT {options}{' ' if options else ''}{command}\r\n".encode()
        return self._programs.load(self.socket, request, "JOB_ID ", total, clients, depth)

    def fill(self, jobs: int) -> None:
        """Submit so many that are held, and wait until the snapshots are made that this calls for."""
        if not jobs:
            return
        self.submit(jobs, options="--hold")
        until = time.monotonic() + PATIENCE
        while children(self.pid) and time.monotonic() < until:
            time.sleep(PAUSE)

    def jobs(self) -> dict[str, int]:
        """Return how many jobs there are, by status."""
        stats = msgspec.json.decode(self.ask("STATS").removeprefix("STATS "))
        return dict(stats["jobs"])

    def unfinished(self) -> int:
        """Return how many jobs there are that have not ended."""
        jobs = self.jobs()
        return jobs["pending"] + jobs["running"]

    def true_rate(self, jobs: int) -> float:
        """Return how many ``true`` jobs a second go from their submission to their recorded end.

        Those that wait all along are not waited for. That all others have ended is asked for once the last
        of them have.
        """
        before = self.unfinished()
        began = time.perf_counter()
        last = int(self.submit(jobs, clients=1, command="true").last.split()[1])
        some = " ".join(str(last - at) for at in range(min(jobs, WAIT_FOR)))
        with closing(self.wire()) as wire:
            wire.ask(f"WAIT {some}", last="END")
        while self.unfinished() > before:
            time.sleep(PAUSE)
        return jobs / (time.perf_counter() - began)

    def round_trip(self, wire: Wire) -> float:
        """Return the seconds from SUBMIT of ``true`` to the answer of WAIT, one request after the other."""
        began = time.perf_counter()
        job = wire.one("SUBMIT true").split()[1]
        if wire.one(f"WAIT {job}") != "STATUS COMPLETED 100":
            raise Failed(f"job {job} did not complete")
        return time.perf_counter() - began

    def round_trips(self, times: int) -> float:
        """Return the median of so many of them."""
        with closing(self.wire()) as wire:
            return statistics.median(self.round_trip(wire) for _ in range(times))


@contextmanager
def running(home: Path, programs: Programs, slots: int = 4) -> Iterator[Daemon]:
    """Start a daemon in ``home`` and stop it afterwards."""
    daemon = Daemon(home, programs, slots)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
