"""What a request asks for, and how its words become that; SUBMIT's and SCHEDULE's are in submission.py.

A reader takes the usage of its verb and what stands behind the verb, and raises BadRequest or NoSuchJob. No
reader knows a connection or a job; where two requests have the same form, they share one.
"""

import re
import signal
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from taskqd.errors import BadRequest
from taskqd.model.job import Status
from taskqd.model.job_ref import JobRef
from taskqd.protocol.arguments import Option, Table, flag, read, scan
from taskqd.protocol.job_refs import parse_id, parse_ref
from taskqd.protocol.submit import MAX_SLOTS, SUBMIT_OPTIONS, USAGES, resolve_time
from taskqd.protocol.values import (
    capitals,
    parse_duration,
    parse_integer,
    parse_name,
    parse_signal,
    parse_size,
)

DEFAULT_OUTPUT = 1024**2
"""One OUTPUT reply carries so many bytes unless told otherwise."""
MAX_OUTPUT_LIMIT = 16 * 1024**2
"""One OUTPUT reply carries at most so many bytes."""
MAX_LIST_LIMIT = 100_000
"""One LIST answers at most so many jobs."""
MAX_WAIT_JOBS = 1000
"""One WAIT waits for at most so many jobs."""

_LARGEST_NUMBER = 10**18 - 1
_LINE = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)


class Listing(Struct, frozen=True, kw_only=True):
    """What LIST asks for; a filter that is None lets everything through.

    ``array`` is the one whose tasks are asked for; otherwise tasks are left out unless ``has_tasks``.
    """

    statuses: frozenset[Status] | None = None
    queue: str | None = None
    owner: str | None = None
    label: str | None = None
    key: str | None = None
    array: int | None = None
    has_tasks: bool = False
    first: int | None = None
    limit: int = 100
    is_reverse: bool = False


class Slice(Struct, frozen=True, kw_only=True):
    """The part of a job's output that OUTPUT asks for, in bytes; ``tail`` counts from the end.

    ``attempt`` is the latest one where it is None.
    """

    id: JobRef
    stream: str
    attempt: int | None = None
    offset: int = 0
    limit: int = DEFAULT_OUTPUT
    tail: int | None = None


class Wait(Struct, frozen=True, kw_only=True):
    """WAIT for jobs to end, for all or for ``is_any`` one of them, for ``timeout`` seconds or for ever."""

    ids: tuple[JobRef, ...]
    is_any: bool = False
    timeout: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether this is the WAIT for one job that is answered with one line."""
        return len(self.ids) == 1 and not self.is_any


class Follow(Struct, frozen=True, kw_only=True):
    """FOLLOW a job's output from an offset of each stream on, in bytes."""

    id: JobRef
    stdout: int = 0
    stderr: int = 0


class Watch(Struct, frozen=True, kw_only=True):
    """WATCH what happens from a number on, of a job or a queue alone where one is named."""

    since: int | None = None
    job: JobRef | None = None
    queue: str | None = None


class Cancellation(Struct, frozen=True, kw_only=True):
    """CANCEL a job by a signal, and if ``is_cascade`` what comes after it."""

    id: JobRef
    signal: int = signal.SIGTERM
    is_cascade: bool = False


class Retrial(Struct, frozen=True, kw_only=True):
    """RETRY a job with those that were skipped because of it, and those that were because of these."""

    id: JobRef


class Change(Struct, frozen=True, kw_only=True):
    """SET fields of a job's Spec; of ``delay`` and ``at`` both are there if either is."""

    id: JobRef
    values: dict[str, Any]


class QueueChange(Struct, frozen=True, kw_only=True):
    """SET-QUEUE: a queue's slots, 0 for no limit of its own, None for what the settings say."""

    queue: str
    slots: int | None


class Pause(Struct, frozen=True, kw_only=True):
    """PAUSE or RESUME a queue or a schedule, or where neither is named, everything."""

    queue: str | None = None
    schedule: int | None = None


