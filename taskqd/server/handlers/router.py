"""Routes requests to their handlers, after authentication and authorization."""

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport

from taskqd.auth.authenticator import Authenticator
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.engine.engine import Engine
from taskqd.errors import AuthRequired, TaskqError
from taskqd.model.roles import Permission
from taskqd.model.submission import SimilarSubmissions, Submission
from taskqd.protocol.parser import VERBS_WITH_BLOCKS, Request
from taskqd.protocol.verbs import VERBS
from taskqd.server.handlers.admin import AdminHandlers
from taskqd.server.handlers.base import Handler, HandlerGroup, Reply
from taskqd.server.handlers.control import ControlHandlers
from taskqd.server.handlers.environments import check_is_local
from taskqd.server.handlers.event_stream import EventStream
from taskqd.server.handlers.input import InputHandlers
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.log import LogHandlers
from taskqd.server.handlers.output import OutputHandlers
from taskqd.server.handlers.query import QueryHandlers
from taskqd.server.handlers.queues import QueueHandlers
from taskqd.server.handlers.streaming import StreamingHandlers
from taskqd.server.handlers.submit import SubmitHandlers
from taskqd.server.handlers.with_blocks import with_blocks
from taskqd.server.interfaces import IClient, IShutdown
from taskqd.storage.interfaces import IClock

OPEN_VERBS = frozenset(name for name, verb in VERBS.items() if verb.permission is Permission.NOTHING)
"""Verbs that need no authentication."""


class Router:
    """Has the handler of each verb. `connection_count` returns the number of connections.

    A handler may assume that all earlier requests of its connection have been answered, except SUBMITs.
    """

    def __init__(
        self,
        engine: Engine,
        job_view: JobView,
        authenticator: Authenticator,
        event_stream: EventStream,
        clock: IClock,
        authorizer: Authorizer,
        connection_count: Callable[[], int],
        shutdown: IShutdown,
    ) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._submit_handlers = SubmitHandlers(engine, job_view, clock, authorizer)
        groups: tuple[HandlerGroup, ...] = (
            self._submit_handlers,
            QueryHandlers(engine, job_view, clock, authorizer),
            OutputHandlers(engine, job_view, clock, authorizer),
            LogHandlers(engine, job_view, clock, authorizer),
            ControlHandlers(engine, job_view, clock, authorizer),
            InputHandlers(engine, job_view, clock, authorizer),
            QueueHandlers(engine, job_view, clock, authorizer),
            StreamingHandlers(engine, job_view, clock, authorizer, event_stream),
            AdminHandlers(engine, job_view, clock, authorizer, authenticator, connection_count, shutdown),
        )
        self._handlers: dict[str, Handler] = {}
        for group in groups:
            self._handlers |= group.handlers()

    @property
    def verbs(self) -> frozenset[str]:
        """The verbs that have a handler."""
        return frozenset(self._handlers)

    def identify_peer(self, transport: ITransport) -> Principal | None:
        """Return the principal of a client on a UNIX socket; None for any other, which must AUTH."""
        return self._authenticator.identify_peer(transport)

    def identify_certificate(self, transport: ITransport) -> Principal | None:
        """Return the principal of a client certificate; None if there is none, and the client must AUTH."""
        return self._authenticator.identify_certificate(transport)

    def check_before_blocks(self, client: IClient, request: Request) -> Request:
        """Return a request whose blocks will follow; with an error if it is refused whatever they contain."""
        if request.error is not None:
            return request
        try:
            self._check_authenticated(client, request.verb)
            self._authorizer.check_before_blocks(client.principal, request.verb, request.argument)
            if isinstance(request.argument, Submission):
                check_is_local(client, request.argument.spec)
        except TaskqError as error:
            return request._replace(error=error)
        return request

    def handle(self, client: IClient, request: Request, blocks: list[bytes]) -> Reply:
        """Return the reply to a request; raises its error."""
        self._check_authenticated(client, request.verb)
        if request.error is not None:
            raise request.error
        if request.verb not in OPEN_VERBS:
            self._authorizer.authorize(client.principal, request.verb, request.argument)
        argument = request.argument
        if request.verb in VERBS_WITH_BLOCKS:
            argument = with_blocks(argument, blocks, request.secret)
        return self._handlers[request.verb](client, argument)

    def submit_all(
        self, batches: "list[tuple[IClient, list[SimilarSubmissions]]]"
    ) -> "Deferred[list[bytes]]":
        """Accept batches of submissions without keys and blocks, and fire with the reply to each batch."""
        checked = [(client, self._check_submitter(client), submissions) for client, submissions in batches]
        return self._submit_handlers.submit_all(checked)

    def _check_submitter(self, client: IClient) -> Principal | TaskqError:
        """Return the principal of a client that submits, or the error if it may not."""
        try:
            self._check_authenticated(client, "SUBMIT")
            self._authorizer.authorize(client.principal, "SUBMIT", None)
        except TaskqError as error:
            return error
        return cast("Principal", client.principal)

    def _check_authenticated(self, client: IClient, verb: str) -> None:
        """Raise AuthRequired if a verb needs authentication and the client has none that is still valid."""
        principal = client.principal
        if verb in OPEN_VERBS or verb not in VERBS:
            return
        if principal is None:
            raise AuthRequired(f"{verb} needs authentication; send AUTH <token> first")
        if principal.token is not None and not self._authenticator.is_valid(principal):
            raise AuthRequired(
                f"the token of {principal.name} was revoked or changed, or has expired; AUTH with another"
            )
