"""Writes replies to the socket at once, without waiting for the reactor.

Twisted's transports write when the reactor finds the socket writable, which takes two changes of the
reactor's epoll set and one turn of the reactor per reply. A socket nearly always accepts a reply, so this
mixin tries that first. Bytes that the socket does not accept are written by Twisted as usual.
"""

from twisted.internet import tcp


class DirectWriteMixin(tcp.Connection):
    """For transports that have a socket."""

    def write(self, data: bytes) -> None:
        """Write bytes after all that were written before."""
        # The second buffer is private: if another Twisted names it differently, nothing is written directly.
        has_queued = self.dataBuffer or vars(self).get("_tempDataLen", 1)
        if has_queued or self.disconnecting or not self.connected:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        sent = self.writeSomeData(data)
        # After an error, Twisted's own write meets it again, and closes the connection as it should.
        rest = data if isinstance(sent, Exception) else data[sent:]
        if rest:
            super().write(rest)  # type: ignore[no-untyped-call]
