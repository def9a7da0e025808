"""Logs failed TLS handshakes: the first one at once, those that follow together."""

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

LOG_INTERVAL = 10.0
"""Seconds between two lines about failed handshakes, so that a port scan does not fill the log."""


class HandshakeLog:
    """Logs failed handshakes with the address of the client and the reason."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._count = 0
        self._last = ("", "")
        self._timer: IDelayedCall | None = None

    def add(self, address: str, reason: str) -> None:
        """Log a failed handshake, or count it if one was logged less than LOG_INTERVAL ago."""
        if self._timer is None:
            self._log.warn("TLS with {address} failed: {reason}", address=address, reason=reason)
            self._timer = self._clock.callLater(LOG_INTERVAL, self._log_others)
        else:
            self._count += 1
            self._last = (address, reason)

    def stop(self) -> None:
        """Log the handshakes that were counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._log_others(is_last=True)

    def _log_others(self, *, is_last: bool = False) -> None:
        count, self._count, self._timer = self._count, 0, None
        if not count:
            return
        address, reason = self._last
        self._log.warn(
            "TLS with {count} more clients failed, the last one {address}: {reason}",
            count=count,
            address=address,
            reason=reason,
        )
        if not is_last:
            self._timer = self._clock.callLater(LOG_INTERVAL, self._log_others)
