"""The clocks of the daemon, which the rest of it is given: monotonic, boot, and the time of day.

- `seconds` is CLOCK_MONOTONIC, with the timers that run on it: for what a process or a connection does, such
  as timeouts, idle times, graces and rates. It stands still while the machine is suspended.
- `elapsed` is for waits and ages: delays, retries, schedules' intervals and the retention.
- `now` is the time of day, in seconds since the epoch: for time stamps, `--at` and `--cron`.
"""

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer


def boot() -> float:
    """Return the seconds since the machine was started, those included in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic(reactor: Any) -> None:
    """Have the timers of a reactor run on CLOCK_MONOTONIC; Twisted's default is the time of day.

    It must be called before any timer is set: a timer keeps the time that it was given.
    """
    reactor.seconds = time.monotonic


@implementer(IReactorTime)
class Clocks:
    """All clocks as one argument; `boot` and `time_of_day` read those that the reactor does not have."""

    def __init__(
        self,
        reactor: Any,
        boot: Callable[[], float] = boot,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self.boot = boot
        self._time_of_day = time_of_day

    def seconds(self) -> float:
        """Return the monotonic clock, in seconds since any moment."""
        monotonic: float = self._reactor.seconds()
        return monotonic

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - IReactorTime has this name
        *args: object,
        **kwargs: object,
    ) -> Any:
        """Call a function after ``delay`` seconds of the monotonic clock."""
        return self._reactor.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Any:
        """Return the timers that are set."""
        return self._reactor.getDelayedCalls()

    def elapsed(self) -> float:
        """Return the clock of waits and ages, in seconds."""
        return self._time_of_day()

    def now(self) -> float:
        """Return the time of day, in seconds since the epoch."""
        return self._time_of_day()
