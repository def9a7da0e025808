"""A shortage of processes, descriptors or memory: when the next start may be tried, and how many at once.

It is the machine's and no job's, so no job fails by it. After a start that was refused nothing starts for a
wait that doubles with each further refusal; then one start is tried. Each that works lets one more be under
way at once. The shortage is over when starts have worked, or nothing was left to start, and none was refused
for QUIET_TIME. Time is an argument, in seconds.
"""

FIRST_WAIT = 0.1
"""Seconds before the first try: most shortages pass with the end of some other process."""
MAX_WAIT = 10.0
"""Seconds between two tries at most: each refused one costs two records of the journal."""
QUIET_TIME = 5.0
"""Seconds without a refusal after which the shortage is over, so that the log has no line for each job."""


class Shortage:
    """Whether the machine lacks what a start takes; ``detail`` says of what, None while it does not."""

    def __init__(self) -> None:
        self.detail: str | None = None
        self.began_at = 0.0
        self._wait = FIRST_WAIT
        self._refused_at = 0.0
        self._next_try = 0.0
        self._at_once = 1
        self._is_better = False

    def refuse(self, detail: str, now: float) -> bool:
        """Take note of a start that was refused; tell whether the shortage begins with it."""
        begins = self.detail is None
        if begins:
            self.began_at, self._wait = now, FIRST_WAIT
        elif self.is_paused(now):
            return False  # it was under way already when the pause began
        else:
            self._wait = min(2 * self._wait, MAX_WAIT)
        self.detail = detail
        self._refused_at, self._next_try = now, now + self._wait
        self._at_once, self._is_better = 1, False
        return begins

    def ease(self, now: float) -> None:
        """Let a start be tried now: a process has ended, and what it had may be enough."""
        self._next_try = min(self._next_try, now)

    def succeed(self) -> None:
        """Take note of a start that worked: one more may be under way at once."""
        self._at_once += 1
        self._is_better = True

    def idle(self) -> None:
        """Take note that nothing is left to start."""
        self._is_better = True

    def is_paused(self, now: float) -> bool:
        """Whether nothing may be started before some time has passed."""
        return self.detail is not None and now < self._next_try

    def allows(self, under_way: int, now: float) -> bool:
        """Whether another start may be tried while this many are under way."""
        return self.detail is None or (not self.is_paused(now) and under_way < self._at_once)

    def end(self, now: float) -> bool:
        """End the shortage if it is over; tell whether it has ended by that."""
        if self.detail is None or not self._is_better or now < self._refused_at + QUIET_TIME:
            return False
        self.detail = None
        return True

    def next_look(self, now: float) -> float | None:
        """Return when something changes though nothing happens, None if nothing does."""
        if self.detail is None:
            return None
        look = self._refused_at + QUIET_TIME if self._is_better else self._next_try
        return look if look > now else None

    def next_try(self, now: float) -> float:
        """Return the seconds until the next try."""
        return max(0.0, self._next_try - now)
