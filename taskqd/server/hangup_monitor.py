"""Notices that a client is gone while nothing is read from it, so that no read can report its end."""

import select
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskqd.server.transport import IClientTransport, socket_transport

CHECK_INTERVAL = 5.0
"""Seconds between two checks."""


def has_hung_up(transport: IClientTransport) -> bool:
    """Whether the peer has closed both halves; known of UNIX sockets only, TCP has keep-alive probes."""
    poll = select.poll()
    poll.register(socket_transport(transport).getHandle(), 0)
    return bool(poll.poll(0))


class HangupMonitor:
    """Checks a connection as long as `must_check()`, and aborts it when its client has hung up."""

    def __init__(self, clock: IReactorTime, must_check: Callable[[], bool]) -> None:
        self._clock = clock
        self._must_check = must_check
        self._timer: IDelayedCall | None = None

    def start(self, transport: IClientTransport) -> None:
        """Check after CHECK_INTERVAL; does nothing if that is scheduled already."""
        if self._timer is None:
            self._timer = self._clock.callLater(CHECK_INTERVAL, self._check, transport)

    def check_now(self, transport: IClientTransport) -> None:
        """Check now, unless a check is scheduled already."""
        if self._timer is None:
            self._check(transport)

    def stop(self) -> None:
        """Check no more, and drop the callback: the connection has this object, so a cycle would remain."""
        self._must_check = _is_closed
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self, transport: IClientTransport) -> None:
        self._timer = None
        if not self._must_check():
            return
        if has_hung_up(transport):
            transport.abortConnection()
        else:
            self.start(transport)


def _is_closed() -> bool:
    """Return False: a closed connection needs no check."""
    return False
