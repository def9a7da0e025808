"""UNIX sockets of clients, read and written as any others are: for bytes, with no descriptors beside them.

With every read Twisted's own asks for descriptors that may come with the bytes (recvmsg(2)). Here none are
taken: the kernel closes those that somebody sends all the same (unix(7)), and a read costs half.
"""

from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort


class BytesOnly(unix.Server):
    """A client's end of a UNIX socket, which takes and gives nothing but bytes."""

    def doRead(self) -> Any:
        return tcp.Server.doRead(self)

    def writeSomeData(self, data: bytes) -> Any:
        return tcp.Server.writeSomeData(self, data)


def take_bytes_only(port: IListeningPort) -> IListeningPort:
    """Have a port make such sockets for its clients, if it makes Twisted's UNIX sockets for them."""
    where: Any = port
    if getattr(where, "transport", None) is unix.Server:
        where.transport = BytesOnly
    return port
