"""Measures the reply time of each verb with many pending jobs: ``python -m bench.verbs [JOBS]``.

A new daemon, whose slots a sleeping job occupies, gets JOBS jobs (default 100,000), some of
them held, delayed, in other queues, of higher priority, or with dependencies. Then each verb is sent, one
request at a time on one connection. The table has the median and the worst reply time, also of PING, and
names the verbs whose median exceeds 5 ms.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

TIMES = 200
MAX_MEDIAN = 0.005
"""Seconds."""
OPTIONS = (
    "",
    "",
    "",
    "",
    "--priority=5 ",
    "--hold ",
    "--queue=other ",
    "--delay=1h ",
    "--after=1 ",
    "--slots=2 ",
)


class Wire:
    """A connection with one request at a time."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def send(self, text: str) -> None:
        """Send text unchanged."""
        self._socket.sendall(text.encode())

    def line(self) -> str:
        """Return the next line; an ERROR other than TIMED_OUT ends the program."""
        line = self._file.readline().decode().rstrip()
        if line.startswith("ERROR ") and not line.startswith("ERROR TIMED_OUT "):
            sys.exit(f"refused: {line}")
        return line

    def ask(self, request: str, last: str | None = None) -> str:
        """Send a request, read to the line that begins with ``last``, and return the first line.

        With an empty ``last`` the reply ends with an empty line, with None it is one line.
        """
        self.send(request + "\r\n")
        first = line = self.line()
        while last is not None and not (line.startswith(last) if last else not line):
            line = self.line()
        return first


@contextmanager
def daemon() -> Iterator[str]:
    """Run a daemon with two slots; yield the path of its socket."""
    twistd = Path(sys.executable).with_name("twistd")
    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/s"
        options = [
            "--state",
            f"{place}/state",
            "--listen",
            f"unix:{path}",
            "--slots",
            "2",
            "--stop-grace",
            "0",
            "--on-stop",
            "interrupt",
        ]
        line = [str(twistd), "-n", "--pidfile", f"{place}/pid", "taskq", *options]
        with subprocess.Popen(line, cwd=place, stdout=subprocess.DEVNULL) as process:
            try:
                while not Path(path).exists():
                    time.sleep(0.05)
                yield path
            finally:
                process.terminate()


def fill(wire: Wire, jobs: int) -> None:
    """Submit ``jobs`` jobs that stay pending while another job occupies all slots."""
    first = int(wire.ask("SUBMIT --slots=2 sleep 3600").split()[1])
    for at in range(0, jobs, 500):
        some = range(at, min(at + 500, jobs))
        wire.send("".join(f"SUBMIT {OPTIONS[n % len(OPTIONS)]}echo hello world\r\n" for n in some))
        for _ in some:
            wire.line()
    print(f"{jobs:,} jobs are pending behind job {first}")


def requests(jobs: int) -> dict[str, Callable[[int], tuple[str, str | None]]]:
    """Return for each verb a function that makes its n-th request and the start of the reply's last line."""
    step = max(1, jobs // TIMES)
    fresh = count(jobs + 2)

    def of(verb: str, rest: str = "", last: str | None = None) -> Callable[[int], tuple[str, str | None]]:
        return lambda n: (f"{verb} {2 + (n * step) % jobs}{rest}", last)

    def alone(request: str, last: str | None = None) -> Callable[[int], tuple[str, str | None]]:
        return lambda _: (request, last)

    return {
        "PING": alone("PING"),
        "SUBMIT": lambda _: (f"SUBMIT --label=l{next(fresh)} true", None),
        "SUBMIT --priority": lambda n: (f"SUBMIT --priority={n} true", None),
        "SUBMIT --after": lambda n: (f"SUBMIT --after={2 + n} true", None),
        "STATUS": of("STATUS"),
        "SHOW": of("SHOW"),
        "WHY": of("WHY"),
        "HOLD": of("HOLD"),
        "RELEASE": of("RELEASE"),
        "SET --priority": lambda n: (f"SET {2 + (n * step) % jobs} --priority={n % 9}", None),
        "SET --queue": lambda n: (f"SET {2 + (n * step) % jobs} --queue=q{n % 9}", None),
        "OUTPUT": of("OUTPUT", " stdout --limit=1", ""),
        "WAIT --timeout=0": of("WAIT", " --timeout=0"),
        "CANCEL": of("CANCEL"),
        "RESULT": of("RESULT"),
        "RETRY": of("RETRY"),
        "CANCEL (again)": of("CANCEL"),
        "REMOVE": of("REMOVE"),
        "QUEUES": alone("QUEUES", "END"),
        "SET-QUEUE": lambda n: (f"SET-QUEUE q1 --slots={n % 9 + 1}", None),
        "PAUSE": alone("PAUSE other"),
        "RESUME": alone("RESUME other"),
        "SCHEDULE": alone("SCHEDULE --every=1h true"),
        "SCHEDULES": alone("SCHEDULES", "END"),
        "STATS": alone("STATS"),
        "HELLO": alone("HELLO"),
        "HELP": alone("HELP", "END"),
    }


def main() -> None:
    """Fill a daemon, time every verb, and print a table."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with daemon() as path:
        wire = Wire(path)
        fill(wire, jobs)
        print(f"{'verb':20} {'median ms':>10} {'worst ms':>10}   {TIMES} requests each, one at a time")
        slow = []
        for verb, make in requests(jobs).items():
            took = []
            for number in range(TIMES):
                request, last = make(number)
                began = time.perf_counter()
                wire.ask(request, last)
                took.append(time.perf_counter() - began)
            median = statistics.median(took)
            slow += [verb] if median >= MAX_MEDIAN else []
            print(f"{verb:20} {median * 1000:10.3f} {max(took) * 1000:10.3f}")
        print(f"median over {MAX_MEDIAN * 1000:g} ms: {', '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()
