"""Listening UNIX sockets that others may remove or replace, and sockets that systemd has opened.

Twisted's own port removes any file that has the name of its socket when it stops listening, even if another
daemon has created it; it also sets the mode of a socket that was passed to it, and shuts it down for other
processes.
"""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, DeferredList, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorUNIX, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import StartRefused

InThread = Callable[..., "Deferred[Any]"]
"""Runs a blocking function with its arguments in another thread."""


class _FileId(NamedTuple):
    """Tells the file of a socket from another one of the same name; its mode and owner may change."""

    device: int
    inode: int
    modified_at: int


def _path_attribute(port: unix.Port) -> str:
    """Return the name under which Twisted keeps the path of a socket: ``port`` in older versions."""
    return "_bindPath" if hasattr(port, "_bindPath") else "port"


def _path(port: unix.Port) -> bytes:
    path: bytes = getattr(port, _path_attribute(port))
    return path


def _use_transport_of(port: Any, reactor: object) -> None:
    """Let the clients of a port have the reactor's transport for UNIX clients, if it offers one."""
    port.transport = getattr(reactor, "unix_transport", unix.Server)


class UnixPort(unix.Port):
    """Listens on a UNIX socket whose file it creates; it removes only that file, and creates it again."""

    _log = Logger()
    _file: _FileId | None = None
    _has_logged = False

    def startListening(self) -> None:
        """Create the socket and its file, and listen."""
        _use_transport_of(self, self.reactor)
        super().startListening()  # type: ignore[no-untyped-call]
        self._file = self._current_file()

    @property
    def path(self) -> str:
        """The path of the socket."""
        return os.fsdecode(_path(self))

    def is_in_place(self) -> bool:
        """Whether the socket's file exists and is the one that was created; blocks."""
        return self._current_file() == self._file

    def _current_file(self) -> _FileId | None:
        try:
            found = os.lstat(_path(self))
        except OSError:
            return None
        return _FileId(found.st_dev, found.st_ino, found.st_mtime_ns)

    def recreate(self, remove_stale_socket: Callable[[str], None]) -> None:
        """Create the socket and its directory again after its file was removed or replaced.

        ``remove_stale_socket(path)`` removes the socket of a daemon that no longer runs, and raises
        StartRefused if the path is in use. A failure is logged once; the next call tries again. Connected
        clients stay connected.
        """
        try:
            os.makedirs(os.path.dirname(self.path) or ".", 0o700, exist_ok=True)
            remove_stale_socket(self.path)
            listening = self._make_socket()
        except (OSError, StartRefused) as error:
            if not self._has_logged:
                self._log.error(
                    "the socket {path} was removed or replaced, and cannot be made again yet: {error}",
                    path=self.path,
                    error=error,
                )
            self._has_logged = True
            return
        was_reading = self in self.reactor.getReaders()
        self.stopReading()  # type: ignore[no-untyped-call]
        self.socket.close()
        self.socket = listening
        self.fileno = listening.fileno  # type: ignore[method-assign]
        if was_reading:  # otherwise the limit of connections is reached
            self.startReading()  # type: ignore[no-untyped-call]
        self._file = self._current_file()
        self._has_logged = False
        self._log.warn("the socket {path} was removed or replaced: made it again", path=self.path)

    def _make_socket(self) -> socket.socket:
        made: socket.socket = self.createInternetSocket()  # type: ignore[no-untyped-call]
        try:
            made.bind(_path(self))
            os.chmod(_path(self), self.mode)
            made.listen(self.backlog)
        except OSError:
            made.close()
            raise
        return made

    def connectionLost(self, reason: Failure) -> None:
        """Stop listening, and remove the file of the socket unless it was replaced."""
        if self._file is not None and self.is_in_place():
            os.unlink(_path(self))
        if self.lockFile is not None:
            self.lockFile.unlock()
        tcp.Port.connectionLost(self, reason)


class AdoptedPort(unix.Port):
    """Listens on a UNIX socket that another process, such as systemd(1), has opened and continues to use.

    The mode of its file is not changed; when this stops listening, it only closes its descriptor.
    """

    _shouldShutdown = False

    @classmethod
    def adopt(
        cls, reactor: IReactorUNIX, descriptor: int, factory: IProtocolFactory, backlog: int
    ) -> "AdoptedPort":
        """Listen on a copy of ``descriptor``; raises OSError."""
        os.set_blocking(descriptor, False)
        port: AdoptedPort = cls._fromListeningDescriptor(reactor, descriptor, factory)  # type: ignore[no-untyped-call]
        port.backlog = backlog
        # Twisted neither sets the mode of a socket without a file, nor removes it.
        setattr(port, _path_attribute(port), b"\0" + _path(port))
        _use_transport_of(port, reactor)
        port.startListening()  # type: ignore[no-untyped-call]
        return port


@implementer(IStreamServerEndpoint)
class UnixEndpoint:
    """Listens with a UnixPort."""

    def __init__(self, reactor: IReactorUNIX, path: str, mode: int, backlog: int, wants_lock: bool) -> None:
        self._reactor = reactor
        self._path = os.fsencode(path)
        self._mode = mode
        self._backlog = backlog
        self._wants_lock = wants_lock

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Create the socket and listen on it."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> UnixPort:
        port = UnixPort(
            self._path, factory, self._backlog, self._mode, self._reactor, wantPID=self._wants_lock
        )
        port.startListening()
        return port


@implementer(IStreamServerEndpoint)
class AdoptedUnixEndpoint:
    """Listens with an AdoptedPort."""

    def __init__(self, reactor: IReactorUNIX, descriptor: int, backlog: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._backlog = backlog

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen on the socket of the descriptor, which is closed then."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> AdoptedPort:
        port = AdoptedPort.adopt(self._reactor, self._descriptor, factory, self._backlog)
        os.close(self._descriptor)  # the port has a copy
        return port


class SocketWatch:
    """Creates the sockets of ``ports`` again whose files were removed or replaced.

    The caller may add to ``ports`` later; ports other than UnixPorts are ignored.
    """

    def __init__(
        self, ports: Iterable[object], in_thread: InThread, remove_stale_socket: Callable[[str], None]
    ) -> None:
        self._ports = ports
        self._in_thread = in_thread
        self._remove_stale_socket = remove_stale_socket

    def check(self) -> "Deferred[Any]":
        """Check each file in another thread; fires when all were checked."""
        ports = [port for port in self._ports if isinstance(port, UnixPort)]
        return DeferredList(
            [self._in_thread(port.is_in_place).addCallback(self._on_checked, port) for port in ports],
            fireOnOneErrback=True,
            consumeErrors=True,
        )

    def _on_checked(self, is_in_place: bool, port: UnixPort) -> None:
        if not is_in_place and port.connected and not port.disconnecting:
            port.recreate(self._remove_stale_socket)
