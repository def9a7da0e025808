"""What people would use instead, one a module, each started and stopped by the measurement that wants it."""

from pathlib import Path
from typing import Protocol

from bench.load import Programs


class Runner(Protocol):
    """A peer that runs commands."""

    name: str
    is_durable: bool
    """Whether a job that was taken in has been synced to disk."""
    note: str
    """How it was set up, and what it promises less."""

    def missing(self) -> str:
        """Return which program or package it lacks, or nothing."""

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Start it in ``home``, have it run ``true`` so often, stop it; return how many jobs a second.

        The clock runs from the first submission to the end of the last job, not while it starts and stops.
        """
