"""A reactor with faster replacements for some of its methods; everything else is the real reactor's."""

from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IConnector, IListeningPort, IProtocolFactory, IReactorFDSet
from zope.interface import directlyProvides, providedBy

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.byte_socket import ByteConnector, ByteSocket, ByteTcpSocket
from taskqd.speedups.client_poller import ClientPoller


class AcceleratedReactor:
    """Delegates to ``reactor``, and polls its clients itself.

    ``batches`` notifies its observers of I/O events that are handled together: clients of UNIX sockets, TCP
    and TLS that are ready in one poll cycle.
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
        make: Any = ByteSocket  # mypy takes its arguments for those of an outgoing connection
        return cast("unix.Server", make(*arguments[:-1], self._reactor_of_clients()))

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
        """Listen on a TCP port, as IReactorTCP has it; its clients share the epoll of UNIX clients."""
        listening = tcp.Port(port, factory, backlog, interface, self._reactor)
        listening.transport = self._tcp_transport  # type: ignore[assignment]
        listening.startListening()
        return listening

    def listenSSL(  # noqa: N802 - as IReactorSSL has it
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Listen on a TCP port for TLS, as IReactorSSL has it; replies are written at once."""
        from twisted.protocols import tls  # noqa: PLC0415 - needs OpenSSL, an extra

        encrypting = tls.TLSMemoryBIOFactory(contextFactory, False, factory, cast("Any", self._reactor))
        encrypting.protocol = tls.TLSMemoryBIOProtocol  # its default joins the replies of a reactor turn
        listening = self.listenTCP(port, encrypting, backlog, interface)
        cast("Any", listening)._type = "TLS"  # noqa: SLF001 - for the log, as Twisted's listenSSL does
        return listening

    def _tcp_transport(self, *arguments: Any) -> tcp.Server:
        make: Any = ByteTcpSocket  # as for unix_transport
        return cast("tcp.Server", make(*arguments[:-1], self._reactor_of_clients()))

    def _reactor_of_clients(self) -> Any:
        """Return the poller of clients, or the reactor if it has no descriptors that can be added."""
        if self._poller is None and IReactorFDSet.providedBy(self._reactor):
            self._poller = ClientPoller(self._reactor, self.batches)
        return self._poller or self._reactor
