"""Makes a Connection for each client, and closes all of them when the daemon stops."""

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
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
"""Seconds that clients have to read their last replies when the daemon stops."""


class TaskqFactory(Factory):
    """Makes the connections that `connection_limits` permits.

    `connections` has those that are open. `submit_batcher` gets the submissions of all of them.
    """

    noisy = False

    def __init__(self, router: Router, connection_limits: ConnectionLimits, clock: IReactorTime) -> None:
        self.connections: set[Connection] = set()
        self.submit_batcher = SubmitBatcher(router)
        self._router = router
        self._connection_limits = connection_limits
        self._clock = clock
        self._handshake_log = HandshakeLog(clock)
        self._time_slices = TimeSlices(clock)
        self._closed: Deferred[None] | None = None
        self._close_timer: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> Connection | None:
        if self._connection_limits.available <= 0:
            return None
        return Connection(
            self._router,
            self.submit_batcher,
            self._connection_limits,
            self._clock,
            self._time_slices,
            self.connections.add,
            self._on_lost,
        )

    def _on_lost(self, connection: Connection, reason: Failure) -> None:
        self.connections.discard(connection)
        error = handshake_error(reason)
        if error is not None:
            self._handshake_log.add(connection.address, error)
        self._notify_closed()

    def close(self) -> "Deferred[None]":
        """Close all connections, and fire when they are closed; clients that do not read are aborted."""
        closed = self._closed = Deferred()
        self._connection_limits.stop()
        self._handshake_log.stop()
        self._close_timer = self._clock.callLater(CLOSE_TIMEOUT, self._abort_all)
        for connection in list(self.connections):
            connection.close()
        self._notify_closed()
        return closed

    def _abort_all(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def _notify_closed(self) -> None:
        if self._closed is None or self.connections:
            return
        closed, self._closed = self._closed, None
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        closed.callback(None)
