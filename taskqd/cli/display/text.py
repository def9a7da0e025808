"""What a person at a terminal sees: text made harmless, times as one tells them, bars, a question.

Tables are drawn by ``tables``, which is loaded here only where there is one to draw: rich takes its time.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from taskqd.model.durations import format_duration

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ASCII = str.maketrans("█░", "#-")

USUAL_SIZE = (80, 24)
"""Columns and lines of a terminal that does not know its own size."""


def sanitize_line(text: str) -> str:
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
            yield sanitize_line(f"{prefix}{name}: {' '.join(map(str, value))}")
        elif value is not None:
            yield sanitize_line(f"{prefix}{name}: {json.dumps(value) if isinstance(value, bool) else value}")


def command_of(job: dict[str, Any]) -> str:
    """Return what a job runs, on one line."""
    return sanitize_line(job.get("command") or f"(a script of {job.get('script')} bytes)")


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
    elif kind == "skipped":
        more.append(f"because of job {event['because']}")
    if kind == "cancelled":
        more.append(f"signal {event['signal']}")
    if kind == "ended":
        more += [str(event[name]) for name in ("status", "reason", "detail") if event.get(name)]
        more += [f"again at {event['retry_at']}"] if event.get("retry_at") else []
    exit_code = -event["signal"] if kind == "ended" and event.get("signal") else event.get("exit_code")
    return (event["at"], kind, sanitize_line(", ".join(more)), "-" if exit_code is None else str(exit_code))


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield rows as lines: in columns on a terminal, elsewhere with a tab between the cells."""
    if not is_terminal():
        yield from map("\t".join, rows)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def age(at: str, now: float) -> str:
    """Return how long ago a time of the protocol was, in its largest unit."""
    return span(now - seconds(at))


def span(length: float) -> str:
    """Return a length of time (s) in its largest unit; one below zero is none."""
    return format_duration(max(0, int(length)), max_units=1)


def relative(at: str, now: float) -> str:
    """Return when a time of the protocol is, seen from ``now``: ``3 min ago``, ``in 2 h``."""
    left = seconds(at) - now
    if -1 < left < 1:
        return "now"
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def seconds(at: str) -> float:
    """Return a time of the protocol in seconds since the epoch."""
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()


def clock(at: str, now: float) -> str:
    """Return a time of the protocol as clocks here show it, with its date where that is not today's."""
    then, today = (datetime.fromtimestamp(each).astimezone() for each in (seconds(at), now))
    return f"{then:%H:%M:%S}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M:%S}"


def bar(part: float, whole: float, width: int) -> str:
    """Return a bar of so many cells, filled as far as ``part`` is of ``whole``."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    filled = int(share * width)
    drawn = "█" * filled + "░" * (width - filled)
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return drawn if encoding.startswith("utf") else drawn.translate(_ASCII)


def coloured(text: str, colour: int, is_on: bool) -> str:
    """Return text in one of the eight colours of a terminal, where colours are on."""
    return f"\x1b[3{colour}m{text}\x1b[0m" if is_on else text


def has_colours(stream: Any) -> bool:
    """Whether what is written to a stream may have colours: on a terminal that has them, without NO_COLOR."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown", "")
    )


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
