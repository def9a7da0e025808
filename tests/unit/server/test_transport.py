"""Unsent bytes of transports."""

from typing import Any

from twisted.internet.abstract import FileDescriptor

from taskqd.server.transport import free_buffers, unsent_bytes
from tests.fakes.connections import FakeTransport


class Transport(FileDescriptor):
    """A transport that writes nothing."""

    connected = True

    def startWriting(self) -> None:
        """Ignore the call."""


def test_unsent_bytes_are_all_that_a_transport_has_buffered() -> None:
    reactor: Any = object()
    transport: Any = Transport(reactor)
    assert unsent_bytes(transport) == 0
    transport.write(b"hello")
    assert unsent_bytes(transport) == 5
    transport.dataBuffer, transport.offset = b"earlier", 4
    assert unsent_bytes(transport) == 8
    free_buffers(transport)
    transport.offset = 0
    assert unsent_bytes(transport) == 0


def test_unsent_bytes_of_an_unknown_transport_are_none() -> None:
    transport: Any = FakeTransport(None)
    assert unsent_bytes(transport) == 0
