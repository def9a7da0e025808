"""Renders the state as the lines of a screen."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from rich.cells import set_cell_size
from rich.console import Group
from rich.text import Text

from taskqd.cli.display.tables import COLOURS, WIDE, progress_of, progress_text, wait_reason
from taskqd.cli.display.text import (
    age,
    bar,
    command_of,
    format_age,
    format_run_time,
    relative_time,
    sanitize_line,
    seconds_run,
)
from taskqd.cli.top.state import Mode, OutputView, Snapshot, State, ref
from taskqd.client import Facts
from taskqd.model.sizes import format_size

KEYS = "q quit  ? help  ↑↓ Enter details  / filter  c cancel  h hold  r retry  p pause"
SHORT_KEYS = "q quit  ? help  Enter details  c cancel"
HELP = """
  ↑ ↓  k j     select a job; PgUp PgDn Home End
  Enter  o     its details, its output; Tab: next view;
               ↑ ↓ scroll, q back
  Space        mark it; the keys below act on all
               that are marked; Esc: unmark
  c            cancel it (with confirmation)
  h            hold it; again: release it
  z            suspend it; again: continue it
  r            retry it when it has ended
  p            pause its queue; again: resume it
  P            pause everything; again: resume
  /            show only jobs with a text; Esc: all
  s            sort by queue, owner, label, run time
  q            quit; Ctrl-Z stops taskq

  Any key closes this help.
