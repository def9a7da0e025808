"""The clocks of the daemon: monotonic, boot, and the time of day.

- `seconds` is CLOCK_MONOTONIC, on which the timers run. It stands still while the machine is suspended. It is
  used for processes and connections: timeouts, idle times, grace periods and rates.
- `elapsed` is the boot clock, continued from one boot of the machine to the next. It goes on while the
  machine is suspended. It is used for waits and ages: delays, retries, intervals of schedules, the retention.
- `now` is the time of day, in seconds since the epoch. It is used for time stamps, `--at` and `--cron`. It is
  `ahead` of `elapsed`. When the system's time of day is set, `ahead` changes with the record of that jump
  (engine/clock_jumps.py), so any time stamp can be translated by means of the records before it.
"""

import time
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from taskqd.model.events import Opened, Snapshot
from taskqd.storage.interfaces import IClock

MIN_JUMP = 0.5
"""Seconds by which the time of day must be off to count as set, not as drifting."""
MAX_GAP = 86_400.0
"""Seconds that count at most between two boots: a wrong clock adds no more than a day to any wait or age."""
MAX_READ_TIME = 0.01
"""Seconds within which two clocks must be read to be compared."""
MAX_READS = 5
"""Attempts to read two clocks within MAX_READ_TIME: the process may be interrupted between the two."""


def read_boot_clock() -> float:
    """Return the seconds since the machine was started, including those in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic(reactor: IReactorTime) -> None:
    """Make the timers of a reactor run on CLOCK_MONOTONIC; Twisted's default is the time of day.

    To be called before any timer is set: a timer stores the time at which it is due.
    """
    reactor.seconds = time.monotonic  # type: ignore[method-assign] # Twisted documents this as a hook


@implementer(IClock)
class Clocks:
    """All clocks in one object; the two that the reactor does not have are read by functions."""

    def __init__(
        self,
        reactor: IReactorTime,
        boot: Callable[[], float] = read_boot_clock,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self.ahead = 0.0
        self._reactor = reactor
        self._boot = boot
        self._time_of_day = time_of_day
        self._origin = time_of_day() - boot()

    def seconds(self) -> float:
        """Return the monotonic clock, in seconds since an arbitrary moment."""
        return self._reactor.seconds()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - IReactorTime has this name
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        """Call a function after `delay` seconds of the monotonic clock."""
        return self._reactor.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return the timers that are set."""
        return self._reactor.getDelayedCalls()

    def boot(self) -> float:
        """Return the boot clock: the seconds since the machine was started."""
        return self._boot()

    def elapsed(self) -> float:
        """Return the clock of waits and ages, in seconds; it began as the time of day of the first start."""
        return self._boot() + self._origin

    def now(self) -> float:
        """Return the time of day, in seconds since the epoch."""
        return self.elapsed() + self.ahead

    def measured(self) -> float:
        """Return how far the system's time of day is ahead of `elapsed`: `ahead`, unless it was set since."""
        for _ in range(MAX_READS):
            before, time_of_day, after = self.elapsed(), self._time_of_day(), self.elapsed()
            if after - before < MAX_READ_TIME:
                ahead = round(time_of_day - before, 3)
                return self.ahead if abs(ahead - self.ahead) < MIN_JUMP else ahead
        return self.ahead

    def resume(self, opened: Opened | Snapshot | None, boot: str, at: float, elapsed: float) -> None:
        """Continue from the end of a journal; `opened` is the record that began its last segment.

        `boot` identifies this boot of the machine. `at` and `elapsed` are the latest moment in the
        journal. Within a boot, the boot clock shows how long ago that was. Between two boots only the time of
        day does, which may be wrong: a negative gap counts as 0, one of more than MAX_GAP as MAX_GAP.
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
