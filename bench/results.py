"""What was measured: a row beside its goal, a line over a growing load; all kept from one run to the next.

A ratio is ours divided by theirs, pair by pair as they were measured in turn; the median of the pairs counts.
"""

import statistics
from pathlib import Path

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """What the project wants: a bound of the ratio, or where there is no peer of the figure itself."""

    bound: float
    is_most: bool = False
    """At most so much; otherwise at least."""
    is_ratio: bool = True

    def holds(self, value: float) -> bool:
        """Whether the value is on the right side."""
        return value <= self.bound if self.is_most else value >= self.bound

    def reached(self, value: float) -> float:
        """How much of the goal that is: 1 is just reached, 2 is twice as good."""
        return self.bound / value if self.is_most else value / self.bound


class Row(msgspec.Struct, frozen=True):
    """One figure of ours beside that of a peer."""

    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float] = []
    goal: Goal | None = None
    note: str = ""
    missing: str = ""
    """What is not on this machine, so that there is no figure of theirs, or none at all."""
    failed: str = ""
    """Why there is no figure though there should be one."""

    def unjudged(self) -> "Row":
        """Return the same without a goal."""
        return msgspec.structs.replace(self, goal=None)

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, pair by pair."""
        return [our / their for our, their in zip(self.ours, self.theirs, strict=False)]

    @property
    def judged(self) -> list[float]:
        """What the goal is about."""
        return self.ratios if self.goal is None or self.goal.is_ratio else self.ours

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing to judge by."""
        if self.goal is None or not self.judged:
            return None
        return self.goal.holds(statistics.median(self.judged))


class Point(msgspec.Struct, frozen=True):
    """What was measured at one size of the load."""

    at: int
    values: list[float]

    @property
    def median(self) -> float:
        """The one that counts."""
        return statistics.median(self.values)


class Line(msgspec.Struct, frozen=True):
    """How one figure goes as something grows."""

    axis: str
    figure: str
    unit: str
    points: list[Point]


class Bar(msgspec.Struct, frozen=True):
    """One of several that do the same; fewer of its values than of others where it is slow."""

    chart: str
    name: str
    unit: str
    values: list[float]
    note: str = ""


class Measured(msgspec.Struct, frozen=True):
    """What one measurement has brought."""

    rows: list[Row] = []
    lines: list[Line] = []
    bars: list[Bar] = []

    def unjudged(self) -> "Measured":
        """Return the same without goals."""
        return msgspec.structs.replace(self, rows=[row.unjudged() for row in self.rows])


class Kept(msgspec.Struct, frozen=True):
    """A measurement that was made, with when and of what."""

    measured: Measured
    at: str
    revision: str
    took: float
    command: str


class Store:
    """The latest of each measurement, in a file of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Kept]:
        """Return what there is, by name."""
        if not self._path.exists():
            return {}
        return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Kept])

    def clear(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)

    def keep(self, name: str, kept: Kept) -> None:
        """Put one in the place of what was there under its name."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = msgspec.json.encode({**self.read(), name: kept})
        self._path.write_bytes(msgspec.json.format(whole))
