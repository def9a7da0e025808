"""SUBMIT's own words and SCHEDULE's: command and options -> an Order, and the sizes of the blocks after it.

The two are read apart, because a refused SUBMIT's blocks follow it all the same (docs/protocol.md §3).
"""

import re
from datetime import datetime
from typing import Any

from taskqd.errors import BadRequest, TooLarge
from taskqd.model import time_zones
from taskqd.model.job_ref import JobRef
from taskqd.model.schedule import check_cron, check_every
from taskqd.model.spec import Array, Spec
from taskqd.model.submission import BLOCKS, ScheduleRequest, Submission, packed
from taskqd.protocol.arguments import Option, Table, flag, parse_env, parse_secret, read, scan
from taskqd.protocol.job_refs import parse_ref
from taskqd.protocol.retry_conditions import parse_conditions
from taskqd.protocol.values import (
    is_name,
    is_utf8,
    parse_duration,
    parse_integer,
    parse_name,
    parse_octal,
    parse_size,
    parse_time,
)

_SHOWN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_ARRAY = re.compile(r"([0-9]+)-([0-9]+)(?:%([0-9]+))?")

MAX_BLOCK_SIZE = 16 * 1024**2
"""A script or a stdin block is at most so large, in bytes."""
MAX_SKIPPED_BLOCK = 64 * 1024**2
"""A refused block of up to so many bytes is read and thrown away; a larger one ends the connection."""
MAX_LABEL_LENGTH = 1000
"""A label is at most so many characters."""


MAX_PRIORITY = 1_000_000
"""A priority is a whole number between this below 0 and this above."""
MAX_SLOTS = 10_000
"""A job takes at most so many slots."""
MAX_NEED = 1_000_000_000
"""A job needs at most so much of one resource."""
MAX_DEPENDENCIES = 1000
"""A job comes after at most so many others."""
MAX_TASKS = 100_000
"""An array has at most so many tasks."""
MAX_TASK_INDEX = 999_999_999
"""A task's index is at most this."""
MIN_MEMORY = 1024**2
"""Within less memory than so many bytes no program gets as far as to say that it is too little."""
AFTER = ("after", "after_any", "after_fail")
"""The fields of Spec that name other jobs."""


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise BadRequest(f"expected a duration above 0, not {text!r}")
    return seconds


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise BadRequest(f"expected a path that begins with /, not {text[:60]!r}")
    return text


def _label(text: str) -> str:
    if not 1 <= len(text) <= MAX_LABEL_LENGTH:
        raise BadRequest(f"expected 1 to {MAX_LABEL_LENGTH} characters, not {len(text)}")
    return text


def _block(text: str) -> int:
    return parse_integer(text, 0, MAX_SKIPPED_BLOCK)


def _refs(text: str) -> tuple[JobRef, ...]:
    return tuple(map(parse_ref, text.split(",")))


def _need(text: str) -> dict[str, int]:
    """Read ``gpu:1,disk:20``: amounts by resource."""
    needs: dict[str, int] = {}
    for part in text.split(","):
        name, _, amount = part.rpartition(":")
        if not is_name(name):
            raise BadRequest(f"expected a resource and how much of it, such as gpu:1, not {part[:60]!r}")
        if name in needs:
            raise BadRequest(f"{name} is named twice; add the two up")
        needs[name] = parse_integer(amount, 1, MAX_NEED)
    return needs


def _array(text: str) -> Array:
    """Read ``<first>-<last>`` with an optional ``%<at once>``."""
    form = _ARRAY.fullmatch(text)
    if form is None:
        raise BadRequest(
            f"expected <first>-<last> or <first>-<last>%<at once>, such as 1-100%8, not {text[:60]!r}"
        )
    first, last = (parse_integer(index, 0, MAX_TASK_INDEX) for index in form.group(1, 2))
    array = Array(first, last, parse_integer(form[3], 1, MAX_TASKS) if form[3] else None)
    if not 1 <= array.count <= MAX_TASKS:
        raise BadRequest(f"expected 1 to {MAX_TASKS} tasks from a lower to a higher index, not {text[:60]!r}")
    return array


def _memory(text: str) -> int:
    size = parse_size(text)
    if size < MIN_MEMORY:
        raise BadRequest(f"expected a size of at least 1M, such as 512M or 2G, not {text!r}")
    return size


