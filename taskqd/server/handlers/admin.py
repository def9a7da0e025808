"""Handlers about the server itself: HELLO, AUTH, PING, HELP, QUIT, STATS, DRAIN, SHUTDOWN."""

import textwrap
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from taskqd import __version__
from taskqd.auth.authenticator import Authenticator
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.config.limits import describe
from taskqd.config.settings import OnStop
from taskqd.engine.engine import Engine
from taskqd.model.environment import MAX_ENVIRONMENT_SIZE
from taskqd.model.spec import MAX_DEPENDENCIES
from taskqd.protocol import option_values, output_requests, replies, requests, send_request, submit
from taskqd.protocol.arguments import Table
from taskqd.protocol.requests import AuthRequest, DrainRequest, EmptyRequest, HelpRequest, ShutdownRequest
from taskqd.protocol.verbs import VERBS
from taskqd.server.handlers.base import HandlerGroup, Reply, handles
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IClient, IShutdown
from taskqd.storage.interfaces import IClock

PROTOCOL_VERSION = 1
HELP_WIDTH = 100
"""Characters of a line of HELP that lists options."""

LIMITS = {
    "skip": submit.MAX_SKIPPED_BLOCK,
    "environment_block": MAX_ENVIRONMENT_SIZE,
    "result": replies.MAX_RESULT_STREAM,
    "output": output_requests.MAX_OUTPUT_LIMIT,
    "list": requests.MAX_LIST_LIMIT,
    "list_in_order": requests.MAX_ORDERED_LIMIT,
    "wait": requests.MAX_WAIT_JOBS,
    "after": MAX_DEPENDENCIES,
    "array": option_values.MAX_TASKS,
    "send": send_request.MAX_DATA,
}
"""The limits in HELLO and STATS that are not configurable; config/limits.py has the others."""


JOB_FATES = {OnStop.LEAVE: "left", OnStop.INTERRUPT: "ended", OnStop.REQUEUE: "requeued"}
"""The effect of a stop on running jobs, as the reply to SHUTDOWN has it."""


