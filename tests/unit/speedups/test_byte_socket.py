"""UNIX sockets of clients: bytes and nothing else go in and out of them."""

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import main, tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from taskqd.server import endpoints
from taskqd.speedups import byte_socket
from taskqd.speedups.byte_socket import ByteSocket
from taskqd.speedups.client_poller import ClientPoller


@pytest.fixture(name="rounds", params=[True, False], ids=["in rounds", "by the reactor"])
def rounds_or_none(request: pytest.FixtureRequest, reactor: Any) -> ClientPoller | None:
    return ClientPoller(reactor) if request.param else None


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(self.transport, ByteSocket)
        transport: Any = self.transport
        transport.write(data)


def talked(path: str, sent: list[tuple[bytes, list[int]]]) -> tuple[bytes, bytes]:
    """Send bytes with descriptors beside them; return the answer, and what comes of it at a half-close."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for data, descriptors in sent:
            socket.send_fds(client, [data], descriptors)
        answer = b""
        while len(answer) < sum(len(data) for data, _ in sent):
            answer += client.recv(100)
        client.shutdown(socket.SHUT_WR)
        return answer, client.recv(100)


async def test_a_descriptor_that_somebody_sends_is_not_kept_and_the_bytes_come_through(
    reactor: Any, rounds: ClientPoller | None, tmp_path: Path
) -> None:
    port: Any = await endpoints.listen(reactor, f"unix:{tmp_path}/s", Factory.forProtocol(Echo), rounds)
    reading, writing = os.pipe()
    talking: Deferred[Any] = deferToThread(talked, f"{tmp_path}/s", [(b"one", [writing]), (b" two", [])])
    assert await talking == (b"one two", b"")
    os.close(writing)
    assert os.read(reading, 1) == b"", "somebody still has the other end open"
    os.close(reading)
    await port.stopListening()


async def test_what_is_more_than_a_socket_takes_is_written_in_the_end(
    reactor: Any, rounds: ClientPoller | None, tmp_path: Path
) -> None:
    much = b"x" * 3_000_000

    class Talker(Protocol):
        transport: Any

        def connectionMade(self) -> None:
            self.transport.write(much)
            self.transport.loseConnection()

    def read_all() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/s")
            return b"".join(iter(lambda: client.recv(65_536), b""))

    port: Any = await endpoints.listen(reactor, f"unix:{tmp_path}/s", Factory.forProtocol(Talker), rounds)
    assert await deferToThread(read_all) == much
    await port.stopListening()


class Connection(Protocol):
    """Remembers how it ended."""

    transport: Any

    def __init__(self) -> None:
        self.here: Deferred[None] = Deferred()
        self.gone: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        self.here.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(reason.type)


@pytest.mark.parametrize("has_unread, reason", [(False, ConnectionDone), (True, ConnectionLost)])
async def test_who_closes_is_done_and_who_breaks_off_is_lost(
    reactor: Any, rounds: ClientPoller | None, tmp_path: Path, has_unread: bool, reason: type[Exception]
) -> None:
    guest = Connection()
    factory = cast("Any", Factory())
    factory.buildProtocol = lambda _: guest
    port: Any = await endpoints.listen(reactor, f"unix:{tmp_path}/s", factory, rounds)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        await guest.here
        transport = guest.transport
        assert transport.doRead() is None, "nothing has come, which is no end"
        if has_unread:
            assert transport.writeSomeData(b"never read") == 10
    if has_unread:
        assert transport.writeSomeData(b"more") is main.CONNECTION_LOST
    assert await guest.gone is reason
    await port.stopListening()


class Port:
    def __init__(self, transport: Any) -> None:
        self.transport = transport


def test_other_sockets_are_left_as_they_are() -> None:
    class Newer(unix.Server):
        """As a later Twisted may make them."""

    for transport in (tcp.Server, Newer, None):
        port: Any = Port(transport)
        taken: Any = byte_socket.use_byte_sockets(port)
        assert taken is port
        assert taken.transport is transport
    without: Any = object()
    assert byte_socket.use_byte_sockets(without) is without
