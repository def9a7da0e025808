"""The memory of one attempt with a limit: what has been read of it, and when it must be read again."""

from taskqd.runner.memory_reader import Sum, Target

MIN_INTERVAL, MAX_INTERVAL = 0.125, 1.0
"""Seconds between two readings of an attempt: powers of two, so that those of many attempts coincide."""
EXACT_INTERVAL = 1.0
"""Seconds between two exact readings of an attempt that is not about to reach its limit."""
EXACT_IDLE_FACTOR, PRESSING_IDLE_FACTOR = 49.0, 9.0
"""After an exact reading, wait for this many times its CPU time; the second one if the limit is near."""
MAX_CHANGE = 0.05
"""The part of a size by which another one must differ to be read exactly, or to be reported."""
SMALL = 32 * 1024**2
"""Bytes up to which an attempt is not read exactly: its processes share little."""
REPORT_INTERVAL = 1.0
"""Seconds between two reports of an attempt."""


class WatchedMemory:
    """The memory of the attempt ``target``, which may use up to ``limit`` bytes.

    ``used`` is what it uses and ``peak`` the most it has used, in bytes. The sum over its processes is an
    upper bound; if that is not enough, an exact reading is needed.
    """

    def __init__(self, target: Target, limit: int, now: float) -> None:
        self.target = target
        self.limit = limit
        self.used = self.peak = 0
        self.is_read = False
        self.exact_at: float | None = None
        self.due = 0.0
        self._interval = MIN_INTERVAL
        self._sum = Sum(0, 0)
        self._read_at = now
        self._sum_at_exact = 0
        self._exact = 0
        self._exact_cost = 0.0
        self._reported = (0, 0)
        self._reported_at: float | None = None
        self.postpone(now)

    @property
    def is_over(self) -> bool:
        """Whether it uses more than its limit."""
        return self.used > self.limit

    def postpone(self, now: float) -> None:
        """Make the next reading due after the interval, at a multiple of it."""
        self.due = (now // self._interval + 1) * self._interval

    def read(self, total: Sum, now: float) -> None:
        """Note the sum over the processes."""
        rate = (total.size - self._sum.size) / max(now - self._read_at, MIN_INTERVAL)
        self._sum, self._read_at = total, now
        if total.size <= self.limit and (total.processes <= 1 or total.size <= SMALL):
            self._set_used(total.size)
        left = self.limit - self.used
        self._interval = min(2 * self._interval, MAX_INTERVAL)
        while self._interval > MIN_INTERVAL and rate * 2 * self._interval > left:
            self._interval /= 2
        self.postpone(now)

    def read_exactly(self, size: int, now: float, cost: float) -> None:
        """Note an exact reading, and the CPU time that it took."""
        self._exact, self._sum_at_exact = size, self._sum.size
        self.exact_at, self._exact_cost = now, cost
        self._set_used(size)

    def _set_used(self, size: int) -> None:
        self.is_read = True
        self.used, self.peak = size, max(self.peak, size)

    @property
    def is_pressing(self) -> bool:
        """Whether it may have reached its limit."""
        grown = self._exact + self._sum.size - self._sum_at_exact
        return self._sum.size > self.limit and (self.exact_at is None or grown > self.limit)

    def needs_exact(self, now: float) -> bool:
        """Whether an exact reading is needed, and its CPU time can be afforded."""
        size = self._sum.size
        if size <= self.limit and (self._sum.processes <= 1 or size <= SMALL):
            return False
        if self.exact_at is None:
            return True
        if self.is_pressing:
            return now >= self.exact_at + PRESSING_IDLE_FACTOR * self._exact_cost
        if size <= self.limit and not _differs(size, self._sum_at_exact):
            return False
        return now >= self.exact_at + max(EXACT_INTERVAL, EXACT_IDLE_FACTOR * self._exact_cost)

    def report(self, now: float) -> bool:
        """Whether the use must be reported now, which is then noted."""
        if not self.is_read:
            return False
        if self._reported_at is not None:
            if now < self._reported_at + REPORT_INTERVAL:
                return False
            used, peak = self._reported
            if not _differs(self.used, used) and not _differs(self.peak, peak):
                return False
        self._reported, self._reported_at = (self.used, self.peak), now
        return True


def _differs(size: int, before: int) -> bool:
    return abs(size - before) > MAX_CHANGE * before
