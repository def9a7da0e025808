"""What a process prints into: read in large pieces, and by the reactor only where that is worth it."""

import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any

from twisted.internet import main
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

READ_BYTES = 65_536
"""A pipe is read in pieces of up to so many bytes."""


@implementer(IReadDescriptor)
class Pipe:
    """Our end of a pipe: what comes goes to ``told(stream, data)``, and ``lost(stream)`` hears of its end.

    It never blocks: a process that opens /proc/self/fd/1 for reading can take back what it has printed.

    The reactor is not asked to look at it before ``startReading``: that costs more than to read what is there
    once a short process has ended.
    """

    def __init__(
        self,
        reactor: Any,
        stream: int,
        descriptor: int,
        told: Callable[[int, bytes], None],
        lost: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._stream = stream
        self._descriptor = descriptor
        self._told = told
        self._lost = lost
        self._is_read = False
        self._is_lost = False
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "process"

    def startReading(self) -> None:
        """Have the reactor read it whenever something is there."""
        if self._is_read or self._is_lost:
            return
        self._is_read = True
        self._reactor.addReader(self)

    def stopReading(self) -> None:
        """Leave what comes in the pipe."""
        if self._is_read:
            self._is_read = False
            self._reactor.removeReader(self)

    def doRead(self) -> Any:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            return main.CONNECTION_DONE
        self._told(self._stream, data)
        return None

    def connectionLost(self, reason: Failure) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close it, whatever is in it."""
        if not self._is_lost:
            self.stopReading()
            self._is_lost = True
            os.close(self._descriptor)
            self._lost(self._stream)


def waiting(pipe: Any) -> int:
    """Return how many bytes are in a pipe now; another reader of it may take them before us."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0]
    return count
