"""The clients of UNIX sockets as one descriptor of the reactor: all that are ready are served in one round.

Around each event of each descriptor the reactor sets up a context for the log, which costs more than it takes
to read a line, and it knows of no end of what came together. So these have an epoll(7) of their own, which is
ready when any of them is, and what the reactor does for a descriptor is done for them here, in the same way:
reading, writing, ends and half-closes, and of an error that it is logged and ends that connection alone.
"""

import select
from typing import Any

from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.speedups.batch import BatchScope, IBatchObserver

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR


@implementer(IReadDescriptor)
class ClientPoller:
    """What its clients take for the reactor, and the reactor for a descriptor.

    In a round, of which the ``gatherers`` are told, each client that is ready is served once. For all but
    descriptors this is ``reactor`` itself.
    """

    _log = Logger()

    def __init__(self, reactor: Any, *gatherers: IBatchObserver) -> None:
        self._reactor = reactor
        self._together = BatchScope(*gatherers)
        self._epoll = select.epoll()
        self._clients: dict[int, Any] = {}
        self._wanted: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # What a client's transport calls.

    def addReader(self, client: Any) -> None:
        """Have ``client`` read when it can be."""
        self._change(client, READ, 0)

    def addWriter(self, client: Any) -> None:
        """Have ``client`` written to when it takes something."""
        self._change(client, WRITE, 0)

    def removeReader(self, client: Any) -> None:
        """Read ``client`` no more."""
        self._change(client, 0, READ)

    def removeWriter(self, client: Any) -> None:
        """Write to ``client`` no more."""
        self._change(client, 0, WRITE)

    def _change(self, client: Any, more: int, less: int) -> None:
        number = self._number(client)
        if number is None:
            return
        before = self._wanted.get(number, 0)
        wanted = (before | more) & ~less
        if wanted == before:
            return
        if before and wanted:
            self._epoll.modify(number, wanted)
            self._wanted[number] = wanted
        elif wanted:
            self._epoll.register(number, wanted)
            self._wanted[number], self._clients[number] = wanted, client
            if len(self._clients) == 1:
                self._reactor.addReader(self)
        else:
            self._epoll.unregister(number)
            del self._wanted[number], self._clients[number]
            if not self._clients:
                self._reactor.removeReader(self)

    def _number(self, client: Any) -> int | None:
        """Return a client's descriptor; of one that is closed, the one under which it is still known."""
        number: int = client.fileno()
        if number >= 0:
            return number
        return next((known for known, other in self._clients.items() if other is client), None)

    # What the reactor calls.

    def fileno(self) -> int:
        """Return the descriptor that is ready when any client is."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return by what the log names this."""
        return "clients"

    def doRead(self) -> None:
        """Serve all that are ready."""
        self._together.begin()
        clients = self._clients
        for number, happened in self._epoll.poll(0, len(clients)):
            client = clients.get(number)
            if client is not None:  # else it was ended in this round
                try:
                    self._serve(client, number, happened)
                except BaseException:  # noqa: BLE001 - its end met a bug, which is not the others'
                    self._log.failure("the end of a connection met a bug of taskqd's")
        self._together.end()

    def connectionLost(self, reason: Failure) -> None:
        """End all clients: the reactor stops."""
        for client in list(self._clients.values()):
            client.connectionLost(reason)

    def _serve(self, client: Any, number: int, happened: int) -> None:
        """Do for a client what posixbase's ``_doReadOrWrite`` does."""
        is_reading = False
        why: Any = None
        try:
            if happened & READ:
                is_reading = True
                why = client.doRead()
            elif happened & ENDED:
                is_reading = bool(self._wanted[number] & READ)
                why = CONNECTION_DONE if is_reading else CONNECTION_LOST
            if happened & WRITE and not why and self._wanted.get(number, 0) & WRITE:
                is_reading = False
                why = client.doWrite()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends this one alone
            self._log.failure("a connection met a bug of taskqd's and is closed")
            why = error
        if why:
            self._disconnect(client, why, is_reading)

    def _disconnect(self, client: Any, why: BaseException, is_reading: bool) -> None:
        """Tell a client of its end, or that it will hear nothing more, as ``_disconnectSelectable`` does."""
        self.removeReader(client)
        if is_reading and why is CONNECTION_DONE and IHalfCloseableDescriptor.providedBy(client):
            client.readConnectionLost(Failure(why))
        else:
            self.removeWriter(client)
            client.connectionLost(Failure(why))


def make_client_poller(reactor: Any, *gatherers: IBatchObserver) -> ClientPoller | None:
    """Return rounds for a reactor's clients, None where it takes no descriptors."""
    return ClientPoller(reactor, *gatherers) if IReactorFDSet.providedBy(reactor) else None
