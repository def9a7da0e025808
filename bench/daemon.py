"""Runs the measured daemon as a process, with the figures that several measurements share."""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from bench.load import Burst, Latency, Programs
from bench.place import SERVER_TIMEOUT, Failed, children, end, memory, replies, started
from bench.wire import Wire

TWISTD = Path(sys.executable).with_name("twistd")
SLOW_DISK = Path(__file__).with_name("slow_disk.py")
BODY = "echo hello world"
MAX_WAIT_IDS = 1000
"""IDs that one WAIT accepts."""
POLL_INTERVAL = 0.005
"""Seconds."""


class Daemon:
    """A daemon that keeps its state in ``home``, also after a stop.

    ``more`` are further options of it. With ``sync_seconds`` its disk is a simulated slow one.
    """

    def __init__(
        self,
        home: Path,
        programs: Programs,
        slots: int = 4,
        more: Sequence[str] = (),
        sync_seconds: float = 0.0,
    ) -> None:
        self.home = home
        self.socket = home / "socket"
        self.slots = slots
        self._programs = programs
        self._command: list[str | Path] = [
            *([sys.executable, SLOW_DISK, str(sync_seconds)] if sync_seconds else [TWISTD]),
            "-n",
            f"--pidfile={home / 'pid'}",
            "taskq",
            f"--state={home / 'state'}",
        ]
        self._command += [f"--listen=unix:{self.socket}", f"--slots={slots}", "--stop-grace=0"]
        self._command += ["--on-stop=interrupt", *more]

    def start(self, timeout: float = SERVER_TIMEOUT) -> float:
        """Start the daemon, and return the seconds until its first reply."""
        began = time.perf_counter()
        self._process = started(self._command, self.home, self._answers, timeout)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop the daemon."""
        end(self._process)

    def kill(self) -> None:
        """Kill the daemon; its runner and its jobs go on."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        return replies(self.socket, b"PING\r\n", b"OK")

    def arrivals(
        self,
        rate: float,
        seconds: float,
        clients: int,
        command: str = BODY,
        *,
        is_waited_for: bool = False,
    ) -> Latency:
        """Submit jobs at planned times, ``rate`` per second; if ``is_waited_for``, WAIT for each as well."""
        request = f"SUBMIT {command}\r\n".encode()
        wait = "WAIT " if is_waited_for else ""
        return self._programs.arrivals(self.socket, request, "JOB_ID ", rate, seconds, clients, wait)

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def runner(self) -> int:
        """The process ID of the runner."""
        return int((self.home / "state" / "runner" / "lock").read_text().split()[0])

    @property
    def memory(self) -> int:
        """The current resident memory, in bytes."""
        return memory(self.pid)

    def wire(self) -> Wire:
        """Return a new connection."""
        return Wire(self.socket)

    def ask(self, request: str) -> str:
        """Send one request on a new connection, and return its reply line."""
        with closing(self.wire()) as wire:
            return wire.one(request)

    def submit(
        self, total: int, clients: int = 20, depth: int = 100, options: str = "", command: str = BODY
    ) -> Burst:
        """Submit ``total`` jobs from ``clients`` clients, each ``depth`` requests at once."""
        request = f"SUBMIT {options}{' ' if options else ''}{command}\r\n".encode()
        return self._programs.load(self.socket, request, "JOB_ID ", total, clients, depth)

    def block(self, queue: str = "default", slots: int | None = None) -> None:
        """Run a job that sleeps and uses all slots, or with ``slots`` these slots, in a queue."""
        job = self.ask(f"SUBMIT --queue={queue} --slots={slots or self.slots} exec sleep 3600").split()[1]
        while self.ask(f"STATUS {job}") != "STATUS RUNNING 0":
            time.sleep(POLL_INTERVAL)

    def fill(self, jobs: int, options: str = "--hold") -> None:
        """Submit jobs that do not start, and wait until the resulting snapshots are made."""
        if not jobs:
            return
        self.submit(jobs, options=options)
        until = time.monotonic() + SERVER_TIMEOUT
        while children(self.pid) and time.monotonic() < until:
            time.sleep(POLL_INTERVAL)

    def jobs(self) -> dict[str, int]:
        """Return the number of jobs by status."""
        stats = msgspec.json.decode(self.ask("STATS").removeprefix("STATS "))
        return dict(stats["jobs"])

    def unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        jobs = self.jobs()
        return jobs["pending"] + jobs["running"]

    def true_rate(self, jobs: int, command: str = "true") -> float:
        """Return the jobs per second of a command, from the first submission to the last recorded end.

        Jobs that were unfinished before do not count. STATS is polled only after the last jobs have ended.
        """
        before = self.unfinished()
        began = time.perf_counter()
        last = int(self.submit(jobs, clients=1, command=command).last.split()[1])
        some = " ".join(str(last - at) for at in range(min(jobs, MAX_WAIT_IDS)))
        with closing(self.wire()) as wire:
            wire.ask(f"WAIT {some}", last="END")
        while self.unfinished() > before:
            time.sleep(POLL_INTERVAL)
        return jobs / (time.perf_counter() - began)

    def round_trip(self, wire: Wire) -> float:
        """Return the seconds from SUBMIT of ``true`` to the reply to WAIT, sent one after the other."""
        began = time.perf_counter()
        job = wire.one("SUBMIT true").split()[1]
        if wire.one(f"WAIT {job}") != "STATUS COMPLETED 100":
            raise Failed(f"job {job} did not complete")
        return time.perf_counter() - began

    def round_trips(self, times: int) -> float:
        """Return the median of ``times`` round trips."""
        with closing(self.wire()) as wire:
            return statistics.median(self.round_trip(wire) for _ in range(times))


@contextmanager
def running(
    home: Path,
    programs: Programs,
    slots: int = 4,
    more: Sequence[str] = (),
    sync_seconds: float = 0.0,
) -> Iterator[Daemon]:
    """Run a daemon in ``home`` during the context, with ``more`` options, on a disk as slow as asked for."""
    daemon = Daemon(home, programs, slots, more, sync_seconds)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
