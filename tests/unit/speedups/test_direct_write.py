from collections import deque

from twisted.internet.error import ConnectionLost

from taskqd.speedups import direct_write


class Transport:
    """As twisted.internet.abstract.FileDescriptor: takes so many bytes at once as the test says."""

    def __init__(self, *takes: "int | Exception") -> None:
        self.dataBuffer = b""
        self._tempDataLen = 0
        self.offset = 0
        self.disconnecting = False
        self.connected = 1
        self.sent = b""
        self.buffered = b""
        self._takes = deque(takes)

    def writeSomeData(self, data: bytes) -> "int | Exception":
        taken = self._takes.popleft()
        if isinstance(taken, int):
            self.sent += data[:taken]
        return taken

    def write(self, data: bytes) -> None:
        self.buffered += data
        self._tempDataLen += len(data)


def test_what_the_socket_takes_is_sent_at_once() -> None:
    transport = Transport(5)
    direct_write.write(transport, b"hello")
    assert (transport.sent, transport.buffered) == (b"hello", b"")


def test_what_it_does_not_take_waits_and_all_that_follows_behind_it() -> None:
    transport = Transport(2)
    direct_write.write(transport, b"hello")
    direct_write.write(transport, b" you")
    assert (transport.sent, transport.buffered) == (b"he", b"llo you")


def test_it_is_not_tried_while_something_is_being_written() -> None:
    transport = Transport()
    transport.dataBuffer = b"earlier"
    direct_write.write(transport, b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")


def test_an_error_is_left_to_the_usual_way() -> None:
    transport = Transport(ConnectionLost())
    direct_write.write(transport, b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")


def test_a_transport_that_is_closing_is_not_written_to_directly() -> None:
    transport = Transport()
    transport.disconnecting = True
    direct_write.write(transport, b"hello")
    assert (transport.sent, transport.buffered) == (b"", b"hello")


def test_a_transport_that_has_ended_is_not_written_to_directly() -> None:
    transport = Transport()
    transport.connected = 0
    direct_write.write(transport, b"hello")
    assert transport.sent == b""


def test_of_another_transport_nothing_is_assumed() -> None:
    class Other:
        written = b""

        def write(self, data: bytes) -> None:
            self.written += data

    transport = Other()
    direct_write.write(transport, b"hello")
    assert transport.written == b"hello"


def test_all_that_waits_to_be_written_is_unread() -> None:
    transport = Transport(2)
    assert direct_write.unread(transport) == 0
    direct_write.write(transport, b"hello")
    assert direct_write.unread(transport) == 3
    transport.dataBuffer, transport.offset = b"earlier", 4
    assert direct_write.unread(transport) == 6
