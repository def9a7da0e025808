"""How long others may pass a job that wants more than is free, and how long what it wants is kept for it.

Small jobs pass a big one that does not fit, or the machine would stand idle; were that all, there might
always be another small one. So when one has been passed, the others go on for PATIENCE seconds; then what it
wants is kept for it for as long. If it still waits then, it is the turn of the next that was passed, and each
has twice the time in its next round. So what is kept stands idle for half of the time at the most, however
long the jobs go on that are waited for; and a big job starts at the latest in its first round that lasts as
long as those jobs do. docs/decisions/0008 tells why.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

PATIENCE = 60.0
"""The first round lasts so many seconds, and then as many again."""

Name = TypeVar("Name", bound=Hashable)


class Phase(NamedTuple):
    """Whether room ``is_kept`` at a moment, and in how many seconds that changes."""

    is_kept: bool
    left: float


class Backfill(Generic[Name]):
    """Those that were passed, and since when it is the turn of the first."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[Name, int] = OrderedDict()
        self._since: float | None = None

    def __contains__(self, name: Name) -> bool:
        return name in self._rounds

    @property
    def first(self) -> Name | None:
        """The one whose turn it is, None if nobody was passed."""
        return next(iter(self._rounds), None)

    def add(self, name: Name, is_first: bool) -> None:
        """Take in one that has been passed: at the end, or before all others."""
        self._rounds[name] = 0
        if is_first:
            self._rounds.move_to_end(name, last=False)
            self._since = None

    def discard(self, name: Name) -> None:
        """Forget one, if it is there: it has started, or waits for something else."""
        if name == self.first:
            self._since = None
        self._rounds.pop(name, None)

    def phase(self, now: float) -> Phase:
        """Return the phase of a moment; what was passed last begins its turn by this."""
        if not self._rounds:
            return Phase(False, 0.0)
        since = now if self._since is None else min(self._since, now)  # the clock may have been set back
        while now >= since + 2 * (length := self._length()):
            name = next(iter(self._rounds))
            self._rounds[name] = self._rounds.pop(name) + 1
            since += 2 * length
        self._since = since
        is_kept = now >= since + length
        return Phase(is_kept, since + (2 * length if is_kept else length) - now)

    def _length(self) -> float:
        return PATIENCE * 2.0 ** next(iter(self._rounds.values()))
