"""beanstalkd(1): a queue that keeps jobs for workers, optionally with a binlog. It runs nothing itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import Burst, Programs
from bench.peers.install import program_missing
from bench.place import end, memory, replies, started

DURABLE = ("-b", ".", "-f", "0")
UNSYNCED = ("-b", ".", "-F")
WITHOUT_BINLOG = ()
BODY = b"echo hello world"
PUT = b"put 0 0 60 %d\r\n%b\r\n" % (len(BODY), BODY)


def missing() -> str:
    """Return the name of the missing package, "" if it is installed."""
    return program_missing("beanstalkd")


class Beanstalkd:
    """A beanstalkd that keeps its binlog in ``home``, also after a stop."""

    def __init__(self, home: Path, programs: Programs, options: tuple[str, ...] = DURABLE) -> None:
        self.home = home
        self.socket = home / "socket"
        self._programs = programs
        self._options = options

    def start(self) -> float:
        """Start the server, and return the seconds until its first reply."""
        self.socket.unlink(missing_ok=True)
        command = ["beanstalkd", "-l", f"unix:{self.socket}", *self._options]
        began = time.perf_counter()
        self._process = started(command, self.home, self._answers)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        return replies(self.socket, b"list-tube-used\r\n", b"USING")

    def stop(self) -> None:
        """Stop the server."""
        end(self._process)

    @property
    def memory(self) -> int:
        """The current resident memory, in bytes."""
        return memory(self._process.pid)

    def put(self, total: int, clients: int = 20, depth: int = 100) -> Burst:
        """Put ``total`` jobs from ``clients`` clients, each ``depth`` requests at once."""
        return self._programs.load(self.socket, PUT, "INSERTED ", total, clients, depth)


@contextmanager
def running(home: Path, programs: Programs, options: tuple[str, ...] = DURABLE) -> Iterator[Beanstalkd]:
    """Run a server in ``home`` during the context."""
    server = Beanstalkd(home, programs, options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
