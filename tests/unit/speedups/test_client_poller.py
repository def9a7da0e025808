"""Rounds: the clients that are ready are served one after the other, as the reactor would serve each."""

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

from taskqd.speedups.byte_socket import ByteSocket
from taskqd.speedups.client_poller import ClientPoller, make_client_poller

LINGERING = 3_000_000
"""A socket does not take so many bytes at once."""


class Descriptors(Clock):
    """A reactor that remembers what it is to read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class Connection(Protocol):
    """Takes note in ``harness.happened`` of what happens to it, and does what ``on_data`` says."""

    transport: Any

    def __init__(self, harness: "Harness", name: str) -> None:
        self._house = harness
        self._name = name
        self.on_data: Any = lambda: None
        self.on_lost: Any = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self._house.happened.append(f"{self._name} {data.decode()}")
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._house.happened.append(f"{self._name} {cast('Any', reason.type).__name__}")
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class Closeable(Connection):
    """One to which the two halves of a connection end apart."""

    def readConnectionLost(self) -> None:
        self._house.happened.append(f"{self._name} reads no more")

    def writeConnectionLost(self) -> None:
        self._house.happened.append(f"{self._name} writes no more")


class Bystander:
    """Hears of rounds."""

    def __init__(self, told: Callable[[str], None], name: str = "") -> None:
        self._told = told
        self._name = name

    def batch_started(self) -> None:
        self._told(f"begin{self._name}")

    def batch_ended(self) -> None:
        self._told(f"end{self._name}")


class Harness:
    """Rounds over a reactor in the test's hands, and clients at the other ends of real sockets."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.reactor = Descriptors()
        self.rounds = ClientPoller(self.reactor, Bystander(self.happened.append))
        self.guests: list[Connection] = []
        self.clients: list[socket.socket] = []

    def come(self, kind: type[Connection] = Connection) -> None:
        """Let a client in, whose name is its place."""
        ours, theirs = socket.socketpair()
        guest = kind(self, str(len(self.guests)))
        self.guests.append(guest)
        self.clients.append(theirs)
        make: Any = ByteSocket
        meet: Any = guest.makeConnection
        meet(make(ours, guest, None, None, 0, self.rounds))

    def turn(self) -> list[str]:
        """Let the reactor find out who is ready, and return what happened."""
        for reader in list(self.reactor.readers):
            reader.doRead()
        self.reactor.advance(0)
        happened = self.happened.copy()
        self.happened.clear()
        return happened

    def leave(self) -> None:
        """Close what is open."""
        for client in self.clients:
            client.close()
        self.turn()
        assert self.reactor.readers == []


@pytest.fixture(name="harness")
def a_house() -> Any:
    harness = Harness()
    yield harness
    harness.leave()


def test_rounds_keep_to_their_interface(harness: Harness) -> None:
    verifyObject(IReadDescriptor, harness.rounds)
    assert harness.rounds.logPrefix() == "clients"


def test_all_who_are_ready_are_served_in_one_round(harness: Harness) -> None:
    for _ in range(3):
        harness.come()
    for number in (0, 2):
        harness.clients[number].send(b"x")
    assert harness.turn() == ["begin", "0 x", "2 x", "end"]
    assert harness.turn() == ["begin", "end"]


def test_each_is_served_once_in_a_round_however_much_it_sends(harness: Harness) -> None:
    harness.come()
    harness.guests[0].on_data = lambda: harness.clients[0].send(b"y")
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin", "0 x", "end"]
    harness.guests[0].on_data = lambda: None
    assert harness.turn() == ["begin", "0 y", "end"]


def test_the_reactor_has_one_descriptor_for_all_and_none_when_they_are_gone(harness: Harness) -> None:
    assert harness.reactor.readers == []
    harness.come()
    harness.come()
    assert harness.reactor.readers == [harness.rounds]
    harness.clients[0].close()
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]
    assert harness.reactor.readers == [harness.rounds]
    harness.clients[1].close()
    harness.turn()
    assert harness.reactor.readers == []
    harness.come()
    assert harness.reactor.readers == [harness.rounds]


def test_who_is_paused_is_not_read_from_until_it_goes_on(harness: Harness) -> None:
    harness.come()
    harness.guests[0].transport.pauseProducing()
    harness.clients[0].send(b"x")
    assert harness.turn() == []
    harness.guests[0].transport.resumeProducing()
    assert harness.turn() == ["begin", "0 x", "end"]


def test_what_a_socket_does_not_take_is_written_when_it_does(harness: Harness) -> None:
    harness.come()
    client = harness.clients[0]
    client.setblocking(False)
    harness.guests[0].transport.write(b"x" * LINGERING)
    harness.guests[0].transport.loseConnection()
    received = 0
    while "0 ConnectionDone" not in harness.turn():
        received += len(client.recv(LINGERING))
    while more := len(client.recv(LINGERING)):
        received += more
    assert received == LINGERING


