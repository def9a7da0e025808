"""Backfill policy: how long others may overtake a job, and how long capacity is then reserved for it.

A job that does not fit may be overtaken by later jobs that do; otherwise capacity would stand idle. To keep
the overtaken job from starving, time alternates between two phases of equal length:

* open: later jobs may overtake it;
* reserved: nothing may start that would take what it needs.

The first round has phases of ``FIRST_PHASE`` seconds. If the job has still not started when its round ends,
the next overtaken job follows, and the job's own phases are twice as long in its next round. So reserved
capacity stands idle at most half of the time, and a job starts at the latest in its first round whose phases
are as long as the jobs that it waits for (docs/decisions/0008).
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

FIRST_PHASE = 60.0
"""Length of each phase of a job's first round, in seconds."""

Key = TypeVar("Key", bound=Hashable)


class Phase(NamedTuple):
    """The current phase, and the seconds that remain of it."""

    is_reserved: bool
    remaining: float


class Backfill(Generic[Key]):
    """The overtaken jobs (or groups of jobs), in the order of their rounds."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[Key, int] = OrderedDict()  # completed rounds; the first key is current
        self._started_at: float | None = None  # of the current round

    def __contains__(self, key: Key) -> bool:
        return key in self._rounds

    @property
    def first(self) -> Key | None:
        """The one whose round it is, None if none has been overtaken."""
        return next(iter(self._rounds), None)

    def add(self, key: Key, *, at_front: bool) -> None:
        """Add one that has been overtaken, at the end or in front of all others."""
        self._rounds[key] = 0
        if at_front:
            self._rounds.move_to_end(key, last=False)
            self._started_at = None

    def discard(self, key: Key) -> None:
        """Remove one that has started or waits for something else now; does nothing if it is not here."""
        if key == self.first:
            self._started_at = None
        self._rounds.pop(key, None)

    def phase(self, now: float) -> Phase:
        """Return the phase at a time; starts the first round of a new key, and ends rounds that are over."""
        if not self._rounds:
            return Phase(is_reserved=False, remaining=0.0)
        # The clock may have been set back since the round started.
        started_at = now if self._started_at is None else min(self._started_at, now)
        while now >= started_at + 2 * (length := self._phase_length()):
            key = next(iter(self._rounds))
            self._rounds[key] = self._rounds.pop(key) + 1  # to the end, with one more round
            started_at += 2 * length
        self._started_at = started_at
        is_reserved = now >= started_at + length
        ends_at = started_at + (2 * length if is_reserved else length)
        return Phase(is_reserved, ends_at - now)

    def _phase_length(self) -> float:
        return FIRST_PHASE * 2.0 ** next(iter(self._rounds.values()))