class AdminHandlers(HandlerGroup):
    """Shows and changes the server. `connection_count` returns the number of connections."""

    _log = Logger()

    def __init__(
        self,
        engine: Engine,
        job_view: JobView,
        clock: IClock,
        authorizer: Authorizer,
        authenticator: Authenticator,
        connection_count: Callable[[], int],
        shutdown: IShutdown,
    ) -> None:
        super().__init__(engine, job_view, clock, authorizer)
        self._authenticator = authenticator
        self._shutdown = shutdown
        self._connection_count = connection_count
        self._limits = {**LIMITS, **describe(authorizer.limits)}
        self._started_at = clock.seconds()

    @handles("DRAIN")
    def _drain(self, client: IClient, request: DrainRequest) -> bytes:
        who, dispatcher = client.principal, self._engine.dispatcher
        if request.is_off:
            dispatcher.end_drain()
            act = "ended the drain of the daemon"
        else:
            dispatcher.drain()
            act = "drained the daemon"
        self._log.info("{who} ({origin}) {act}", who=who.name, origin=who.origin, act=act)
        return replies.OK

    @handles("SHUTDOWN")
    def _stop(self, client: IClient, request: ShutdownRequest) -> Reply:
        self._authorizer.authorize_shutdown(client.is_local)
        who, running = client.principal, self._engine.dispatcher.busy
        stopping = self._shutdown.request_stop(request.ends_jobs or None)
        fate = JOB_FATES[self._shutdown.stop_mode]
        self._log.info(
            "{who} ({origin}) shut the daemon down: {jobs}",
            who=who.name,
            origin=who.origin,
            jobs=_describe_fate(running, fate),
        )
        reply = replies.ok(f"{running} {fate}")
        if not request.is_waiting:
            return reply
        stopped: Deferred[bytes] = Deferred()  # cancelled if the client disconnects, which stops no stop
        stopping.addCallback(lambda _: None if stopped.called else stopped.callback(reply))
        return client.while_connected(stopped)

    @handles("STATS")
    def _stats(self, client: IClient, _: EmptyRequest) -> bytes:
        engine, queue_state = self._engine, self._queue_state
        return replies.as_json(
            "STATS",
            {
                "version": __version__,
                "uptime": round(self._clock.seconds() - self._started_at, 3),
                "slots": queue_state.capacity.slots,
                "slots_set": queue_state.capacity.set_slots,
                "slots_default": queue_state.capacity.totals.slots,
                "busy": engine.dispatcher.busy,
                "resources": queue_state.capacity.resources(),
                "paused": queue_state.queues.is_paused,
                "draining": engine.dispatcher.is_draining,
                "on_stop": self._shutdown.stop_mode.value,
                "on_stop_reason": self._shutdown.leave_obstacle,
                "shortage": engine.dispatcher.shortage.stats(self._clock.elapsed()),
                "runner": engine.dispatcher.runner_stats(),
                "jobs": {status.value.lower(): count for status, count in queue_state.counts.items()},
                "pending_bytes": queue_state.pending_bytes,
                "connections": self._connection_count(),
                "counters": engine.counters,
                "store": engine.journal_stats(),
                "limits": self._describe_limits(),
            },
        )

    @handles("HELLO")
    def _hello(self, client: IClient, _: EmptyRequest) -> bytes:
        hello = {
            "version": __version__,
            "verbs": list(VERBS),
            "options": [f"--{name}" for name in submit.SUBMIT_OPTIONS],
            "limits": self._describe_limits(),
            "you": _describe_principal(client.principal),
            "auth": self._authenticator.methods,
        }
        return replies.as_json(f"TASKQ {PROTOCOL_VERSION}", hello)

    def _describe_limits(self) -> dict[str, float | None]:
        """Return the limits, with the slots of the daemon and those that SET-SLOTS could set."""
        capacity = self._queue_state.capacity
        return {**self._limits, "slots": capacity.slots, "max_slots": capacity.totals.max_slots}

    @handles("AUTH")
    def _auth(self, client: IClient, request: AuthRequest) -> Reply:
        identified = client.identify(self._authenticator.authenticate(request.token, client.address))
        return identified.addCallback(
            lambda principal: replies.ok(f"{principal.name} {principal.role.value}")
        )

    @handles("PING")
    def _ping(self, client: IClient, _: EmptyRequest) -> bytes:
        return replies.OK

    @handles("HELP")
    def _help(self, client: IClient, request: HelpRequest) -> bytes:
        verbs = VERBS.values() if request.verb is None else [VERBS[request.verb]]
        lines = [f"{verb.usage}  {verb.summary}" for verb in verbs]
        if request.verb is not None:
            lines += _option_lines(VERBS[request.verb].options)
        return b"".join((*map(replies.ok, lines), replies.END))

    @handles("QUIT")
    def _quit(self, client: IClient, _: EmptyRequest) -> bytes:
        client.finish()
        return replies.OK


def _describe_principal(principal: Principal | None) -> dict[str, str] | None:
    """Return the JSON object of HELLO that describes the client."""
    if principal is None:
        return None
    fields = {
        "name": principal.name,
        "role": principal.role.value,
        "from": principal.origin,
        "queue": principal.queue,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _describe_fate(running: int, fate: str) -> str:
    """Return what a stop does to running jobs as a text for the log."""
    if not running:
        return "no job is running"
    return f"{running} running job{' is' if running == 1 else 's are'} {fate}"


def _option_lines(table: Table) -> list[str]:
    """Return lines that list options with the syntax of their values."""
    forms = [
        f"--{name}" if option.usage is None else f"--{name}={option.usage}" for name, option in table.items()
    ]
    text = f"Options: {' '.join(forms)}" if forms else ""
    return textwrap.wrap(text, HELP_WIDTH, break_long_words=False, break_on_hyphens=False)
