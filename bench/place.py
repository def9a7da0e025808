"""Where it is measured: a directory of this run's own, and the servers that are started and ended there.

A server ends with the measurement that started it; also when the bench is interrupted, and, by setpriv(1),
when it is killed.
"""

import os
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
PATIENCE = 60.0
"""A server has so many seconds to answer, and as many to end."""
PAUSE = 0.002
"""Whether it is up is asked again after so many seconds."""

_numbers = count(1)


class Failed(Exception):
    """A measurement could not be made; the text says why."""


class Missing(Failed):
    """A measurement could not be made, since something is not on this machine; the text is what."""


def environment(**more: str) -> dict[str, str]:
    """Return ours, without what speaks of taskq, and with ``more``."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TASKQ_", "TS_", "NQ"))}
    return {**ours, **more}


@contextmanager
def directory(parent: Path) -> Iterator[Path]:
    """Make a directory for this run and remove it afterwards."""
    made = Path(tempfile.mkdtemp(prefix="tq-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def fresh(place: Path, name: str) -> Path:
    """Make a directory below ``place`` that nobody has used."""
    made = place / f"{name}-{next(_numbers)}"
    made.mkdir()
    return made


def ends_with_us() -> list[str]:
    """Return what makes a program end when we do, put before its command line."""
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


@contextmanager
def served(
    command: Sequence[str | Path], home: Path, is_up: Callable[[], bool], **more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server in ``home``, wait until it is up, and end it afterwards."""
    process = started(command, home, is_up, **more)
    try:
        yield process
    finally:
        end(process)


def started(
    command: Sequence[str | Path], home: Path, is_up: Callable[[], bool], **more: str
) -> "subprocess.Popen[bytes]":
    """Start a server in ``home``, where its log is, and wait until it is up; if it is not, end it."""
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
    until = time.monotonic() + PATIENCE
    try:
        while not is_up():
            if process.poll() is not None or time.monotonic() > until:
                text = (home / "log").read_text("utf-8", "replace")
                raise Failed(f"{command[0]} does not answer:\n{text[-2000:]}")
            time.sleep(PAUSE)
    except BaseException:
        end(process)
        raise
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def memory(pid: int, field: str = "VmRSS") -> int:
    """Return the bytes of memory that a process has; ``VmHWM`` for the most that it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failed(f"/proc/{pid}/status tells no {field}")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if entry.name.isdigit() and _parent(entry) == pid:
                found.append(int(entry.name))
    return found


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text("latin-1").rpartition(")")[2].split()[1])


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def replies(path: str | Path, request: bytes, prefix: bytes) -> bool:
    """Whether the line server on a UNIX socket answers the request as it should."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return connection.recv(1024).startswith(prefix)
        except OSError:
            return False
