"""Descriptors that are sent over a UNIX socket: in order, and closed when they are sent."""

import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet import reactor as the_reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.unix import Server
from twisted.python.failure import Failure

from taskqd.execution.file_sender import FileSender


class Ends:
    """Both ends of a UNIX connection: a transport of Twisted's, whose reactor the test is, and a socket."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()
        near, self.far = socket.socketpair()
        near.setblocking(False)
        self.protocol = Protocol()
        make: Any = Server
        self.transport: Any = make(near, self.protocol, "", None, 0, self)
        self.protocol.makeConnection(self.transport)
        self.sender = FileSender(self.transport)

    def addReader(self, _: object) -> None: ...

    def removeReader(self, _: object) -> None: ...

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)

    def callLater(self, *arguments: Any) -> Any:
        return cast("IReactorTime", the_reactor).callLater(*arguments)

    def write(self) -> Any:
        """Let the transport write once, if it wants to."""
        return self.transport.doWrite() if self.writers else None

    def receive(self) -> tuple[bytes, list[int]]:
        data, descriptors = b"", []
        while not data.endswith(b"\n"):
            piece, found, _, _ = socket.recv_fds(self.far, 1000, 100)
            data += piece
            descriptors += found
        return data, descriptors


@pytest.fixture(name="ends")
def both_ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.far.close()
    if ends.transport.connected:
        ends.transport.connectionLost(Failure(ConnectionError("over")))


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def test_descriptors_arrive_in_order_and_are_closed_when_they_are_sent(ends: Ends) -> None:
    pipes = [*os.pipe(), *os.pipe()]
    expected = [identity(each) for each in pipes]
    ends.sender.send(b"12345\n", pipes[:2])
    ends.sender.send(b"67890\n", pipes[2:])
    assert all(map(is_open, pipes))
    ends.write()
    assert not any(map(is_open, pipes))
    data, descriptors = ends.receive()
    assert data == b"12345\n67890\n"
    assert [identity(each) for each in descriptors] == expected
    for each in descriptors:
        os.close(each)


def test_lost_connection_closes_what_was_not_sent(ends: Ends) -> None:
    pipe = os.pipe()
    ends.sender.send(b"12345\n", pipe)
    ends.transport.connectionLost(Failure(ConnectionError("lost")))
    assert not any(map(is_open, pipe))


def test_close_waits_until_everything_is_sent(ends: Ends) -> None:
    pipe = os.pipe()
    ends.sender.send(b"12345\n", pipe)
    ends.sender.close()
    ends.transport.loseConnection()
    ends.write()
    assert not any(map(is_open, pipe))
    assert ends.receive()[0] == b"12345\n"
    assert ends.transport.producer is None


def test_close_with_nothing_to_send_lets_the_transport_close(ends: Ends) -> None:
    ends.sender.close()
    assert ends.transport.producer is None
