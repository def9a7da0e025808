"""The interface of a connection, as the handlers of the verbs see it."""

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface


class IClient(Interface):
    """Whoever made a request, as its handler sees them: a connection."""

    principal: Any = Attribute("The taskqd.access.Principal who asks, or None before an AUTH.")

    address: str = Attribute("Where they are, as an Actor's origin: ``10.0.0.5:4242``, or ``pid 1234``.")

    def identify(authenticating: "Deferred[Any]") -> "Deferred[Any]":
        """Take whom ``authenticating`` fires with for the caller, and return it.

        Nothing more is read from them until then. Where it fails with AuthFailed too often, the connection
        ends after the answer; with QueueFull it fails for somebody who has too many connections.
        """

    can_send: bool = Attribute("Whether more of a reply may be produced and sent now, without ``writable``.")

    def send(data: bytes) -> None:
        """Send a portion of a reply that is sent in portions, up to the end of a line or a block."""

    def send_part(data: bytes) -> None:
        """Send a part of a line or a block; nothing but its rest is sent before the next ``send``."""

    def writable() -> "Deferred[None]":
        """Fire when the caller has read enough for more to be sent, and the reactor has time to produce it.

        Fails when the caller is gone. May be cancelled.
        """

    def abort(why: str) -> None:
        """Close the connection at once: a reply was begun that cannot be finished. The log has ``why``."""

    def next_line() -> "Deferred[None]":
        """Fire when another line of the caller's has come, at once if one is there; may be cancelled.

        An empty line counts, though it asks for nothing. None comes any more once the caller is gone.
        """

    def while_connected(deferred: "Deferred[Any]") -> "Deferred[Any]":
        """Return ``deferred``, which is cancelled should the caller be gone before it fires."""

    def finish() -> None:
        """End the connection once everything asked so far is answered."""
