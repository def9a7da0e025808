"""The programs in C that load and spawn (bench/c): what they print, as values.

The same load generator asks every line server. In C it takes so little of the two cores that what is
measured is the server.
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
LIMIT = 600
"""No load goes on for more seconds than that."""


class Burst(NamedTuple):
    """How a load went; times are in seconds."""

    requests: int
    seconds: float
    median: float
    percentile_99: float
    worst: float
    last: str

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class Programs:
    """The compiled programs; without a compiler one client's load and spawning are done by Python."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.compiler = shutil.which("cc") or shutil.which("gcc")
        if self.compiler:
            for name in ("load", "spawn"):
                self._compile(self.compiler, name)

    def _compile(self, compiler: str, name: str) -> None:
        line: list[str | Path] = [compiler, "-O2", "-o", self._place / name, SOURCES / f"{name}.c"]
        done = subprocess.run(line, capture_output=True, check=False, text=True)
        if done.returncode:
            raise Failed(f"{name}.c does not compile: {done.stderr}")

    def load(
        self, path: Path, request: bytes, prefix: str, total: int, clients: int = 20, depth: int = 100
    ) -> Burst:
        """Ask a server the same ``total`` times in all; every reply must begin with ``prefix``."""
        if not self.compiler and clients == 1:
            return _load(path, request, prefix, total, depth)
        if not self.compiler:
            raise Missing("cc (gcc, Debian), for the load generator")
        words = [str(word) for word in (self._place / "load", path, clients, depth, total, prefix)]
        done = subprocess.run(words, input=request, capture_output=True, check=False, timeout=LIMIT)
        if done.returncode:
            raise Failed(done.stderr.decode("utf-8", "replace").strip())
        seconds, median, percentile, worst, last = done.stdout.decode().rstrip().split(" ", 4)
        micro = [float(one) / 1e6 for one in (median, percentile, worst)]
        return Burst(total, float(seconds), micro[0], micro[1], micro[2], last)

    def spawn(
        self, runs: int, at_once: int, command: Sequence[str], home: Path | None = None, **more: str
    ) -> float:
        """Run a command so many times, so many at once, and return the seconds that it took."""
        if not self.compiler:
            return _spawn(runs, at_once, command, home, environment(**more))
        line = [str(self._place / "spawn"), str(runs), str(at_once), *command]
        done = subprocess.run(
            line,
            cwd=home,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=LIMIT,
        )
        if done.returncode:
            raise Failed(done.stderr.decode("utf-8", "replace").strip())
        return float(done.stderr.split()[-1])


def _load(path: Path, request: bytes, prefix: str, total: int, depth: int) -> Burst:
    """Do what load.c does for one client."""
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
    runs: int, at_once: int, command: Sequence[str], home: Path | None, surroundings: dict[str, str]
) -> float:
    """Do what spawn.c does, slower."""
    before = os.getcwd()
    os.chdir(home or before)
    silence = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    children: set[int] = set()
    started = 0
    began = time.perf_counter()
    try:
        while started < runs or children:
            while started < runs and len(children) < at_once:
                pid = os.posix_spawnp(command[0], list(command), surroundings, file_actions=silence)
                children.add(pid)
                started += 1
            pid, status = os.wait()
            children.discard(pid)
            if status:
                raise Failed(f"{command[0]} failed: status {status}")
    finally:
        os.chdir(before)
    return time.perf_counter() - began
