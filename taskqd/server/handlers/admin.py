"""The server itself: HELLO, AUTH, PING, HELP, QUIT, STATS, DRAIN."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger

from taskqd import __version__
from taskqd.auth.authenticator import Authenticator
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.config import limits
from taskqd.engine.engine import Engine
from taskqd.protocol import replies, requests, submit
from taskqd.protocol import verbs as wire
from taskqd.server.handlers.base import Handler, HandlerGroup, Reply
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IClient

PROTOCOL_VERSION = 1
HELP_WIDTH = 100
"""HELP's lines of options have at most so many characters."""

LIMITS = {
    "skip": submit.MAX_SKIPPED_BLOCK,
    "result": replies.MAX_RESULT_STREAM,
    "output": requests.MAX_OUTPUT_LIMIT,
    "list": requests.MAX_LIST_LIMIT,
    "wait": requests.MAX_WAIT_JOBS,
    "after": submit.MAX_DEPENDENCIES,
    "array": submit.MAX_TASKS,
}
"""What HELLO and STATS say of what every server takes and sends, in bytes or jobs; quotas.py has the rest."""


class AdminHandlers(HandlerGroup):
    """Tells about the server; ``connections`` tells how many there are."""

    _log = Logger()

    def __init__(
        self,
        engine: Engine,
        results: JobView,
        clock: Any,
        gate: Authorizer,
        access: Authenticator,
        connections: Callable[[], int],
    ) -> None:
        super().__init__(engine, results, clock, gate)
        self._access = access
        self._connections = connections
        self._limits = {**LIMITS, **limits.describe(gate.quotas)}
        self._started_at = clock.seconds()

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {
            "HELLO": self._hello,
            "AUTH": self._auth,
            "PING": self._ping,
            "HELP": self._help,
            "QUIT": self._quit,
            "STATS": self._stats,
            "DRAIN": self._drain,
        }

    def _drain(self, client: IClient, _: None) -> bytes:
        who = client.principal
        self._log.info("{who} ({origin}) drained the daemon", who=who.name, origin=who.origin)
        self._engine.dispatcher.drain()
        return replies.OK

    def _stats(self, client: IClient, _: None) -> bytes:
        engine, queue_state = self._engine, self._queue_state
        return replies.as_json(
            "STATS",
            {
                "version": __version__,
                "uptime": round(self._clock.seconds() - self._started_at, 3),
                "slots": queue_state.capacity.totals.slots,
                "busy": engine.dispatcher.busy,
                "resources": queue_state.capacity.resources(),
                "paused": queue_state.queues.is_paused,
                "draining": engine.dispatcher.is_draining,
                "shortage": engine.dispatcher.shortage.stats(self._clock.elapsed()),
                "jobs": {status.value.lower(): count for status, count in queue_state.counts.items()},
                "pending_bytes": queue_state.pending_bytes,
                "connections": self._connections(),
                "counters": engine.counters,
                "store": engine.journal_stats(),
                "limits": self._limits,
            },
        )

    def _hello(self, client: IClient, _: None) -> bytes:
        hello = {
            "version": __version__,
            "verbs": list(wire.VERBS),
            "options": [f"--{name}" for name in submit.OPTIONS],
            "limits": self._limits,
            "you": _described(client.principal),
            "auth": self._access.methods,
        }
        return replies.as_json(f"TASKQ {PROTOCOL_VERSION}", hello)

    def _auth(self, client: IClient, token: str) -> Reply:
        identified = client.identify(self._access.authenticate(token, client.address))
        return identified.addCallback(lambda who: replies.ok(f"{who.name} {who.role.value}"))

    def _ping(self, client: IClient, _: None) -> bytes:
        return replies.OK

    def _help(self, client: IClient, topic: str | None) -> bytes:
        verbs = wire.VERBS.values() if topic is None else [wire.VERBS[topic]]
        lines = [f"{verb.usage}  {verb.summary}" for verb in verbs]
        if topic is not None:
            lines += _options(wire.VERBS[topic].options)
        return b"".join((*map(replies.ok, lines), replies.END))

    def _quit(self, client: IClient, _: None) -> bytes:
        client.finish()
        return replies.OK


def _described(principal: Principal | None) -> dict[str, str] | None:
    """Return who somebody is, as HELLO tells them."""
    if principal is None:
        return None
    facts = {
        "name": principal.name,
        "role": principal.role.value,
        "from": principal.origin,
        "queue": principal.queue,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _options(usages: Mapping[str, str | None]) -> list[str]:
    """Return lines that tell how options are written."""
    forms = [f"--{name}" if usage is None else f"--{name}={usage}" for name, usage in usages.items()]
    text = f"Options: {' '.join(forms)}" if forms else ""
    return textwrap.wrap(text, HELP_WIDTH, break_long_words=False, break_on_hyphens=False)
