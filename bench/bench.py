"""What every measurement is handed: where, with what programs, how often, how much."""

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
        """Return how much to do: ``full``, or ``quick`` where it is only tried whether the programs run."""
        return quick if self.is_quick else full

    def turns(self, at_most: int = 1000) -> Iterator[int]:
        """Count the turns, in each of which everybody is measured once."""
        yield from range(1 if self.is_quick else min(self.repeat, at_most))

    def home(self, name: str) -> Path:
        """Make a directory for a server."""
        return fresh(self.place, name)

    def say(self, text: str) -> None:
        """Tell how it goes."""
        print(f"[{time.monotonic() - self.began:6.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Measurement:
    """One that can be asked for by name."""

    name: str
    what: str
    measure: Callable[[Bench], Measured]
