"""The client's end of a connection: addresses, and bytes that come and go (docs/protocol.md §1).

Sockets of the standard library. What the lines mean is left to ``client``, TLS to ``secure``, which is loaded
only for an address that begins with ``tls:``.
"""

import errno
import os
import socket
import time

from taskqd.client.address import Address, TlsFiles, Unreachable
from taskqd.client.channel import Channel, Plain
from taskqd.config.paths import MAX_SOCKET_PATH_BYTES

PATIENCE = 10.0
"""A daemon behind TCP has so many seconds to take the connection."""

_IS_CUT = (BrokenPipeError, ConnectionResetError)
_ALERT = b"\x15\x03"
"""What TLS says to a client that does not speak it begins with this, which no reply does (RFC 8446 §5.1)."""


class Lost(Unreachable):
    """The connection was made, and was lost before the reply came."""


class Connection:
    """A connection to a daemon, read by lines and by lengths. Every failure of it is Unreachable."""

    def __init__(self, address: Address, papers: TlsFiles | None = None) -> None:
        self.address = address.text
        self._where = address
        self._papers = papers or TlsFiles()
        self._has_heard = False
        self.open()

    def open(self) -> None:
        """Connect, after a ``close`` once more; what had come before is forgotten."""
        self._inbox = bytearray()
        self._opened_at = time.monotonic()
        try:
            self._channel = _connect(self._where, self._papers)
        except (OSError, ValueError) as error:  # UnicodeError is one, of what cannot be a host's name
            raise Unreachable(f"no daemon answers at {self.address}: {_reason(error)}") from None

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        self._channel.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        While the daemon takes no more, what it says is read: it stops reading from a client that does not,
        and the two would wait for each other. A daemon that has closed may have said why before it did, so
        that shows where the reply is read.
        """
        try:
            self._channel.send(memoryview(data), self._hear)
        except _IS_CUT:
            return
        except (OSError, ValueError) as error:
            raise self._lost(error) from None

    def line(self) -> bytes:
        """Return the next line without its line end."""
        seen = 0
        while (end := self._inbox.find(b"\n", seen)) < 0:
            seen = len(self._inbox)
            self._await()
        self._refuse_tls()
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line.removesuffix(b"\r")

    def has_line(self, seconds: float = 0.0) -> bool:
        """Whether ``line`` would return at once; so many seconds are waited for more than is there."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._inbox:
            left = deadline - time.monotonic()
            if seconds == 0.0 or left < 0 or not self._await(left):
                return False
        return True

    @property
    def is_mute(self) -> bool:
        """Whether what closed it may be no daemon for us: over the network, at once, without a word."""
        return not (self._where.is_local or self._has_heard or time.monotonic() - self._opened_at > PATIENCE)

    def is_gone(self) -> bool:
        """Whether the daemon has closed the connection; raises Unreachable if we have."""
        try:
            while self._await(0.0):
                pass
        except Lost:
            return True
        return False

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        while len(self._inbox) < length:
            self._await()
        data = bytes(self._inbox[:length])
        del self._inbox[:length]
        return data

    def _await(self, seconds: float | None = None) -> bool:
        """Whether something has come within so many seconds; without a number it is waited for."""
        try:
            piece = self._channel.receive(seconds)
            if piece is not None:
                self._hear(piece)
        except (OSError, ValueError) as error:
            raise self._lost(error) from None
        return piece is not None

    def _hear(self, piece: bytes) -> None:
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the daemon closed it")
        self._has_heard = True
        self._inbox += piece

    def _refuse_tls(self) -> None:
        if self._inbox.startswith(_ALERT):
            raise Unreachable(f"TLS is spoken at {self.address}: its address begins with tls:")

    def _lost(self, error: OSError | ValueError) -> Unreachable:
        self._refuse_tls()
        is_open = isinstance(error, OSError) and error.errno != errno.EBADF
        why = _reason(error) + self._guess() if is_open else "it is closed"
        return (Lost if is_open else Unreachable)(
            f"the connection to {self.address} was lost before the reply came: {why}; "
            "what was asked may have been done or not"
        )

    def _guess(self) -> str:
        """Return what may be wrong with a daemon over the network that has said nothing at all."""
        if self._has_heard or self._where.is_local:
            return ""
        if not self._where.is_secured:
            return " (if TLS is spoken there, its address begins with tls:)"
        return f" (it may not take the certificate {self._papers.cert})" if self._papers.cert else ""


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


def _connect(address: Address, papers: TlsFiles) -> Channel:
    if not address.is_local:
        connected = socket.create_connection((address.host, address.port), PATIENCE)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A WAIT may last for days: this tells a quiet daemon from one whose machine is gone.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.is_secured:
                from taskqd.client import tls  # noqa: PLC0415 - ssl takes time to load

                return tls.secured(connected, address, papers)
            connected.settimeout(None)
        except BaseException:
            connected.close()
            raise
        return Plain(connected)
    if (size := len(os.fsencode(address.path))) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"its path has {size} bytes, and that of a UNIX socket has at most {MAX_SOCKET_PATH_BYTES}"
        )
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(address.path)
    except BaseException:
        connected.close()
        raise
    return Plain(connected)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
