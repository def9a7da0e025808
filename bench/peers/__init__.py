"""The peers that taskqd is compared with, one per module."""

from pathlib import Path
from typing import Protocol

from bench.load import Programs


class Runner(Protocol):
    """A peer that runs commands."""

    name: str
    is_durable: bool
    """Whether an accepted job has been synced to disk."""
    note: str
    """Its configuration, and its weaker guarantees."""

    def missing(self) -> str:
        """Return the name of the missing program or package, "" if there is none."""

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Start the peer in ``home``, run ``true`` ``jobs`` times, stop it, and return the jobs per second.

        Only the time from the first submission to the end of the last job counts.
        """
