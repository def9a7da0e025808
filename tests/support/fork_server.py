"""Starts daemons as forks of a process that has imported twistd and taskqd, which takes little CPU time.

Each process that runs tests has such a server, ``python -m tests.support.fork_server``, which reads requests
from its standard input, a socket, and never imports the reactor. A fork becomes what ``exec twistd`` would
be: it has the same arguments, environment, directory, streams and limits, and runs the same function.
"""

import atexit
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, TextIO, TypeVar

from typing_extensions import Self

ROOT = Path(__file__).parents[2]

MODULES = (
    "twisted.scripts.twistd",
    "twisted.internet.epollreactor",
    "twisted.plugins",
    "taskqd.daemon.service",
)
"""The modules that import nearly all that a daemon has when it answers; none imports the reactor."""
EARLY_VARIABLES = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_")
"""The beginnings of names of variables that have their effect before a program runs."""
POLL_INTERVAL = 0.003
"""Seconds between two looks whether a process has ended."""

Own = TypeVar("Own", bound="ForkedProcess")


def mark(number: int) -> None:
    """Mark this process by the value of a resource limit that is not used.

    Every descendant inherits it, also in a new session or with an empty environment, and after a kill of the
    daemon. The hard limit is marked, too: a runner raises its soft limits to that.
    """
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (number, number))


class ForkedProcess:
    """A daemon that a server has forked, with the methods of Popen that tests use."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code; raises TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("twistd", timeout or 0.0)
            time.sleep(POLL_INTERVAL)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


class ForkServer:
    """The server of this process."""

    def __init__(self) -> None:
        self._user = os.geteuid()
        self._early = _early_variables(dict(os.environ))
        mine, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server"],
                cwd=ROOT,
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
            )
        self._file = mine.makefile("rw")
        mine.close()

    def can_start(self, environment: dict[str, str]) -> bool:
        """Whether a fork can be what a new process would be."""
        return os.geteuid() == self._user and _early_variables(environment) == self._early

    def start(
        self, command: list[str], environment: dict[str, str], place: Path, log: Path, number: int
    ) -> ForkedProcess:
        """Start twistd with its output appended to ``log`` and its processes marked by a number."""
        return ForkedProcess(self, self.ask("start", command, environment, str(place), str(log), number))

    def ask(self, *request: Any) -> Any:
        """Send a request and return the answer."""
        self._file.write(json.dumps(request) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())

    def close(self) -> None:
        """End the server; daemons go on."""
        self._file.close()
        self._process.wait()


def _early_variables(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(EARLY_VARIABLES)}


@cache
def fork_server() -> ForkServer:
    """Return the server of this process, which starts with the first call."""
    server = ForkServer()
    atexit.register(server.close)
    return server


# The server.


def serve(requests: TextIO) -> Any:
    """Answer requests until the end of the input; return only in a fork, with the request to start."""
    for line in requests:
        what, *arguments = json.loads(line)
        if what == "poll":
            pid, status = os.waitpid(arguments[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return arguments
        requests.write(json.dumps(answer) + "\n")
        requests.flush()
    raise SystemExit(0)


def become(command: list[str], environment: dict[str, str], place: str, log: str, number: int) -> None:
    """Become a process that has just been started by this command."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(place)
    mark(number)
    for stream, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        descriptor = os.open(path, flags, 0o666)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.dup2(1, 2)
    sys.argv = command
    sys.path[0] = os.path.dirname(command[0])


def main() -> None:
    """Serve; in each fork, run twistd."""
    from twisted.scripts.twistd import run  # noqa: PLC0415

    for module in MODULES:
        importlib.import_module(module)
    assert "twisted.internet.reactor" not in sys.modules
    with socket.socket(fileno=os.dup(0)) as control, control.makefile("rw") as requests:
        arguments = serve(requests)
    become(*arguments)
    sys.exit(run())


if __name__ == "__main__":
    main()
