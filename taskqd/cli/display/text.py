"""Formats text for people: sanitized lines, relative times, bars, colours, a question.

Tables are in ``tables``, which needs rich.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from taskqd.model.durations import format_duration
from taskqd.model.sizes import format_size

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PROTOCOL_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ASCII = str.maketrans("█░", "#-")

DEFAULT_SIZE = (80, 24)
"""Columns and lines of a terminal that does not report its size."""


def sanitize_line(text: str) -> str:
    """Return ``text`` with all characters escaped that are not printable.

    These are control characters, and characters that change the direction of writing or are invisible.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return _ESCAPES.get(character) or (f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}")


def fact_lines(facts: dict[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield ``name: value`` for each field with a value; nested names are joined with dots."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from fact_lines(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield sanitize_line(f"{prefix}{name}: {' '.join(map(str, value))}")
        elif value is not None:
            yield sanitize_line(f"{prefix}{name}: {json.dumps(value) if isinstance(value, bool) else value}")


def describe_status(job: dict[str, Any]) -> str:
    """Return the status of a job, and behind it what a reader wants to know next.

    Examples: ``PENDING (held)``, ``RUNNING 40% epoch 5``, ``RUNNING 3/10``,
    ``RUNNING (cancelling)``, ``RUNNING (suspended)``, ``FAILED (exit 3)``, ``FAILED (timeout, signal TERM)``,
    ``FAILED (memory: used 2.1 GiB of 2 GiB)``,
    ``FAILED (2 of 10 tasks failed)``.
    """
    status = str(job["status"])
    if job.get("cancelling"):
        return f"{status} (cancelling)"
    if job.get("suspended_at"):
        return f"{status} (suspended)"
    if status == "RUNNING":
        return " ".join(filter(None, (status, _progress(job))))
    details = list(_end_details(job) if status in ("FAILED", "CANCELLED") else _wait_details(job))
    return f"{status} ({', '.join(details)})" if details else status


def _progress(job: dict[str, Any]) -> str:
    if tasks := job.get("tasks"):
        return f"{sum(tasks[name] for name in ('completed', 'failed', 'cancelled'))}/{tasks['count']}"
    words = (
        f"{job['progress']}%" if job.get("progress") else "",
        sanitize_line(job.get("progress_text") or ""),
    )
    return " ".join(filter(None, words))


def _wait_details(job: dict[str, Any]) -> Iterable[str]:
    if job.get("reason") not in (None, "queued"):
        yield str(job["reason"])


def _end_details(job: dict[str, Any]) -> Iterable[str]:
    if tasks := job.get("tasks"):
        for name in ("failed", "cancelled"):
            if tasks[name]:
                yield f"{tasks[name]} of {tasks['count']} tasks {name}"
        return
    reason, code = job.get("reason"), job.get("exit_code")
    if reason == "memory" and job.get("memory_used_peak") and job.get("memory_max"):
        yield f"memory: used {format_size(job['memory_used_peak'])} of {format_size(job['memory_max'])}"
    elif reason not in (None, "exit", "signal", "cancelled"):
        yield str(reason)
    if job.get("signal"):
        yield f"signal {job['signal']}"
    elif code is not None:
        yield f"exit {code}" if code >= 0 else f"signal {-code}"


def seconds_run(job: dict[str, Any], now: float) -> float | None:
    """Return for how many seconds the latest attempt of a job has run; None if the job has not started."""
    if not job.get("started_at") or job["status"] == "PENDING":
        return None
    end = epoch_seconds(job["completed_at"]) if job.get("completed_at") else now
    return max(0.0, end - epoch_seconds(job["started_at"]))


def format_run_time(seconds: float) -> str:
    """Return a run time with two or three digits of precision: ``11 ms``, ``2.4 s``, ``5 min 20 s``."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return format_duration(int(seconds), max_units=2)


def headline(job: dict[str, Any], now: float) -> str:
    """Return what has become of a job: ``job 7 FAILED (exit 3) 5 min ago, after 2.4 s``."""
    text = f"job {job['id']} {describe_status(job)}"
    if job.get("completed_at"):
        text += f" {relative_time(job['completed_at'], now)}"
    duration = seconds_run(job, now)
    if duration is not None:
        text += f", {'for' if job['status'] == 'RUNNING' else 'after'} {format_run_time(duration)}"
    return text


def with_local_times(text: str, now: float) -> str:
    """Return text with the times of the protocol in it as local times."""
    return _PROTOCOL_TIME.sub(lambda match: local_time(match[0], now), text)


def command_of(job: dict[str, Any]) -> str:
    """Return the command of a job on one line: the first of several, with ``…`` for the others.

    Of a script it is the line that the daemon shows, and behind it the arguments.
    """
    command = job.get("command") or ""
    if job.get("script") is not None:
        command = f"{_line_of_script(job)} {command}"
    first, _, rest = command.strip().partition("\n")
    return sanitize_line(first.rstrip() + (" …" if rest.strip() else ""))


def _line_of_script(job: dict[str, Any]) -> str:
    size, line = job["script"], job.get("script_line")
    if line is None:  # blank, or accepted by a daemon of 0.8 or older
        return f"(a script of {size} bytes)"
    return f"{line} …" if size > len(line.encode()) + len("\n") else line


def job_line(job: dict[str, Any]) -> str:
    """Return a job as tab-separated id, status, exit code, time of submission and command."""
    code = job.get("exit_code")
    cells = (
        job["id"],
        job["status"],
        "-" if code is None else code,
        job.get("submitted_at"),
        command_of(job),
    )
    return "\t".join(map(str, cells))


def event_cells(event: dict[str, Any]) -> tuple[str, ...]:
    """Return the time, type, cause and exit code of an event."""
    kind = event["type"]
    details: list[str] = []
    if "by" in event:
        details.append(f"by {event['by']}")
    elif kind == "submitted":
        details.append(f"by {event['owner']}")
    elif kind == "started":
        details.append(f"attempt {event['attempt']}")
    elif kind == "spawned":
        details.append(f"pid {event['pid']}")
    elif kind == "skipped":
        details.append(f"because of job {event['because']}")
    if kind == "cancelled":
        details.append(event["reason"] if event.get("reason") else f"signal {event['signal']}")
    if kind == "ended":
        details += [str(event[name]) for name in ("status", "reason", "detail") if event.get(name)]
        details += [f"ended at {event['ended_at']}"] if event.get("ended_at") else []
        details += [event["progress_text"]] if event.get("progress_text") else []
        if event.get("suspended"):
            details.append(f"suspended for {format_run_time(event['suspended'])}")
        details += [f"again at {event['retry_at']}"] if event.get("retry_at") else []
    exit_code = -event["signal"] if kind == "ended" and event.get("signal") else event.get("exit_code")
    return (
        event["at"],
        kind,
        sanitize_line(", ".join(details)),
        "-" if exit_code is None else str(exit_code),
    )


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield rows as lines: aligned on a terminal, otherwise separated by tabs."""
    if not is_terminal():
        yield from map("\t".join, rows)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def age(at: str, now: float) -> str:
    """Return how long ago a time of the protocol was, in the largest unit."""
    return format_age(now - epoch_seconds(at))


def format_age(duration: float) -> str:
    """Return a duration in seconds in the largest unit; negative ones as 0 s."""
    return format_duration(max(0, int(duration)), max_units=1)


RELATIVE_TOLERANCE = 1.005
"""A time to come that is shorter than a whole unit by up to 0.5 % is shown as that unit: 36 s for 2 h."""


def relative_time(at: str, now: float) -> str:
    """Return a time of the protocol relative to ``now``: ``3 min ago``, ``in 2 h``.

    Ages are rounded down, so ``--delay 2h`` would show as ``in 1 h`` at once without the tolerance.
    """
    left = epoch_seconds(at) - now
    if -1 < left < 1:
        return "now"
    return f"in {format_age(left * RELATIVE_TOLERANCE)}" if left > 0 else f"{format_age(-left)} ago"


def epoch_seconds(at: str) -> float:
    """Return a time of the protocol in seconds since the epoch."""
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()


def local_time(at: str, now: float) -> str:
    """Return a time of the protocol as local time, with the date unless it is today."""
    then, today = (datetime.fromtimestamp(each).astimezone() for each in (epoch_seconds(at), now))
    return f"{then:%H:%M:%S}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M:%S}"


def weekday_time(at: str) -> str:
    """Return a time of the protocol as local time, with the weekday and the date."""
    return f"{datetime.fromtimestamp(epoch_seconds(at)).astimezone():%a %Y-%m-%d %H:%M:%S}"


def bar(part: float, whole: float, width: int) -> str:
    """Return a bar of ``width`` cells, filled in the proportion of ``part`` to ``whole``."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    filled = int(share * width)
    drawn = "█" * filled + "░" * (width - filled)
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return drawn if encoding.startswith("utf") else drawn.translate(_ASCII)


def coloured(text: str, colour: int, is_on: bool) -> str:
    """Return text in one of the 8 terminal colours if ``is_on``."""
    return f"\x1b[3{colour}m{text}\x1b[0m" if is_on else text


def has_colours(stream: Any) -> bool:
    """Whether to use colours on a stream: it is a terminal that supports them, and NO_COLOR is not set."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown", "")
    )


def is_terminal() -> bool:
    """Whether stdout is a terminal, so that answers are formatted for people."""
    return sys.stdout.isatty()


def confirm(question: str, *, default: bool = False) -> bool:
    """Ask a yes/no question on the terminal; no terminal, no answer and Ctrl-C mean no.

    An empty line means ``default``.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"\n{question} [{'Y/n' if default else 'y/N'}] ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes") or (default and answer == "\n")