def cut(
    usage: str, text: str, least: int, most: int, table: Table | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Cut ``text`` into words, of which there must be so many, and the options of ``table``, in any order."""
    found: list[str] = []
    options: list[Option] = []
    while text and len(found) <= most:
        more, text = scan(text)
        options += more
        if text:
            form = _LINE.fullmatch(text)
            word, text = form.groups() if form else (text, "")
            found.append(word)
    if not least <= len(found) <= most:
        raise BadRequest(f"expected {usage}")
    return found, read(usage.partition(" ")[0], options, table or {})


def nothing(usage: str, text: str) -> None:
    """Read a request that is its verb alone."""
    cut(usage, text, 0, 0)


def job(usage: str, text: str) -> JobRef:
    """Read a request about one job."""
    if text.isascii() and text.isdigit():
        return parse_id(text)
    (ref,), _ = cut(usage, text, 1, 1)
    return parse_ref(ref)


def token(usage: str, text: str) -> str:
    """Read AUTH's token; it may begin with ``--`` itself, so there are no options here."""
    form = _LINE.fullmatch(text)
    if not form or not form[1] or form[2]:
        raise BadRequest(f"expected {usage}")
    return form[1]


def _number(text: str) -> int:
    return parse_integer(text, 0, _LARGEST_NUMBER)


def _positive(text: str) -> int:
    return parse_integer(text, 1, _LARGEST_NUMBER)


def _statuses(text: str) -> frozenset[Status]:
    names = capitals(text).split(",")
    if not set(names) <= set(Status.__members__):
        raise BadRequest(f"expected some of {','.join(Status.__members__)}, not {text[:60]!r}")
    return frozenset(map(Status, names))


_LIST: Table = {
    "status": ("statuses", _statuses),
    "queue": ("queue", parse_name),
    "owner": ("owner", str),
    "label": ("label", str),
    "key": ("key", parse_name),
    "array": ("array", parse_id),
    "tasks": ("has_tasks", flag),
    "from": ("first", _positive),
    "limit": ("limit", lambda text: parse_integer(text, 0, MAX_LIST_LIMIT)),
    "reverse": ("is_reverse", flag),
}


def listing(usage: str, text: str) -> Listing:
    """Read a LIST."""
    return Listing(**cut(usage, text, 0, 0, _LIST)[1])


_OUTPUT: Table = {
    "attempt": ("attempt", _positive),
    "offset": ("offset", _number),
    "limit": ("limit", parse_size),
    "tail": ("tail", parse_size),
}


def part(usage: str, text: str) -> Slice:
    """Read an OUTPUT."""
    (ref, stream), values = cut(usage, text, 2, 2, _OUTPUT)
    if stream.lower() not in ("stdout", "stderr"):
        raise BadRequest(f"expected stdout or stderr, not {stream[:40]!r}")
    if "tail" in values and "offset" in values:
        raise BadRequest("--tail counts from the end and --offset from the start; give one of them")
    limit = values.pop("limit", values.get("tail", DEFAULT_OUTPUT))
    values["limit"] = min(limit, MAX_OUTPUT_LIMIT)
    return Slice(id=parse_ref(ref), stream=stream.lower(), **values)


def wait(usage: str, text: str) -> Wait:
    """Read a WAIT."""
    table: Table = {"any": ("is_any", flag), "timeout": ("timeout", parse_duration)}
    refs, values = cut(f"{usage}, for at most {MAX_WAIT_JOBS} jobs", text, 1, MAX_WAIT_JOBS, table)
    return Wait(ids=tuple(map(parse_ref, refs)), **values)


def follow(usage: str, text: str) -> Follow:
    """Read a FOLLOW."""
    (ref,), values = cut(usage, text, 1, 1, {"stdout": ("stdout", _number), "stderr": ("stderr", _number)})
    return Follow(id=parse_ref(ref), **values)


def watch(usage: str, text: str) -> Watch:
    """Read a WATCH."""
    table: Table = {"since": ("since", _number), "job": ("job", parse_ref), "queue": ("queue", parse_name)}
    return Watch(**cut(usage, text, 0, 0, table)[1])


def cancellation(usage: str, text: str) -> Cancellation:
    """Read a CANCEL."""
    table: Table = {"signal": ("signal", parse_signal), "cascade": ("is_cascade", flag)}
    (ref,), values = cut(usage, text, 1, 1, table)
    return Cancellation(id=parse_ref(ref), **values)


def retrial(usage: str, text: str) -> JobRef | Retrial:
    """Read a RETRY."""
    (ref,), values = cut(usage, text, 1, 1, {"cascade": ("is_cascade", flag)})
    return Retrial(id=parse_ref(ref)) if values else parse_ref(ref)


CLEARED: dict[str, Any] = {
    "timeout": None,
    "idle-timeout": None,
    "need": {},
    "retry-on": (),
    "no-retry-on": (),
    "delay": None,
    "at": None,
    "tz": None,
    "nice": None,
    "memory": None,
    "cpu-time": None,
    "nofile": None,
}
"""What ``none`` makes of an option in a SET: as if it had not been given."""

SETTABLE = (
    *("queue", "priority", "slots", "need", "label", "timeout", "idle-timeout", "kill-after"),
    *("retries", "retry-delay", "retry-delay-max", "retry-on", "no-retry-on", "delay", "at", "tz"),
    *("nice", "memory", "cpu-time", "nofile", "max-output"),
)
"""The options of SUBMIT that SET changes."""


def _or_cleared(name: str, word: str, empty: Any) -> tuple[str, Callable[[str], Any]]:
    """Return an option of SUBMIT as SET takes it: with a word that clears it."""
    field, reader = SUBMIT_OPTIONS[name]
    return field, lambda text: empty if text == word else reader(text)


SET_OPTIONS: Table = {
    **{name: SUBMIT_OPTIONS[name] for name in SETTABLE},
    **{name: _or_cleared(name, "none", empty) for name, empty in CLEARED.items()},
    "label": _or_cleared("label", "", None),
}
SET_USAGES = {name: f"{USAGES[name]}|none" if name in CLEARED else USAGES[name] for name in SETTABLE}
"""How the value of each option of SET is written, for HELP."""


def change(usage: str, text: str) -> Change:
    """Read a SET."""
    (ref,), values = cut(usage, text, 1, 1, SET_OPTIONS)
    if not values:
        raise BadRequest("expected at least one option to change, such as --priority=5; HELP SET lists them")
    resolve_time(values)
    if values.get("delay") is not None and values.get("at") is not None:
        raise BadRequest("--delay counts from now and --at is a time; give one of them")
    if "delay" in values or "at" in values:
        values = {"delay": None, "at": None, **values}
    return Change(id=parse_ref(ref), values=values)


def _queue_slots(text: str) -> int | None:
    if text in ("none", "default"):
        return 0 if text == "none" else None
    try:
        return parse_integer(text, 1, MAX_SLOTS)
    except BadRequest:
        raise BadRequest(
            f"expected a whole number from 1 to {MAX_SLOTS}, none (no limit of its own) or default (what "
            f"the settings say), not {text[:40]!r}; PAUSE has nothing start"
        ) from None


def queue_change(usage: str, text: str) -> QueueChange:
    """Read a SET-QUEUE."""
    (queue,), values = cut(usage, text, 1, 1, {"slots": ("slots", _queue_slots)})
    if "slots" not in values:
        raise BadRequest(f"expected {usage}")
    return QueueChange(queue=parse_name(queue), **values)


def parse_schedule_number(text: str) -> int:
    """Return the number of a schedule."""
    if not text.isascii() or not text.isdigit():
        raise BadRequest(f"expected a schedule's number, a whole number from 1, not {text[:40]!r}")
    return _positive(text)


def pause(usage: str, text: str) -> Pause:
    """Read a PAUSE or a RESUME."""
    words, values = cut(usage, text, 0, 1, {"schedule": ("schedule", parse_schedule_number)})
    if words and values:
        raise BadRequest("a queue and a schedule are two things; give one of them")
    return Pause(queue=parse_name(words[0]) if words else None, **values)


def schedule_number(usage: str, text: str) -> int:
    """Read an UNSCHEDULE."""
    (number,), _ = cut(usage, text, 1, 1)
    return parse_schedule_number(number)