def test_who_was_ended_in_this_round_is_not_served_in_it(harness: Harness) -> None:
    harness.come()
    harness.come()
    harness.guests[0].on_data = harness.guests[1].transport.abortConnection
    for client in harness.clients:
        client.send(b"x")
    assert harness.turn() == ["begin", "0 x", "end", f"1 {ConnectionAborted.__name__}"]


def test_who_ends_while_it_is_read_from_is_not_written_to(harness: Harness, logged_errors: Any) -> None:
    harness.come()
    guest = harness.guests[0]
    guest.transport.write(b"x")
    guest.on_data = lambda: guest.transport.connectionLost(Failure(ConnectionDone()))
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin", "0 x", "0 ConnectionDone", "end"]
    assert logged_errors.flush() == []


def test_a_bug_that_one_meets_is_logged_and_ends_that_one_alone(harness: Harness, logged_errors: Any) -> None:
    harness.come()
    harness.come()
    harness.guests[0].on_data = lambda: 1 // 0
    for client in harness.clients:
        client.send(b"x")
    assert harness.turn() == ["begin", "0 x", "0 ZeroDivisionError", "1 x", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert harness.clients[0].recv(1) == b""


def test_a_bug_at_the_end_of_one_is_logged_and_keeps_nobody_from_theirs(
    harness: Harness, logged_errors: Any
) -> None:
    harness.come()
    harness.come()
    harness.guests[0].on_lost = lambda: 1 // 0
    harness.clients[0].close()
    harness.clients[1].send(b"x")
    assert harness.turn() == ["begin", "0 ConnectionDone", "1 x", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_those_beside_hear_of_the_end_in_the_other_order(harness: Harness) -> None:
    told = harness.happened.append
    harness.rounds = ClientPoller(harness.reactor, Bystander(told, " 1"), Bystander(told, " 2"))
    harness.come()
    harness.clients[0].send(b"x")
    assert harness.turn() == ["begin 1", "begin 2", "0 x", "end 2", "end 1"]


def test_a_bug_at_the_end_of_a_round_is_logged_and_ends_nobody(harness: Harness, logged_errors: Any) -> None:
    broken: Any = Bystander(harness.happened.append)
    broken.batch_ended = lambda: 1 // 0
    harness.rounds = ClientPoller(harness.reactor, Bystander(harness.happened.append), broken)
    harness.come()
    for data in (b"x", b"y"):
        harness.clients[0].send(data)
        assert harness.turn() == ["begin", "begin", f"0 {data.decode()}", "end"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 2
    broken.batch_ended = lambda: None


def test_who_closes_a_half_is_still_written_to(harness: Harness) -> None:
    harness.come(Closeable)
    harness.clients[0].shutdown(socket.SHUT_WR)
    assert harness.turn() == ["begin", "0 reads no more", "end"]
    harness.guests[0].transport.write(b"x")
    harness.turn()
    assert harness.clients[0].recv(10) == b"x"
    assert harness.turn() == []
    harness.guests[0].transport.loseConnection()
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]


def test_who_has_no_halves_is_gone_with_the_first(harness: Harness) -> None:
    harness.come()
    harness.clients[0].shutdown(socket.SHUT_WR)
    assert harness.turn() == ["begin", "0 ConnectionDone", "end"]


@pytest.mark.parametrize("kind", [Connection, Closeable])
def test_who_goes_while_it_is_only_written_to_is_lost(harness: Harness, kind: type[Connection]) -> None:
    harness.come(kind)
    harness.guests[0].transport.write(b"x" * LINGERING)
    harness.turn()
    harness.guests[0].transport.pauseProducing()
    harness.clients[0].close()
    assert harness.turn() == ["begin", f"0 {ConnectionLost.__name__}", "end"]


def test_at_the_end_of_the_reactor_all_are_gone(harness: Harness) -> None:
    harness.come()
    harness.come()
    harness.rounds.connectionLost(Failure(ConnectionDone()))
    assert harness.turn() == ["0 ConnectionDone", "1 ConnectionDone"]


def test_what_is_gone_may_still_be_paused(harness: Harness) -> None:
    harness.come()
    harness.come()
    transport = harness.guests[0].transport
    harness.clients[0].close()
    harness.turn()
    transport.stopReading()
    transport.stopWriting()
    harness.clients[1].send(b"x")
    assert harness.turn() == ["begin", "1 x", "end"]


def test_there_are_rounds_only_where_the_reactor_takes_descriptors() -> None:
    class Other(Clock):
        """One that takes none."""

    with_descriptors = implementer(IReactorFDSet)(type("WithDescriptors", (Descriptors,), {}))
    assert make_client_poller(Other()) is None
    assert isinstance(make_client_poller(with_descriptors()), ClientPoller)
