"""Runs the load generator and the spawn loop of bench/c, and parses their output.

All line servers are measured by the same load generator. It is written in C, so that it uses little of the
two cores and the server is measured, not the client.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.place import Failed, Missing, environment

SOURCES = Path(__file__).parent / "c"
PROGRAM_TIMEOUT = 600
"""Seconds after which a program is killed; all take less than a tenth."""


class Burst(NamedTuple):
    """The result of a load; times are in seconds."""

    requests: int
    seconds: float
    median: float
    percentile_99: float
    worst: float
    last: str

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Latency(NamedTuple):
    """The result of an open loop; times are in seconds."""

    requests: int
    median: float
    percentile_99: float
    percentile_999: float
    worst: float
    late: float
    """The percentile 99.9 of the time from the planned time to the sending."""
    most: int
    """The highest number of unanswered requests."""


class Programs:
    """The compiled programs. Without a compiler, Python replaces the spawn loop and one client's load."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.compiler = shutil.which("cc") or shutil.which("gcc")
        if self.compiler:
            for name in ("arrivals", "load", "spawn"):
                self._compile(self.compiler, name)

    def _compile(self, compiler: str, name: str) -> None:
        line: list[str | Path] = [compiler, "-O2", "-o", self._place / name, SOURCES / f"{name}.c", "-lm"]
        done = subprocess.run(line, capture_output=True, check=False, text=True)
        if done.returncode:
            raise Failed(f"{name}.c does not compile: {done.stderr}")

    def load(
        self, path: Path, request: bytes, prefix: str, total: int, clients: int = 20, depth: int = 100
    ) -> Burst:
        """Send a request ``total`` times in all; every reply must begin with ``prefix``."""
        if not self.compiler and clients == 1:
            return _load(path, request, prefix, total, depth)
        if not self.compiler:
            raise Missing("cc (gcc, Debian), for the load generator")
        words = [str(word) for word in (self._place / "load", path, clients, depth, total, prefix)]
        done = subprocess.run(words, input=request, capture_output=True, check=False, timeout=PROGRAM_TIMEOUT)
        if done.returncode:
            raise Failed(done.stderr.decode("utf-8", "replace").strip())
        seconds, median, percentile, worst, last = done.stdout.decode().rstrip().split(" ", 4)
        micro = [float(one) / 1e6 for one in (median, percentile, worst)]
        return Burst(total, float(seconds), micro[0], micro[1], micro[2], last)

    def arrivals(
        self,
        path: Path,
        request: bytes,
        prefix: str,
        rate: float,
        seconds: float,
        clients: int,
        wait: str = "",
    ) -> Latency:
        """Send a request at planned times, ``rate`` per second, up to ``clients`` at once.

        Every reply must begin with ``prefix``. With ``wait``, the word after the prefix is sent back behind
        it, and a request is answered when that is.
        """
        if not self.compiler:
            raise Missing("cc (gcc, Debian), for the load generator")
        words = [self._place / "arrivals", path, clients, rate, seconds, prefix, *([wait] if wait else [])]
        done = subprocess.run(
            [str(word) for word in words],
            input=request,
            capture_output=True,
            check=False,
            timeout=PROGRAM_TIMEOUT,
        )
        if done.returncode:
            raise Failed(done.stderr.decode("utf-8", "replace").strip())
        requests, *times, most = done.stdout.split()
        median, percentile_99, percentile_999, worst, late = (float(one) / 1e6 for one in times)
        return Latency(int(requests), median, percentile_99, percentile_999, worst, late, int(most))

    def spawn(
        self, runs: int, parallel: int, command: Sequence[str], home: Path | None = None, **more: str
    ) -> float:
        """Run a command ``runs`` times, ``parallel`` at once, and return the seconds that it took."""
        if not self.compiler:
            return _spawn(runs, parallel, command, home, environment(**more))
        line = [str(self._place / "spawn"), str(runs), str(parallel), *command]
        done = subprocess.run(
            line,
            cwd=home,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PROGRAM_TIMEOUT,
        )
        if done.returncode:
            raise Failed(done.stderr.decode("utf-8", "replace").strip())
        return float(done.stderr.split()[-1])


def _load(path: Path, request: bytes, prefix: str, total: int, depth: int) -> Burst:
    """Replace load.c, for one client."""
    took = []
    line = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with connection.makefile("rb") as replies:
            for at in range(0, total, depth):
                some = min(depth, total - at)
                began = time.perf_counter()
                connection.sendall(request * some)
                for _ in range(some):
                    line = replies.readline()
                    if not line.startswith(prefix.encode()):
                        raise Failed(f"refused: {line.decode()}")
                took.append(time.perf_counter() - began)
    took.sort()
    return Burst(
        total, sum(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1], line.decode().rstrip()
    )


def _spawn(
    runs: int, parallel: int, command: Sequence[str], home: Path | None, variables: dict[str, str]
) -> float:
    """Replace spawn.c; slower."""
    before = os.getcwd()
    os.chdir(home or before)
    silence = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    children: set[int] = set()
    started = 0
    began = time.perf_counter()
    try:
        while started < runs or children:
            while started < runs and len(children) < parallel:
                pid = os.posix_spawnp(command[0], list(command), variables, file_actions=silence)
                children.add(pid)
                started += 1
            pid, status = os.wait()
            children.discard(pid)
            if status:
                raise Failed(f"{command[0]} failed: status {status}")
    finally:
        os.chdir(before)
    return time.perf_counter() - began
