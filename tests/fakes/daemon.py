"""A fake daemon for tests of the client: it frames requests (docs/protocol.md), replies are scripted.

It runs no jobs. Every request is recorded in ``requests`` with its blocks.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

_SIZE = re.compile(rb" --(script|stdin|environment|data)=([0-9]+)(?![0-9:])")


class Request(NamedTuple):
    """A request line without its line end, and the blocks that followed it."""

    line: str
    blocks: tuple[bytes, ...] = ()

    @property
    def verb(self) -> str:
        return self.line.split(" ")[0]


Script = Callable[[Request], bytes | Iterable[bytes] | None]
"""Returns the reply to a request, with its line end, or an iterable of the parts of a reply.

None closes the connection without a reply. Parts are sent until the daemon is closed.
"""


def data(stream: str, offset: int, content: bytes) -> bytes:
    """Return a DATA reply."""
    return b"DATA %b %d %d\r\n%b\r\n" % (stream.encode(), offset, len(content), content)


def replies(table: Mapping[str, bytes]) -> Script:
    """Return a script that looks up the reply by the whole line, else by its verb."""

    def answer(request: Request) -> bytes:
        return table.get(request.line) or table[request.verb]

    return answer


def refused(code: str, text: str) -> bytes:
    """Return an ERROR reply."""
    return f"ERROR {code} {text}\r\n".encode()


def job(number: int = 7, status: str = "COMPLETED", exit_code: int | None = 0, **more: object) -> bytes:
    """Return a JOB reply."""
    facts = {"id": number, "command": "true", "status": status, "exit_code": exit_code, "attempts": 1, **more}
    return b"JOB " + json.dumps(facts).encode() + b"\r\n"


class FakeDaemon:
    """Listens on a UNIX socket in the directory ``place``, or on loopback TCP, until it is closed."""

    def __init__(self, script: Script, place: Path | None = None) -> None:
        self._script = script
        self.requests: list[Request] = []
        self._is_closed = False
        if place:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(place / "taskq.sock"))
            self._listener.listen()
            self.address = f"unix:{place / 'taskq.sock'}"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, close all connections, and wait for every thread."""
        self._is_closed = True
        for each in (self._listener, *self.connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self.connections):
            each.close()

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.requests]

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self.connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            try:
                with connection.makefile("rb") as lines:
                    self._answer(lines, connection)
            finally:
                connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, lines: BinaryIO, connection: socket.socket) -> None:
        while line := lines.readline():
            request = Request(line.rstrip(b"\r\n").decode(), self._blocks(line, lines))
            self.requests.append(request)
            reply = self._script(request)
            if reply is None:
                return
            for part in [reply] if isinstance(reply, bytes) else reply:
                if self._is_closed:
                    return
                connection.sendall(part)

    def _blocks(self, line: bytes, rest: BinaryIO) -> tuple[bytes, ...]:
        if not line.startswith((b"SUBMIT ", b"SCHEDULE ", b"SET ", b"SEND ")):
            return ()
        sizes = {name: int(size) for name, size in _SIZE.findall(line)}
        blocks = []
        for name in (b"script", b"stdin", b"environment", b"data"):
            if name in sizes:
                blocks.append(rest.read(sizes[name]))
                assert rest.readline() == b"\r\n"
        return tuple(blocks)
