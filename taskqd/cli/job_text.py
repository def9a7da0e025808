"""A pending job as text that a person edits: lines ``name = value``, and its command or script below them."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from taskqd.cli.display.text import describe_status, epoch_seconds, sanitize_line
from taskqd.client import Facts
from taskqd.errors import BadRequest
from taskqd.model.durations import format_duration

_TITLE = re.compile(r"--- (command|script) ---[ \t\r]*")
_UNITS = ((1024**3, "G"), (1024**2, "M"), (1024, "k"))


def _duration(seconds: float) -> str:
    return format_duration(seconds).replace(" ", "")


def _size(size: int) -> str:
    return next((f"{size // unit}{name}" for unit, name in _UNITS if size % unit == 0), str(size))


def _needs(amounts: dict[str, int]) -> str:
    return ",".join(f"{name}:{amount}" for name, amount in amounts.items())


def _time(at: str) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds(at)).astimezone():%Y-%m-%d %H:%M:%S}"


class _Line(NamedTuple):
    """A line of the text: the field of the job, its format, the text for none, and the word that clears it.

    A field without such a word cannot be cleared.
    """

    field: str
    form: Callable[[Any], str] = str
    default: str = ""
    cleared_by: str | None = "none"


_LINES: dict[str, _Line] = {
    "queue": _Line("queue", cleared_by=None),
    "priority": _Line("priority", cleared_by=None),
    "slots": _Line("slots", default="1", cleared_by=None),
    "need": _Line("need", _needs),
    "label": _Line("label", cleared_by=""),
    "at": _Line("at", _time),
    "delay": _Line("", cleared_by=None),
    "tz": _Line("tz"),
    "timeout": _Line("timeout", _duration),
    "idle-timeout": _Line("idle_timeout", _duration),
    "kill-after": _Line("kill_after", _duration, "5s", cleared_by=None),
    "retries": _Line("retries", cleared_by=None),
    "retry-delay": _Line("retry_delay", _duration, "1s", cleared_by=None),
    "retry-delay-max": _Line("retry_delay_max", _duration, "1h", cleared_by=None),
    "retry-on": _Line("retry_on", ",".join),
    "no-retry-on": _Line("no_retry_on", ",".join),
    "nice": _Line("nice"),
    "memory": _Line("memory", _size),
    "memory-max": _Line("memory_max", _size),
    "cpu-time": _Line("cpu_time", _duration),
    "nofile": _Line("nofile"),
    "max-output": _Line("max_output", _size, "256M", cleared_by=None),
    "merge": _Line("merge", lambda value: str(value).lower(), "false", cleared_by=None),
}
_FIXED = (
    *("after", "after_any", "after_fail", "after_label", "after_any_label", "after_fail_label"),
    *("after_key", "after_any_key", "after_fail_key", "key", "unless", "expires", "array_spec"),
    *("cwd", "umask", "stdin", "stdout", "stderr", "interactive", "notify_fail"),
)
"""Fields of a job that cannot be changed, which are named in a comment."""
_ARGUMENTS = "arguments"
"""The name of the line with the arguments of a script."""


class JobText(NamedTuple):
    """The content of a text: values by the names of lines, and the command or script, if it is there.

    ``body`` is that, and ``is_script`` tells which of them it is.
    """

    values: dict[str, str]
    body: str | None = None
    is_script: bool = False

    def changes(self, after: "JobText") -> tuple[dict[str, str], dict[str, Any]]:
        """Return the changed options, as text by name, and the new ``command`` and ``script``.

        Raises BadRequest if an option that has no value is removed.
        """
        options = {
            name: _new_value(name, value)
            for name, value in after.values.items()
            if name != _ARGUMENTS and value != self.values.get(name, "")
        }
        arguments = after.values.get(_ARGUMENTS, "")
        if arguments and not after.is_script:
            raise BadRequest("only a script has arguments: write --- script --- above the text, or omit them")
        executed = (self.body, self.is_script, self.values.get(_ARGUMENTS, ""))
        if after.body is None or executed == (after.body, after.is_script, arguments):
            return options, {}
        if not after.body.strip():
            raise BadRequest("the command is empty; `taskq cancel` ends the job")
        if not after.is_script:
            return options, {"command": after.body}
        script: dict[str, Any] = {"script": after.body.encode("utf-8", "surrogateescape")}
        return options, script | ({"command": arguments} if arguments else {})


def _new_value(name: str, value: str) -> str:
    if value:
        return value
    word = _LINES[name].cleared_by
    if word is None:
        raise BadRequest(f"{name} needs a value; omit the line to leave it unchanged")
    return word


def write(job: Facts, script: bytes | None, is_own: bool) -> str:
    """Return the text of a job; ``script`` is its script, if it has one that the user may read."""
    return "\n".join(_lines(job, is_own)) + "\n" + _body(job, script, is_own)


def _lines(job: Facts, is_own: bool) -> Iterator[str]:
    yield f"# job {job['id']}, {describe_status(job)}, of {sanitize_line(job['owner'])}"
    yield "# Lines that are changed are changed in the job. A line without a value removes an option. delay"
    yield "# counts from now; at is local time. An unchanged or emptied file changes nothing."
    if job.get("reason") == "delayed" and not job.get("at"):
        job = {**job, "at": job["not_before"]}
    for name, line in _LINES.items():
        value = job.get(line.field)
        shown = line.default if value in (None, [], {}) else line.form(value)
        yield f"{name} = {_encoded(shown)}".rstrip()
    if job.get("script") is not None and is_own:
        yield f"{_ARGUMENTS} = {_encoded(job['command'] or '')}".rstrip()
    fixed = {
        **{name: job.get(name) for name in _FIXED},
        **{name: sorted(job.get(name) or ()) for name in ("env", "secrets")},
        "environment": "inherited" if job.get("environment") else None,
    }
    others = [
        name if value is True else f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in fixed.items()
        if value
    ]
    if others:
        yield sanitize_line(f"# not changeable: {'; '.join(others)}")


def _body(job: Facts, script: bytes | None, is_own: bool) -> str:
    if not is_own:
        return f"# Only its owner may change the command: {sanitize_line(job['command'] or '(a script)')}\n"
    if script is None:
        return f"\n--- command ---\n{job['command'] or ''}\n"
    text = script.decode("utf-8", "surrogateescape")
    return f"\n--- script ---\n{text}" + ("" if text.endswith("\n") else "\n")


def _encoded(value: str) -> str:
    is_plain = value.isprintable() and value == value.strip() and not value.startswith('"')
    return value if is_plain else json.dumps(value)


def read(text: str) -> JobText:
    """Return the content of a text; raises BadRequest for one that cannot be right."""
    values: dict[str, str] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        title = _TITLE.fullmatch(line)
        if title:
            is_script = title[1] == "script"
            body = "\n".join(lines[number:])
            return JobText(values, body if is_script else body.strip("\r\n"), is_script)
        if line.strip() and not line.lstrip().startswith("#"):
            name, value = _parse(number, line)
            if name in values:
                raise BadRequest(f"line {number}: {name} is there twice")
            values[name] = value
    return JobText(values)


def _parse(number: int, line: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in line.partition("="))
    if not equals:
        raise BadRequest(f"line {number}: expected NAME = VALUE, a comment, or --- command ---")
    if name not in _LINES and name != _ARGUMENTS:
        raise BadRequest(f"line {number}: there is no option {name[:40]!r}")
    if not value.startswith('"'):
        return name, value
    try:
        return name, str(json.loads(value))
    except ValueError:
        raise BadRequest(f"line {number}: expected text between quotation marks, as in JSON") from None
