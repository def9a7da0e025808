"""Listening UNIX sockets: one whose file the daemon has made, and one that was handed over to it.

Twisted's own removes whatever file has the name of its socket when it stops listening, of whomever it is by
then; it sets the mode of a socket that was handed over, and shuts that down for those who go on to use it.
"""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import StartRefused

InThread = Callable[..., "Deferred[Any]"]
"""Runs a blocking function with its arguments in another thread."""


class _File(NamedTuple):
    """What tells the file of a socket from another one that has its name; its mode and owner may change."""

    device: int
    inode: int
    made_at: int


def _attribute(port: unix.Port) -> str:
    """Return the name under which Twisted keeps the path of a socket: ``port`` in older versions."""
    return "_bindPath" if hasattr(port, "_bindPath") else "port"


def _bound_to(port: unix.Port) -> bytes:
    """Return the path that the socket of a port is bound to."""
    path: bytes = getattr(port, _attribute(port))
    return path


class UnixPort(unix.Port):
    """Listens on a UNIX socket that the daemon makes; removes its file only if that is still its own."""

    _log = Logger()
    _made: _File | None = None
    _has_told = False

    def startListening(self) -> None:
        """Make the socket and its file, and listen."""
        super().startListening()  # type: ignore[no-untyped-call]
        self._made = self._found()

    @property
    def path(self) -> str:
        """The path of the socket."""
        return os.fsdecode(_bound_to(self))

    def is_in_place(self) -> bool:
        """Whether the socket's file is there and is the one that was made; may block."""
        return self._found() == self._made

    def _found(self) -> _File | None:
        try:
            found = os.lstat(_bound_to(self))
        except OSError:
            return None
        return _File(found.st_dev, found.st_ino, found.st_mtime_ns)

    def listen_again(self, remove_stale_socket: Callable[[str], None]) -> None:
        """Make the socket again, its directory too, after its file was removed or replaced.

        ``remove_stale_socket(path)`` removes what a dead daemon left there, and raises StartRefused if a
        living one
        listens there. The log says once what is in the way; the next call tries again. Clients that are
        connected stay so.
        """
        try:
            os.makedirs(os.path.dirname(self.path) or ".", 0o700, exist_ok=True)
            remove_stale_socket(self.path)
            made = self._listening()
        except (OSError, StartRefused) as why:
            if not self._has_told:
                self._log.error(
                    "the socket {path} was removed or replaced, and cannot be made again yet: {why}",
                    path=self.path,
                    why=why,
                )
            self._has_told = True
            return
        was_reading = self in self.reactor.getReaders()
        self.stopReading()  # type: ignore[no-untyped-call]
        self.socket.close()
        self.socket = made
        self.fileno = made.fileno  # type: ignore[method-assign]
        if was_reading:  # else there is no room for more clients now
            self.startReading()  # type: ignore[no-untyped-call]
        self._made = self._found()
        self._has_told = False
        self._log.warn("the socket {path} was removed or replaced: made it again", path=self.path)

    def _listening(self) -> socket.socket:
        made: socket.socket = self.createInternetSocket()  # type: ignore[no-untyped-call]
        try:
            made.bind(_bound_to(self))
            os.chmod(_bound_to(self), self.mode)
            made.listen(self.backlog)
        except OSError:
            made.close()
            raise
        return made

    def connectionLost(self, reason: Failure) -> None:
        """Stop listening, and remove the file of the socket unless it is another one by now."""
        if self._made is not None and self.is_in_place():
            os.unlink(_bound_to(self))
        if self.lockFile is not None:
            self.lockFile.unlock()
        tcp.Port.connectionLost(self, reason)


class HandedPort(unix.Port):
    """Listens on a UNIX socket that was handed over, by systemd(1) for instance, and leaves its file alone.

    Whoever made it goes on to use it: its mode stays as it is, and a stop only closes the descriptor.
    """

    _shouldShutdown = False

    @classmethod
    def adopt(cls, reactor: Any, descriptor: int, factory: Any, backlog: int) -> "HandedPort":
        """Return a port that listens on a copy of ``descriptor``; raises OSError."""
        os.set_blocking(descriptor, False)
        made: HandedPort = cls._fromListeningDescriptor(reactor, descriptor, factory)  # type: ignore[no-untyped-call]
        made.backlog = backlog
        # No name in the file system, as far as Twisted's own knows.
        setattr(made, _attribute(made), b"\0" + _bound_to(made))
        made.startListening()  # type: ignore[no-untyped-call]
        return made


class SocketWatch:
    """Looks whether the sockets of ``ports`` are still in their places, and makes again those that are not.

    ``ports`` may be filled later, and other ports than these are not looked at.
    """

    def __init__(
        self, ports: Iterable[Any], in_thread: InThread, remove_stale_socket: Callable[[str], None]
    ) -> None:
        self._ports = ports
        self._in_thread = in_thread
        self._clear_the_way = remove_stale_socket

    def look(self) -> "Deferred[Any]":
        """Look at each in another thread; fires when all were looked at."""
        ports = [port for port in self._ports if isinstance(port, UnixPort)]
        return DeferredList(
            [self._in_thread(port.is_in_place).addCallback(self._looked, port) for port in ports],
            fireOnOneErrback=True,
            consumeErrors=True,
        )

    def _looked(self, is_in_place: bool, port: UnixPort) -> None:
        if not is_in_place and port.connected and not port.disconnecting:
            port.listen_again(self._clear_the_way)
