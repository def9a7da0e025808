"""Sockets of clients: they transfer bytes and nothing else, and are served in batches."""

import os
import socket
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import main, unix
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from taskqd.server import endpoints
from taskqd.server.unix_port import AdoptedPort
from taskqd.speedups.byte_socket import ByteSocket, ByteTcpSocket
from taskqd.speedups.reactor import AcceleratedReactor
from tests.support.certificates import Authority


class WithoutDescriptors:
    """A reactor that does not provide IReactorFDSet."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@pytest.fixture(name="accelerated", params=[True, False], ids=["with a poller", "by the reactor"])
def accelerated_reactor(request: pytest.FixtureRequest, reactor: Any) -> Any:
    return AcceleratedReactor(reactor if request.param else WithoutDescriptors(reactor))


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(self.transport, ByteSocket)
        transport: Any = self.transport
        transport.write(data)


def talk(path: str, sent: list[tuple[bytes, list[int]]]) -> tuple[bytes, bytes]:
    """Send bytes with descriptors; return the reply, and what is received after a half-close."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for data, descriptors in sent:
            socket.send_fds(client, [data], descriptors)
        answer = b""
        while len(answer) < sum(len(data) for data, _ in sent):
            answer += client.recv(100)
        client.shutdown(socket.SHUT_WR)
        return answer, client.recv(100)


async def test_received_descriptor_is_closed_and_the_bytes_arrive(accelerated: Any, tmp_path: Path) -> None:
    port: Any = await endpoints.listen(accelerated, f"unix:{tmp_path}/s", Factory.forProtocol(Echo))
    reading, writing = os.pipe()
    talking: Deferred[Any] = deferToThread(talk, f"{tmp_path}/s", [(b"one", [writing]), (b" two", [])])
    assert await talking == (b"one two", b"")
    os.close(writing)
    assert os.read(reading, 1) == b"", "the other end is still open"
    os.close(reading)
    await port.stopListening()


async def test_more_bytes_than_a_socket_accepts_are_written_later(accelerated: Any, tmp_path: Path) -> None:
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

    port: Any = await endpoints.listen(accelerated, f"unix:{tmp_path}/s", Factory.forProtocol(Talker))
    assert await deferToThread(read_all) == much
    await port.stopListening()


class Connection(Protocol):
    """Records the reason of its end."""

    transport: Any

    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        self.made.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.type)


@pytest.mark.parametrize("has_unread, reason", [(False, ConnectionDone), (True, ConnectionLost)])
async def test_close_is_reported_as_done_and_reset_as_lost(
    accelerated: Any, tmp_path: Path, has_unread: bool, reason: type[Exception]
) -> None:
    connection = Connection()
    factory = cast("Any", Factory())
    factory.buildProtocol = lambda _: connection
    port: Any = await endpoints.listen(accelerated, f"unix:{tmp_path}/s", factory)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        await connection.made
        transport = connection.transport
        assert transport.doRead() is None, "no bytes have arrived, which is not the end"
        if has_unread:
            assert transport.writeSomeData(b"never read") == 10
    if has_unread:
        assert transport.writeSomeData(b"more") is main.CONNECTION_LOST
    assert await connection.lost is reason
    await port.stopListening()


async def test_clients_of_the_standard_endpoint_are_byte_sockets_too(
    accelerated: Any, tmp_path: Path
) -> None:
    endpoint: Any = serverFromString(accelerated, f"unix:{tmp_path}/s")
    port = await endpoint.listen(Factory.forProtocol(Echo))
    assert await deferToThread(talk, f"{tmp_path}/s", [(b"one", [])]) == (b"one", b"")
    await port.stopListening()


async def test_clients_of_an_adopted_socket_are_byte_sockets_too(accelerated: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(f"{tmp_path}/s")
        systemd.listen()
        port: Any = AdoptedPort.adopt(accelerated, systemd.fileno(), Factory.forProtocol(Echo), 5)
        assert await deferToThread(talk, f"{tmp_path}/s", [(b"one", [])]) == (b"one", b"")
        await port.stopListening()


async def test_clients_of_another_reactor_have_its_transport(reactor: Any, tmp_path: Path) -> None:
    port: Any = await endpoints.listen(reactor, f"unix:{tmp_path}/s", Factory.forProtocol(Echo))
    assert port.transport is unix.Server
    await port.stopListening()


class PlainEcho(Protocol):
    """Echoes, and counts in ``batches`` the batches that were running when it received something."""

    transport: Any
    batches: "Batches"

    def dataReceived(self, data: bytes) -> None:
        self.batches.seen += self.batches.running
        self.transport.write(data)


class Batches:
    """Observes the batches of a reactor."""

    running = 0
    seen = 0

    def batch_started(self) -> None:
        self.running += 1

    def batch_ended(self) -> None:
        self.running -= 1


def talk_over(number: int, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes to a port on loopback, and return the reply."""
    with socket.create_connection(("127.0.0.1", number)) as plain:
        client = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        with client:
            client.sendall(b"hello")
            return client.recv(100)


async def test_tcp_clients_are_byte_sockets_and_are_served_in_batches(accelerated: Any) -> None:
    class TcpEcho(PlainEcho):
        def dataReceived(self, data: bytes) -> None:
            assert isinstance(self.transport, ByteTcpSocket)
            super().dataReceived(data)
            assert not self.transport.dataBuffer, "the reply is written directly"

    TcpEcho.batches = batches = Batches()
    accelerated.batches.add(batches)
    port: Any = await endpoints.listen(accelerated, "tcp:0:interface=127.0.0.1", Factory.forProtocol(TcpEcho))
    assert await deferToThread(talk_over, port.getHost().port) == b"hello"
    assert batches.seen == IReactorFDSet.providedBy(accelerated)
    await port.stopListening()


async def test_tls_clients_are_byte_sockets_and_are_served_in_batches(
    accelerated: Any, tmp_path: Path
) -> None:
    class TlsEcho(PlainEcho):
        def dataReceived(self, data: bytes) -> None:
            assert isinstance(self.transport.transport, ByteTcpSocket)
            below: Any = self.transport.transport
            written: list[bytes] = []
            below.write = written.append
            super().dataReceived(data)
            assert written, "the reply is encrypted at once"
            del below.write
            below.write(b"".join(written))

    authority = Authority(tmp_path)
    pair = authority.issue("daemon", "localhost")
    TlsEcho.batches = batches = Batches()
    accelerated.batches.add(batches)
    endpoint = f"tls:0:interface=127.0.0.1:key={pair.key}:cert={pair.cert}"
    port: Any = await endpoints.listen(accelerated, endpoint, Factory.forProtocol(TlsEcho))
    context = ssl.create_default_context(cafile=str(authority.cert))
    assert await deferToThread(talk_over, port.getHost().port, context) == b"hello"
    assert batches.seen == IReactorFDSet.providedBy(accelerated)
    await port.stopListening()
