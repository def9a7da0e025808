"""What a person at a terminal sees: text made harmless, tables, a question.

rich is imported only where it draws.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_COLOURS = {"RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def harmless(text: str) -> str:
    """Return ``text`` with everything that is not printed escaped: it stays on its line and moves no cursor.

    Besides control characters these are the ones that turn the direction of writing or hide.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return _ESCAPES.get(letter) or (f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}")


def lines(facts: dict[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield ``name: value`` for all that has a value; names in a group have the group's and a dot before."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from lines(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield harmless(f"{prefix}{name}: {' '.join(map(str, value))}")
        elif value is not None:
            yield harmless(f"{prefix}{name}: {json.dumps(value) if isinstance(value, bool) else value}")


def command_of(job: dict[str, Any]) -> str:
    """Return what a job runs, on one line."""
    return harmless(job.get("command") or f"(a script of {job.get('script')} bytes)")


def columns(job: dict[str, Any]) -> str:
    """Return a job as a line of columns with a tab between them: id, status, exit code, time, command."""
    code = job.get("exit_code")
    cells = (
        job["id"],
        job["status"],
        "-" if code is None else code,
        job.get("submitted_at"),
        command_of(job),
    )
    return "\t".join(map(str, cells))


def event_cells(event: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return an event of a job's history as time, what happened, by whom or why, and exit code."""
    kind = event["type"]
    more: list[str] = []
    if "by" in event:
        more.append(f"by {event['by']}")
    elif kind == "submitted":
        more.append(f"by {event['owner']}")
    elif kind == "started":
        more.append(f"attempt {event['attempt']}")
    elif kind == "spawned":
        more.append(f"pid {event['pid']}")
    if kind == "cancelled":
        more.append(f"signal {event['signal']}")
    if kind == "ended":
        more += [str(event[name]) for name in ("status", "reason", "detail") if event.get(name)]
        more += [f"again at {event['retry_at']}"] if event.get("retry_at") else []
    exit_code = -event["signal"] if kind == "ended" and event.get("signal") else event.get("exit_code")
    return (event["at"], kind, harmless(", ".join(more)), "-" if exit_code is None else str(exit_code))


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield rows as lines: in columns on a terminal, elsewhere with a tab between the cells."""
    if not is_terminal():
        yield from map("\t".join, rows)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def age(submitted_at: str, now: float) -> str:
    """Return how long ago a time of the protocol was, in its largest unit."""
    then = datetime.fromisoformat(submitted_at.replace("Z", "+00:00"))
    seconds = max(0, int((datetime.fromtimestamp(now, timezone.utc) - then).total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{seconds // size} {unit}"


def print_table(jobs: Sequence[dict[str, Any]]) -> None:
    """Print jobs as a table that fits the width of the terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "status", "exit", "age"):
        table.add_column(title, justify="left" if title == "status" else "right", no_wrap=True)
    table.add_column("command")  # not no_wrap: it is the one that gives way
    now = time.time()
    for job in jobs:
        code = job.get("exit_code")
        status = job["status"] + (
            f" {job['progress']}%" if job["status"] == "RUNNING" and job["progress"] else ""
        )
        table.add_row(
            str(job["id"]),
            Text(status, style=_COLOURS.get(job["status"], "")),
            "" if code is None else str(code),
            age(job["submitted_at"], now),
            Text(command_of(job), no_wrap=True, overflow="ellipsis"),
        )
    Console().print(table)


def is_terminal() -> bool:
    """Whether answers are read by a person, rather than by a program."""
    return sys.stdout.isatty()


def confirms(question: str) -> bool:
    """Ask on the terminal; no terminal, no answer and Ctrl-C are a no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"\n{question} [y/N] ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
