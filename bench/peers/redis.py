"""A redis-server for the libraries, which syncs each command to disk or keeps nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.place import replies, served

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
IN_MEMORY = ("--appendonly", "no")


@contextmanager
def running(home: Path, options: tuple[str, ...]) -> Iterator[Path]:
    """Run a server in ``home`` during the context; yield the path of its socket."""
    path = home / "redis"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", *options]
    with served(command, home, lambda: replies(path, b"PING\r\n", b"+PONG")):
        yield path
