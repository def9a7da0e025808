"""The client's end of a connection: addresses, and bytes that come and go (docs/protocol.md §1).

Blocking sockets of the standard library; what the lines mean is left to ``client``.
"""

import errno
import select
import socket
import time
from typing import NamedTuple

PATIENCE = 10.0
"""A daemon behind TCP has so many seconds to take the connection."""

_PIECE = 256 * 1024
_IS_CUT = (BrokenPipeError, ConnectionResetError)


class Unreachable(Exception):
    """No daemon answers at the address, or the connection to it was lost; the text names the address."""


class Address(NamedTuple):
    """Where a daemon listens: the path of a UNIX socket, or a host and a port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it is a UNIX socket, so that client and daemon see the same files."""
        return bool(self.path)


def parse_address(text: str) -> Address:
    """Read ``unix:PATH`` or ``tcp:HOST:PORT``, an IPv6 address in brackets; raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(text, path=rest)
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if kind == "tcp" and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return Address(text, host=host, port=int(port))
    raise ValueError(f"expected unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT as an address, not {text!r}")


class Connection:
    """A connected socket, read by lines and by lengths. Every failure of it is Unreachable."""

    def __init__(self, address: Address) -> None:
        self.address = address.text
        self._where = address
        self.open()

    def open(self) -> None:
        """Connect, after a ``close`` once more; what had come before is forgotten."""
        self._inbox = bytearray()
        try:
            self._socket = _connect(self._where)
        except OSError as error:
            raise Unreachable(f"no daemon answers at {self.address}: {_reason(error)}") from None

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        While the daemon takes no more, what it says is read: it stops reading from a client that does not,
        and the two would wait for each other. A daemon that has closed may have said why before it did, so
        that shows where the reply is read.
        """
        unsent = memoryview(data)
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN | select.POLLOUT)
            while unsent:
                for _, events in poll.poll():
                    if events & select.POLLIN:
                        self._receive()
                    if events & ~select.POLLIN:
                        unsent = unsent[self._send_some(unsent) :]
        except _IS_CUT:
            return
        except (OSError, ValueError) as error:
            raise self._lost(error) from None

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def line(self) -> bytes:
        """Return the next line without its line end."""
        seen = 0
        while (end := self._inbox.find(b"\n", seen)) < 0:
            seen = len(self._inbox)
            self._await()
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line.removesuffix(b"\r")

    def has_line(self, seconds: float = 0.0) -> bool:
        """Whether ``line`` would return at once; so many seconds are waited for more than is there."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._inbox:
            left = deadline - time.monotonic()
            if seconds == 0.0 or left < 0 or not self._has_more(left):
                return False
            self._await()
        return True

    def _has_more(self, seconds: float) -> bool:
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        except ValueError as error:
            raise self._lost(error) from None

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        while len(self._inbox) < length:
            self._await()
        data = bytes(self._inbox[:length])
        del self._inbox[:length]
        return data

    def _await(self) -> None:
        try:
            self._receive()
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self) -> None:
        piece = self._socket.recv(_PIECE)
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the daemon closed it")
        self._inbox += piece

    def _lost(self, error: OSError | ValueError) -> Unreachable:
        why = _reason(error) if isinstance(error, OSError) else "it is closed"
        return Unreachable(
            f"the connection to {self.address} was lost before the reply came: {why}; "
            "what was asked may have been done or not"
        )


class Pipeline:
    """Requests sent ahead of the answers to those before them, one answer each.

    ``size`` is how many bytes are held and not sent yet; ``unanswered`` how many requests were sent whose
    answer has not been read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: list[bytes] = []
        self.size = 0
        self.unanswered = 0

    def put(self, request: bytes) -> None:
        """Hold a whole request, to be sent with others."""
        self._held.append(request)
        self.size += len(request)

    def send(self) -> None:
        """Send what is held."""
        self._connection.send(b"".join(self._held))
        self.unanswered += len(self._held)
        self._held.clear()
        self.size = 0

    def is_due(self, most: int) -> bool:
        """Whether to read an answer: more than ``most`` are missing, or one is there."""
        return self.unanswered > most or (self.unanswered > 0 and self._connection.has_line())

    def discard_answers(self) -> None:
        """Drop what is held, and read past the answers still missing, so that the connection is in step."""
        self._held.clear()
        while self.unanswered:
            self._connection.line()
            self.unanswered -= 1


def _connect(address: Address) -> socket.socket:
    if not address.is_local:
        connected = socket.create_connection((address.host, address.port), PATIENCE)
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A WAIT may last for days: this tells a quiet daemon from one whose machine is gone.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(address.path)
    except BaseException:
        connected.close()
        raise
    return connected


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
