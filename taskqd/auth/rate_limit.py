"""Rate limits by token buckets. Time is an argument."""

from msgspec import Struct


class Bucket(Struct):
    """The tokens that a user had at a time (seconds); they increase at the rate, up to the burst."""

    tokens: float
    updated_at: float


class RateLimiter:
    """A token bucket for each name: `rate` tokens per second, up to `burst` tokens.

    Full buckets are dropped occasionally, so only recently used names take memory.
    """

    MIN_SWEEP_SIZE = 1000
    """Number of buckets from which on full ones are dropped."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, Bucket] = {}
        self._sweep_size = self.MIN_SWEEP_SIZE

    def consume(self, name: str, now: float, count: int = 1) -> float:
        """Consume `count` tokens of a name and return 0, or return the seconds until there is a token.

        One token is enough for any count: the balance becomes negative, and the next call has to wait longer.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[name] = Bucket(self._burst, now)
        tokens = self._refilled(bucket, now)
        if tokens < 1.0:
            return (1.0 - tokens) / self._rate
        bucket.tokens, bucket.updated_at = tokens - count, now
        return 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def available(self, name: str, now: float) -> float:
        """Return the tokens that a name has now."""
        bucket = self._buckets.get(name)
        return self._burst if bucket is None else self._refilled(bucket, now)

    def _refilled(self, bucket: Bucket, now: float) -> float:
        """Return the tokens of a bucket now; if the clock was set back, nothing is added."""
        return min(self._burst, bucket.tokens + max(0.0, now - bucket.updated_at) * self._rate)

    def _sweep(self, now: float) -> None:
        if len(self._buckets) < self._sweep_size:
            return
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if self._refilled(bucket, now) < self._burst
        }
        self._sweep_size = max(self.MIN_SWEEP_SIZE, 2 * len(self._buckets))
