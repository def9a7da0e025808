"""Draws SVG plots: bars, and lines over a growing load.

Every plot has a title, its numbers, and a white background, so that it looks the same on a dark page.
"""

from collections.abc import Sequence
from itertools import cycle, pairwise
from math import ceil, log10
from typing import NamedTuple
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56a3d8", "#8c6d00", "#444444")
GREY, FAINT, GOOD, BAD = "#666666", "#dddddd", "#009e73", "#d55e00"
FONT = "font-family='system-ui, sans-serif'"
LETTER = 6.6
"""Approximate width of a letter in a label, in pixels."""


class Bar(NamedTuple):
    """One bar: its name, its length, and the text at its end."""

    name: str
    value: float
    text: str
    colour: str = COLOURS[0]


class Series(NamedTuple):
    """One line: its name, and its lowest, middle and highest value at each place of the axis."""

    name: str
    points: Sequence[tuple[float, float, float]]


def bars(title: str, shown: Sequence[Bar], mark: float | None = None) -> str:
    """Draw bars from the left; with ``mark``, draw them from the mark on a logarithmic scale."""
    left = 20 + LETTER * max(len(bar.name) for bar in shown)
    room, step, top = 420, 24, 50
    scale = _log_scale(shown, mark) if mark else _scale(shown)
    width, height = left + room + 130, top + step * len(shown) + 20
    parts = [_text(14, 26, title, 15, weight="bold")]
    for number, bar in enumerate(shown):
        y = top + step * number
        begin, end = sorted((left + room * scale(mark or 0), left + room * scale(bar.value)))
        parts += [
            _text(left - 8, y + 13, bar.name, 12, anchor="end"),
            _box(begin, y, max(end - begin, 1), 16, bar.colour),
            _text(end + 6, y + 13, bar.text, 12, colour=GREY),
        ]
    if mark:
        x = left + room * scale(mark)
        parts.append(f"<path d='M{x:.1f} {top - 8}V{height - 12}' stroke='#000000' stroke-width='1.5'/>")
    return _whole(width, height, parts)


def _scale(shown: Sequence[Bar]) -> "_Scale":
    return _Scale(0, max(bar.value for bar in shown) or 1, is_log=False)


def _log_scale(shown: Sequence[Bar], mark: float) -> "_Scale":
    values = [mark, *(bar.value for bar in shown)]
    return _Scale(min(values) / 1.2, max(values), is_log=True)


class _Scale(NamedTuple):
    low: float
    high: float
    is_log: bool

    def __call__(self, value: float) -> float:
        if self.is_log:
            return log10(value / self.low) / log10(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def lines(title: str, across: str, places: Sequence[str], shown: Sequence[Series]) -> str:
    """Draw lines over equally spaced places; the values begin at 0."""
    left, top, room, tall = 60, 50, 480, 300
    high = max(highest for series in shown for _, _, highest in series.points)
    ticks = _ticks(high)
    width, height = left + room + 40 + LETTER * max(len(series.name) for series in shown), top + tall + 60

    def x(place: int) -> float:
        return left + 20 + (room - 40) * place / max(len(places) - 1, 1)

    def y(value: float) -> float:
        return top + tall * (1 - value / ticks[-1])

    parts = [_text(14, 26, title, 15, weight="bold")]
    for tick in ticks:
        parts.append(f"<path d='M{left} {y(tick):.1f}h{room}' stroke='{FAINT}'/>")
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", 12, anchor="end", colour=GREY))
    for place, name in enumerate(places):
        parts.append(_text(x(place), top + tall + 20, name, 12, anchor="middle", colour=GREY))
    parts.append(_text(left + room / 2, top + tall + 42, across, 12, anchor="middle"))
    ends = _apart([y(series.points[-1][1]) + 4 for series in shown])
    for series, colour, end in zip(shown, cycle(COLOURS), ends, strict=False):
        for place, (lowest, _, highest) in enumerate(series.points):
            parts.append(
                f"<path d='M{x(place):.1f} {y(lowest):.1f}V{y(highest):.1f}' stroke='{colour}' opacity='.5'/>"
            )
        way = " ".join(
            f"{x(place):.1f},{y(middle):.1f}" for place, (_, middle, _) in enumerate(series.points)
        )
        parts.append(f"<polyline points='{way}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for place, (_, middle, _) in enumerate(series.points):
            parts.append(f"<circle cx='{x(place):.1f}' cy='{y(middle):.1f}' r='3' fill='{colour}'/>")
        parts.append(_text(left + room + 6, end, series.name, 12, colour=colour))
    return _whole(width, height, parts)


def _ticks(high: float) -> list[float]:
    step = 10 ** ceil(log10(high) - 1)
    step = step / 2 if high / step < 4 else step
    return [round(step * number, 9) for number in range(ceil(high / step) + 1)]


def _apart(heights: list[float], least: float = 15) -> list[float]:
    """Move labels apart by the smallest distance at which none overlaps."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    moved = list(heights)
    for _ in range(50):
        for above, below in pairwise(order):
            lacking = least - (moved[below] - moved[above])
            if lacking > 0:
                moved[above] -= lacking / 2
                moved[below] += lacking / 2
    return moved


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def _text(
    x: float,
    y: float,
    text: str,
    size: int,
    *,
    anchor: str = "start",
    colour: str = "#000000",
    weight: str = "normal",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}'"
        f" text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"
    )


def _whole(width: float, height: float, parts: list[str]) -> str:
    size = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'"
    ground = _box(0, 0, width, height, "#ffffff")
    return "\n".join([f"<svg xmlns='http://www.w3.org/2000/svg' {size}>", ground, *parts, "</svg>", ""])
