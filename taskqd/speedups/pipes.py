"""Our end of a pipe that a child prints into: large reads, and none by the reactor before it is asked."""

import os
from collections.abc import Callable
from typing import Any

from twisted.internet import main
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

READ_SIZE = 65_536
"""Bytes per read: the default capacity of a pipe. Twisted's own reader takes 8 KiB."""


@implementer(IReadDescriptor)
class Pipe:
    """Calls ``on_data(stream, data)`` with what it reads, and ``on_closed(stream)`` when it is closed.

    It is non-blocking: a process that opens /proc/self/fd/1 for reading can take bytes out of the pipe after
    the reactor has seen them. Adding it to the reactor costs more than reading the output of a short process
    once, when that has exited; so that is done only by ``startReading``.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        stream: int,
        descriptor: int,
        on_data: Callable[[int, bytes], None],
        on_closed: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._stream = stream
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_closed = on_closed
        self._is_reading = False
        self._is_closed = False
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "process"

    def startReading(self) -> None:
        """Have the reactor read the pipe whenever it has data."""
        if self._is_reading or self._is_closed:
            return
        self._is_reading = True
        self._reactor.addReader(self)

    def stopReading(self) -> None:
        """Leave data in the pipe until ``startReading``."""
        if self._is_reading:
            self._is_reading = False
            self._reactor.removeReader(self)

    def doRead(self) -> Any:
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return None
        if not data:
            return main.CONNECTION_DONE
        self._on_data(self._stream, data)
        return None

    def connectionLost(self, reason: Failure) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close the pipe, even if there is data in it."""
        if not self._is_closed:
            self.stopReading()
            self._is_closed = True
            os.close(self._descriptor)
            self._on_closed(self._stream)
