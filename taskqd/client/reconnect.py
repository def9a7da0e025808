"""Reconnects to a daemon that is being restarted: retry intervals, timeout and the messages about it."""

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from taskqd.client.address import Unreachable, Untrusted
from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration

RECONNECT_TIMEOUT = 60.0
"""Default time to wait for a daemon to come back (seconds); TASKQ_RECONNECT overrides it."""
MIN_RETRY_INTERVAL = 0.1
MAX_RETRY_INTERVAL = 2.0
"""Time between two attempts to connect (seconds); it doubles from the minimum to the maximum."""

CONNECTION_LOST = "the connection to the daemon was lost; reconnecting"
RECONNECTED = "reconnected to the daemon"

Made = TypeVar("Made")


def parse_reconnect_timeout(
    given: float | str | None = None, environ: Mapping[str, str] | None = None
) -> float:
    """Return the reconnect timeout in seconds: the argument, else TASKQ_RECONNECT, else the default.

    Raises ValueError for anything but a duration.
    """
    text = (os.environ if environ is None else environ).get("TASKQ_RECONNECT") if given is None else given
    if text is None or text == "":
        return RECONNECT_TIMEOUT
    try:
        return parse_duration(text) if isinstance(text, str) else float(text)
    except BadRequest as why:
        raise ValueError(f"TASKQ_RECONNECT or reconnect: {why}") from None


def reconnect(
    connect: Callable[[], Made],
    timeout: float = RECONNECT_TIMEOUT,
    pause: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.monotonic,
    *,
    losses: int = 1,
) -> Made:
    """Call ``connect`` until it succeeds; raises Unreachable after ``timeout`` seconds.

    ``losses`` is the number of consecutive connections that were lost before a reply. The first interval
    doubles with each, so that a daemon that closes every connection is not contacted ten times per second.
    Untrusted is raised at once, since waiting does not change a certificate.
    """
    deadline = now() + timeout
    interval = min(MIN_RETRY_INTERVAL * 2 ** min(losses - 1, 10), MAX_RETRY_INTERVAL)
    while True:
        pause(interval)
        try:
            return connect()
        except Untrusted:
            raise
        except Unreachable as error:
            if now() >= deadline:
                raise Unreachable(f"{error}; gave up after {round(timeout, 2):g} s") from None
        interval = min(2 * interval, MAX_RETRY_INTERVAL)
