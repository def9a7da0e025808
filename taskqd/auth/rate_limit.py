"""Token buckets: so many a second, and some at once after a while of none. Time is an argument."""

from msgspec import Struct


class Bucket(Struct):
    """What one may still take at the moment ``since`` (s): ``left``, which grows again up to the burst."""

    left: float
    since: float


class Buckets:
    """A bucket for each name, of which ``rate`` may be taken a second, ``burst`` at once.

    Those that are full again are forgotten now and then, so what is kept are the names of the last while.
    """

    FORGET_AT = 1000
    """When there are so many buckets, the full ones among them are forgotten."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, Bucket] = {}
        self._forget_at = self.FORGET_AT

    def take(self, name: str, now: float, count: int = 1) -> float:
        """Take so many of somebody's bucket and return 0, or if there is none, in how many seconds there is.

        Where there is one, more may be taken than there are: what is owed has to come first then.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[name] = Bucket(self._burst, now)
        left = self._refilled(bucket, now)
        if left < 1.0:
            return (1.0 - left) / self._rate
        bucket.left, bucket.since = left - count, now
        return 0.0

    def _refilled(self, bucket: Bucket, now: float) -> float:
        """Return what is in a bucket now; a clock that was set back fills nothing."""
        return min(self._burst, bucket.left + max(0.0, now - bucket.since) * self._rate)

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) < self._forget_at:
            return
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if self._refilled(bucket, now) < self._burst
        }
        self._forget_at = max(self.FORGET_AT, 2 * len(self._buckets))
