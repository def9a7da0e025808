"""Polls all clients with a separate epoll(7), which is one descriptor for the reactor.

The reactor sets up a logging context for each event of each descriptor, which costs more than reading a line.
It also does not tell when all events of a poll are handled. Here all clients that are ready are served in one
poll cycle, whose start and end are announced as a batch. Reading, writing, closing and half-closing follow
twisted.internet.posixbase; an exception is logged and closes the connection that raised it.
"""

import select
from typing import Any, Protocol

from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.speedups.batch import BatchScope

READ, WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
END = HANGUP | select.EPOLLRDHUP
MAX_SERVED = 500
"""Clients that are served in one poll cycle, at 10 to 25 µs per request: the reactor has other work too."""
MAX_ENDED = 200
"""Connections whose peer has closed that are served in one poll cycle, at 50 to 80 µs each."""


class ISocketTransport(Protocol):
    """A transport with a socket, as twisted.internet.tcp.Connection."""

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""

    def doRead(self) -> Exception | None:
        """Read once; returns why the connection ends, if it does."""

    def doWrite(self) -> Exception | None:
        """Write once; returns why the connection ends, if it does."""

    def readConnectionLost(self, reason: Failure) -> object:
        """The peer has closed its half."""

    def connectionLost(self, reason: Failure) -> object:
        """The connection is closed."""


@implementer(IReadDescriptor)
class ClientPoller:
    """The reactor of the clients' transports, and one descriptor of the real ``reactor``.

    In each poll cycle, which is one batch of ``batches``, each client that is ready is served once, up to
    MAX_SERVED; the others follow in the next cycles, before the next poll. Clients that have closed are
    served last, up to MAX_ENDED in each poll, so that requests do not wait for thousands of them. All methods
    that do not concern descriptors are the reactor's.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorFDSet, batches: BatchScope) -> None:
        self._reactor = reactor
        self._batches = batches
        self._epoll = select.epoll()
        self._clients: dict[int, ISocketTransport] = {}
        self._events: dict[int, int] = {}
        self._unserved: list[tuple[int, ISocketTransport, int]] = []  # of the last poll, with their events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # Called by the clients' transports.

    def addReader(self, client: ISocketTransport) -> None:
        """Read from a client when it has sent something."""
        self._change(client, READ, 0)

    def addWriter(self, client: ISocketTransport) -> None:
        """Write to a client when its socket accepts bytes."""
        self._change(client, WRITE, 0)

    def removeReader(self, client: ISocketTransport) -> None:
        """Stop reading from a client."""
        self._change(client, 0, READ)

    def removeWriter(self, client: ISocketTransport) -> None:
        """Stop writing to a client."""
        self._change(client, 0, WRITE)

    def _change(self, client: ISocketTransport, added: int, removed: int) -> None:
        descriptor = self._descriptor(client)
        if descriptor is None:
            return
        before = self._events.get(descriptor, 0)
        events = (before | added) & ~removed
        if events == before:
            return
        if before and events:
            self._epoll.modify(descriptor, events)
            self._events[descriptor] = events
        elif events:
            self._epoll.register(descriptor, events)
            self._events[descriptor], self._clients[descriptor] = events, client
            if len(self._clients) == 1:
                self._reactor.addReader(self)
        else:
            self._epoll.unregister(descriptor)
            del self._events[descriptor], self._clients[descriptor]
            if not self._clients:
                self._reactor.removeReader(self)

    def _descriptor(self, client: ISocketTransport) -> int | None:
        """Return a client's descriptor; for a closed one, that under which it is still registered."""
        descriptor = client.fileno()
        if descriptor >= 0:
            return descriptor
        return next((known for known, other in self._clients.items() if other is client), None)

    # Called by the reactor.

    def fileno(self) -> int:
        """Return the descriptor that is readable when any client is ready."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return the name for the log."""
        return "clients"

    def doRead(self) -> None:
        """Serve clients that are ready."""
        self._batches.begin()
        ended = [] if self._unserved else self._poll()
        portion, self._unserved = self._unserved[:MAX_SERVED], self._unserved[MAX_SERVED:]
        for descriptor, client, events in (*portion, *ended):
            if self._clients.get(descriptor) is client:  # else it was closed meanwhile
                try:
                    self._serve(client, descriptor, events)
                except BaseException:  # noqa: BLE001 - the other clients must be served all the same
                    self._log.failure("internal error while closing a connection")
        self._batches.end()

    def _poll(self) -> list[tuple[int, ISocketTransport, int]]:
        """Find the clients that are ready; return the first MAX_ENDED of those that have closed."""
        ended: list[tuple[int, ISocketTransport, int]] = []
        clients = self._clients
        for descriptor, events in self._epoll.poll(0, len(clients)):
            ready = descriptor, clients[descriptor], events
            if not events & END:
                self._unserved.append(ready)
            elif len(ended) < MAX_ENDED:
                ended.append(ready)
        return ended

    def connectionLost(self, reason: Failure) -> None:
        """Close all clients: the reactor stops."""
        for client in list(self._clients.values()):
            client.connectionLost(reason)

    def _serve(self, client: ISocketTransport, descriptor: int, events: int) -> None:
        """Read from a client and write to it, as posixbase's ``_doReadOrWrite`` does."""
        is_reading = False
        reason: BaseException | None = None
        try:
            if events & READ:
                is_reading = True
                reason = client.doRead()
            elif events & HANGUP:
                is_reading = bool(self._events[descriptor] & READ)
                reason = CONNECTION_DONE if is_reading else CONNECTION_LOST
            if events & WRITE and not reason and self._events.get(descriptor, 0) & WRITE:
                is_reading = False
                reason = client.doWrite()
        except BaseException as error:  # noqa: BLE001 - it closes only this connection
            self._log.failure("internal error in a connection, which is closed")
            reason = error
        if reason:
            self._disconnect(client, reason, is_reading)

    def _disconnect(self, client: ISocketTransport, reason: BaseException, is_reading: bool) -> None:
        """Report the end of a connection, or of its input, as posixbase's ``_disconnectSelectable`` does."""
        self.removeReader(client)
        if is_reading and reason is CONNECTION_DONE and IHalfCloseableDescriptor.providedBy(client):
            client.readConnectionLost(Failure(reason))
        else:
            self.removeWriter(client)
            client.connectionLost(Failure(reason))
