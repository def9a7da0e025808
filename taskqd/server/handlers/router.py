"""What each verb does: a request's values in, its reply out. The table of verbs is in wire.py.

The handlers are in rooms of related verbs. They may assume that all earlier requests of their connection have
been answered, unless theirs is a SUBMIT.
"""

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred

from taskqd.auth.authenticator import Authenticator
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.engine.engine import Engine
from taskqd.errors import AuthRequired, TaskqError
from taskqd.model.roles import PERMISSIONS, Permission
from taskqd.model.submission import Submission
from taskqd.protocol import parser, verbs
from taskqd.server.handlers.admin import AdminHandlers
from taskqd.server.handlers.base import Handler, Reply
from taskqd.server.handlers.control import ControlHandlers
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.output import OutputHandlers
from taskqd.server.handlers.query import QueryHandlers, SubmitRequest
from taskqd.server.handlers.queues import QueueHandlers
from taskqd.server.handlers.streaming import StreamingHandlers
from taskqd.server.interfaces import IClient

OPEN = frozenset(verb for verb, need in PERMISSIONS.items() if need is Permission.NOTHING)
"""The verbs for everybody; the others are for those whom the server knows."""


class Router:
    """The handlers, by verb; ``connections`` tells how many there are."""

    def __init__(
        self,
        engine: Engine,
        results: JobView,
        access: Authenticator,
        feed: Any,
        clock: Any,
        gate: Authorizer,
        connections: Callable[[], int],
    ) -> None:
        self._access = access
        self._authorizer = gate
        self._jobs = QueryHandlers(engine, results, clock, gate)
        self._handlers: dict[str, Handler] = {
            **self._jobs.handlers(),
            **OutputHandlers(engine, results, clock, gate).handlers(),
            **ControlHandlers(engine, results, clock, gate).handlers(),
            **QueueHandlers(engine, results, clock, gate).handlers(),
            **StreamingHandlers(engine, results, clock, gate, feed).handlers(),
            **AdminHandlers(engine, results, clock, gate, access, connections).handlers(),
        }

    def peer(self, transport: Any) -> Principal | None:
        """Return which user of this machine is behind a socket, None if that takes an AUTH."""
        return self._access.peer(transport)

    def certificate(self, transport: Any) -> Principal | None:
        """Return whom the certificate names that came with a handshake, None if that takes an AUTH."""
        return self._access.certificate(transport)

    def expect(self, client: IClient, request: parser.Request) -> parser.Request:
        """Return a request whose blocks are on their way: refused already where nobody would want them."""
        if request.error is not None:
            return request
        try:
            self._check_known(client, request.verb)
            self._authorizer.expect(client.principal, request.verb, request.argument)
        except TaskqError as why:
            return request._replace(error=why)
        return request

    def handle(self, client: IClient, request: parser.Request, blocks: list[bytes]) -> Reply:
        """Do what a request asks for; raises its error."""
        self._check_known(client, request.verb)
        if request.error is not None:
            raise request.error
        if request.verb not in OPEN:
            self._authorizer.check(client.principal, request.verb, request.argument)
        argument = request.argument
        if request.verb == "SUBMIT":
            argument = SubmitRequest(argument, blocks, request.secret)
        return self._handlers[request.verb](client, argument)

    def submit_all(self, batches: "list[tuple[IClient, list[Submission]]]") -> "Deferred[list[bytes]]":
        """Do what SUBMITs of their lines alone ask for, and fire with the reply of each batch."""
        return self._jobs.submit_all([(self._let_in(client), orders) for client, orders in batches])

    def _let_in(self, client: IClient) -> Principal | TaskqError:
        """Return who is behind a caller that submits, or why they may not."""
        try:
            self._check_known(client, "SUBMIT")
            self._authorizer.check(client.principal, "SUBMIT", None)
        except TaskqError as why:
            return why
        return cast("Principal", client.principal)

    def _check_known(self, client: IClient, verb: str) -> None:
        """Raise AuthRequired where it must be known who asks, and is not, or not any more."""
        who = client.principal
        if verb in OPEN or verb not in verbs.VERBS:
            return
        if who is None:
            raise AuthRequired(f"{verb} needs an AUTH <token> before it")
        if who.token is not None and not self._access.is_valid(who):
            raise AuthRequired(f"the token of {who.name} is not valid any more; AUTH with another")
