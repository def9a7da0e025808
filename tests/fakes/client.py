"""A client of the server without a socket: it sends bytes and collects replies."""

from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.principal import Principal
from taskqd.engine.environments import Pin
from taskqd.errors import AuthFailed
from taskqd.model.environment import Environment
from taskqd.server.interfaces import IClient
from tests.fakes.connections import ADA, FakeSocket, FakeTransport
from tests.fakes.engine import Harness


@implementer(IClient)
class FakeClient:
    """The client of a handler; ``sent`` has the bytes that the handler sends before its reply."""

    def __init__(self, principal: Principal | None = ADA) -> None:
        self.principal = principal
        self.address = "10.0.0.5:4242"
        self.is_local = True
        self.pin: Pin | None = None
        self.failures = 0
        self.sent = b""
        self.is_finished = False
        self.aborts: list[str] = []
        self.writable_waiters: list[Deferred[None]] = []
        self.can_send = True
        self.is_slice_spent = False
        self.slice_waiters: list[Deferred[None]] = []
        self.held: list[Deferred[Any]] = []
        self.next_line_waiters: list[Deferred[None]] = []

    @property
    def environment(self) -> Environment | None:
        """The environment that the client may name."""
        return None if self.pin is None else self.pin.environment

    def keep_environment(self, pin: Pin) -> None:
        self.pin = pin

    @property
    def is_congested(self) -> bool:
        """Whether ``can_send`` is False although the client has a time slice."""
        return not (self.can_send or self.is_slice_spent)

    def grant_slice(self) -> None:
        """Give the client another time slice."""
        self.can_send, self.is_slice_spent = True, False
        waiters, self.slice_waiters = self.slice_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def spend_slice(self) -> None:
        """Let the client send nothing more in this time slice."""
        self.can_send, self.is_slice_spent = False, True

    def identify(self, authenticating: "Deferred[Principal]") -> "Deferred[Principal]":
        def identified(principal: Principal) -> Principal:
            self.principal = principal
            return principal

        def failed(failure: Failure) -> Failure:
            failure.trap(AuthFailed)
            self.failures += 1
            return failure

        return authenticating.addCallbacks(identified, failed)

    def send(self, data: bytes) -> None:
        self.sent += data

    send_part = send

    def writable(self) -> "Deferred[None]":
        if self.can_send:
            return succeed(None)
        self.writable_waiters.append(Deferred())
        return self.writable_waiters[-1]

    def next_slice(self) -> "Deferred[None]":
        self.slice_waiters.append(Deferred())
        return self.slice_waiters[-1]

    def abort(self, why: str) -> None:
        self.aborts.append(why)

    def next_line(self) -> "Deferred[None]":
        self.next_line_waiters.append(Deferred())
        return self.next_line_waiters[-1]

    def while_connected(self, deferred: "Deferred[Any]") -> "Deferred[Any]":
        self.held.append(deferred)
        return deferred

    def finish(self) -> None:
        self.is_finished = True


class Client:
    """A client of a harness's server, connected through a FakeTransport."""

    def __init__(self, harness: Harness, handle: Any = None) -> None:
        self.transport = FakeTransport(handle or FakeSocket())
        self._unsent: list[bytes] = []
        self.connection = cast("Any", harness.factory.buildProtocol(None))
        self.transport.protocol = self.connection
        self.connection.makeConnection(self.transport)

    def send(self, data: bytes, size: int | None = None) -> None:
        """Send bytes, in pieces of ``size`` if it is given."""
        step = size or len(data) or 1
        self._unsent += (data[at : at + step] for at in range(0, len(data), step))
        self.deliver()

    def deliver(self) -> None:
        """Deliver the sent bytes to the server as long as it reads."""
        while self._unsent and self.transport.is_reading and not self.transport.is_closed:
            self.connection.dataReceived(self._unsent.pop(0))

    @property
    def is_held_back(self) -> bool:
        """Whether the server has not read all bytes that were sent."""
        return bool(self._unsent)

    def read(self) -> None:
        """Read all that the server has written, and deliver what it then reads."""
        self.transport.turn()
        self.deliver()

    def half_close(self) -> None:
        """Close the client's half."""
        self.connection.readConnectionLost()

    def lines(self) -> list[str]:
        """Return the reply lines since the last call."""
        text, self.transport.received = self.transport.received, b""
        assert not text or text.endswith(b"\r\n")
        return text.decode("utf-8").split("\r\n")[:-1]
