"""Coming back to a daemon that has been started again: how often to try, how long, and what to say of it.

Who comes back knows himself where to go on: by the offsets of an output, by the number of an event.
"""

import time
from collections.abc import Callable

from taskqd.client import Client, Unreachable

PATIENCE = 300.0
"""A daemon that has gone may take so many seconds to come back."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Between two tries there are so many seconds, at first and at most."""


LOST = "the connection to the daemon was lost; waiting for it to come back"
BACK = "the daemon is back"


def come_back(
    connect: Callable[[], Client],
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Client:
    """Return a new client in place of one whose connection was lost; raises Unreachable after PATIENCE."""
    deadline = now() + PATIENCE
    wait = FIRST_PAUSE
    while True:
        pause(wait)
        try:
            return connect()
        except Unreachable as error:
            if now() >= deadline:
                raise Unreachable(f"{error}; gave up after {PATIENCE:g} s") from None
        wait = min(2 * wait, LONGEST_PAUSE)
