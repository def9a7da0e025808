"""The poller of clients: serves those that are ready, each as the reactor would serve it."""

import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorFDSet, IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from taskqd.speedups import client_poller
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.byte_socket import ByteSocket
from taskqd.speedups.client_poller import ClientPoller

MUCH = 3_000_000
"""More bytes than a socket accepts in one call."""


@implementer(IReactorFDSet)
class Descriptors(Clock):
    """A reactor that remembers its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None:
        raise AssertionError

    removeWriter = addWriter

    def getReaders(self) -> list[Any]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return []

    def removeAll(self) -> list[Any]:
        raise AssertionError


class Connection(Protocol):
    """Adds its events to ``harness.events``; calls ``on_data`` and ``on_lost``."""

    transport: Any

    def __init__(self, harness: "Harness", name: str) -> None:
        self._harness = harness
        self._name = name
        self.on_data: Any = lambda: None
        self.on_lost: Any = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self._harness.events.append(f"{self._name} {data.decode()}")
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._harness.events.append(f"{self._name} {cast('Any', reason.type).__name__}")
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class Closeable(Connection):
    """A connection whose halves may be closed separately."""

    def readConnectionLost(self) -> None:
        self._harness.events.append(f"{self._name} input ended")

    def writeConnectionLost(self) -> None:
        self._harness.events.append(f"{self._name} output ended")


class Observer:
    """Reports the start and the end of each batch."""

    def __init__(self, report: Callable[[str], None], name: str = "") -> None:
        self._report = report
        self._name = name

    def batch_started(self) -> None:
        self._report(f"begin{self._name}")

    def batch_ended(self) -> None:
        self._report(f"end{self._name}")


class Harness:
    """A poller on a fake reactor, with clients at the other ends of real sockets."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.reactor = Descriptors()
        self.poller = ClientPoller(self.reactor, BatchScope(Observer(self.events.append)))
        self.connections: list[Connection] = []
        self.clients: list[socket.socket] = []

    def connect(self, kind: type[Connection] = Connection) -> None:
        """Accept a client; its number is its name."""
        ours, theirs = socket.socketpair()
        connection = kind(self, str(len(self.connections)))
        self.connections.append(connection)
        self.clients.append(theirs)
        make: Any = ByteSocket
        meet: Any = connection.makeConnection
        meet(make(ours, connection, None, None, 0, self.poller))

    def turn(self) -> list[str]:
        """Let the reactor poll once, and return the events."""
        for reader in list(self.reactor.readers):
            reader.doRead()
        self.reactor.advance(0)
        events = self.events.copy()
        self.events.clear()
        return events

    def close(self) -> None:
        """Close all clients."""
        for client in self.clients:
            client.close()
        self.turn()
        assert self.reactor.readers == []


@pytest.fixture(name="harness")
def a_harness() -> Any:
    harness = Harness()
    yield harness
    harness.close()


def test_poller_provides_its_interface(harness: Harness) -> None:
    verifyObject(IReadDescriptor, harness.poller)
    assert harness.poller.logPrefix() == "clients"


def test_all_ready_clients_are_served_in_one_cycle(harness: Harness) -> None:
    for _ in range(3):
        harness.connect()
    for number in (0, 2):
        harness.clients[number].send(b"x")
    assert harness.turn() == ["begin", "0 x", "2 x", "end"]
    assert harness.turn() == ["begin", "end"]


def test_client_is_served_once_per_cycle_however_much_it_sends(harness: Harness) -> None:
    harness.connect()
    harness.connections[0].on_data = lambda: harness.clients[0].send(b"y")
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin", "0 x", "end"]
    harness.connections[0].on_data = lambda: None
    assert harness.turn() == ["begin", "0 y", "end"]


def test_reactor_has_one_descriptor_for_all_clients_and_none_without_clients(harness: Harness) -> None:
    assert harness.reactor.readers == []
    harness.connect()
    harness.connect()
    assert harness.reactor.readers == [harness.poller]
    harness.clients[0].close()
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]
    assert harness.reactor.readers == [harness.poller]
    harness.clients[1].close()
    harness.turn()
    assert harness.reactor.readers == []
    harness.connect()
    assert harness.reactor.readers == [harness.poller]


def test_paused_client_is_not_read_from_until_it_is_resumed(harness: Harness) -> None:
    harness.connect()
    harness.connections[0].transport.pauseProducing()
    harness.clients[0].send(b"x")
    assert harness.turn() == []
    harness.connections[0].transport.resumeProducing()
    assert harness.turn() == ["begin", "0 x", "end"]


def test_bytes_that_a_socket_does_not_accept_are_written_later(harness: Harness) -> None:
    harness.connect()
    client = harness.clients[0]
    client.setblocking(False)
    harness.connections[0].transport.write(b"x" * MUCH)
    harness.connections[0].transport.loseConnection()
    received = 0
    while "0 ConnectionDone" not in harness.turn():
        received += len(client.recv(MUCH))
    while more := len(client.recv(MUCH)):
        received += more
    assert received == MUCH


def test_client_closed_in_this_cycle_is_not_served_in_it(harness: Harness) -> None:
    harness.connect()
    harness.connect()
    harness.connections[0].on_data = harness.connections[1].transport.abortConnection
    for client in harness.clients:
        client.send(b"x")
    assert harness.turn() == ["begin", "0 x", "end", f"1 {ConnectionAborted.__name__}"]


