"""Sockets of clients that transfer bytes only, in fewer steps than Twisted's.

Twisted's UNIX sockets use recvmsg(2) in order to receive descriptors as well. Here the kernel closes
descriptors that a client sends nevertheless (unix(7)), and a read costs half.
"""

import errno
from typing import Any

from twisted.internet import main, tcp, unix

from taskqd.speedups.direct_write import DirectWriteMixin


class _ByteTransfer(DirectWriteMixin):
    """Reads and writes without messages.

    `doRead` and `writeSomeData` do what those of twisted.internet.tcp do, in fewer steps; Python itself
    repeats calls that a signal has interrupted (PEP 475).
    """

    def doRead(self) -> Any:
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def writeSomeData(self, data: bytes) -> Any:
        try:
            is_small = len(data) <= self.SEND_LIMIT
            return self.socket.send(data if is_small else memoryview(data)[: self.SEND_LIMIT])
        except BlockingIOError:
            return 0
        except OSError as error:
            return 0 if error.errno == errno.ENOBUFS else main.CONNECTION_LOST


class ByteSocket(_ByteTransfer, unix.Server):
    """The server side of a UNIX connection."""


class ByteTcpSocket(_ByteTransfer, tcp.Server):
    """The server side of a TCP connection, also of one that carries TLS."""


class ByteClient(_ByteTransfer, unix.Client):
    """The client side of a UNIX connection."""


class ByteConnector(unix.Connector):
    """Connects a ByteClient."""

    def _makeTransport(self) -> Any:  # noqa: N802 - Twisted's name
        make: Any = ByteClient  # untyped in Twisted
        return make(self.address, self, self.reactor, self.checkPID)
