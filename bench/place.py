"""The directory of a run, and helpers to start and stop servers in it.

A server ends with the measurement that started it, also if the run is interrupted or, by setpriv(1), killed.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SERVER_TIMEOUT = 60.0
"""Seconds that a server may take to answer, and to stop."""
POLL_INTERVAL = 0.002
"""Seconds between two checks whether a server is up."""

_numbers = count(1)


class Failed(Exception):
    """A measurement could not be made; the text says why."""


class Missing(Failed):
    """A measurement could not be made, since a program is not installed; the text names it."""


def environment(**more: str) -> dict[str, str]:
    """Return our environment without variables of taskqd, task-spooler and nq, and with ``more``.

    Compiled modules are kept, as in an installation.
    """
    dropped = ("TASKQ_", "TS_", "NQ", "PYTHONDONTWRITEBYTECODE")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**ours, **more}


@contextmanager
def directory(parent: Path) -> Iterator[Path]:
    """Make a directory for this run, and remove it afterwards."""
    made = Path(tempfile.mkdtemp(prefix="tq-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def fresh(place: Path, name: str) -> Path:
    """Make a new directory below ``place``."""
    made = place / f"{name}-{next(_numbers)}"
    made.mkdir()
    return made


def ends_with_us() -> list[str]:
    """Return a prefix of a command line that ends the program when this process ends."""
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


@contextmanager
def served(
    command: Sequence[str | Path],
    home: Path,
    is_up: Callable[[], bool],
    timeout: float = SERVER_TIMEOUT,
    **more: str,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server in ``home`` during the context, which begins when it is up."""
    process = started(command, home, is_up, timeout, **more)
    try:
        yield process
    finally:
        end(process)


def started(
    command: Sequence[str | Path],
    home: Path,
    is_up: Callable[[], bool],
    timeout: float = SERVER_TIMEOUT,
    **more: str,
) -> "subprocess.Popen[bytes]":
    """Start a server in ``home``, with its log there, and wait until it is up; if that fails, end it."""
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*ends_with_us(), *command],
            cwd=home,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + timeout
    try:
        while not is_up():
            if process.poll() is not None or time.monotonic() > until:
                text = (home / "log").read_text("utf-8", "replace")
                raise Failed(f"{command[0]} does not answer:\n{text[-2000:]}")
            time.sleep(POLL_INTERVAL)
    except BaseException:
        end(process)
        raise
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(SERVER_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def memory(pid: int, field: str = "VmRSS") -> int:
    """Return the resident memory of a process in bytes, or with the field ``VmHWM`` its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failed(f"/proc/{pid}/status has no {field}")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads that a process has now, in seconds."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def children(pid: int) -> list[int]:
    """Return the running children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if entry.name.isdigit() and _parent(entry) == pid:
                found.append(int(entry.name))
    return found


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text("latin-1").rpartition(")")[2].split()[1])


@contextmanager
def all_descriptors() -> Iterator[int]:
    """Let this process and the servers that it starts open as many files as they may; yield that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def replies(path: str | Path, request: bytes, prefix: bytes) -> bool:
    """Whether the line server on a UNIX socket answers a request with ``prefix``."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return connection.recv(1024).startswith(prefix)
        except OSError:
            return False
