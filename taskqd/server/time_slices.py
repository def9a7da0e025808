"""Time slices: long replies share the reactor thread with each other and with new requests.

A reply that is produced in portions continues until `is_spent` is true, and then waits for `next_slice`.
Slices are granted in the order in which they were requested, a few in each iteration of the reactor. A short
request therefore waits neither for one long reply nor for a hundred of them.
"""

from __future__ import annotations

import math
from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

SLICE_LENGTH = 0.0025
"""Seconds for which a reply may be produced without a pause."""
ITERATION_BUDGET = 0.01
"""Seconds after which an iteration of the reactor grants no further slice, so that requests are read."""


class TimeSlices:
    """The time slices of all replies of a daemon."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Deferred[None]] = deque()
        self._slice_started_at: float | None = None
        self._timer: IDelayedCall | None = None

    @property
    def is_spent(self) -> bool:
        """Whether the current slice is used up; the first call in an iteration of the reactor starts one."""
        now = self._clock.seconds()
        if self._slice_started_at is None:
            self._slice_started_at = now
            self._schedule()
        return now - self._slice_started_at >= SLICE_LENGTH

    def next_slice(self) -> Deferred[None]:
        """Fire when the next slice is granted; may be cancelled."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        self._schedule()
        return waiter

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(0, self._grant_slices)

    def _grant_slices(self) -> None:
        self._timer = None
        started_at = self._clock.seconds()
        for _ in range(len(self._waiting)):
            self._slice_started_at = now = self._clock.seconds()
            if not self._waiting or now - started_at >= ITERATION_BUDGET:
                break
            self._waiting.popleft().callback(None)
        self._slice_started_at = (
            -math.inf if self._waiting else None
        )  # new replies queue behind the waiting ones
        if self._waiting:
            self._schedule()