"""
NARROW = 60
"""The width below which details are left out (columns); labels are shown from ``WIDE`` on."""

Row = Callable[[Facts, int, float], Text]


def draw(state: State, width: int, height: int, now: float) -> Group:
    """Return the lines of the whole screen."""
    if state.mode is Mode.HELP:
        lines = [Text(line) for line in HELP.strip("\n").split("\n")]
    elif state.output_view is not None:
        lines = _output(state, state.output_view, width, height - 2)
    elif state.snapshot is None:
        lines = [Text(), Text("  waiting for the daemon …", style="dim")]
    else:
        lines = _jobs(state, state.snapshot, width, height - 2, now)
    lines = [_head(state, width), *lines[: height - 2]]
    lines += [Text()] * (height - 1 - len(lines))
    lines.append(_foot(state, width))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Group(*lines[-height:])


def _head(state: State, width: int) -> Text:
    line = Text("taskq top", style="bold")
    snapshot = state.snapshot
    if snapshot is None:
        return line.append(f"  {state.address}", style="not bold dim")
    stats = snapshot.stats
    line.append(f"  {bar(stats['busy'], stats['slots'], 10)}", style="not bold cyan")
    line.append(f" {stats['busy']}/{stats['slots']} slots", style="not bold")
    for name, resource in stats.get("resources", {}).items():
        line.append(f"  {sanitize_line(name)} {resource['busy']}/{resource['total']}", style="not bold")
    jobs = stats["jobs"]
    line.append(f"  {jobs['running']} running, {jobs['pending']} pending", style="not bold")
    if stats.get("draining"):
        line.append("  DRAINING", style="bold yellow")
    if stats.get("paused"):
        line.append("  PAUSED", style="bold yellow")
    up = f"up {format_age(stats['uptime'])}"
    if line.cell_len + len(up) + 2 <= width:
        line.append(" " * (width - line.cell_len - len(up)) + up, style="not bold dim")
    return line


def _foot(state: State, width: int) -> Text:
    if state.question is not None:
        return Text(f"{state.question.question} [y/n]", style="bold yellow")
    if state.is_typing:
        return Text(f"filter: {sanitize_line(state.filter)}▏", style="bold")
    if state.error:
        return Text(sanitize_line(state.error), style="bold red")
    if state.message:
        return Text(sanitize_line(state.message), style="bold")
    return _keys(state, width)


def _keys(state: State, width: int) -> Text:
    """Return what the keys do in the visible view."""
    if state.mode is Mode.OUTPUT:
        return Text("q back  Tab next view  ↑↓ scroll  End follow", style="dim")
    if state.filter:
        return Text(f"only jobs with {sanitize_line(state.filter)!r}; Esc shows all", style="bold")
    return Text(KEYS if width >= len(KEYS) else SHORT_KEYS, style="dim")


def _output(state: State, view: OutputView, width: int, height: int) -> list[Text]:
    job = next((job for job in state.jobs if ref(job) == view.job), None)
    title = Text(f"{view.stream} of job {view.job}", style="bold reverse")
    if job is not None:
        title.append(f"  {job['status']}", style=COLOURS.get(job["status"], ""))
        title.append(f"  {command_of(job)}", style="not bold")
    output = state.snapshot.output if state.snapshot else None
    if output is None:
        return [title, Text("…", style="dim")]
    lines = _wrap(output, width)
    rows = max(1, height - 1)
    end = len(lines) - min(state.scroll, max(0, len(lines) - rows))
    return [title, *map(Text, lines[max(0, end - rows) : end])]


def _wrap(output: bytes, width: int) -> list[str]:
    """Return an output as lines of the screen; long lines are wrapped."""
    text = output.decode("utf-8", "backslashreplace").expandtabs()
    wrapped: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        # Of text after carriage returns, as progress bars print it, only the last is shown.
        shown = sanitize_line(line.rstrip("\r").rpartition("\r")[2])
        wrapped += [shown[at : at + width] for at in range(0, len(shown), width)] or [""]
    return wrapped


def _jobs(state: State, snapshot: Snapshot, width: int, height: int, now: float) -> list[Text]:
    lines = _queues(snapshot.queues, width, max(1, min(len(snapshot.queues), height // 4)))
    sections = [
        (title, jobs, row)
        for (title, row), jobs in zip(
            (("running", _running), ("pending", _pending), ("ended", _ended)), state.sections, strict=True
        )
    ]
    heights = _distribute_rows(
        [len(jobs) for _, jobs, _ in sections],
        max(0, height - len(lines)),
        _section_of(state),
    )
    first = 0
    for (title, jobs, row), rows in zip(sections, heights, strict=True):
        if rows > 1:
            count = len(jobs) if state.filter else max(len(jobs), _count(snapshot, title))
            lines.append(_title(title, count, min(len(jobs), rows - 1), width))
            lines += _window(jobs, row, rows - 1, state.index - first, state.marked, width, now)
        first += len(jobs)
    return lines


def _section_of(state: State) -> int:
    """Return the index of the section with the selection."""
    running, pending, _ = map(len, state.sections)
    return sum(state.index >= end for end in (running, running + pending))


def _distribute_rows(wanted: Sequence[int], height: int, selected: int) -> list[int]:
    """Distribute rows: each section gets the rows it needs plus a title, or an equal part of the height.

    If the height is too small for a title and a row of each section, the selected section comes first.
    """
    needs = [count + 1 if count else 0 for count in wanted]
    shares = [0] * len(needs)
    order = sorted(range(len(needs)), key=lambda number: number != selected)
    left = height
    for number in order:
        if needs[number] and left >= 2:
            shares[number] = 2
            left -= 2
    while left > 0 and (open_ := [number for number in order if 0 < shares[number] < needs[number]]):
        for number in open_[:left]:
            shares[number] += 1
        left -= len(open_[:left])
    return shares


def _count(snapshot: Snapshot, title: str) -> int:
    """Return the number of jobs of a section, of which only some are queried."""
    counts: dict[str, int] = snapshot.stats["jobs"]
    names = ("completed", "failed", "cancelled") if title == "ended" else (title,)
    return sum(counts[name] for name in names)


def _title(title: str, count: int, shown: int, width: int) -> Text:
    more = f" ({shown} of {count})" if shown < count else ""
    return Text(set_cell_size(f"{title}{more}", width), style="bold reverse")


def _window(
    jobs: Sequence[Facts],
    row: Row,
    rows: int,
    selected: int,
    marked: Collection[int],
    width: int,
    now: float,
) -> list[Text]:
    """Return ``rows`` rows of a section, including the selected one if it is in this section."""
    first = min(max(0, selected - rows + 1), max(0, len(jobs) - rows)) if selected >= 0 else 0
    first = first if selected < len(jobs) else 0
    lines = []
    for number, job in enumerate(jobs[first : first + rows], first):
        line = row(job, width, now)
        if number == selected:
            line.truncate(width - 1, overflow="ellipsis")
            line = Text("◆" if job["id"] in marked else "▶", style="bold").append_text(line)
            line.stylize("bold")
        else:
            line = Text("*" if job["id"] in marked else " ").append_text(line)
        lines.append(line)
    return lines


def _queues(queues: Sequence[Facts], width: int, rows: int) -> list[Text]:
    is_narrow = width < NARROW
    name_width = 10 if is_narrow else 16
    title = f"{'queue':{name_width}} {'slots':>{8 if is_narrow else 17}}  {'run':>5} {'pend':>7}"
    if not is_narrow:
        title += f" {'done':>7} {'failed':>7}"
    lines = [Text(set_cell_size(title, width), style="bold reverse")]
    busiest = sorted(queues, key=lambda queue: (-queue["running"], -queue["pending"], queue["name"]))
    shown = busiest[:rows]
    for queue in sorted(shown, key=lambda queue: str(queue["name"])):
        slots = "-" if queue["slots"] is None else queue["slots"]
        line = Text(set_cell_size(_cut(sanitize_line(queue["name"]), name_width), name_width))
        if not is_narrow:
            drawn = bar(queue["busy"], queue["slots"], 8) if queue["slots"] else ""
            line.append(f" {drawn:8}", style="cyan")
        line.append(f" {queue['busy']:>4}/{slots!s:<4}{queue['running']:>5} {queue['pending']:>7}")
        if not is_narrow:
            line.append(f" {queue['completed']:>7} {queue['failed']:>7}")
        if queue["paused"]:
            line.append("  paused", style="bold yellow")
        lines.append(line)
    if len(queues) > rows:
        lines[0].append(f"  ({rows} of {len(queues)})")
        lines[0].truncate(width)
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _job_prefix(job: Facts, width: int) -> Text:
    line = Text(f"{ref(job):>7} ")
    if width >= NARROW:
        line.append(set_cell_size(_cut(sanitize_line(job["queue"]), 10), 11))
        line.append(set_cell_size(_cut(sanitize_line(job.get("owner") or ""), 8), 9))
    if width >= WIDE:
        line.append(set_cell_size(_cut(sanitize_line(job.get("label") or ""), 12), 13))
    return line


def _running(job: Facts, width: int, now: float) -> Text:
    line = _job_prefix(job, width)
    line.append(f"{age(job['started_at'] or job['submitted_at'], now):>6} ")
    done, count = progress_of(job)
    shown = f"{bar(done, count, 8)} " + (f"{done:>3}%" if count == 100 else f"{done}/{count}")
    memory = f"mem {format_size(job['memory_used'])}" if "memory_used" in job else ""
    if job.get("suspended_at"):
        line.append(f"{'suspended':13}", style="yellow")
    else:
        line.append(f"{shown if done else memory:13}", style="cyan")
    if memory and (done or job.get("suspended_at")) and width >= WIDE:
        line.append(f" {memory}", style="cyan")
    if not job.get("suspended_at"):
        line.append(progress_text(job, width), style="dim")
    return line.append(f" {command_of(job)}")


def _pending(job: Facts, width: int, now: float) -> Text:
    line = _job_prefix(job, width)
    line.append(f"{age(job['submitted_at'], now):>6} ")
    line.append(f"{wait_reason(job, now):13}", style="yellow")
    return line.append(f" {command_of(job)}")


def _ended(job: Facts, width: int, now: float) -> Text:
    line = _job_prefix(job, width)
    line.append(f"{_since(job, now):>10} ")
    duration = seconds_run(job, now)
    if width >= NARROW:
        line.append(f"{'' if duration is None else format_run_time(duration):>12} ")
    code: Any = job["exit_code"]
    shown = {"COMPLETED": "ok"}.get(job["status"]) if code in (0, None) else f"exit {code}"
    shown = shown or job.get("reason") or job["status"].lower()
    line.append(f"{_cut(shown, 9):9}", style=COLOURS.get(job["status"], ""))
    return line.append(f" {command_of(job)}")


def _since(job: Facts, now: float) -> str:
    return relative_time(job["completed_at"], now) if job.get("completed_at") else ""