OPTIONS: Table = {
    "queue": ("queue", parse_name),
    "priority": ("priority", lambda text: parse_integer(text, -MAX_PRIORITY, MAX_PRIORITY)),
    "slots": ("slots", lambda text: parse_integer(text, 1, MAX_SLOTS)),
    "need": ("needs", _need),
    "timeout": ("timeout", _positive_duration),
    "idle-timeout": ("idle_timeout", _positive_duration),
    "kill-after": ("kill_after", parse_duration),
    "retries": ("retries", lambda text: parse_integer(text, 0, 1_000_000)),
    "retry-delay": ("retry_delay", parse_duration),
    "retry-delay-max": ("retry_delay_max", parse_duration),
    "retry-on": ("retry_on", parse_conditions),
    "no-retry-on": ("no_retry_on", parse_conditions),
    "delay": ("delay", parse_duration),
    "at": ("at", parse_time),
    "tz": ("tz", time_zones.check),
    "after": ("after", _refs),
    "after-any": ("after_any", _refs),
    "after-fail": ("after_fail", _refs),
    "hold": ("hold", flag),
    "array": ("array", _array),
    "key": ("key", parse_name),
    "label": ("label", _label),
    "cwd": ("cwd", _path),
    "env": ("env", parse_env),
    "secret": ("secrets", parse_secret),
    "umask": ("umask", parse_octal),
    "nice": ("nice", lambda text: parse_integer(text, -20, 19)),
    "memory": ("memory", _memory),
    "cpu-time": ("cpu_time", _positive_duration),
    "nofile": ("nofile", lambda text: parse_integer(text, 3, 1024**2)),
    "max-output": ("max_output", parse_size),
    "notify-fail": ("notify_fail", flag),
    "script": ("script", _block),
    "stdin": ("stdin", _block),
}
"""SUBMIT's options: the field of Spec that each sets, and its reader."""

USAGES = {
    "queue": "<name>",
    "priority": "<int>",
    "slots": "<n>",
    "need": "<resource>:<n>[,...]",
    "timeout": "<duration>",
    "idle-timeout": "<duration>",
    "kill-after": "<duration>",
    "retries": "<n>",
    "retry-delay": "<duration>",
    "retry-delay-max": "<duration>",
    "retry-on": "<condition>[,...]",
    "no-retry-on": "<condition>[,...]",
    "delay": "<duration>",
    "at": "<time>",
    "tz": "<zone>",
    "after": "<id>[,...]",
    "after-any": "<id>[,...]",
    "after-fail": "<id>[,...]",
    "hold": None,
    "array": "<first>-<last>[%<n>]",
    "key": "<name>",
    "label": "<quoted>",
    "cwd": "<path>",
    "env": "NAME=<value>",
    "secret": "NAME=<value>",
    "umask": "<octal>",
    "nice": "<n>",
    "memory": "<size>",
    "cpu-time": "<duration>",
    "nofile": "<n>",
    "max-output": "<size>",
    "notify-fail": None,
    "script": "<n>",
    "stdin": "<n>",
}
"""How the value of each option is written, for HELP; None where it has none."""


def _every(text: str) -> float:
    seconds = parse_duration(text)
    check_every(seconds)
    return seconds


def _cron(text: str) -> str:
    """Return the expression with one space between its fields."""
    check_cron(text)
    return " ".join(text.split())


_TIMING: Table = {"every": ("every", _every), "cron": ("cron", _cron), "overlap": ("overlap", flag)}

NOT_SCHEDULED = {
    "key": "each of its jobs is a submission of its own",
    "script": "a schedule keeps no blocks; give it a command that runs a file",
    "stdin": "a schedule keeps no blocks; give it a command that reads a file",
    "secret": "a schedule keeps nothing but the journal; give it a command that reads a file",
    **dict.fromkeys(("delay", "at", "hold"), "--every or --cron says when its jobs are submitted"),
    **dict.fromkeys(("after", "after-any", "after-fail"), "its jobs come after nothing but time"),
}
"""The options of SUBMIT that SCHEDULE does not take, and why."""
SCHEDULE_OPTIONS: Table = {
    **_TIMING,
    **{name: option for name, option in OPTIONS.items() if name not in NOT_SCHEDULED},
}
"""SCHEDULE's options: its own, and those of SUBMIT that make sense again and again."""
SCHEDULE_USAGES = {
    "every": "<duration>",
    "cron": "<quoted>",
    "overlap": None,
    **{name: usage for name, usage in USAGES.items() if name not in NOT_SCHEDULED},
}


def _too_large(name: str, size: object) -> TooLarge:
    return TooLarge(f"--{name}={size} is more than the {MAX_BLOCK_SIZE} bytes that a block may have")


