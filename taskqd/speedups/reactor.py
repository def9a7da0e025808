"""A reactor with faster replacements for some of its methods; everything else is the real reactor's."""

from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IConnector, IListeningPort, IProtocolFactory, IReactorFDSet
from zope.interface import directlyProvides, providedBy

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.byte_socket import ByteConnector, ByteSocket
from taskqd.speedups.client_poller import ClientPoller
from taskqd.speedups.direct_write import DirectTcpSocket


class AcceleratedReactor:
    """Delegates to ``reactor``, and polls its UNIX clients itself.

    ``batches`` notifies its observers of I/O events that are handled together: UNIX clients that are ready in
    one poll cycle.
    """

    # Any: all interfaces of the reactor are passed on.
    def __init__(self, reactor: Any) -> None:
        directlyProvides(self, providedBy(reactor))
        self.batches = BatchScope()
        self._reactor = reactor
        self._poller: ClientPoller | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

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

    def connectUNIX(  # noqa: N802 - as IReactorUNIX has it
        self,
        address: str,
        factory: IProtocolFactory,
        timeout: float = 30,
        checkPID: int = 0,  # noqa: N803
    ) -> IConnector:
        """Connect to a UNIX socket, as IReactorUNIX has it; what is sent is written directly."""
        make: Any = ByteConnector  # untyped in Twisted
        connector = make(address, factory, timeout, self._reactor, checkPID)
        connector.connect()
        return cast("IConnector", connector)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on a TCP port, as IReactorTCP has it; replies are written directly."""
        listening = tcp.Port(port, factory, backlog, interface, self._reactor)
        listening.transport = DirectTcpSocket
        listening.startListening()
        return listening
