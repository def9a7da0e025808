"""UNIX sockets of clients, read and written as any others are: for bytes, with no descriptors beside them.

With every read Twisted's own asks for descriptors that may come with the bytes (recvmsg(2)). Here none are
taken: the kernel closes those that somebody sends all the same (unix(7)), and a read costs half.
"""

import errno
from typing import Any

from twisted.internet import main, unix
from twisted.internet.interfaces import IListeningPort


class BytesOnly(unix.Server):
    """A client's end of a UNIX socket, which takes and gives nothing but bytes.

    The two methods do what twisted.internet.tcp's do, in fewer steps; Python itself retries what a signal
    has interrupted (PEP 475).
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
            return self.socket.send(memoryview(data)[: self.SEND_LIMIT])
        except BlockingIOError:
            return 0
        except OSError as why:
            return 0 if why.errno == errno.ENOBUFS else main.CONNECTION_LOST


def take_bytes_only(port: IListeningPort) -> IListeningPort:
    """Have a port make such sockets for its clients, if it makes Twisted's UNIX sockets for them."""
    where: Any = port
    if getattr(where, "transport", None) is unix.Server:
        where.transport = BytesOnly
    return port
