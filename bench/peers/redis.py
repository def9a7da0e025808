"""A redis-server, which syncs each command to disk or keeps nothing: a broker for libraries, or a queue."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import Burst, Programs
from bench.peers.install import program_missing
from bench.place import replies, served

BODY = b"echo hello world"
PUSH = b"*3\r\n$5\r\nRPUSH\r\n$4\r\njobs\r\n$%d\r\n%b\r\n" % (len(BODY), BODY)
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
IN_MEMORY = ("--appendonly", "no")


@contextmanager
def running(home: Path, options: tuple[str, ...]) -> Iterator[Path]:
    """Run a server in ``home`` during the context; yield the path of its socket."""
    path = home / "redis"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", *options]
    with served(command, home, lambda: replies(path, b"PING\r\n", b"+PONG")):
        yield path


def missing() -> str:
    """Return the name of the missing package, "" if it is installed."""
    return program_missing("redis-server")


def push(home: Path, programs: Programs, total: int, clients: int, depth: int) -> Burst:
    """Push ``total`` jobs to a list that is synced before each reply, from clients as for ``Programs.load``.

    All commands of a turn of its event loop share a sync. A push has no id, and its text is not checked.
    """
    with running(home, DURABLE) as path:
        return programs.load(path, PUSH, ":", total, clients, depth)
