"""Tables for a terminal: their columns, and which of them are shown at which width.

Imported late, because rich is slow to import. All cells go through ``sanitize_line``, because they contain
text from users.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from taskqd.cli.display.text import (
    bar,
    command_of,
    format_run_time,
    local_time,
    relative_time,
    sanitize_line,
    seconds_run,
)

Facts = dict[str, Any]

COLOURS = {"PENDING": "", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}
MIN_LAST_WIDTH = 24
"""Minimum width of the last column (cells); other columns are left out to make room for it."""
BAR_WIDTH = 10
"""Width of a bar (cells)."""
MAX_PROGRESS_TEXT, NARROW_PROGRESS_TEXT = 24, 14
"""Characters of what a job says of its progress; the rest is cut to leave room for other columns.

The second number is for terminals that are narrower than ``WIDE``.
"""
WIDE = 100
"""The width from which on there is room for more in a line."""
MIN_NAME_WIDTH = 12
NAME_SHARE = 6
"""A queue, label or owner is cut to 12 cells or 1/6 of the width of the terminal, whichever is more."""


class Column(NamedTuple):
    """A column: its title and cells.

    Columns with the highest ``drop_order`` are left out first on a narrow terminal, those with 0 never.
    """

    title: str
    cell: Callable[[Facts], Text]
    drop_order: int = 0
    is_number: bool = False


def fit_table(columns: Sequence[Column], rows: Sequence[Facts], width: int) -> Table:
    """Return a table with the columns that fit; the last column gets the rest of the width and is cut.

    Empty columns that may be left out are left out too.
    """
    cells = {column: [column.cell(row) for row in rows] for column in columns}
    shown = [column for column in columns if not column.drop_order or any(cells[column])]
    widths = {
        column: max(cell_len(column.title), *(cell.cell_len for cell in cells[column]), 0) for column in shown
    }
    while sum(widths[column] + 2 for column in shown[:-1]) + min(widths[shown[-1]], MIN_LAST_WIDTH) > width:
        dropped = max(shown[:-1], key=lambda column: column.drop_order)
        if not dropped.drop_order:
            break
        shown.remove(dropped)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=column is not shown[-1],  # only the last column is cut
        )
    for number in range(len(rows)):
        table.add_row(*(cells[column][number] for column in shown))
    return table


def _plain(text: object) -> Text:
    return Text("" if text is None else sanitize_line(str(text)), no_wrap=True, overflow="ellipsis")


def _field(name: str, default: str | None = "") -> Callable[[Facts], Text]:
    """Return a function that shows a field, or nothing if it has its default value."""
    return lambda row: _plain("" if row.get(name) == default else row.get(name))


def _cut_field(width: int, name: str, default: str | None = "") -> Callable[[Facts], Text]:
    """Return a function that shows a field as ``_field`` does, cut to leave room for other columns."""
    field = _field(name, default)

    def cell(row: Facts) -> Text:
        text = field(row)
        text.truncate(max(MIN_NAME_WIDTH, width // NAME_SHARE), overflow="ellipsis")
        return text

    return cell


def make_job_table(jobs: Sequence[Facts], now: float, width: int) -> Table:
    """Return jobs as a table."""
    owners = {job.get("owner") for job in jobs}
    columns = (
        Column("id", lambda job: _plain(name_of(job)), is_number=True),
        Column("status", lambda job: status_of(job, now, width)),
        Column("exit", _field("exit_code"), 1, is_number=True),
        Column("when", lambda job: _plain(status_time(job, now)), 2, is_number=True),
        Column("ran", lambda job: _plain(run_time(job, now)), 3, is_number=True),
        Column("queue", _cut_field(width, "queue", "default"), 4),
        Column("label", _cut_field(width, "label"), 5),
        Column("owner", _cut_field(width, "owner", owners.pop() if len(owners) == 1 else None), 6),
        Column("command", lambda job: _plain(command_of(job))),
    )
    return fit_table(columns, jobs, width)


def name_of(job: Facts) -> str:
    """Return the id of a job; for a task also its array and index: ``17 (12.5)``."""
    return str(job["id"]) if job.get("array") is None else f"{job['id']} ({job['array']}.{job['index']})"


def status_of(job: Facts, now: float, width: int) -> Text:
    """Return the status of a job with its progress or the reason for which it waits."""
    status = str(job["status"])
    text = Text(status, style=COLOURS.get(status, ""), no_wrap=True)
    done, count = progress_of(job)
    progress = f"{done}%" if count == 100 else f"{done}/{count}"
    if not (done or job.get("tasks")):
        progress = ""
    if job.get("suspended_at"):
        text.append(f" suspended {progress}".rstrip(), style="dim")
    elif status == "RUNNING":
        if progress:
            text.append(f" {bar(done, count, BAR_WIDTH)} {progress}")
        text.append(progress_text(job, width), style="dim")
    elif status == "PENDING" and (reason := wait_reason(job, now)):
        text.append(f" {reason}", style="dim")
    elif status == "FAILED" and job.get("reason") not in (None, "exit"):
        text.append(f" {job['reason']}", style="dim")
    return text


def progress_text(job: Facts, width: int) -> str:
    """Return what a job says of its progress, cut and behind a blank; nothing if it says nothing."""
    limit = MAX_PROGRESS_TEXT if width >= WIDE else NARROW_PROGRESS_TEXT
    text = sanitize_line(job.get("progress_text") or "")
    return f" {text if len(text) <= limit else text[: limit - 1] + '…'}" if text else ""


def progress_of(job: Facts) -> tuple[int, int]:
    """Return the progress of a job and its total: 100 percent, or the number of tasks of an array."""
    tasks = job.get("tasks")
    if tasks and tasks["count"] != 100:
        return tasks["completed"] + tasks["failed"] + tasks["cancelled"], tasks["count"]
    return int(job.get("progress") or 0), 100


def wait_reason(job: Facts, now: float) -> str:
    """Return in a word what a pending job waits for, or nothing if it waits for capacity."""
    reason = job.get("reason")
    if reason in ("delayed", "retrying") and job.get("not_before"):
        return relative_time(job["not_before"], now)
    return {None: "", "queued": ""}.get(reason, str(reason))


def status_time(job: Facts, now: float) -> str:
    """Return when a job got its status."""
    name = {"PENDING": "submitted_at", "RUNNING": "started_at"}.get(job["status"], "completed_at")
    at = job.get(name) or job.get("submitted_at")
    return relative_time(at, now) if at else ""


def run_time(job: Facts, now: float) -> str:
    """Return how long the latest attempt of a job has run, nothing if the job has not started."""
    duration = seconds_run(job, now)
    return "" if duration is None else format_run_time(duration)


def make_queue_table(queues: Sequence[Facts], width: int) -> Table:
    """Return queues as a table."""

    def count(name: str, drop_order: int) -> Column:
        return Column(name, lambda queue: Text(str(queue[name])), drop_order, is_number=True)

    columns = (
        Column("queue", lambda queue: _plain(queue["name"])),
        Column("busy", lambda queue: Text(str(queue["busy"])), is_number=True),
        Column("slots", lambda queue: Text("-" if queue["slots"] is None else str(queue["slots"])), 2, True),
        Column("", usage_bar, 3),
        Column("rate", lambda queue: _plain(queue.get("rate")), 7),
        count("pending", 1),
        count("running", 1),
        count("completed", 5),
        count("failed", 4),
        count("cancelled", 6),
        Column("", lambda queue: Text("fair" if queue.get("fair") else ""), 8),
        Column("", lambda queue: Text("paused" if queue["paused"] else "", style="yellow")),
    )
    return fit_table(columns, queues, width)


def usage_bar(queue: Facts) -> Text:
    """Return a bar of the used slots of a queue; empty if the queue has no limit."""
    return Text(bar(queue["busy"], queue["slots"], BAR_WIDTH) if queue["slots"] else "", style="cyan")


def make_schedule_table(schedules: Sequence[Facts], now: float, width: int) -> Table:
    """Return schedules as a table."""
    columns = (
        Column("schedule", lambda schedule: Text(str(schedule["schedule"])), is_number=True),
        Column("when", lambda schedule: _plain(describe_recurrence(schedule))),
        Column("next", lambda schedule: _next_run(schedule, now)),
        Column("at", lambda schedule: _next_time(schedule, now), 4),
        Column("last", lambda schedule: _last_run(schedule, now), 2),
        Column("job", _field("last_job"), 1, is_number=True),
        Column("queue", _cut_field(width, "queue", "default"), 3),
        Column("command", lambda schedule: _plain(command_of(schedule))),
    )
    return fit_table(columns, schedules, width)


def make_token_table(tokens: Sequence[Facts], now: float, width: int) -> Table:
    """Return tokens as a table."""
    columns = (
        Column("id", _field("id")),
        Column("name", _field("name")),
        Column("role", _field("role")),
        Column("queue", _field("queue", None), 2),
        Column("made", lambda token: _plain(relative_time(token["made_at"], now)), 3),
        Column("ends", lambda token: _end_of(token, now)),
    )
    return fit_table(columns, tokens, width)


def _end_of(token: Facts, now: float) -> Text:
    if token["expired"]:
        return Text("expired", style="red")
    return Text(relative_time(token["expires_at"], now) if token["expires_at"] else "never")


def describe_recurrence(schedule: Facts) -> str:
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
    return Text(relative_time(at, now) if at else "-")


def _next_time(schedule: Facts, now: float) -> Text:
    at = schedule.get("next_run_at")
    return Text(local_time(at, now) if at and not schedule["paused"] else "")


def _last_run(schedule: Facts, now: float) -> Text:
    at = schedule.get("last_run_at")
    return Text(relative_time(at, now) if at else "")
