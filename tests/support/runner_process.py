"""Runs a runner as a process, and speaks to it as a daemon does, by docs/runner.md alone.

Nothing of taskqd is used here: if this module and the product interpret the page differently, one of them is
wrong. TASKQ_TEST_RUNNER names the command of another runner to test, without ``--state DIR``.
"""

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.end_to_end.wire import until

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 30.0
"""Seconds after which a wait for the runner fails; it answers in milliseconds."""
PLAIN = shlex.split(os.environ.get("TASKQ_TEST_RUNNER", "")) or [sys.executable, "-m", "taskqd.runner"]
"""The command of the runner."""

Json = dict[str, Any]


class Note(NamedTuple):
    """A line of notes: whether its checksum is correct, and the message."""

    is_valid: bool
    message: Json


@contextmanager
def short_address(address: str) -> Iterator[str]:
    """Give an address of a socket that is short enough for unix(7)."""
    descriptor = os.open(os.path.dirname(address), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{os.path.basename(address)}"
    finally:
        os.close(descriptor)


class Link:
    """A connection to a runner, which blocks; each read fails after DEADLINE."""

    def __init__(self, address: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        try:
            with short_address(str(address)) as path:
                self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")
        self.welcome: Json = {}

    def send(self, *messages: Json) -> None:
        self.socket.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in messages))

    def read(self) -> Json | None:
        """Return the next message, None at the end of the connection."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            return None
        if not line:
            return None
        assert line.endswith(b"\n"), f"half a line: {line[-100:]!r}"
        message: Json = json.loads(line)
        return message

    def wait_for(self, kind: str, id_: int | None = None) -> Json:
        """Return the next message of a kind, for the attempts of one job if it is given; skip others."""
        while True:
            message = self.read()
            assert message is not None, f"the connection ended before a message {kind!r}"
            if message["t"] == kind and id_ in (None, message.get("id")):
                return message

    def rest(self) -> list[Json]:
        """Return all messages up to the end of the connection."""
        return list(iter(self.read, None))

    def ack(self, *keys: Sequence[Any]) -> None:
        self.send({"t": "ack", "ends": [list(key) for key in keys]})

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class RunnerProcess:
    """A runner for the state directory ``state``."""

    def __init__(self, state: Path, *options: str, command: Sequence[str] = PLAIN) -> None:
        self.state = state
        self.directory = state / "runner"
        self.store = secrets.token_hex(16)
        self.log = state.with_name(f"{state.name}.log")
        self._command = [*command, *self._arguments(), *options]
        self._links: list[Link] = []
        self._others: list[RunnerProcess] = []
        self.process = self.launch()

    def _arguments(self) -> list[str]:
        """Return the options that name the directory."""
        return ["--state", str(self.state)]

    def launch(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_for_start(
        self, each_look: "Callable[[RunnerProcess], object]" = lambda _: None
    ) -> "RunnerProcess":
        """Wait until the runner accepts connections; ``each_look`` is called again and again until then."""

        def is_over() -> bool:
            each_look(self)
            return self._is_started() or self.process.poll() is not None

        until(is_over, "the start of the runner", pause=0.001)
        assert self.process.poll() is None, self.log.read_text()
        self.name = self._lock()[1]
        return self

    def _is_started(self) -> bool:
        return self._lock()[0] == str(self.process.pid)

    def _lock(self) -> list[str]:
        try:
            return ((self.directory / "lock").read_text() or "- -").split()
        except FileNotFoundError:
            return ["-", "-"]

    def signal_each_lock(self, number: signal.Signals) -> None:
        """Signal the process that each NAME.lock names, as a daemon does that finds no socket."""
        for lock in self.directory.glob("*.lock"):
            with suppress(FileNotFoundError):
                os.kill(int(lock.read_text()), number)

    def second(self) -> "RunnerProcess":
        """Start another runner for the same state directory."""
        other = RunnerProcess(self.state, command=self._command[: self._command.index("--state")])
        other.store = self.store
        self._others.append(other)
        return other

    def close(self) -> None:
        """Kill the runner and its jobs."""
        for link in self._links:
            link.close()
        for other in self._others:
            other.close()
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_for_exit(self) -> int:
        return self.process.wait(DEADLINE)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    # Observation.

    def file(self, kind: str) -> Path:
        """Return the path of a file of this runner: lock, sock or ends."""
        return self.directory / f"{self.name}.{kind}"

    def notes(self) -> list[Note]:
        """Return the complete lines of the notes."""
        try:
            lines = self.file("ends").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [Note(line[:9] == b"%08x " % zlib.crc32(line[9:]), json.loads(line[9:])) for line in lines]

    def noted(self) -> list[Json]:
        """Return the messages of the notes, each of which must have a correct checksum."""
        notes = self.notes()
        assert [note for note in notes if not note.is_valid] == []
        return [note.message for note in notes]

    def processes(self) -> list[int]:
        """Return the processes that have a mark of this store, by /proc."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and f"TASKQ_RUN={self.store}.".encode() in _read(entry, "environ"):
                    found.append(int(entry))
        return found

    # Conversation.

    def connect(self) -> Link:
        """Return a connection on which nothing was sent."""
        self._links.append(Link(self.file("sock")))
        return self._links[-1]

    def hello(self, **fields: Any) -> Json:
        return {"t": "hello", "store": self.store, "versions": [1, 2], "release": "0.0.0", **fields}

    def attach(self, **fields: Any) -> Link:
        """Return a connection that the runner has welcomed; it may be busy first."""

        def attach_once() -> Link | None:
            try:
                link = self.connect()
            except (ConnectionRefusedError, FileNotFoundError):
                return None  # the socket does not listen yet, or is being made again
            link.send(self.hello(**fields))
            first = link.read()
            if first is None or (first["t"] == "refused" and "another daemon" in first["why"]):
                link.close()  # it has not read the last connection to its end yet
                return None
            assert first["t"] == "welcome", first
            link.welcome = first
            return link

        attached = until(attach_once, "a welcome")
        assert attached is not None
        return attached

    def hello_as(self, uid: int) -> bytes:
        """Greet the runner as another user, which needs root; return the answer."""
        program = (
            "import os, socket, sys; os.chdir(sys.argv[1]); os.seteuid(int(sys.argv[2])); "
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[3]); "
            "s.sendall(sys.argv[4].encode() + b'\\n'); sys.stdout.buffer.write(s.recv(1000))"
        )
        words = [str(self.directory), str(uid), self.file("sock").name, json.dumps(self.hello())]
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=False)
        closed = (b"ConnectionResetError", b"BrokenPipeError")  # at its read, or already at its greeting
        assert done.returncode == 0 or any(error in done.stderr for error in closed), done.stderr
        return done.stdout

    def make_start(self, id_: int, command: str, attempt: int = 1, **fields: Any) -> Json:
        """Return a start of ``sh -c command``."""
        word = f"{id_:08x}{attempt:08x}"
        mark = f"{self.store}.{id_}.{attempt}.{word}"
        return {
            "t": "start",
            "id": id_,
            "attempt": attempt,
            "word": word,
            "argv": ["/bin/sh", "-c", command],
            "env": {"PATH": "/usr/bin:/bin", "TASKQ_RUN": mark},
            "mark": mark,
            "stdout": str(self.state / "output" / f"{id_}.{attempt}.stdout"),
            "stderr": str(self.state / "output" / f"{id_}.{attempt}.stderr"),
            **fields,
        }


def key(message: Json) -> tuple[int, int, str]:
    """Return the key of a message as ``ack`` names it."""
    return message["id"], message["attempt"], message["word"]


def _read(pid: str, name: str) -> bytes:
    return Path("/proc", pid, name).read_bytes()
