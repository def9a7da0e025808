"""Coming back to a daemon that has been started again: how often to try, how long, and what to say of it."""

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from taskqd.client.address import Unreachable, Untrusted
from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration

RECONNECT_TIMEOUT = 60.0
"""A daemon that has gone may take this many seconds to come back, unless TASKQ_RECONNECT says otherwise."""
FIRST_PAUSE = 0.1
MAX_PAUSE = 2.0
"""Between two tries there are this many seconds, at first and at most."""

LOST = "the connection to the daemon was lost; waiting for it to come back"
BACK = "the daemon is back"

Made = TypeVar("Made")


def reconnect_timeout(given: float | str | None = None, environ: Mapping[str, str] | None = None) -> float:
    """Return how many seconds a daemon may be away: what is given, else what the environment says.

    Raises ValueError for what is no duration.
    """
    text = (os.environ if environ is None else environ).get("TASKQ_RECONNECT") if given is None else given
    if text is None or text == "":
        return RECONNECT_TIMEOUT
    try:
        return parse_duration(text) if isinstance(text, str) else float(text)
    except BadRequest as why:
        raise ValueError(f"TASKQ_RECONNECT or reconnect: {why}") from None


def come_back(
    connect: Callable[[], Made],
    timeout: float = RECONNECT_TIMEOUT,
    pause: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.monotonic,
    *,
    losses: int = 1,
) -> Made:
    """Return what ``connect`` makes in place of a lost connection; raises Unreachable after ``timeout``.

    ``losses`` is how many connections in succession were lost without an answer: the first pause is twice
    as long for each, so that a daemon which closes every connection is not asked ten times a second.
    Raises Untrusted at once: waiting makes no certificate better.
    """
    deadline = now() + timeout
    wait = min(FIRST_PAUSE * 2 ** min(losses - 1, 10), MAX_PAUSE)
    while True:
        pause(wait)
        try:
            return connect()
        except Untrusted:
            raise
        except Unreachable as error:
            if now() >= deadline:
                raise Unreachable(f"{error}; gave up after {round(timeout, 2):g} s") from None
        wait = min(2 * wait, MAX_PAUSE)
