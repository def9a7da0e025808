"""Start rates: up to N jobs of a queue start within any period of one length (a sliding window).

A start is counted from when it is decided. Its time is that of its record in the journal. Nothing here is
persistent: after a restart the starts are those of the attempts of known jobs.
"""

from bisect import insort
from collections.abc import Callable

from taskqd.model.rate import Rate


class StartRates:
    """The latest starts of each queue that has a rate; ``rate(queue)`` returns it, None if there is none.

    ``now`` is on the monotonic clock, as all times here.
    """

    def __init__(self, rate: Callable[[str], Rate | None]) -> None:
        self.rate = rate
        self.now = 0.0
        self._has_time = False  # set_time has not been called
        self._starts: dict[str, list[float]] = {}  # ascending
        self._undecided: dict[str, int] = {}  # starts that are being recorded

    def set_time(self, now: float) -> None:
        """Set ``now``. No recorded start is after that, whatever was done to the time of day."""
        if not self._has_time:
            self._has_time = True
            for starts in self._starts.values():
                starts[:] = [min(at, now) for at in starts]
        self.now = now

    def used(self, queue: str) -> int:
        """Return how many starts count against the rate of a queue."""
        return len(self._latest(queue)) + self._undecided.get(queue, 0)

    def _latest(self, queue: str) -> list[float]:
        starts, rate = self._starts.get(queue), self.rate(queue)
        if starts is None or rate is None:
            return []
        expired = 0
        while expired < len(starts) and starts[expired] + rate.period <= self.now:
            expired += 1
        del starts[:expired]
        if not starts:
            del self._starts[queue]
        return starts

    def next_expiry(self, queue: str) -> float:
        """Return when the oldest start no longer counts; one that is being recorded counts from now on."""
        starts, rate = self._latest(queue), self.rate(queue)
        period = 0.0 if rate is None else rate.period
        return (starts[0] if starts else self.now) + period

    def opens_at(self, queue: str) -> float:
        """Return when the queue may start a job; a start that is being recorded counts from now on."""
        starts, rate = self._latest(queue), self.rate(queue)
        excess = 0 if rate is None else self.used(queue) - rate.starts
        if rate is None or excess < 0:
            return self.now
        return (starts[excess] if excess < len(starts) else self.now) + rate.period

    def begin(self, queue: str) -> None:
        """Count a start that is about to be recorded."""
        self._undecided[queue] = self._undecided.get(queue, 0) + 1

    def end(self, queue: str) -> None:
        """Stop counting a start that was about to be recorded."""
        left = self._undecided[queue] - 1
        if left:
            self._undecided[queue] = left
        else:
            del self._undecided[queue]

    def record(self, queue: str, at: float) -> None:
        """Count a recorded start, if the queue has a rate."""
        rate = self.rate(queue)
        if rate is not None:
            starts = self._starts.setdefault(queue, [])
            insort(starts, at)
            del starts[: -rate.starts]

    def undo(self, queue: str, at: float) -> None:
        """Stop counting a recorded start that did not happen."""
        starts = self._starts.get(queue, [])
        if at in starts:
            starts.remove(at)