def test_client_closed_while_it_is_read_from_is_not_written_to(harness: Harness, logged_errors: Any) -> None:
    harness.connect()
    connection = harness.connections[0]
    connection.transport.write(b"x")
    connection.on_data = lambda: connection.transport.connectionLost(Failure(ConnectionDone()))
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin", "0 x", "0 ConnectionDone", "end"]
    assert logged_errors.flush() == []


def test_exception_in_a_connection_is_logged_and_closes_only_that_one(
    harness: Harness, logged_errors: Any
) -> None:
    harness.connect()
    harness.connect()
    harness.connections[0].on_data = lambda: 1 // 0
    for client in harness.clients:
        client.send(b"x")
    assert harness.turn() == ["begin", "0 x", "0 ZeroDivisionError", "1 x", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert harness.clients[0].recv(1) == b""


def test_exception_while_closing_is_logged_and_the_others_are_served(
    harness: Harness, logged_errors: Any
) -> None:
    harness.connect()
    harness.connect()
    harness.connections[0].on_lost = lambda: 1 // 0
    harness.clients[0].close()
    harness.clients[1].send(b"x")
    assert harness.turn() == ["begin", "1 x", "0 ConnectionDone", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_observers_are_notified_of_the_end_in_reverse_order(harness: Harness) -> None:
    report = harness.events.append
    harness.poller = ClientPoller(harness.reactor, BatchScope(Observer(report, " 1"), Observer(report, " 2")))
    harness.connect()
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin 1", "begin 2", "0 x", "end 2", "end 1"]


def test_exception_at_the_end_of_a_batch_is_logged_and_closes_nothing(
    harness: Harness, logged_errors: Any
) -> None:
    broken: Any = Observer(harness.events.append)
    broken.batch_ended = lambda: 1 // 0
    harness.poller = ClientPoller(harness.reactor, BatchScope(Observer(harness.events.append), broken))
    harness.connect()
    for data in (b"x", b"y"):
        harness.clients[0].send(data)
        assert harness.turn() == ["begin", "begin", f"0 {data.decode()}", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 2
    broken.batch_ended = lambda: None


def test_client_that_has_closed_its_half_is_still_written_to(harness: Harness) -> None:
    harness.connect(Closeable)
    harness.clients[0].shutdown(socket.SHUT_WR)
    assert harness.turn() == ["begin", "0 input ended", "end"]
    harness.connections[0].transport.write(b"x")
    harness.turn()
    assert harness.clients[0].recv(10) == b"x"
    assert harness.turn() == []
    harness.connections[0].transport.loseConnection()
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]


def test_connection_without_half_close_is_closed_with_the_first_half(harness: Harness) -> None:
    harness.connect()
    harness.clients[0].shutdown(socket.SHUT_WR)
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]


@pytest.mark.parametrize("kind", [Connection, Closeable])
def test_client_that_closes_while_it_is_only_written_to_is_lost(
    harness: Harness, kind: type[Connection]
) -> None:
    harness.connect(kind)
    harness.connections[0].transport.write(b"x" * MUCH)
    harness.turn()
    harness.connections[0].transport.pauseProducing()
    harness.clients[0].close()
    assert harness.turn() == ["begin", f"0 {ConnectionLost.__name__}", "end"]


def test_all_clients_are_closed_when_the_reactor_stops(harness: Harness) -> None:
    harness.connect()
    harness.connect()
    harness.poller.connectionLost(Failure(ConnectionDone()))
    assert harness.turn() == ["0 ConnectionDone", "1 ConnectionDone"]


def test_closed_client_may_still_be_paused(harness: Harness) -> None:
    harness.connect()
    harness.connect()
    transport = harness.connections[0].transport
    harness.clients[0].close()
    harness.turn()
    transport.stopReading()
    transport.stopWriting()
    harness.clients[1].send(b"x")
    assert harness.turn() == ["begin", "1 x", "end"]


def test_many_ready_clients_are_served_in_several_cycles_in_their_order(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_poller, "MAX_SERVED", 2)
    for _ in range(5):
        harness.connect()
    for client in harness.clients:
        client.send(b"x")
    assert harness.turn() == ["begin", "0 x", "1 x", "end"]
    harness.clients[0].send(b"y")
    harness.clients[3].send(b"y")
    assert harness.turn() == ["begin", "2 x", "3 xy", "end"]
    assert harness.turn() == ["begin", "4 x", "end"]
    assert harness.turn() == ["begin", "0 y", "end"]


def test_requests_are_served_before_the_ends_of_many_connections(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_poller, "MAX_ENDED", 2)
    for _ in range(6):
        harness.connect()
    for client in harness.clients[:5]:
        client.close()
    assert len(harness.turn()) == 2 + 2
    harness.clients[5].send(b"x")
    assert harness.turn()[:2] == ["begin", "5 x"]
    assert len(harness.turn()) == 2 + 1


def test_client_that_was_closed_before_its_cycle_is_not_served(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_poller, "MAX_SERVED", 1)
    for _ in range(2):
        harness.connect()
        harness.clients[-1].send(b"x")
    assert harness.turn() == ["begin", "0 x", "end"]
    harness.connections[1].transport.abortConnection()
    harness.reactor.advance(0)
    assert "1 x" not in harness.turn()
