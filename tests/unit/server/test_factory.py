"""The factory: the open connections, and how they close when the daemon stops."""

import socket

import pytest

from taskqd.server.factory import CLOSE_TIMEOUT
from tests.fakes.client import Client
from tests.fakes.connections import FakeSocket
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness, watchers


def opened(max_connections: int = 1000) -> Harness:
    harness = Harness(max_connections=max_connections)
    harness.engine.start()
    return harness


def test_factory_has_the_open_connections() -> None:
    harness = opened()
    clients = [Client(harness) for _ in range(3)]
    assert len(harness.factory.connections) == 3
    clients[1].transport.lose()
    assert harness.factory.connections == {clients[0].connection, clients[2].connection}


def test_no_connection_is_made_at_the_limit() -> None:
    harness = opened(max_connections=1)
    client = Client(harness)
    assert harness.factory.buildProtocol(None) is None
    assert harness.factory.connections == {client.connection} == harness.connection_limits.connections
    client.transport.lose()
    assert harness.factory.buildProtocol(None) is not None


def test_close_closes_each_connection_once_its_replies_are_read() -> None:
    harness = opened()
    harness.submit()
    clients = [Client(harness) for _ in range(3)]
    clients[0].send(b"PING\n")
    clients[1].send(b"QUIT\n")
    clients[1].read()
    clients[2].send(b"WAIT 1\n")
    harness.finish(1)
    closed = harness.factory.close()
    for client in clients:
        assert not closed.called
        client.read()
        assert client.lines()
    result_of(closed)
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.parametrize("sent", [b"", b"PING\n", b"WATCH\n", b"FOLLOW 1\n", b"SUBMIT --stdin=5 cat\nhe"])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_close_ends_requests_in_progress_and_leaves_no_timer(sent: bytes, family: int) -> None:
    harness = opened()
    harness.submit()
    clients = [Client(harness, FakeSocket(family)) for _ in range(2)]
    for client in clients:
        client.send(sent)
    clients[0].send(b"QUIT\n")
    closed = harness.factory.close()
    for client in clients:
        client.read()
    result_of(closed)
    assert harness.clock.getDelayedCalls() == []
    assert (
        harness.connection_limits.connections,
        harness.connection_limits.memory.total,
        watchers(harness.event_stream),
    ) == (set(), 0, 0)


def test_close_aborts_clients_that_do_not_read() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\n")
    closed = harness.factory.close()
    client.send(b"SUBMIT true\n")
    harness.clock.advance(CLOSE_TIMEOUT)
    result_of(closed)
    assert client.transport.is_aborted
    assert harness.queue_state.jobs == {}
    assert harness.clock.getDelayedCalls() == []


def test_close_without_connections_fires_at_once() -> None:
    harness = opened()
    result_of(harness.factory.close())
    assert harness.clock.getDelayedCalls() == []
