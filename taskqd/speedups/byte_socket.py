"""UNIX sockets of clients, read and written as any others are: for bytes, with no descriptors beside them.

With every read Twisted's own asks for descriptors that may come with the bytes (recvmsg(2)). Here none are
taken: the kernel closes those that somebody sends all the same (unix(7)), and a read costs half.
"""

import errno
from functools import partial
from typing import Any, cast

from twisted.internet import main, unix
from twisted.internet.interfaces import IListeningPort

from taskqd.speedups.client_poller import ClientPoller


class ByteSocket(unix.Server):
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


def use_byte_sockets(port: IListeningPort, rounds: ClientPoller | None = None) -> IListeningPort:
    """Have a port make such sockets for its clients, if it makes Twisted's UNIX sockets for them.

    They are served in ``rounds``, if there are any.
    """
    where: Any = port
    if getattr(where, "transport", None) is unix.Server:
        where.transport = ByteSocket if rounds is None else partial(_served, rounds)
    return port


def _served(rounds: ClientPoller, *arguments: Any) -> ByteSocket:
    """Make a client's end that has rounds in the place of the reactor, the last of Twisted's arguments."""
    make: Any = ByteSocket
    return cast("ByteSocket", make(*arguments[:-1], rounds))
