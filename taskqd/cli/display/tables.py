"""Tables for a terminal: which columns there are at which width, and what stands in them.

Loaded late, for rich is. What is in a table is text of jobs, so all of it goes through ``sanitize_line``.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from taskqd.cli.display.text import bar, clock, command_of, relative, sanitize_line

Facts = dict[str, Any]

COLOURS = {"PENDING": "", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}
LEAST = 24
"""So many cells are kept for the last column, before the first of the others gives way."""
BAR = 10
"""A bar has so many cells."""
LEAST_NAME = 12
NAME_SHARE = 6
"""A queue, label or owner has at most 12 cells, or a sixth of the terminal's where that is more."""


class Column(NamedTuple):
    """A column: its title, its cells, and when it gives way; those with the highest number go first."""

    title: str
    cell: Callable[[Facts], Text]
    gives_way: int = 0
    is_number: bool = False


def fitting(columns: Sequence[Column], rows: Sequence[Facts], width: int) -> Table:
    """Return a table with as many of the columns as fit; the last one takes what is left, and is cut there.

    A column that gives way and has nothing to show is left out too.
    """
    cells = {column: [column.cell(row) for row in rows] for column in columns}
    shown = [column for column in columns if not column.gives_way or any(cells[column])]
    widths = {
        column: max(cell_len(column.title), *(cell.cell_len for cell in cells[column]), 0) for column in shown
    }
    while sum(widths[column] + 2 for column in shown[:-1]) + min(widths[shown[-1]], LEAST) > width:
        going = max(shown[:-1], key=lambda column: column.gives_way)
        if not going.gives_way:
            break
        shown.remove(going)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=column is not shown[-1],  # the last one is the one that is cut
        )
    for number in range(len(rows)):
        table.add_row(*(cells[column][number] for column in shown))
    return table


def _plain(text: object) -> Text:
    return Text("" if text is None else sanitize_line(str(text)), no_wrap=True, overflow="ellipsis")


def _named(name: str, default: str | None = "") -> Callable[[Facts], Text]:
    """Return what shows a field, and nothing where it is as most have it."""
    return lambda row: _plain("" if row.get(name) == default else row.get(name))


