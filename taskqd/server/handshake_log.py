"""TLS handshakes that fail, in the log: one line at once, and one per interval for those that follow."""

from typing import Any

from twisted.logger import Logger

LOG_INTERVAL = 10.0
"""Failed handshakes are logged together every this many seconds, so that no scan fills the log."""


class HandshakeLog:
    """Logs the handshakes that fail, by address and reason."""

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._count = 0
        self._last = ("", "")
        self._timer: Any = None

    def failed(self, address: str, reason: str) -> None:
        """Log that a handshake with a client at ``address`` failed, or count it with others."""
        if self._timer is None:
            self._log.warn("TLS with {address} failed: {reason}", address=address, reason=reason)
            self._timer = self._clock.callLater(LOG_INTERVAL, self._log_others)
        else:
            self._count += 1
            self._last = (address, reason)

    def stop(self) -> None:
        """Log what was counted, and nothing more: the daemon stops."""
        if self._timer is not None:
            self._timer.cancel()
            self._log_others(is_over=True)

    def _log_others(self, *, is_over: bool = False) -> None:
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
        if not is_over:
            self._timer = self._clock.callLater(LOG_INTERVAL, self._log_others)
