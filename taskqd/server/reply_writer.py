"""Writes the replies of one connection, and is the producer that its transport pauses.

The Connection itself cannot be the producer: LineReceiver's `resumeProducing` continues the framing. A send
buffer that drains would then deliver the line behind an AUTH whose result is still unknown.
"""

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from taskqd.server.flow_control import FlowControl, PauseReason
from taskqd.server.transport import IClientTransport, socket_transport, unsent_bytes


class IBufferLimits(Protocol):
    """How many bytes the transport of a connection may buffer now."""

    def buffer_sizes(self, limit: int) -> tuple[int, int]:
        """Return how many bytes of replies may be unsent, and how many may be read in one call.

        Both are at most `limit`.
        """

    def count_memory(self) -> None:
        """Count again what this connection takes."""


@implementer(IPushProducer)
class ReplyWriter:
    """Writes to `transport`; `limit` is the setting for unsent bytes.

    `on_paused()` and `on_resumed()` are called after the flow control was changed because the client does not
    read its replies, or reads them again.
    """

    def __init__(
        self,
        transport: IClientTransport,
        flow: FlowControl,
        buffers: IBufferLimits,
        limit: int,
        on_paused: Callable[[], None],
        on_resumed: Callable[[], None],
    ) -> None:
        self.is_within_line = False
        self._transport = transport
        self._socket = socket_transport(transport)
        self._flow = flow
        self._buffers = buffers
        self._limit = limit
        self._on_paused = on_paused
        self._on_resumed = on_resumed
        self._postponed = b""

    def start(self, buffer_size: int) -> None:
        """Become the producer of the transport, which first reads up to `buffer_size` bytes in one call."""
        self._socket.bufferSize = min(buffer_size, self._limit)
        self._transport.registerProducer(self, True)

    def stop(self) -> None:
        """Stop being the producer: a transport that has one does not close."""
        self._transport.unregisterProducer()

    def send(self, data: bytes) -> None:
        """Write the rest of a line or block, or whole ones."""
        data, self._postponed = data + self._postponed, b""
        self.is_within_line = False
        self._write(data)

    def send_part(self, data: bytes) -> None:
        """Write a part of a line or block; `send` must follow."""
        self.is_within_line = True
        self._write(data)

    def send_between_lines(self, data: bytes) -> None:
        """Write an answer to a telnet sequence now, or behind the line that is being written."""
        if self.is_within_line:
            self._postponed += data
        else:
            self._transport.write(data)

    def set_read_size(self) -> None:
        """Set how many bytes the transport reads in one call."""
        _, self._socket.bufferSize = self._buffers.buffer_sizes(self._limit)

    def _write(self, data: bytes) -> None:
        # Twisted has one setting for the bytes read in one call and for those that may be unsent.
        self._socket.bufferSize, max_read = self._buffers.buffer_sizes(self._limit)
        self._transport.write(data)
        self._socket.bufferSize = max_read
        unsent = unsent_bytes(self._socket)
        if unsent != self._flow.unsent:
            self._flow.unsent = unsent
            self._buffers.count_memory()

    # Called by the transport.

    def pauseProducing(self) -> None:
        self._flow.pause(PauseReason.CONGESTED)
        self._on_paused()

    def resumeProducing(self) -> None:
        self._flow.unsent = 0
        self._flow.resume(PauseReason.CONGESTED)
        self._on_resumed()

    def stopProducing(self) -> None:
        self._flow.pause(PauseReason.CONGESTED)