def _cut(width: int, name: str, default: str | None = "") -> Callable[[Facts], Text]:
    """Return what shows a field as ``_named`` does, cut so that other columns have room beside it."""
    named = _named(name, default)

    def cell(row: Facts) -> Text:
        text = named(row)
        text.truncate(max(LEAST_NAME, width // NAME_SHARE), overflow="ellipsis")
        return text

    return cell


def jobs(found: Sequence[Facts], now: float, width: int) -> Table:
    """Return jobs as a table."""
    owners = {job.get("owner") for job in found}
    columns = (
        Column("id", lambda job: _plain(name_of(job)), is_number=True),
        Column("status", lambda job: status_of(job, now)),
        Column("exit", _named("exit_code"), 1, is_number=True),
        Column("when", lambda job: _plain(when(job, now)), 2, is_number=True),
        Column("queue", _cut(width, "queue", "default"), 3),
        Column("label", _cut(width, "label"), 4),
        Column("owner", _cut(width, "owner", owners.pop() if len(owners) == 1 else None), 5),
        Column("command", lambda job: _plain(command_of(job))),
    )
    return fitting(columns, found, width)


def name_of(job: Facts) -> str:
    """Return a job's id, of a task also which one of which array it is: ``17 (12.5)``."""
    return str(job["id"]) if job.get("array") is None else f"{job['id']} ({job['array']}.{job['index']})"


def status_of(job: Facts, now: float) -> Text:
    """Return a job's status with how far it has come, or what it waits for."""
    status = str(job["status"])
    text = Text(status, style=COLOURS.get(status, ""), no_wrap=True)
    done, count = progress_of(job)
    if status == "RUNNING" and done:
        text.append(f" {bar(done, count, BAR)} " + (f"{done}%" if count == 100 else f"{done}/{count}"))
    elif status == "PENDING" and (why := waiting_for(job, now)):
        text.append(f" {why}", style="dim")
    elif status == "FAILED" and job.get("reason") not in (None, "exit"):
        text.append(f" {job['reason']}", style="dim")
    return text


def progress_of(job: Facts) -> tuple[int, int]:
    """Return how far a job has come, and of how much: of 100 %, or of the tasks of an array."""
    tasks = job.get("tasks")
    if tasks and tasks["count"] != 100:
        return tasks["completed"] + tasks["failed"] + tasks["cancelled"], tasks["count"]
    return int(job.get("progress") or 0), 100


def waiting_for(job: Facts, now: float) -> str:
    """Return what a pending job waits for in a word, nothing where it waits for its turn."""
    reason = job.get("reason")
    if reason in ("delayed", "retrying") and job.get("not_before"):
        return relative(job["not_before"], now)
    return {None: "", "queued": ""}.get(reason, str(reason))


def when(job: Facts, now: float) -> str:
    """Return since when a job is what it is."""
    name = {"PENDING": "submitted_at", "RUNNING": "started_at"}.get(job["status"], "completed_at")
    at = job.get(name) or job.get("submitted_at")
    return relative(at, now) if at else ""


def queues(found: Sequence[Facts], width: int) -> Table:
    """Return queues as a table."""

    def count(name: str, gives_way: int) -> Column:
        return Column(name, lambda queue: Text(str(queue[name])), gives_way, is_number=True)

    columns = (
        Column("queue", lambda queue: _plain(queue["name"])),
        Column("busy", lambda queue: Text(str(queue["busy"])), is_number=True),
        Column("slots", lambda queue: Text("-" if queue["slots"] is None else str(queue["slots"])), 2, True),
        Column("", filled, 3),
        count("pending", 1),
        count("running", 1),
        count("completed", 5),
        count("failed", 4),
        count("cancelled", 6),
        Column("", lambda queue: Text("paused" if queue["paused"] else "", style="yellow")),
    )
    return fitting(columns, found, width)


def filled(queue: Facts) -> Text:
    """Return a bar of how many of a queue's slots are taken; none where it has no limit of its own."""
    return Text(bar(queue["busy"], queue["slots"], BAR) if queue["slots"] else "", style="cyan")


def schedules(found: Sequence[Facts], now: float, width: int) -> Table:
    """Return schedules as a table."""
    columns = (
        Column("schedule", lambda schedule: Text(str(schedule["schedule"])), is_number=True),
        Column("when", lambda schedule: _plain(rhythm(schedule))),
        Column("next", lambda schedule: _next_run(schedule, now)),
        Column("at", lambda schedule: _next_time(schedule, now), 4),
        Column("last", lambda schedule: _last_run(schedule, now), 2),
        Column("job", _named("last_job"), 1, is_number=True),
        Column("queue", _cut(width, "queue", "default"), 3),
        Column("command", lambda schedule: _plain(command_of(schedule))),
    )
    return fitting(columns, found, width)


def tokens(found: Sequence[Facts], now: float, width: int) -> Table:
    """Return tokens as a table."""
    columns = (
        Column("id", _named("id")),
        Column("name", _named("name")),
        Column("role", _named("role")),
        Column("queue", _named("queue", None), 2),
        Column("made", lambda token: _plain(relative(token["made_at"], now)), 3),
        Column("ends", lambda token: _end_of(token, now)),
    )
    return fitting(columns, found, width)


def _end_of(token: Facts, now: float) -> Text:
    if token["expired"]:
        return Text("expired", style="red")
    return Text(relative(token["expires_at"], now) if token["expires_at"] else "never")


def rhythm(schedule: Facts) -> str:
    """Return when a schedule runs."""
    cron, every = schedule.get("cron"), schedule.get("every")
    if cron or every is None:
        zone = schedule.get("tz")
        return f"{cron} ({zone})" if zone else str(cron)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if every >= size and every % size == 0:
            return f"every {every / size:g} {unit}"
    return f"every {every:g} s"


def _next_run(schedule: Facts, now: float) -> Text:
    if schedule["paused"]:
        return Text("paused", style="yellow")
    at = schedule.get("next_run_at")
    return Text(relative(at, now) if at else "-")


def _next_time(schedule: Facts, now: float) -> Text:
    at = schedule.get("next_run_at")
    return Text(clock(at, now) if at and not schedule["paused"] else "")


def _last_run(schedule: Facts, now: float) -> Text:
    at = schedule.get("last_run_at")
    return Text(relative(at, now) if at else "")
