"""The interfaces of a connection and of the daemon, as the handlers see them."""

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from taskqd.config.settings import OnStop
from taskqd.engine.environments import Pin
from taskqd.model.environment import Environment


class IClient(Interface):
    """The client that made a request."""

    principal: Any = Attribute("The taskqd.auth.principal.Principal of the client; None before AUTH.")

    address: str = Attribute("The origin of the client: `10.0.0.5:4242`, or `pid 1234`.")

    is_local: bool = Attribute("Whether the client is a process on this machine, at a UNIX socket.")

    environment: Environment | None = Attribute(
        "The environment that the client may name by its hash: the last one that it has sent."
    )

    def keep_environment(pin: Pin) -> None:
        """Let the client name an environment by its hash, until it sends another one or disconnects."""

    can_send: bool = Attribute("Whether more of a reply may be produced and sent now, without `writable`.")

    is_congested: bool = Attribute("Whether the client does not read what was sent to it.")

    def identify(authenticating: "Deferred[Any]") -> "Deferred[Any]":
        """Return `authenticating`, whose result becomes the client's principal.

        Nothing is read from the client until then. After too many failures with AuthFailed the connection
        is closed once the reply was sent. The Deferred fails with QueueFull if the user has too many
        connections.
        """

    def send(data: bytes) -> None:
        """Send a part of a reply that ends with a line or a block."""

    def send_part(data: bytes) -> None:
        """Send a part of a line or of a block. Nothing but its rest is sent before the next `send`."""

    def writable() -> "Deferred[None]":
        """Fire once the client has read enough for more to be sent, and the reactor has had time for others.

        Fails when the client has disconnected. May be cancelled.
        """

    def next_slice() -> "Deferred[None]":
        """Fire when the reactor has had time for others; the client may be congested.

        Fails with CancelledError when the client has disconnected.
        """

    def abort(why: str) -> None:
        """Close the connection at once, because a reply was begun that cannot be finished; logs `why`."""

    def next_line() -> "Deferred[None]":
        """Fire when the client has sent another line, possibly an empty one; at once if one has arrived.

        Does not fire once the client has disconnected. May be cancelled.
        """

    def while_connected(deferred: "Deferred[Any]") -> "Deferred[Any]":
        """Return `deferred`; it is cancelled if the client disconnects before it fires."""

    def finish() -> None:
        """Close the connection once every request so far has been answered."""


class IShutdown(Interface):
    """Stops the daemon."""

    stop_mode: OnStop = Attribute("What the requested stop does to running jobs; before that, any stop.")

    leave_obstacle: str | None = Attribute(
        'Why a stop ends running jobs, though the setting `on-stop` is "leave"; else None.'
    )

    def request_stop(ends_jobs: bool | None) -> "Deferred[None]":
        """Stop the daemon from the next turn of the reactor on, and end running jobs or leave them.

        None does what the setting `on-stop` says. The Deferred fires before the connections close: when the
        jobs have ended and that is recorded, or when they are left.
        """
