"""Ports, transports and sockets without a network, and an authenticator."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.principal import Principal, user_name
from taskqd.errors import AuthFailed
from taskqd.model.roles import Role

ADA = Principal("ada", Role.ADMIN)
"""The default client of tests."""


class FakePort:
    """A listening port."""

    is_listening = True

    def pauseProducing(self) -> None:
        self.is_listening = False

    def resumeProducing(self) -> None:
        self.is_listening = True


class FakeAuthenticator:
    """Knows one token, ``sesame``; users of this machine are admins unless ``roles`` has another role."""

    def __init__(self) -> None:
        self.methods = ["token"]
        self.tokens = {"sesame": Principal("token", Role.ADMIN)}
        self.roles: dict[str, Role] = {}
        self.certified: Principal | None = None
        self.revoked: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.slow: list[Deferred[Principal]] | None = None

    def identify_peer(self, transport: Any) -> Principal | None:
        handle = transport.getHandle()
        if handle.family != socket.AF_UNIX:
            return None
        pid, uid, _ = struct.unpack("3i", handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        name = user_name(uid)
        return Principal(name, self.roles.get(name, Role.ADMIN), f"pid {pid}", uid=uid)

    def identify_certificate(self, transport: Any) -> Principal | None:
        return self.certified

    def authenticate(self, token: str, address: str) -> "Deferred[Principal]":
        self.asked.append((token, address))
        found = self.tokens.get(token)
        if self.slow is not None:
            self.slow.append(Deferred())
            return self.slow[-1]
        return fail(AuthFailed("that is not a token")) if found is None else succeed(found)

    def is_valid(self, principal: Principal) -> bool:
        return principal.token not in self.revoked


NOT_HUNG_UP = os.open(os.devnull, os.O_RDONLY)
"""A descriptor for which poll(2) does not report a hangup."""


class FakeSocket:
    """A socket with a family, and the uid or the address of its peer."""

    def __init__(self, family: int = socket.AF_UNIX, uid: int = 0, host: str = "10.0.0.5") -> None:
        self.family = family
        self.host = host
        self.options: list[tuple[int, int, int]] = []
        self._uid = uid

    def fileno(self) -> int:
        return NOT_HUNG_UP

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("3i", 4711, self._uid, self._uid)


@implementer(ITransport)
class FakeTransport:
    """The transport of a connection whose client reads only when the test calls `turn`.

    It behaves as ``twisted.internet.abstract.FileDescriptor``: above ``bufferSize`` unread bytes it pauses
    its producer; once all is read, it resumes a paused producer, or closes if that was requested.
    """

    disconnecting = False
    bufferSize = 65_536

    def __init__(self, handle: Any) -> None:
        self.received = b""
        self.is_reading = True
        self.is_half_closed = False
        self.is_aborted = False
        self.is_closed = False
        self.protocol: Protocol | None = None
        self._handle = handle
        self._unread = 0
        self._producer: Any = None
        self._is_producer_paused = False
        self._is_half_closing = False
        self._is_writing = False

    def getHandle(self) -> Any:
        return self._handle

    def getPeer(self) -> Any:
        return IPv4Address("TCP", getattr(self._handle, "host", "10.0.0.5"), 4242)

    def getHost(self) -> Any:
        return None

    def write(self, data: bytes) -> None:
        if self.is_closed or self.is_half_closed:
            return
        assert isinstance(data, bytes)
        self.received += data
        self._unread += len(data)
        self._is_writing = True
        if self._producer is not None and self._unread > self.bufferSize:
            self._is_producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert streaming
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self.is_reading = True

    def loseConnection(self) -> None:
        if self.disconnecting or self.is_closed:
            return
        if self.is_half_closed:
            self._close(ConnectionDone())
        else:
            self.disconnecting = self._is_writing = True
            self.is_reading = False

    def loseWriteConnection(self) -> None:
        self._is_half_closing = self._is_writing = True

    def abortConnection(self) -> None:
        self.is_aborted = True
        self._close(ConnectionLost())

    def turn(self) -> None:
        """Let the client read everything, and do what the reactor does then, until nothing is left."""
        while self._is_writing and not self.is_closed:
            self._unread = 0
            self._is_writing = False  # only a write or a close sets it again, as in doWrite
            if self._producer is not None and self._is_producer_paused:
                self._is_producer_paused = False
                self._producer.resumeProducing()
            elif self.disconnecting:
                self._close(ConnectionDone())
            elif self._is_half_closing:
                self._is_half_closing, self.is_half_closed = False, True

    def lose(self) -> None:
        """Lose the connection, as if the client had crashed."""
        self._close(ConnectionLost())

    def _close(self, why: Exception) -> None:
        self.is_closed = True
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(why))


def chunkings(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield ``data`` whole, byte by byte, and cut in two at every place."""
    yield (data,)
    yield tuple(data[at : at + 1] for at in range(len(data)))
    for at in range(1, len(data)):
        yield data[:at], data[at:]
