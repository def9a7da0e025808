"""Values of results (rows with goals, lines over a growing load, bars, tables), and their store.

A ratio is our figure divided by the peer's of the same turn. The median of the ratios counts.
"""

import statistics
from pathlib import Path

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """A bound of the ratio, or of the figure itself if there is no peer."""

    bound: float
    is_most: bool = False
    """Whether the bound is an upper one."""
    is_ratio: bool = True

    def holds(self, value: float) -> bool:
        """Whether the value is on the right side of the bound."""
        return value <= self.bound if self.is_most else value >= self.bound

    def reached(self, value: float) -> float:
        """Return the value relative to the bound: 1 just reaches it, 2 is twice as good."""
        return self.bound / value if self.is_most else value / self.bound


class Row(msgspec.Struct, frozen=True):
    """One figure of taskqd beside that of a peer."""

    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float] = []
    goal: Goal | None = None
    note: str = ""
    missing: str = ""
    """The program that is not installed, so that the peer's figure, or both, are missing."""
    failed: str = ""
    """The reason why the measurement failed."""

    def unjudged(self) -> "Row":
        """Return the same without a goal."""
        return msgspec.structs.replace(self, goal=None)

    @property
    def ratios(self) -> list[float]:
        """Our figure divided by theirs, for each turn."""
        return [our / their for our, their in zip(self.ours, self.theirs, strict=False)]

    @property
    def judged(self) -> list[float]:
        """The values that are compared with the goal."""
        return self.ratios if self.goal is None or self.goal.is_ratio else self.ours

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal, or without values."""
        if self.goal is None or not self.judged:
            return None
        return self.goal.holds(statistics.median(self.judged))


class Point(msgspec.Struct, frozen=True):
    """The values at one size of the load."""

    at: int
    values: list[float]

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)


class Line(msgspec.Struct, frozen=True):
    """One figure over a growing load."""

    axis: str
    figure: str
    unit: str
    points: list[Point]


class Bar(msgspec.Struct, frozen=True):
    """One of several programs that do the same; a slow one has fewer values."""

    chart: str
    name: str
    unit: str
    values: list[float]
    note: str = ""


class Table(msgspec.Struct, frozen=True):
    """A table of texts."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]


class Measured(msgspec.Struct, frozen=True):
    """The results of one measurement."""

    rows: list[Row] = []
    lines: list[Line] = []
    bars: list[Bar] = []
    tables: list[Table] = []

    def unjudged(self) -> "Measured":
        """Return the same without goals."""
        return msgspec.structs.replace(self, rows=[row.unjudged() for row in self.rows])


class Kept(msgspec.Struct, frozen=True):
    """Results with their time, revision, duration and command line."""

    measured: Measured
    at: str
    revision: str
    took: float
    command: str


class Store:
    """Keeps the latest results of each measurement in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Kept]:
        """Return all kept results by name."""
        if not self._path.exists():
            return {}
        return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Kept])

    def clear(self) -> None:
        """Remove all results."""
        self._path.unlink(missing_ok=True)

    def keep(self, name: str, kept: Kept) -> None:
        """Keep the results of a measurement in place of its former ones."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = msgspec.json.encode({**self.read(), name: kept})
        self._path.write_bytes(msgspec.json.format(whole))
