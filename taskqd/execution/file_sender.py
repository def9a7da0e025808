"""Sends messages with open descriptors over a UNIX socket (unix(7), SCM_RIGHTS)."""

import os
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.interfaces import IConsumer, IPullProducer, IUNIXTransport
from zope.interface import implementer


@implementer(IPullProducer)
class FileSender:
    """Sends descriptors, and closes each one when it is sent or the connection is lost.

    The transport asks a pull producer for more when it has sent all that it had, descriptors included.
    """

    def __init__(self, transport: IUNIXTransport) -> None:
        self._transport = transport
        self._descriptors: list[int] = []
        self._is_closing = False
        self._consumer = IConsumer(transport)
        self._consumer.registerProducer(self, False)

    def send(self, line: bytes, descriptors: Sequence[int]) -> None:
        """Send a line that is longer than the number of its ``descriptors``, and close these later."""
        self._descriptors += descriptors
        for descriptor in descriptors:
            self._transport.sendFileDescriptor(descriptor)
        self._transport.write(line)

    def close(self) -> None:
        """Let the transport close when it has sent everything."""
        self._is_closing = True
        if not self._descriptors:
            self._consumer.unregisterProducer()

    def resumeProducing(self) -> None:
        """Close what is sent."""
        self._close_all()
        if self._is_closing:
            self._consumer.unregisterProducer()

    def stopProducing(self) -> None:
        """Close everything: the connection is lost."""
        self._close_all()

    def _close_all(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
