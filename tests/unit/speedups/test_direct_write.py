"""Direct writes: bytes that the socket accepts are sent at once, and the rest in order behind them."""

from collections import deque
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionLost

from taskqd.speedups.direct_write import DirectWriteMixin


class Transport(DirectWriteMixin):
    """A transport whose socket accepts as many bytes per call as the test says."""

    def __init__(self, *accepts: "int | Exception") -> None:
        reactor: Any = object()
        FileDescriptor.__init__(self, reactor)
        self.connected = True
        self.sent = b""
        self._accepts = deque(accepts)

    @property
    def buffered(self) -> bytes:
        return b"".join([self.dataBuffer, *self._tempDataBuffer])

    def startWriting(self) -> None:
        """Ignore the call: a test writes nothing later."""

    def writeSomeData(self, data: bytes) -> Any:
        accepted = self._accepts.popleft()
        if isinstance(accepted, int):
            self.sent += data[:accepted]
        return accepted


def test_bytes_that_the_socket_accepts_are_sent_at_once() -> None:
    transport = Transport(5)
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"hello", b"")


def test_bytes_that_the_socket_does_not_accept_are_buffered_and_all_that_follow_behind_them() -> None:
    transport = Transport(2)
    transport.write(b"hello")
    transport.write(b" you")
    assert (transport.sent, transport.buffered) == (b"he", b"llo you")


def test_nothing_is_sent_directly_while_twisted_is_writing() -> None:
    transport = Transport()
    transport.dataBuffer = b"earlier "
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"earlier hello")


def test_error_is_left_to_twisted() -> None:
    transport = Transport(ConnectionLost())
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")


def test_nothing_is_sent_directly_while_the_transport_closes() -> None:
    transport = Transport()
    transport.disconnecting = True
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")


def test_nothing_is_sent_on_a_closed_transport() -> None:
    transport = Transport()
    transport.connected = False
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"")


def test_nothing_is_sent_directly_if_twisted_names_its_buffer_differently() -> None:
    class Renamed(Transport):
        _tempDataLen = 0

    transport = Renamed()
    del vars(transport)["_tempDataLen"]
    transport.write(b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")
