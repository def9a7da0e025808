"""A shortage of processes, descriptors or memory: when the next start may be tried, and how many at once.

The machine lacks them and not the job, so no job fails because of it. After a refused start nothing starts
for a delay, which doubles with each further refusal; then one start is tried. Each successful start allows
one more to be under way at the same time. The shortage is over when starts have succeeded, or nothing was
left to start, and none was refused for QUIET_TIME. Time is an argument, in seconds.
"""

from typing import Any

MIN_DELAY = 0.1
"""Seconds before the first try: most shortages end when some other process ends."""
MAX_DELAY = 10.0
"""Seconds between two tries at most: each refused one costs two records of the journal."""
QUIET_TIME = 5.0
"""Seconds without a refusal after which the shortage is over, so that the log has no line for each job."""


class Shortage:
    """Whether the machine lacks what a start needs; ``detail`` names it, None while there is no shortage."""

    def __init__(self) -> None:
        self.detail: str | None = None
        self.began_at = 0.0
        self._delay = MIN_DELAY
        self._refused_at = 0.0
        self._next_try = 0.0
        self._max_under_way = 1
        self._has_improved = False

    def record_refusal(self, detail: str, now: float) -> bool:
        """Record that a start was refused; return whether the shortage begins with it."""
        begins = self.detail is None
        if begins:
            self.began_at, self._delay = now, MIN_DELAY
        elif self.is_paused(now):
            return False  # it was already under way when the pause began
        else:
            self._delay = min(2 * self._delay, MAX_DELAY)
        self.detail = detail
        self._refused_at, self._next_try = now, now + self._delay
        self._max_under_way, self._has_improved = 1, False
        return begins

    def record_process_end(self, now: float) -> None:
        """Allow a try now: a process has ended, and what it used may be enough."""
        self._next_try = min(self._next_try, now)

    def record_success(self) -> None:
        """Record that a start has succeeded: one more may be under way at the same time."""
        self._max_under_way += 1
        self._has_improved = True

    def record_idle(self) -> None:
        """Record that nothing is left to start."""
        self._has_improved = True

    def is_paused(self, now: float) -> bool:
        """Whether nothing may start until the delay is over."""
        return self.detail is not None and now < self._next_try

    def allows_start(self, under_way: int, now: float) -> bool:
        """Whether another start may be tried while ``under_way`` others are."""
        return self.detail is None or (not self.is_paused(now) and under_way < self._max_under_way)

    def end_if_over(self, now: float) -> bool:
        """End the shortage if it is over; return whether it was."""
        if self.detail is None or not self._has_improved or now < self._refused_at + QUIET_TIME:
            return False
        self.detail = None
        return True

    def next_wakeup(self, now: float) -> float | None:
        """Return when the shortage must be looked at again though nothing happens, None if never."""
        if self.detail is None:
            return None
        wakeup = self._refused_at + QUIET_TIME if self._has_improved else self._next_try
        return wakeup if wakeup > now else None

    def seconds_to_next_try(self, now: float) -> float:
        """Return the seconds until the next start may be tried."""
        return max(0.0, self._next_try - now)

    def stats(self, now: float) -> dict[str, Any] | None:
        """Return the shortage as STATS shows it, None while there is none."""
        if self.detail is None:
            return None
        return {
            "detail": self.detail,
            "seconds": round(now - self.began_at, 3),
            "next_try_in": round(self.seconds_to_next_try(now), 3),
        }

    def explain(self, now: float) -> str | None:
        """Return the shortage as WHY shows it, None while there is none."""
        if self.detail is None:
            return None
        return (
            f"the machine lacks what a start needs ({self.detail}); "
            f"the next start is tried in {self.seconds_to_next_try(now):.1f} s"
        )
