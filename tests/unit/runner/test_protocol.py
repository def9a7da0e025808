"""The writes of a connection to a daemon."""

from typing import Any, cast

from twisted.internet.testing import StringTransport

from taskqd.execution.messages import Gone, encode
from taskqd.runner.protocol import DaemonConnection

MESSAGES = [Gone(runner="a"), Gone(runner="b")]


class Transport(StringTransport):
    """A transport that remembers each write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


def connect() -> tuple[DaemonConnection, list[bytes]]:
    """Return a connection, and the list of its writes."""
    connection, transport = DaemonConnection(cast("Any", None), ()), Transport()
    connection.transport = transport
    return connection, transport.writes


def test_message_is_written_at_once() -> None:
    connection, writes = connect()
    for message in MESSAGES:
        connection.send(message)
    assert writes == list(map(encode, MESSAGES))


def test_held_messages_are_written_together() -> None:
    connection, writes = connect()
    connection.hold()
    for message in MESSAGES:
        connection.send(message)
    assert writes == []
    connection.flush()
    assert writes == [b"".join(map(encode, MESSAGES))]
    connection.send(MESSAGES[0])
    assert writes[1:] == [encode(MESSAGES[0])]


def test_held_messages_are_written_before_the_connection_is_closed() -> None:
    connection, writes = connect()
    connection.hold()
    connection.send(MESSAGES[0])
    connection.close()
    assert writes == [encode(MESSAGES[0])]


def test_flush_of_nothing_writes_nothing() -> None:
    connection, writes = connect()
    connection.hold()
    connection.flush()
    assert writes == []
