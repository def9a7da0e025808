"""Measures the effect of many connections on one client.

Run it as ``python -m bench.crowd [--idle 1000] [--slow 50] [--times 10000]``. The client submits jobs one at
a time to a daemon on loopback: first alone, then while ``--idle`` silent connections and ``--slow`` slow ones
are open (half of these write a byte now and then, half have requested large LISTs and hardly read them), then
alone again. The table has the median, the 99th percentile and the worst reply time of each part, and their
ratio to the first part.

Everything is paused, so no job starts and only replies are timed. A separate process holds the connections.
"""

import argparse
import json
import multiprocessing
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

FILL = 2000
"""Jobs in the lists that slow readers request."""
LISTS = 200
"""Lists that each slow reader requests."""
WRITES = b"SUBMIT --hold --label=slow --stdin=30 cat\r\n" + b"x" * 30 + b"\r\n"
SLOW_INTERVAL = 0.1
"""Seconds between two bytes of a slow writer, and between two reads of a slow reader."""
SLOW_READ_SIZE = 1024
"""Bytes that a slow reader reads per interval."""
SPARE = 100
"""Descriptors that the daemon and the crowd need besides those of the connections."""
WARM_UP = 300
"""Submissions of each part that are not counted."""


class Place(NamedTuple):
    """The daemon's port and pid, and a token for it."""

    port: int
    token: str
    pid: int


class Times(NamedTuple):
    """Reply times of one part in seconds, then the daemon's number of connections and memory in bytes."""

    connections: int
    median: float
    p99: float
    worst: float
    memory: int


class Client:
    """An authenticated connection."""

    def __init__(self, place: Place) -> None:
        self.socket = socket.create_connection(("127.0.0.1", place.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")
        self.ask(f"AUTH {place.token}")

    def ask(self, request: str) -> str:
        """Send a request line and return its reply line; an ERROR ends the program."""
        self.socket.sendall(request.encode() + b"\r\n")
        line = self._file.readline().decode().rstrip()
        if not line or line.startswith("ERROR "):
            sys.exit(f"{request} was answered {line or 'by a closed connection'}")
        return line

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()


def crowd(pipe: Connection, place: Place, idle: int, slow: int) -> None:
    """Hold idle and slow connections until a message arrives on the pipe."""
    with ExitStack() as stack:
        for _ in range(idle):
            stack.enter_context(closing(Client(place)))
        writers = [stack.enter_context(closing(Client(place))) for _ in range(slow // 2)]
        readers = [stack.enter_context(closing(Client(place))) for _ in range(slow - slow // 2)]
        for reader in readers:
            reader.socket.sendall(f"LIST --limit={FILL}\r\n".encode() * LISTS)
        pipe.send("all are connected")
        bytes_left = {writer: cycle(WRITES) for writer in writers}
        with selectors.DefaultSelector() as replies:
            for writer in writers:
                replies.register(writer.socket, selectors.EVENT_READ, writer)
            while not pipe.poll(SLOW_INTERVAL):
                for writer, left in bytes_left.items():
                    writer.socket.sendall(bytes([next(left)]))
                for reader in readers:
                    reader.socket.recv(SLOW_READ_SIZE)
                for key, _ in replies.select(0):
                    key.data.socket.recv(SLOW_READ_SIZE)


@contextmanager
def a_crowd(place: Place, idle: int, slow: int) -> Iterator[None]:
    """Run the crowd in a child process during the context."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe()
    process = fresh.Process(target=crowd, args=(theirs, place, idle, slow))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield
        ours.send("enough")
    finally:
        ours.close()
        process.join()


@contextmanager
def daemon() -> Iterator[Place]:
    """Run a paused daemon with FILL jobs."""
    programs = Path(sys.executable).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="taskqd-bench-") as directory:
        options = ["--state", f"{directory}/state", "--listen", f"tcp:{port}:interface=127.0.0.1"]
        line: list[str | Path] = [
            programs / "twistd",
            "-n",
            "--pidfile",
            f"{directory}/pid",
            "taskq",
            *options,
            "--stop-grace",
            "0",
            "--on-stop",
            "interrupt",
        ]
        with subprocess.Popen(line, cwd=directory, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(port, process)
                add: list[str | Path] = [
                    programs / "taskq",
                    "token",
                    "add",
                    "bench",
                    "--role",
                    "admin",
                    "--state",
                    f"{directory}/state",
                ]
                token = subprocess.run(add, capture_output=True, text=True, check=True).stdout.strip()
                time.sleep(2.0)  # the daemon reads new tokens once per second
                place = Place(port, token, process.pid)
                with closing(Client(place)) as client:
                    client.ask("PAUSE")
                    for number in range(FILL):
                        client.ask(f"SUBMIT --label=l{number} echo hello world")
                yield place
            finally:
                process.terminate()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the daemon listens; if it exits, end the program."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the daemon has ended instead of starting")


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def submit(place: Place, times: int) -> Times:
    """Submit jobs one at a time, and return the reply times."""
    with closing(Client(place)) as client:
        took = []
        for _ in range(WARM_UP + times):
            began = time.perf_counter()
            client.ask("SUBMIT echo hello world")
            took.append(time.perf_counter() - began)
        stats = json.loads(client.ask("STATS").partition(" ")[2])
    took = sorted(took[WARM_UP:])
    return Times(
        stats["connections"],
        statistics.median(took),
        took[int(0.99 * (len(took) - 1))],
        took[-1],
        memory(place.pid),
    )


def allow_descriptors(count: int) -> None:
    """Raise the descriptor limit of this process and its children, or end the program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        sys.exit(f"this needs {count} descriptors, and the hard limit is {hard}: ulimit -Hn {count}, as root")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def main() -> None:
    """Measure the three parts and print a table."""
    parser = argparse.ArgumentParser(
        prog="bench.crowd", description="the effect of many connections on others"
    )
    parser.add_argument("--idle", type=int, default=1000, help="silent connections (1000)")
    parser.add_argument("--slow", type=int, default=50, help="connections that write or read slowly (50)")
    parser.add_argument("--times", type=int, default=10_000, help="timed submissions per part (10000)")
    asked = parser.parse_args()
    # The daemon reserves descriptors, and admits only as many connections as it has descriptors for.
    allow_descriptors(2 * (asked.idle + asked.slow) + SPARE)
    print(f"{asked.times:,} submissions per part, over TCP on loopback; {FILL:,} jobs to list")
    print(f"\n{'':22}{'connections':>12}{'median ms':>11}{'p99 ms':>9}{'worst ms':>10}", end="")
    print(f"{'median':>10}{'p99':>8}{'daemon MB':>12}")
    with daemon() as place:
        first = show("alone", submit(place, asked.times))
        with a_crowd(place, asked.idle, asked.slow):
            show(f"{asked.idle:,} idle, {asked.slow} slow", submit(place, asked.times), first)
        show("alone again", submit(place, asked.times), first)


def show(name: str, times: Times, first: Times | None = None) -> Times:
    """Print a line of the table, compared with the first, and return what it shows."""
    than = f"{times.median / first.median:9.2f}x{times.p99 / first.p99:7.2f}x" if first else " " * 18
    numbers = (
        f"{times.connections:12,}{times.median * 1000:11.3f}{times.p99 * 1000:9.3f}{times.worst * 1000:10.2f}"
    )
    print(f"{name:22}{numbers}{than}{times.memory / 1e6:12.1f}", flush=True)
    return times


if __name__ == "__main__":
    main()
