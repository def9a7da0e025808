"""A reactor with faster replacements for some of its methods; everything else is the real reactor's."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProcessProtocol,
    IProtocolFactory,
    IReactorFDSet,
    IReactorProcess,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.byte_socket import ByteSocket
from taskqd.speedups.client_poller import ClientPoller
from taskqd.speedups.direct_write import DirectTcpSocket
from taskqd.speedups.spawn import Spawner, is_supported


@implementer(IReactorProcess)
class AcceleratedReactor:
    """Delegates to ``reactor``, spawns processes in its own threads, and polls its UNIX clients itself.

    ``batches`` notifies its observers of I/O events that are handled together: processes that have started or
    exited, and UNIX clients that are ready in one poll cycle. ``starts_sessions`` is False if this Twisted or
    this C library is unknown; ``spawnProcess`` is then the real reactor's.
    """

    _log = Logger()

    # Any: all interfaces of the reactor are passed on.
    def __init__(self, reactor: Any, *, starts_sessions: bool | None = None) -> None:
        directlyProvides(self, providedBy(reactor))
        self.batches = BatchScope()
        self.starts_sessions = is_supported() if starts_sessions is None else starts_sessions
        self._reactor = reactor
        self._spawner = Spawner(reactor, reactor, self.batches)
        self._poller: ClientPoller | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def spawnProcess(  # noqa: PLR0913, PLR0917 - as IReactorProcess has it
        self,
        processProtocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str] = (),
        env: Mapping[Any, Any] | None = None,
        path: bytes | str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: object = 0,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> Any:
        """Start a process as the leader of a new session, if its protocol has ``processNotStarted``.

        This returns None at once. The protocol is called when the process exists: ``connectionMade``, then
        ``processRunning`` (it may have exited by then); or ``processNotStarted(failure)``. Set on it are
        ``started``, the start time in clock ticks since boot if it is known, before ``connectionMade``, and
        ``rusage``, as wait4(2) returns it, before ``processExited``. The user with the uid ``pipe_owner``,
        if that is not None, may open the pipes by their names, such as /dev/stdout.

        Such a protocol needs ``args`` and ``env`` in bytes, and ``childFDs`` that are a descriptor for 0, and
        "r" for 1 and 2. All others are started by the real reactor.
        """
        protocol: Any = processProtocol
        if not self.starts_sessions or not hasattr(protocol, "processNotStarted"):
            return self._reactor.spawnProcess(
                processProtocol, executable, args, env, path, uid, gid, usePTY, childFDs
            )
        environ = [name + b"=" + value for name, value in (env or {}).items()]
        stdin: Any = (childFDs or {})[0]
        argv: Any = args
        spawning = maybeDeferred(self._spawner.spawn, protocol, argv, environ, stdin)
        spawning.addCallbacks(lambda _: protocol.processRunning(), protocol.processNotStarted)
        spawning.addErrback(self._log_error)
        return None

    def _log_error(self, failure: Failure) -> None:
        self._log.failure("unexpected error in reporting that a process runs", failure)

    def stop_spawning(self) -> None:
        """Start nothing more; returns once the spawns that were asked for are done."""
        self._spawner.stop()

    def listenUNIX(
        self,
        address: str | bytes,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Listen on a UNIX socket as IReactorUNIX has it; all clients share one epoll and form batches."""
        path = address.encode() if isinstance(address, str) else address
        port = unix.Port(path, factory, backlog, mode, self._reactor, wantPID)
        port.transport = self.unix_transport  # type: ignore[assignment]
        port.startListening()
        return port

    def unix_transport(self, *arguments: Any) -> unix.Server:
        """Make the transport of a UNIX client; to be set as the ``transport`` of a ``unix.Port``.

        The arguments are those of ``unix.Server``.
        """
        if self._poller is None and IReactorFDSet.providedBy(self._reactor):
            self._poller = ClientPoller(self._reactor, self.batches)
        make: Any = ByteSocket  # mypy takes its arguments for those of an outgoing connection
        return cast("unix.Server", make(*arguments[:-1], self._poller or self._reactor))

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on a TCP port, as IReactorTCP has it; replies are written directly."""
        listening = tcp.Port(port, factory, backlog, interface, self._reactor)
        listening.transport = DirectTcpSocket
        listening.startListening()
        return listening
