"""Makes a connection for each client that is let in, and ends them all at a stop."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from taskqd.server.connection import Connection
from taskqd.server.connection_limits import ConnectionLimits
from taskqd.server.handlers.router import Router
from taskqd.server.handshake_log import HandshakeLog
from taskqd.server.submit_batching import SubmitBatcher
from taskqd.server.time_slices import TimeSlices
from taskqd.server.tls import handshake_error

CLOSE_TIMEOUT = 2.0
"""When the daemon stops, a client has so many seconds to take what it was answered."""


class TaskqFactory(Factory):
    """The connections that ``connection_limits`` lets in; ``connections`` has those that are open.

    ``submit_batcher`` takes what all of them submit.
    """

    noisy = False

    def __init__(self, verbs: Router, connection_limits: ConnectionLimits, clock: Any) -> None:
        self.connections: set[Connection] = set()
        self.submit_batcher = SubmitBatcher(verbs)
        self._verbs = verbs
        self._connection_limits = connection_limits
        self._clock = clock
        self._handshakes = HandshakeLog(clock)
        self._slices = TimeSlices(clock)
        self._closed: Deferred[None] | None = None
        self._patience: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Connection | None:
        if not self._connection_limits.has_room:
            return None
        return Connection(
            self._verbs,
            self.submit_batcher,
            self._connection_limits,
            self._clock,
            self._slices,
            self._opened,
            self._lost,
        )

    def _opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def _lost(self, connection: Connection, reason: Failure) -> None:
        self.connections.discard(connection)
        why = handshake_error(reason)
        if why is not None:
            self._handshakes.failed(connection.address, why)
        self._tell_if_closed()

    def close(self) -> "Deferred[None]":
        """End all connections and fire when they are; what does not read its replies is cut off."""
        closed = self._closed = Deferred()
        self._connection_limits.stop()
        self._handshakes.stop()
        self._patience = self._clock.callLater(CLOSE_TIMEOUT, self._cut_off)
        for connection in list(self.connections):
            connection.end()
        self._tell_if_closed()
        return closed

    def _cut_off(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def _tell_if_closed(self) -> None:
        if self._closed is not None and not self.connections:
            closed, self._closed = self._closed, None
            if self._patience.active():
                self._patience.cancel()
            closed.callback(None)
