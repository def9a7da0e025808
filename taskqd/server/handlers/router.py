"""What each verb does: a request's values in, its reply out. The table of verbs is in wire.py.

The handlers are in rooms of related verbs. They may assume that all earlier requests of their connection have
been answered, unless theirs is a SUBMIT.
"""

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred

from taskqd.auth.authenticator import Access
from taskqd.auth.authorization import Gate
from taskqd.auth.principal import Principal
from taskqd.engine.engine import Dispatcher
from taskqd.errors import AuthRequired, TaskqError
from taskqd.model.roles import NEEDS, Need
from taskqd.model.submission import Order
from taskqd.protocol import parser, verbs
from taskqd.server.handlers.admin import Daemon
from taskqd.server.handlers.base import Handler, Reply
from taskqd.server.handlers.control import Acts
from taskqd.server.handlers.job_view import Results
from taskqd.server.handlers.output import Outputs
from taskqd.server.handlers.query import Jobs, Submission
from taskqd.server.handlers.queues import Queues
from taskqd.server.handlers.streaming import Live
from taskqd.server.interfaces import ICaller

OPEN = frozenset(verb for verb, need in NEEDS.items() if need is Need.NOTHING)
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
        gate: Gate,
        connections: Callable[[], int],
    ) -> None:
        self._access = access
        self._gate = gate
        self._jobs = Jobs(dispatcher, results, clock, gate)
        self._handlers: dict[str, Handler] = {
            **self._jobs.handlers(),
            **Outputs(dispatcher, results, clock, gate).handlers(),
            **Acts(dispatcher, results, clock, gate).handlers(),
            **Queues(dispatcher, results, clock, gate).handlers(),
            **Live(dispatcher, results, clock, gate, feed).handlers(),
            **Daemon(dispatcher, results, clock, gate, access, connections).handlers(),
        }

    def peer(self, transport: Any) -> Principal | None:
        """Return which user of this machine is behind a socket, None if that takes an AUTH."""
        return self._access.peer(transport)

    def certificate(self, transport: Any) -> Principal | None:
        """Return whom the certificate names that came with a handshake, None if that takes an AUTH."""
        return self._access.certificate(transport)

    def expect(self, caller: ICaller, request: parser.Request) -> parser.Request:
        """Return a request whose blocks are on their way: refused already where nobody would want them."""
        if request.error is not None:
            return request
        try:
            self._check_known(caller, request.verb)
            self._gate.expect(caller.principal, request.verb, request.argument)
        except TaskqError as why:
            return request._replace(error=why)
        return request

    def handle(self, caller: ICaller, request: parser.Request, blocks: list[bytes]) -> Reply:
        """Do what a request asks for; raises its error."""
        self._check_known(caller, request.verb)
        if request.error is not None:
            raise request.error
        if request.verb not in OPEN:
            self._gate.check(caller.principal, request.verb, request.argument)
        argument = request.argument
        if request.verb == "SUBMIT":
            argument = Submission(argument, blocks, request.secret)
        return self._handlers[request.verb](caller, argument)

    def submit_all(self, batches: "list[tuple[ICaller, list[Order]]]") -> "Deferred[list[bytes]]":
        """Do what SUBMITs of their lines alone ask for, and fire with the reply of each batch."""
        return self._jobs.submit_all([(self._let_in(caller), orders) for caller, orders in batches])

    def _let_in(self, caller: ICaller) -> Principal | TaskqError:
        """Return who is behind a caller that submits, or why they may not."""
        try:
            self._check_known(caller, "SUBMIT")
            self._gate.check(caller.principal, "SUBMIT", None)
        except TaskqError as why:
            return why
        return cast("Principal", caller.principal)

    def _check_known(self, caller: ICaller, verb: str) -> None:
        """Raise AuthRequired where it must be known who asks, and is not, or not any more."""
        who = caller.principal
        if verb in OPEN or verb not in verbs.VERBS:
            return
        if who is None:
            raise AuthRequired(f"{verb} needs an AUTH <token> before it")
        if who.token is not None and not self._access.is_valid(who):
            raise AuthRequired(f"the token of {who.name} is not valid any more; AUTH with another")
