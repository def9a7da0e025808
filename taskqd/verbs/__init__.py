"""What each verb does: a request's values in, its reply out. The table of verbs is in wire.py.

The handlers are in rooms of related verbs. They may assume that all earlier requests of their connection have
been answered, unless theirs is a SUBMIT.
"""

from collections.abc import Callable
from typing import Any

from taskqd import wire
from taskqd.access import Access, Principal
from taskqd.dispatcher import Dispatcher
from taskqd.errors import AuthRequired
from taskqd.interfaces import ICaller
from taskqd.results import Results
from taskqd.verbs.acts import Acts
from taskqd.verbs.daemon import Daemon
from taskqd.verbs.jobs import Jobs, Submission
from taskqd.verbs.live import Live
from taskqd.verbs.queues import Queues
from taskqd.verbs.room import Handler, Reply

OPEN = frozenset({"HELLO", "PING", "HELP", "AUTH", "QUIT"})
"""The verbs for everybody; the others are for those whom the server knows."""


class Verbs:
    """The handlers, by verb; ``connections`` tells how many there are."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        results: Results,
        access: Access,
        feed: Any,
        clock: Any,
        connections: Callable[[], int],
    ) -> None:
        self._access = access
        self._handlers: dict[str, Handler] = {
            **Jobs(dispatcher, results, clock).handlers(),
            **Acts(dispatcher, results, clock).handlers(),
            **Queues(dispatcher, results, clock).handlers(),
            **Live(dispatcher, results, feed, clock).handlers(),
            **Daemon(dispatcher, results, clock, access, connections).handlers(),
        }

    def peer(self, connection: Any) -> Principal | None:
        """Return who is behind a socket, None if that takes an AUTH."""
        return self._access.peer(connection)

    def handle(self, caller: ICaller, request: wire.Request, blocks: list[bytes]) -> Reply:
        """Do what a request asks for; raises its error."""
        if caller.principal is None and request.verb not in OPEN and request.verb in wire.VERBS:
            raise AuthRequired(f"{request.verb} needs an AUTH <token> before it")
        if request.error is not None:
            raise request.error
        argument = Submission(request.argument, blocks) if request.verb == "SUBMIT" else request.argument
        return self._handlers[request.verb](caller, argument)
