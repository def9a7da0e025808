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

    ``on_stop`` is the mode of a stop that does not say what it does to running jobs. ``can_leave`` is whether
    jobs outlive the daemon; if they do not, each stop ends them. Both may be set until the stop begins.

    A stop that ends jobs stays one, with the mode that it began with. It is urgent from the second signal
    that ends jobs: SIGINT always does, SIGTERM if ``on_stop`` says so. Requests of clients are never urgent.
    """

    def __init__(self, on_stop: OnStop, can_leave: bool = True) -> None:
        self.on_stop = on_stop
        self.can_leave = can_leave
        self.request: StopRequest | None = None
        self._ending_signals = 0
        self._waiters: list[Deferred[None]] = []

    @property
    def default_mode(self) -> OnStop:
        """The mode of a stop that does not say what it does to running jobs."""
        return self._mode(None)

    def begin(self) -> StopRequest:
        """Return the request, which does what ``on_stop`` says if there is none yet."""
        return self.add() if self.request is None else self.request

    def add(self, ends_jobs: bool | None = None) -> StopRequest:
        """Combine a request with those before; None does what ``on_stop`` says. Return the result."""
        mode = self._mode(ends_jobs)
        if self.request is None or self.request.mode is OnStop.LEAVE:
            self.request = StopRequest(mode)
        return self.request

    def add_signal(self, number: int) -> StopRequest:
        """Combine the request that SIGTERM or SIGINT is with those before; return the result."""
        ends_jobs = True if number == signal.SIGINT else None
        request = self.add(ends_jobs)
        if self._mode(ends_jobs) is not OnStop.LEAVE:
            self._ending_signals += 1
        if self._ending_signals > 1 and not request.is_urgent:
            self.request = request = request._replace(is_urgent=True)
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)
        return request

    def when_urgent(self) -> "Deferred[None]":
        """Return a Deferred that fires when the request is urgent."""
        if self.request is not None and self.request.is_urgent:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def _mode(self, ends_jobs: bool | None) -> OnStop:
        if ends_jobs is None:
            ends_jobs = self.on_stop is not OnStop.LEAVE
        if not ends_jobs and self.can_leave:
            return OnStop.LEAVE
        return OnStop.INTERRUPT if self.on_stop is OnStop.LEAVE else self.on_stop
