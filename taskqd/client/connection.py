"""A connection to a daemon: opens the socket, sends requests, reads lines and blocks (docs/protocol.md §1).

The meaning of the lines is left to ``decoder``. TLS is in ``tls``, which is imported only for ``tls:``
addresses because loading ssl takes time.
"""

import errno
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from taskqd.client.address import AccessDenied, Address, TlsFiles, Unreachable
from taskqd.client.channel import Channel, PlainChannel
from taskqd.config.paths import MAX_SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from taskqd.client.peer_process import PeerProcess

CONNECT_TIMEOUT = 10.0
"""Time that a TCP connection and its TLS handshake may take (seconds)."""

_DISCONNECTED = (BrokenPipeError, ConnectionResetError)
_TLS_ALERT = b"\x15\x03"
"""First bytes of a TLS alert (RFC 8446 §5.1), which a TLS server sends to a client without TLS."""


class ConnectionLost(Unreachable):
    """The connection was established, and was lost before the reply arrived."""


class Connection:
    """A connection to a daemon, read by lines and by lengths. Every failure is raised as Unreachable."""

    def __init__(self, address: Address, tls_files: TlsFiles | None = None) -> None:
        self.address = address.text
        self._address = address
        self._tls_files = tls_files or TlsFiles()
        self._has_received = False
        self.open()

    def open(self) -> None:
        """Connect, or connect again after ``close``; bytes that were received before are discarded."""
        self._buffer = bytearray()
        self._opened_at = time.monotonic()
        try:
            self._channel = _connect(self._address, self._tls_files)
        except (OSError, ValueError) as error:  # UnicodeError, for an invalid host name, is a ValueError
            is_denied = self._address.is_local and isinstance(error, PermissionError)
            raise (AccessDenied if is_denied else Unreachable)(
                f"cannot reach the daemon at {self.address}: {_reason(error)}"
            ) from None

    def close(self) -> None:
        """Close the connection; closing it again has no effect."""
        self._channel.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``, and read replies whenever the daemon does not accept more.

        The daemon stops reading from a client that does not read its replies, so both would wait for each
        other. If the daemon has closed the connection, nothing is raised here: it may have sent the reason
        before, and the caller gets that when it reads the reply.
        """
        try:
            self._channel.send(memoryview(data), self._on_received)
        except _DISCONNECTED:
            return
        except (OSError, ValueError) as error:
            raise self._lost(error) from None

    def read_line(self) -> bytes:
        """Return the next line without its line end."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._receive()
        self._check_for_tls_alert()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def has_line(self, timeout: float = 0.0) -> bool:
        """Whether a line can be read without blocking, after waiting up to ``timeout`` seconds for one.

        Without a timeout only bytes that were received before count.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if timeout == 0.0 or left < 0 or not self._receive(left):
                return False
        return True

    @property
    def closed_without_reply(self) -> bool:
        """Whether a remote peer closed the connection early without sending anything.

        Such a peer is probably no daemon, or one that rejects this client, so a retry makes no sense.
        """
        return not (
            self._address.is_local
            or self._has_received
            or time.monotonic() - self._opened_at > CONNECT_TIMEOUT
        )

    def open_peer_process(self) -> "PeerProcess":
        """Return the process that listens at the other end; the caller closes it."""
        from taskqd.client.peer_process import PeerProcess  # noqa: PLC0415 - only needed by shutdown

        return PeerProcess(self._channel.socket)

    def wait_until_closed(self) -> None:
        """Wait until the daemon closes the connection; bytes that arrive meanwhile are discarded."""
        with suppress(ConnectionLost):
            while self._receive():
                self._buffer.clear()

    def is_closed_by_peer(self) -> bool:
        """Whether the daemon has closed the connection; raises Unreachable if this side has."""
        try:
            while self._receive(0.0):
                pass
        except ConnectionLost:
            return True
        return False

    def read(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        while len(self._buffer) < length:
            self._receive()
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _receive(self, timeout: float | None = None) -> bool:
        """Receive some bytes; return False if none arrive within ``timeout`` seconds."""
        try:
            data = self._channel.receive(timeout)
            if data is not None:
                self._on_received(data)
        except (OSError, ValueError) as error:
            raise self._lost(error) from None
        return data is not None

    def _on_received(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the daemon")
        self._has_received = True
        self._buffer += data

    def _check_for_tls_alert(self) -> None:
        if self._buffer.startswith(_TLS_ALERT):
            raise Unreachable(f"the daemon at {self.address} requires TLS; its address begins with tls:")

    def _lost(self, error: OSError | ValueError) -> Unreachable:
        self._check_for_tls_alert()
        was_open = isinstance(error, OSError) and error.errno != errno.EBADF
        why = _reason(error) + self._hint() if was_open else "the client is closed"
        return (ConnectionLost if was_open else Unreachable)(
            f"the connection to {self.address} was lost before the reply arrived: {why}; "
            "the request may or may not have been carried out"
        )

    def _hint(self) -> str:
        """Return the likely cause if a remote daemon has closed the connection without any reply."""
        if self._has_received or self._address.is_local:
            return ""
        if not self._address.uses_tls:
            return " (if the daemon requires TLS, its address begins with tls:)"
        cert = self._tls_files.cert
        return f" (the daemon may reject the certificate {cert})" if cert else ""


class Pipeline:
    """Sends requests ahead of the replies to earlier ones; each request has one reply.

    ``buffered_bytes`` counts the bytes that have not been sent yet, ``unanswered`` the requests that were
    sent and whose reply has not been read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffered: list[bytes] = []
        self.buffered_bytes = 0
        self.unanswered = 0

    def add(self, request: bytes) -> None:
        """Buffer a whole request."""
        self._buffered.append(request)
        self.buffered_bytes += len(request)

    def flush(self) -> None:
        """Send the buffered requests."""
        self._connection.send(b"".join(self._buffered))
        self.unanswered += len(self._buffered)
        self._buffered.clear()
        self.buffered_bytes = 0

    def should_read_reply(self, max_unanswered: int) -> bool:
        """Whether more than ``max_unanswered`` replies are outstanding, or one has already arrived."""
        return self.unanswered > max_unanswered or (self.unanswered > 0 and self._connection.has_line())

    def discard_replies(self) -> None:
        """Drop buffered requests and outstanding replies, so that the connection can be used again."""
        self._buffered.clear()
        while self.unanswered:
            self._connection.read_line()
            self.unanswered -= 1


def _connect(address: Address, tls_files: TlsFiles) -> Channel:
    if not address.is_local:
        connected = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A WAIT may take days; keepalive detects that the daemon's machine is gone.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.uses_tls:
                from taskqd.client import tls  # noqa: PLC0415 - ssl takes time to load

                return tls.open_tls_channel(connected, address, tls_files)
            connected.settimeout(None)
        except BaseException:
            connected.close()
            raise
        return PlainChannel(connected)
    if (size := len(os.fsencode(address.path))) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"its path has {size} bytes, the limit for a UNIX socket is {MAX_SOCKET_PATH_BYTES}")
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(address.path)
    except BaseException:
        connected.close()
        raise
    return PlainChannel(connected)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
