"""Time slices: long replies share the reactor's thread with each other and with everybody's next request.

A reply that is produced in portions goes on while ``is_spent`` is false, and then waits for a ``turn``. Turns
are given in the order in which they were asked for, a few in each iteration of the reactor, so that neither
one long reply nor a hundred of them keep a short request waiting.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred

TURN = 0.0025
"""A reply may be produced for this many seconds at a stretch."""
SLICE = 0.01
"""In one iteration of the reactor no turn begins after this many seconds: requests are read in between."""


class TimeSlices:
    """The turns of all replies of a daemon; ``clock`` is its reactor."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: deque[Deferred[None]] = deque()
        self._turn_at: float | None = None
        self._call: Any = None

    @property
    def is_spent(self) -> bool:
        """Whether a reply has to wait for a turn before more of it is produced."""
        now: float = self._clock.seconds()
        if self._turn_at is None:
            self._turn_at = now
            self._wake()
        return now - self._turn_at >= TURN

    def turn(self) -> Deferred[None]:
        """Fire when it is the next turn of whoever asks; may be cancelled."""
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        self._wake()
        return turn

    def _wake(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(0, self._give_turns)

    def _give_turns(self) -> None:
        self._call = None
        began = self._clock.seconds()
        for _ in range(len(self._waiting)):
            self._turn_at = now = self._clock.seconds()
            if not self._waiting or now - began >= SLICE:
                break
            self._waiting.popleft().callback(None)
        self._turn_at = -math.inf if self._waiting else None
        if self._waiting:
            self._wake()
