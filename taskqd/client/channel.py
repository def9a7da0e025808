"""Sends and receives bytes over a plain socket; ``tls`` has the same over TLS."""

import select
import socket
from collections.abc import Callable
from typing import Protocol

RECEIVE_SIZE = 256 * 1024
"""Maximum number of bytes per ``recv``."""


class Channel(Protocol):
    """A byte stream to and from a daemon."""

    @property
    def socket(self) -> socket.socket:
        """The socket underneath."""

    def send(self, data: memoryview, on_received: Callable[[bytes], None]) -> None:
        """Send all of ``data``; bytes that arrive meanwhile are passed to ``on_received``."""

    def receive(self, timeout: float | None) -> bytes | None:
        """Return the next bytes, ``b""`` at the end of the stream, or None after ``timeout`` seconds."""

    def close(self) -> None:
        """Close the stream; closing it again has no effect."""


class PlainChannel:
    """A socket without encryption."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def send(self, data: memoryview, on_received: Callable[[bytes], None]) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        while data:
            for _, events in poll.poll():
                if events & select.POLLIN:
                    on_received(self._socket.recv(RECEIVE_SIZE))
                if events & ~select.POLLIN:
                    data = data[self._send_some(data) :]

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def receive(self, timeout: float | None) -> bytes | None:
        if timeout is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(timeout * 1000):
                return None
        return self._socket.recv(RECEIVE_SIZE)
