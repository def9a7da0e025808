"""beanstalkd(1): a queue that keeps jobs for workers, with a binlog if asked for. It runs nothing itself."""

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
    """Return what is missing to run it, or nothing."""
    return program_missing("beanstalkd")


class Beanstalkd:
    """A beanstalkd in its home, which it leaves as it is when it stops."""

    def __init__(self, home: Path, programs: Programs, options: tuple[str, ...] = DURABLE) -> None:
        self.home = home
        self._socket = home / "socket"
        self._programs = programs
        self._options = options

    def start(self) -> float:
        """Start it, and return the seconds to its first reply."""
        self._socket.unlink(missing_ok=True)
        command = ["beanstalkd", "-l", f"unix:{self._socket}", *self._options]
        began = time.perf_counter()
        self._process = started(command, self.home, self._answers)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        return replies(self._socket, b"list-tube-used\r\n", b"USING")

    def stop(self) -> None:
        """Stop it."""
        end(self._process)

    @property
    def memory(self) -> int:
        """The bytes of memory that it has now."""
        return memory(self._process.pid)

    def put(self, total: int, clients: int = 20, depth: int = 100) -> Burst:
        """Put so many jobs, from so many clients, each ``depth`` at once."""
        return self._programs.load(self._socket, PUT, "INSERTED ", total, clients, depth)


@contextmanager
def running(home: Path, programs: Programs, options: tuple[str, ...] = DURABLE) -> Iterator[Beanstalkd]:
    """Start one in ``home`` and stop it afterwards."""
    server = Beanstalkd(home, programs, options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