def block_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of the blocks that follow a SUBMIT line, in bytes and in their order.

    ``text`` is what stands behind the verb. Raises BadRequest where the sizes cannot be read, and TooLarge
    where one is beyond what the server skips: in both cases the connection is out of step for good.
    """
    try:
        options = scan(text).options
    except BadRequest:
        if any(f"--{name}" in text for name in BLOCKS):
            raise
        return ()
    return tuple(size for name in BLOCKS for size in _sizes(name, options))


def _sizes(name: str, options: list[Option]) -> list[int]:
    values = [option.value or "" for option in options if option.name == name]
    if len(values) > 1:
        raise BadRequest(f"--{name} is given twice, so what follows the line cannot be told")
    for value in values:
        if not value.isascii() or not value.isdigit():
            raise BadRequest(f"--{name} needs the number of bytes that follow, not {value[:40]!r}")
        if len(value) > 18 or int(value) > MAX_SKIPPED_BLOCK:
            raise _too_large(name, value[:40])
    return [int(value) for value in values]


def secret_block(text: str) -> bytes:
    """Return the block of the secrets of a SUBMIT that was read; ``text`` is what stands behind the verb."""
    values: dict[str, str] = {}
    for name, value in scan(text).options:
        if name == "secret":
            values |= parse_secret(value or "")
    return packed(values)


def parse_submission(text: str) -> Submission:
    """Return what a SUBMIT asks for; ``text`` is what stands behind the verb.

    Of its secrets there are only the names. The jobs that it comes after may still be tasks by their array
    and index. Raises BadRequest, or TooLarge for a block that is skipped but not taken.
    """
    options, command = scan(text)
    for name, _ in options:
        if name in _TIMING:
            raise BadRequest(f"--{name} is an option of SCHEDULE, which submits a job again and again")
    values = read("SUBMIT", options, SUBMIT_OPTIONS)
    resolve_time(values)
    for name in BLOCKS:
        if values.get(name, 0) > MAX_BLOCK_SIZE:
            raise _too_large(name, values[name])
    if command and "script" in values:
        raise BadRequest("a --script stands in place of the command; give one of them, not both")
    if not command.strip(" \t") and "script" not in values:
        raise BadRequest("expected SUBMIT [options] <command>, but no command came")
    if "delay" in values and "at" in values:
        raise BadRequest("--delay counts from now and --at is a time; give one of them")
    values["secrets"] = tuple(sorted(values.get("secrets", ())))
    both = values.get("env", {}).keys() & set(values["secrets"])
    if both:
        raise BadRequest(f"{min(both)} is given by --env and by --secret; give it once")
    after = sum(len(values.get(field, ())) for field in AFTER)
    if after > MAX_DEPENDENCIES:
        raise BadRequest(f"expected at most {MAX_DEPENDENCIES} jobs to come after, not {after}")
    return Submission(command, _spec(values))


def _at(text: str) -> float | datetime:
    """Return a time, or the time that clocks show if no offset is given: --tz says where."""
    try:
        return datetime.fromisoformat(text) if _SHOWN.fullmatch(text) else parse_time(text)
    except ValueError:
        raise BadRequest(f"there is no such day or time as {text!r}") from None


SUBMIT_OPTIONS: Table = {**OPTIONS, "at": ("at", _at)}
"""OPTIONS as a request has them: its ``at`` may have no offset, until ``resolve_time`` has read ``tz``."""


def resolve_time(values: dict[str, Any]) -> None:
    """Put the first moment at which clocks show it, or are past it, in place of a time without an offset."""
    at = values.get("at")
    if isinstance(at, datetime):
        if values.get("tz") is None:
            raise BadRequest(
                f"expected a time with its offset from UTC, such as +01:00, not --at={at.isoformat()}; or "
                "add --tz with the time zone in which clocks show that"
            )
        values["at"] = time_zones.at_or_after(at, time_zones.named(values["tz"]))[0]


def parse_schedule(text: str) -> ScheduleRequest:
    """Return what a SCHEDULE asks for; ``text`` is what stands behind the verb. Raises BadRequest."""
    options, command = scan(text)
    for name, _ in options:
        if name in NOT_SCHEDULED:
            raise BadRequest(f"--{name} is no option of SCHEDULE: {NOT_SCHEDULED[name]}")
    values = read("SCHEDULE", options, SCHEDULE_OPTIONS)
    timing = {field: values.pop(field) for field, _ in _TIMING.values() if field in values}
    if ("every" in timing) == ("cron" in timing):
        raise BadRequest(
            'expected either --every=<duration> or --cron="<minute> <hour> <day> <month> <weekday>"'
        )
    if not command.strip(" \t"):
        raise BadRequest("expected SCHEDULE --every=...|--cron=... [options] <command>, but no command came")
    return ScheduleRequest(command=command, spec=_spec(values), **timing)


def _spec(values: dict[str, Any]) -> Spec:
    if "env" in values:
        values.update(_split_env(values["env"]))
    if not is_utf8(values.get("cwd", "")):
        values["cwd_base64"] = values.pop("cwd").encode("utf-8", "surrogateescape")
    return Spec(**values)


def _split_env(env: dict[str, str]) -> dict[str, dict[str, str] | dict[str, bytes]]:
    """Return the variables that are text apart from those that are other bytes."""
    data = {
        name: value.encode("utf-8", "surrogateescape") for name, value in env.items() if not is_utf8(value)
    }
    return {"env": {name: value for name, value in env.items() if name not in data}, "env_base64": data}
