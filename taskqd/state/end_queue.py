"""A queue of ended jobs, oldest end first, of 16 bytes per job."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

MAX_MOVED = 4096
"""Entries that one ``add`` moves by one place, which takes about 3 µs; see ``EndQueue``."""
MIN_POPPED = 1024
"""Entries at the beginning that have been popped before the memory of any is released."""
PORTION = 256
"""Ends that ``latest`` reads at a time."""
MAX_LATE = 10_000
"""Ends of the heap that ``latest`` sorts, which takes about 3 ms."""


class End(NamedTuple):
    """The end of a job, on the monotonic clock."""

    at: float
    job_id: int


class EndQueue:
    """Ends of jobs in the order of their times, and of their ids if the times are the same.

    Most ends are added about in that order, so that they are stored in two sorted columns. An end that
    belongs further forward than MAX_MOVED entries is stored in a heap beside them, where it takes 90 bytes.
    """

    def __init__(self) -> None:
        self._times = array("d")
        self._ids = array("q")
        self._popped = 0
        self._late: list[End] = []

    def __len__(self) -> int:
        return len(self._times) - self._popped + len(self._late)

    @property
    def size_in_bytes(self) -> int:
        """The size of the columns."""
        return self._times.itemsize * len(self._times) + self._ids.itemsize * len(self._ids)

    def add(self, at: float, job_id: int) -> None:
        """Add an end."""
        times, ids = self._times, self._ids
        count = len(times)
        if count == self._popped or at > times[-1]:
            times.append(at)
            ids.append(job_id)
            return
        first = max(self._popped, count - MAX_MOVED)
        if (at, job_id) < (times[first], ids[first]):
            heappush(self._late, End(at, job_id))
            return
        place = bisect_right(times, at, first)
        while times[place - 1] == at and ids[place - 1] > job_id:
            place -= 1
        times.insert(place, at)
        ids.insert(place, job_id)

    def add_all(self, ends: Sequence[tuple[float, int]]) -> None:
        """Add ends in their order, of which most are later than all that are known."""
        times = self._times
        at = 0
        while at < len(ends) and len(times) > self._popped and ends[at][0] <= times[-1]:
            self.add(*ends[at])
            at += 1
        times.extend([each[0] for each in ends[at:]])
        self._ids.extend([each[1] for each in ends[at:]])

    @property
    def first(self) -> End:
        """The oldest end; there must be one."""
        if self._is_late_first():
            return self._late[0]
        return End(self._times[self._popped], self._ids[self._popped])

    def latest(self) -> Iterator[End]:
        """Yield the ends, the latest first; then those of the heap, unless there are more than MAX_LATE.

        Ends may be added and popped meanwhile.
        """
        end: End | None = None
        while portion := self._before(end, PORTION):
            yield from portion
            end = portion[-1]
        yield from sorted(self._late, reverse=True) if len(self._late) <= MAX_LATE else ()

    def _before(self, end: End | None, count: int) -> list[End]:
        """Return the latest ends of the columns that are before an end, the latest first."""
        times, ids = self._times, self._ids
        place = len(times)
        if end is not None:
            first = bisect_left(times, end.at, self._popped)
            place = bisect_left(ids, end.job_id, first, bisect_right(times, end.at, first))
        return [
            End(times[index], ids[index])
            for index in range(place - 1, max(self._popped, place - count) - 1, -1)
        ]

    def pop(self) -> None:
        """Remove the oldest end."""
        if self._is_late_first():
            heappop(self._late)
            return
        self._popped += 1
        if self._popped >= MIN_POPPED and self._popped * 2 >= len(self._times):
            del self._times[: self._popped], self._ids[: self._popped]
            self._popped = 0

    def _is_late_first(self) -> bool:
        if not self._late:
            return False
        # The columns are not empty: they had a later end when this one was added.
        return self._late[0] < (self._times[self._popped], self._ids[self._popped])
