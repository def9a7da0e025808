"""Writes all results as tables and plots: bench/RESULTS.md and bench/plots/."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench import plot
from bench.results import Bar, Kept, Line, Row, Table

HEAD = """\
# Results

Written by `bench/run`; do not edit. Each figure is the median of several turns, in which taskqd and its
peers are measured one after the other; the lowest and the highest turn follow a ratio in parentheses. *Ours*
is durable in all of them: `fdatasync` before `JOB_ID`, and the start and the end of a job on disk.
[docs/performance.md](../docs/performance.md) explains the missed goals.
"""
QUICK = """
**A run with `--quick` only checks that the programs work. These figures mean nothing.**
"""
NO_FIGURE = "-"


def write(folder: Path, machine: Mapping[str, str], kept: Mapping[str, Kept], is_quick: bool) -> Path:
    """Write the page and its plots into ``folder``; return the path of the page."""
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    page = folder / "RESULTS.md"
    text = "\n".join(_page(plots, machine, kept, is_quick))
    page.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return page


def _page(plots: Path, machine: Mapping[str, str], kept: Mapping[str, Kept], is_quick: bool) -> Iterator[str]:
    yield HEAD + (QUICK if is_quick else "")
    yield from _table(["the machine", ""], ([name, text] for name, text in machine.items()))
    rows = [row for one in kept.values() for row in one.measured.rows]
    if rows:
        yield "\n## Goals\n"
        yield from table_of_rows(rows)
        yield from _notes(rows)
        yield from _plot_of_goals(plots, rows)
    yield from _bars(plots, [bar for one in kept.values() for bar in one.measured.bars])
    for one in kept.values():
        for shown in one.measured.tables:
            yield from table(shown)
    yield from _lines(plots, [line for one in kept.values() for line in one.measured.lines])
    yield "\n## When\n"
    times = (
        [name, one.at, f"{one.took:.0f} s", one.revision, f"`{one.command}`"] for name, one in kept.items()
    )
    yield from _table(["measurement", "at", "took", "taskqd at", "by"], times)


def table_of_rows(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table that compares taskqd with its peers."""
    yield from _table(
        ["what", "against", "ours", "theirs", "ours ÷ theirs", "goal", ""], (_cells(row) for row in rows)
    )


def _cells(row: Row) -> list[str]:
    theirs = _figure(row.theirs, row.unit)
    for what, why in (("missing", row.missing), ("**failed**", row.failed)):
        theirs = f"{what}: {why}" if why else theirs
    return [
        row.what,
        row.against or NO_FIGURE,
        _figure(row.ours, row.unit),
        theirs,
        _ratio(row.ratios),
        _goal(row),
        {True: "reached", False: "**not reached**", None: ""}[row.is_reached],
    ]


def _figure(values: list[float], unit: str) -> str:
    return f"{number(statistics.median(values))} {unit}" if values else NO_FIGURE


def _ratio(ratios: list[float]) -> str:
    if not ratios:
        return NO_FIGURE
    middle = f"**{number(statistics.median(ratios))}**"
    return middle if len(ratios) == 1 else f"{middle} ({number(min(ratios))} to {number(max(ratios))})"


def _goal(row: Row) -> str:
    if row.goal is None:
        return NO_FIGURE
    side = "at most" if row.goal.is_most else "at least"
    return f"{side} {row.goal.bound:,g}{' x' if row.goal.is_ratio else f' {row.unit}'}"


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _table(head: list[str], lines: Iterable[list[str]]) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"


def table(shown: Table) -> Iterator[str]:
    """Yield the lines of a section that consists of a table."""
    yield f"\n## {shown.title}\n"
    yield f"{shown.text}\n"
    yield from _table(shown.head, shown.rows)


def _notes(rows: list[Row]) -> Iterator[str]:
    notes = {f"- {row.what}: {row.note}." for row in rows if row.note}
    if notes:
        yield ""
        yield from sorted(notes)


def _plot_of_goals(plots: Path, rows: list[Row]) -> Iterator[str]:
    shown = []
    for row in rows:
        if row.goal and row.judged:
            reached = row.goal.reached(statistics.median(row.judged))
            name = f"{row.what} : {row.against}".strip(" :").replace("`", "")
            colour = plot.GOOD if row.is_reached else plot.BAD
            shown.append(plot.Bar(name, max(reached, 0.01), f"{number(reached)} x the goal", colour))
    if shown:
        title = "Each figure relative to its goal (logarithmic; the line is the goal)"
        (plots / "goals.svg").write_text(plot.bars(title, shown, mark=1.0), encoding="utf-8")
        yield f"\n![{title}](plots/goals.svg)"


def _bars(plots: Path, bars: list[Bar]) -> Iterator[str]:
    if not bars:
        return
    title = bars[0].chart
    yield f"\n## {title}\n"
    yield from _table(
        ["who", "median", "lowest to highest", "how"],
        ([bar.name, _figure(bar.values, bar.unit), _span(bar.values), bar.note] for bar in bars),
    )
    measured = [bar for bar in bars if bar.values]
    if measured:
        shown = []
        for bar in sorted(measured, key=lambda one: -statistics.median(one.values)):
            middle = statistics.median(bar.values)
            colour = plot.COLOURS[0] if bar is bars[0] else plot.GREY
            shown.append(plot.Bar(bar.name, middle, number(middle), colour))
        (plots / "jobs.svg").write_text(plot.bars(title.replace("`", ""), shown), encoding="utf-8")
        yield f"\n![{title}](plots/jobs.svg)"


def _span(values: list[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}" if values else NO_FIGURE


def _lines(plots: Path, lines: list[Line]) -> Iterator[str]:
    axes = dict.fromkeys(line.axis for line in lines)
    if axes:
        yield "\n## Growth of the cost\n"
        yield "Per second (SUBMIT + WAIT: 1 s divided by the median); a start in seconds, memory in MiB."
    for axis in axes:
        of_axis = [line for line in lines if line.axis == axis]
        places = [f"{point.at:,}" for point in of_axis[0].points]
        yield f"\n### With more {axis}\n"
        yield from _table(
            [axis, *places],
            ([line.figure, *(number(point.median) for point in line.points)] for line in of_axis),
        )
        speeds = [_series(line) for line in of_axis if line.unit == "/s"]
        if speeds:
            title = f"Speed with more {axis}, relative to the first"
            name = f"{axis.replace(' ', '-')}.svg"
            (plots / name).write_text(plot.lines(title, axis, places, speeds), encoding="utf-8")
            yield f"\n![{title}](plots/{name})"


def _series(line: Line) -> plot.Series:
    first = line.points[0].median
    points = [(min(point.values), point.median, max(point.values)) for point in line.points]
    parts = [(lowest / first, middle / first, highest / first) for lowest, middle, highest in points]
    return plot.Series(line.figure.replace("`", ""), parts)
