"""Closes the transport of one connection after its last replies.

A client that does not read them is aborted after a timeout.
"""

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskqd.server.reply_writer import ReplyWriter
from taskqd.server.transport import IClientTransport

CLOSE_TIMEOUT = 10.0
"""Seconds that a client has to read its last replies before the connection is aborted."""
UNIDENTIFIED_CLOSE_TIMEOUT = 1.0
"""The same for a client that was rejected before it authenticated: it takes a place that others wait for."""


class TransportCloser:
    """Closes `transport`, whose producer is `writer`; which way, the state of the connection decides."""

    def __init__(self, transport: IClientTransport, writer: ReplyWriter, clock: IReactorTime) -> None:
        self._transport = transport
        self._writer = writer
        self._clock = clock
        self._timer: IDelayedCall | None = None

    def close(self) -> None:
        """Close once everything is written; an earlier timeout stays in force."""
        self._writer.stop()
        self._transport.loseConnection()
        if self._timer is None:
            self._start_timer(CLOSE_TIMEOUT)

    def close_unidentified(self) -> None:
        """Close like `close`, but abort sooner."""
        self._start_timer(UNIDENTIFIED_CLOSE_TIMEOUT)
        self.close()

    def close_our_half(self) -> None:
        """Close our half once everything is written; the client has to close its own before the timeout."""
        self._writer.stop()
        self._transport.loseWriteConnection()
        self._start_timer(CLOSE_TIMEOUT)

    def stop(self) -> None:
        """Abort no more: the connection is closed."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _start_timer(self, timeout: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(timeout, self._transport.abortConnection)
