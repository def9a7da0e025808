"""The context of all measurements: directory, programs, number of turns, and amount of work."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import Programs
from bench.place import fresh
from bench.results import Measured


@dataclass(frozen=True)
class Bench:
    """One run of ``bench/run``."""

    place: Path
    programs: Programs
    repeat: int
    is_quick: bool
    began: float = field(default_factory=time.monotonic)

    def many(self, full: int, quick: int) -> int:
        """Return the amount of work: ``full``, or ``quick`` if the run only checks that the programs work."""
        return quick if self.is_quick else full

    def turns(self, at_most: int = 1000) -> Iterator[int]:
        """Count the turns, up to ``at_most``. Each turn measures taskqd and its peers once."""
        yield from range(1 if self.is_quick else min(self.repeat, at_most))

    def home(self, name: str) -> Path:
        """Make a new directory for a server."""
        return fresh(self.place, name)

    def say(self, text: str) -> None:
        """Print a line of progress to stderr."""
        print(f"[{time.monotonic() - self.began:6.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Measurement:
    """A measurement that can be selected by name."""

    name: str
    title: str
    measure: Callable[[Bench], Measured]
