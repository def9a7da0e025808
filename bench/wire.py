"""A connection to the daemon with one request at a time."""

import socket
from pathlib import Path

from bench.place import SERVER_TIMEOUT, Failed


class Wire:
    """Sends request lines and reads reply lines; an ERROR fails the measurement."""

    def __init__(self, path: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(
            str(path)
        )  # before the timeout is set, so that it waits while the backlog is full
        self._socket.settimeout(5 * SERVER_TIMEOUT)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def send(self, text: str) -> None:
        """Send text unchanged."""
        self._socket.sendall(text.encode())

    def line(self) -> str:
        """Return the next line."""
        data = self._file.readline()
        if not data:
            raise Failed("the daemon has closed the connection")
        line = data.decode().rstrip()
        if line.startswith("ERROR "):
            raise Failed(f"refused: {line}")
        return line

    def ask(self, request: str, last: str = "", count: int = 1) -> list[str]:
        """Send a request, and return its reply.

        It ends with the line that begins with ``last``, and has ``count`` lines or more.
        """
        self.send(request + "\r\n")
        lines = [self.line()]
        while len(lines) < count or not lines[-1].startswith(last):
            lines.append(self.line())
        return lines

    def one(self, request: str) -> str:
        """Send a request, and return its reply of one line."""
        return self.ask(request)[0]
