"""Properties of transports: unsent bytes, and peers that have hung up."""

import socket
from typing import Any

from twisted.internet.abstract import FileDescriptor

from taskqd.server.transport import free_buffers, has_hung_up, unsent_bytes
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


def test_peer_has_hung_up_once_it_has_closed_both_halves() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport: Any = FakeTransport(ours)
        assert not has_hung_up(transport)
        theirs.shutdown(socket.SHUT_WR)
        assert not has_hung_up(transport)
        theirs.close()
        assert has_hung_up(transport)
