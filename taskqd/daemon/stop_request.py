"""The stop that signals and clients have requested: what it does to running jobs, and whether at once."""

import signal
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed

from taskqd.config.settings import OnStop


class StopRequest(NamedTuple):
    """One stop. If it ends jobs and ``is_urgent``, they are killed without their grace period."""

    mode: OnStop
    is_urgent: bool = False


class StopRequests:
    """Combines all requests to stop into one.

    ``on_stop`` is what a stop does to running jobs if the request does not say. ``obstacle`` is why jobs
    cannot outlive the daemon, or None; with an obstacle, each stop ends them. It may change until the stop
    begins.

    A stop that ends jobs stays one. It is urgent from the second signal that ends jobs: SIGINT always does,
    SIGTERM if ``on_stop`` says so. Requests of clients are never urgent.
    """

    def __init__(self, on_stop: OnStop, obstacle: str | None = None) -> None:
        self.on_stop = on_stop
        self.obstacle = obstacle
        self._ends_jobs: bool | None = None  # None: no stop was requested
        self._ending_signals = 0
        self._waiters: list[Deferred[None]] = []

    @property
    def request(self) -> StopRequest | None:
        """All requests as one; None if there was none."""
        return None if self._ends_jobs is None else StopRequest(self.mode, self._ending_signals > 1)

    @property
    def mode(self) -> OnStop:
        """The fate of running jobs at the requested stop; if none was requested, at a SIGTERM."""
        return self._mode(self._ends_jobs)

    def add(self, ends_jobs: bool | None = None) -> None:
        """Add a request that ends running jobs or leaves them; None does what ``on_stop`` says."""
        if not self._ends_jobs:
            self._ends_jobs = self.on_stop is not OnStop.LEAVE if ends_jobs is None else ends_jobs

    def add_signal(self, number: int) -> None:
        """Add the request that SIGTERM or SIGINT is."""
        ends_jobs = True if number == signal.SIGINT else None
        self.add(ends_jobs)
        if self._mode(ends_jobs) is not OnStop.LEAVE:
            self._ending_signals += 1
        if self._ending_signals > 1:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def begin(self) -> StopRequest:
        """Return all requests as one, which does what ``on_stop`` says if there was none."""
        if self._ends_jobs is None:
            self.add()
        return StopRequest(self.mode, self._ending_signals > 1)

    def when_urgent(self) -> "Deferred[None]":
        """Return a Deferred that fires when the request is urgent."""
        if self._ending_signals > 1:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def _mode(self, ends_jobs: bool | None) -> OnStop:
        if ends_jobs is None:
            ends_jobs = self.on_stop is not OnStop.LEAVE
        if not ends_jobs and self.obstacle is None:
            return OnStop.LEAVE
        return OnStop.INTERRUPT if self.on_stop is OnStop.LEAVE else self.on_stop
