"""The clocks of the daemon, which the rest of it is given: monotonic, boot, and the time of day.

- `seconds` is CLOCK_MONOTONIC, with the timers that run on it: for what a process or a connection does, such
  as timeouts, idle times, graces and rates. It stands still while the machine is suspended.
- `elapsed` is for waits and ages: delays, retries, schedules' intervals and the retention. It is the boot
  clock, continued from one boot of the machine to the next, so it goes on while the machine is suspended.
- `now` is the time of day, in seconds since the epoch: for time stamps, `--at` and `--cron`. It is `ahead` of
  `elapsed`. If the system's time of day is set, `ahead` is changed by what records that (jumps.py), so any
  time stamp can be translated by the records before it.
"""

import time
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from taskqd.model.events import Opened, Snapshot
from taskqd.storage.interfaces import IClock

MIN_JUMP = 0.5
"""The time of day was set if it is further from where it would be, in seconds."""
MAX_GAP = 86_400.0
"""Between two boots no more seconds count: a wrong clock costs no more than a day of any wait or age."""
MAX_READING = 0.01
"""Two clocks that were read within this many seconds were read together."""
READINGS = 5
"""They are read up to this many times: the process may be stopped between two."""


def boot() -> float:
    """Return the seconds since the machine was started, those included in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic(reactor: Any) -> None:
    """Have the timers of a reactor run on CLOCK_MONOTONIC; Twisted's default is the time of day.

    It must be called before any timer is set: a timer keeps the time that it was given.
    """
    reactor.seconds = time.monotonic


@implementer(IClock)
class Clocks:
    """All clocks as one argument; `boot` and `time_of_day` read those that the reactor does not have."""

    def __init__(
        self,
        reactor: Any,
        boot: Callable[[], float] = boot,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._boot = boot
        self.ahead = 0.0
        self._time_of_day = time_of_day
        self._origin = time_of_day() - boot()

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

    def boot(self) -> float:
        """Return the boot clock: the seconds since the machine was started."""
        return self._boot()

    def elapsed(self) -> float:
        """Return the clock of waits and ages, in seconds; it began as the time of day of the first start."""
        return self.boot() + self._origin

    def now(self) -> float:
        """Return the time of day, in seconds since the epoch."""
        return self.elapsed() + self.ahead

    def measured(self) -> float:
        """Return how far the system's time of day is ahead of `elapsed`: `ahead`, unless it was set since."""
        for _ in range(READINGS):
            before, time_of_day, after = self.elapsed(), self._time_of_day(), self.elapsed()
            if after - before < MAX_READING:
                ahead = round(time_of_day - before, 3)
                return self.ahead if abs(ahead - self.ahead) < MIN_JUMP else ahead
        return self.ahead

    def resume(self, opened: Opened | Snapshot | None, boot: str, at: float, elapsed: float) -> None:
        """Continue from where a store was left: `opened` began what was written last to it.

        `boot` names this boot of the machine. `at` and `elapsed` are the last moment that a record tells of.
        Within a boot the boot clock tells how long ago that was. Between two it is the time of day, which may
        be wrong on either side: a negative gap counts as none, one of more than a day as a day.
        """
        if opened is None:
            return
        begun = opened.at - opened.ahead
        if begun >= elapsed:
            at, elapsed = opened.at, begun
        if opened.boot != boot:
            elapsed += min(max(self._time_of_day() - at, 0.0), MAX_GAP)
        elif opened.boot_clock is None:  # before format 5: only the time of day is known
            elapsed += max(self._time_of_day() - at, 0.0)
        else:
            elapsed = max(elapsed, begun + self.boot() - opened.boot_clock)
        self._origin = elapsed - self.boot()
        self.ahead = opened.ahead
        self.ahead = self.measured()
