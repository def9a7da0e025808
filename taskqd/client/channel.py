"""Bytes to a daemon and from it, over a socket as it is; over TLS by ``secure``."""

import select
import socket
from collections.abc import Callable
from typing import Protocol

PIECE = 256 * 1024
"""So many bytes are received at once."""


class Channel(Protocol):
    """Bytes to a daemon and from it, as they come and go."""

    def send(self, data: memoryview, hear: Callable[[bytes], None]) -> None:
        """Send all of ``data``; what the daemon says meanwhile is given to ``hear``."""

    def receive(self, seconds: float | None) -> bytes | None:
        """Return what comes next, nothing at the end; None if it takes longer than so many seconds."""

    def close(self) -> None:
        """Close it; closing it again does nothing."""


class Plain:
    """A socket as it is."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def close(self) -> None:
        self._socket.close()

    def send(self, data: memoryview, hear: Callable[[bytes], None]) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        while data:
            for _, events in poll.poll():
                if events & select.POLLIN:
                    hear(self._socket.recv(PIECE))
                if events & ~select.POLLIN:
                    data = data[self._send_some(data) :]

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def receive(self, seconds: float | None) -> bytes | None:
        if seconds is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return None
        return self._socket.recv(PIECE)
