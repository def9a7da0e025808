"""Parsers for the values of the options of SUBMIT and SCHEDULE, and the limits of these values."""

import re
from collections.abc import Callable
from datetime import datetime

from taskqd.errors import BadRequest
from taskqd.model.environment import Environment
from taskqd.model.job_ref import JobRef
from taskqd.model.schedule import check_cron, check_every
from taskqd.model.spec import Array
from taskqd.protocol.arguments import parse_job_ref
from taskqd.protocol.values import is_name, parse_duration, parse_integer, parse_name, parse_size, parse_time

MAX_LABEL_LENGTH = 1000
"""Characters in a label."""
MAX_PRIORITY = 1_000_000
"""The highest priority; the lowest is its negative."""
MAX_SLOTS = 10_000
"""Slots of one job."""
MAX_NEED = 1_000_000_000
"""Amount of one resource that a job needs."""
MAX_TASKS = 100_000
"""Tasks of one array."""
MAX_TASK_INDEX = 999_999_999
MAX_SIZE = 999_999_999
"""Bytes of an environment that can be named; far fewer are accepted."""
MIN_MEMORY = 1024**2
"""Bytes. With less memory no program gets far enough to report that it has too little."""

_LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_KNOWN_ENVIRONMENT = re.compile(r"([0-9]{1,9}):([0-9a-f]{64})")
_ARRAY = re.compile(r"([0-9]+)-([0-9]+)(?:%([0-9]+))?")


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""
    return lambda text: parse_integer(text, least, most)


def parse_positive_duration(text: str) -> float:
    """Return a duration above 0, in seconds."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise BadRequest(f"expected a duration above 0, not {text!r}")
    return seconds


def parse_path(text: str) -> str:
    """Return an absolute path."""
    if not text.startswith("/"):
        raise BadRequest(f"expected a path that begins with /, not {text[:60]!r}")
    return text


def parse_label(text: str) -> str:
    """Return a label."""
    if not 1 <= len(text) <= MAX_LABEL_LENGTH:
        raise BadRequest(f"expected 1 to {MAX_LABEL_LENGTH} characters, not {len(text)}")
    return text


def parse_job_refs(text: str) -> tuple[JobRef, ...]:
    """Parse job references separated by commas."""
    return tuple(map(parse_job_ref, text.split(",")))


def parse_names(text: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    return tuple(map(parse_name, text.split(",")))


def parse_needs(text: str) -> dict[str, int]:
    """Parse `gpu:1,disk:20` into amounts by resource."""
    needs: dict[str, int] = {}
    for part in text.split(","):
        name, _, amount = part.rpartition(":")
        if not is_name(name):
            raise BadRequest(f"expected a resource and its amount, such as gpu:1, not {part[:60]!r}")
        if name in needs:
            raise BadRequest(f"{name} is named twice; add the two up")
        needs[name] = parse_integer(amount, 1, MAX_NEED)
    return needs


def parse_array(text: str) -> Array:
    """Parse `<first>-<last>` or `<first>-<last>%<at once>`."""
    match = _ARRAY.fullmatch(text)
    if match is None:
        raise BadRequest(
            f"expected <first>-<last> or <first>-<last>%<at once>, such as 1-100%8, not {text[:60]!r}"
        )
    first, last = (parse_integer(index, 0, MAX_TASK_INDEX) for index in match.group(1, 2))
    array = Array(first, last, parse_integer(match[3], 1, MAX_TASKS) if match[3] else None)
    if not 1 <= array.count <= MAX_TASKS:
        raise BadRequest(f"expected 1 to {MAX_TASKS} tasks from a lower to a higher index, not {text[:60]!r}")
    return array


def parse_environment(text: str) -> Environment:
    """Parse the size of a block that follows, or the size and the hash of one that was sent before."""
    known = parse_known_environment(text)
    return Environment(parse_integer(text, 0, MAX_SIZE)) if known is None else known


def parse_known_environment(text: str) -> Environment | None:
    """Return the environment that `<n>:<sha256>` names; None for any other text."""
    match = _KNOWN_ENVIRONMENT.fullmatch(text)
    return None if match is None else Environment(int(match[1]), match[2])


def parse_memory(text: str) -> int:
    """Return a size of memory, in bytes."""
    size = parse_size(text)
    if size < MIN_MEMORY:
        raise BadRequest(f"expected a size of at least 1M, such as 512M or 2G, not {text!r}")
    return size


def parse_start_time(text: str) -> float | datetime:
    """Return a time, or if it has no offset from UTC, the local time that `submit.resolve_time` resolves."""
    try:
        return datetime.fromisoformat(text) if _LOCAL_TIME.fullmatch(text) else parse_time(text)
    except ValueError:
        raise BadRequest(f"there is no such day or time as {text!r}") from None


def parse_every(text: str) -> float:
    """Return the interval of a schedule, in seconds."""
    seconds = parse_duration(text)
    check_every(seconds)
    return seconds


def parse_cron(text: str) -> str:
    """Return a cron expression with one space between its fields."""
    check_cron(text)
    return " ".join(text.split())
