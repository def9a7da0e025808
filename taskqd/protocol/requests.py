"""The request of each verb as a value, and the parser of its arguments.

SUBMIT and SCHEDULE are in submit.py, the verbs that change jobs in act_requests.py, those that read output
in output_requests.py, and SEND in send_request.py.

Each parser has the arguments (usage of the verb, text after the verb) and raises BadRequest or NoSuchJob.
Verbs with the same arguments share a request class and a parser.
"""

import re
from typing import Any

from msgspec import Struct

from taskqd.errors import BadRequest
from taskqd.model.job import Status
from taskqd.model.job_filter import JobFilter, ListOrder
from taskqd.model.job_ref import JobRef
from taskqd.protocol.arguments import (
    OptionType,
    Table,
    parse_flag,
    parse_job_id,
    parse_job_ref,
    parse_options,
    split_words,
)
from taskqd.protocol.option_values import MAX_SLOTS
from taskqd.protocol.values import (
    capitals,
    parse_duration,
    parse_integer,
    parse_name,
    parse_start_rate,
)

MAX_LIST_LIMIT = 100_000
"""Jobs in one reply to LIST."""
MAX_ORDERED_LIMIT = 1000
"""Jobs in one reply to LIST with an order."""
MAX_WAIT_JOBS = 1000
"""Jobs in one WAIT."""

_MAX_NUMBER = 10**18 - 1
"""The largest number, of 18 digits, so that it fits into a signed 64-bit integer."""
_WORD = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)


class EmptyRequest(Struct, frozen=True, kw_only=True):
    """A request without arguments, such as PING; the base class of the other requests."""

    @property
    def jobs(self) -> tuple[JobRef, ...]:
        """The jobs that the request names. The client must be authorized for each of them."""
        return ()


class JobRequest(EmptyRequest, frozen=True, kw_only=True):
    """A request about one job, such as STATUS."""

    job: JobRef

    @property
    def jobs(self) -> tuple[JobRef, ...]:
        """The job."""
        return (self.job,)


class ListRequest(EmptyRequest, frozen=True, kw_only=True):
    """LIST the jobs that `wanted` admits.

    `array` restricts the list to the tasks of that array; otherwise tasks are listed only if `has_tasks`.
    With `is_count` the jobs are counted, and not listed; then there is no limit. With an `order` the list has
    no other fields than `wanted`, without key and text, and `limit`.
    """

    wanted: JobFilter = JobFilter()
    array: int | None = None
    has_tasks: bool = False
    first: int | None = None
    limit: int = 100
    is_reverse: bool = False
    order: ListOrder | None = None
    is_count: bool = False

    @property
    def jobs(self) -> tuple[JobRef, ...]:
        """The array, if one is named."""
        return () if self.array is None else (self.array,)


class WaitRequest(EmptyRequest, frozen=True, kw_only=True):
    """WAIT until all jobs have ended, or with `is_any` one of them; for up to `timeout` seconds."""

    refs: tuple[JobRef, ...]
    is_any: bool = False
    timeout: float | None = None

    @property
    def jobs(self) -> tuple[JobRef, ...]:
        """The jobs to wait for."""
        return self.refs

    @property
    def has_one_line(self) -> bool:
        """Whether this WAIT is answered with one STATUS line: it names one job, without `--any`."""
        return len(self.refs) == 1 and not self.is_any


class WatchRequest(EmptyRequest, frozen=True, kw_only=True):
    """WATCH the events from number `since` on; only those of a job or a queue, if one is named."""

    since: int | None = None
    job: JobRef | None = None
    queue: str | None = None

    @property
    def jobs(self) -> tuple[JobRef, ...]:
        """The job, if one is named."""
        return () if self.job is None else (self.job,)


class SetQueueRequest(EmptyRequest, frozen=True, kw_only=True):
    """SET-QUEUE: the settings of a queue that are to be changed, by name; None for that of the settings file.

    ``slots`` are a number, 0 for no limit; ``fair`` is a bool; ``rate`` is its text, or "none" for no limit.
    """

    queue: str
    values: dict[str, int | bool | str | None]


class SetSlotsRequest(EmptyRequest, frozen=True, kw_only=True):
    """SET-SLOTS: the slots of the daemon, None for those of the settings."""

    slots: int | None


class PauseRequest(EmptyRequest, frozen=True, kw_only=True):
    """PAUSE or RESUME a queue or a schedule, or all queues if neither is named."""

    queue: str | None = None
    schedule: int | None = None


class SchedulesRequest(EmptyRequest, frozen=True, kw_only=True):
    """SCHEDULES: list all schedules, or only `schedule`, with its next runs."""

    schedule: int | None = None


class UnscheduleRequest(EmptyRequest, frozen=True, kw_only=True):
    """UNSCHEDULE: end a schedule."""

    schedule: int


class ShutdownRequest(EmptyRequest, frozen=True, kw_only=True):
    """SHUTDOWN: stop the daemon; `ends_jobs` ends running jobs, `is_waiting` delays the reply until then."""

    ends_jobs: bool = False
    is_waiting: bool = False


class DrainRequest(EmptyRequest, frozen=True, kw_only=True):
    """DRAIN: accept and start no more jobs; with `is_off`, do so again."""

    is_off: bool = False


class AuthRequest(EmptyRequest, frozen=True, kw_only=True):
    """AUTH with a token, or with a name and a password."""

    token: str

    def __repr__(self) -> str:
        return "AuthRequest(...)"  # the token is secret, and this may be logged


class HelpRequest(EmptyRequest, frozen=True, kw_only=True):
    """HELP for one verb, or for all if `verb` is None."""

    verb: str | None = None


def parse_arguments(
    usage: str, text: str, least: int, most: int, table: Table | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Split `text` into `least` to `most` words and the options of `table`, which may come in any order."""
    words, options = split_words(text, most)
    if not least <= len(words) <= most:
        raise BadRequest(f"expected {usage}")
    if not options:
        return words, {}
    return words, parse_options(usage.partition(" ")[0], options, table or {})


_EMPTY = EmptyRequest()


def parse_empty(usage: str, text: str) -> EmptyRequest:
    """Parse a request that has no arguments."""
    parse_arguments(usage, text, 0, 0)
    return _EMPTY


def parse_job(usage: str, text: str) -> JobRequest:
    """Parse a request about one job."""
    if text.isascii() and text.isdigit():  # the common case: a number alone
        return JobRequest(job=parse_job_id(text))
    (ref,), _ = parse_arguments(usage, text, 1, 1)
    return JobRequest(job=parse_job_ref(ref))


_SHUTDOWN_OPTIONS: Table = {
    "end": OptionType("ends_jobs", parse_flag),
    "wait": OptionType("is_waiting", parse_flag),
}


def parse_shutdown(usage: str, text: str) -> ShutdownRequest:
    """Parse SHUTDOWN."""
    return ShutdownRequest(**parse_arguments(usage, text, 0, 0, _SHUTDOWN_OPTIONS)[1])


def parse_drain(usage: str, text: str) -> DrainRequest:
    """Parse DRAIN."""
    return DrainRequest(**parse_arguments(usage, text, 0, 0, {"off": OptionType("is_off", parse_flag)})[1])


def parse_auth(usage: str, text: str) -> AuthRequest:
    """Parse AUTH. It has no options, because a token may begin with `--`."""
    match = _WORD.fullmatch(text)
    if not match or not match[1] or match[2]:
        raise BadRequest(f"expected {usage}")
    return AuthRequest(token=match[1])


def parse_number(text: str) -> int:
    """Parse a whole number from 0."""
    return parse_integer(text, 0, _MAX_NUMBER)


def parse_positive(text: str) -> int:
    """Parse a whole number from 1."""
    return parse_integer(text, 1, _MAX_NUMBER)


def _parse_statuses(text: str) -> frozenset[Status]:
    names = capitals(text).split(",")
    if not set(names) <= set(Status.__members__):
        raise BadRequest(f"expected some of {','.join(Status.__members__)}, not {text[:60]!r}")
    return frozenset(map(Status, names))


def _parse_order(text: str) -> ListOrder | None:
    orders = {order.value: order for order in ListOrder}
    if text not in ("id", *orders):
        raise BadRequest(f"expected one of id {' '.join(orders)}, not {text[:40]!r}")
    return orders.get(text)


def _parse_match(text: str) -> str:
    if not text:
        raise BadRequest("expected some text that the command or the label contains")
    return text.casefold()


FILTER_OPTIONS: Table = {
    "status": OptionType("statuses", _parse_statuses, "<status>[,...]"),
    "queue": OptionType("queue", parse_name, "<name>"),
    "owner": OptionType("owner", str, "<name>"),
    "label": OptionType("label", str, "<quoted>"),
    "match": OptionType("match", _parse_match, "<quoted>"),
}
"""The options that select jobs; their values are fields of JobFilter (`pop_filter`)."""

_LIST_OPTIONS: Table = {
    **FILTER_OPTIONS,
    "key": OptionType("key", parse_name),
    "array": OptionType("array", parse_job_id),
    "tasks": OptionType("has_tasks", parse_flag),
    "from": OptionType("first", parse_positive),
    "limit": OptionType("limit", lambda text: parse_integer(text, 0, MAX_LIST_LIMIT)),
    "reverse": OptionType("is_reverse", parse_flag),
    "order": OptionType("order", _parse_order),
    "count": OptionType("is_count", parse_flag),
}
_NOT_IN_ORDER = ("match", "key", "array", "tasks", "from", "reverse", "count")
"""The options of LIST that cannot be given with --order."""


def parse_list(usage: str, text: str) -> ListRequest:
    """Parse LIST."""
    _, values = parse_arguments(usage, text, 0, 0, _LIST_OPTIONS)
    order: ListOrder | None = values.get("order")
    if order is not None:
        _check_order(order, values)
    if "is_count" in values and "limit" in values:
        raise BadRequest("--count and --limit cannot be given together; leave one of them out")
    return ListRequest(wanted=pop_filter(values), **values)


def _check_order(order: ListOrder, values: dict[str, Any]) -> None:
    for name in _NOT_IN_ORDER:
        if _LIST_OPTIONS[name].field in values:
            raise BadRequest(f"--order and --{name} cannot be given together; leave one of them out")
    if values.get("limit", 0) > MAX_ORDERED_LIMIT:
        raise BadRequest(f"--limit is up to {MAX_ORDERED_LIMIT} with --order, not {values['limit']}")
    if not values.get("statuses", order.statuses) <= order.statuses:
        names = ",".join(status for status in Status.__members__ if Status[status] in order.statuses)
        raise BadRequest(f"--order={order.value} is only for --status={names}; leave --status out")


def pop_filter(values: dict[str, Any]) -> JobFilter:
    """Remove the values of the options that select jobs, and return them as a filter."""
    return JobFilter(**{name: values.pop(name) for name in JobFilter.__struct_fields__ if name in values})


_WAIT_OPTIONS: Table = {
    "any": OptionType("is_any", parse_flag),
    "timeout": OptionType("timeout", parse_duration),
}


def parse_wait(usage: str, text: str) -> WaitRequest:
    """Parse WAIT."""
    usage = f"{usage}, for at most {MAX_WAIT_JOBS} jobs"
    refs, values = parse_arguments(usage, text, 1, MAX_WAIT_JOBS, _WAIT_OPTIONS)
    return WaitRequest(refs=tuple(map(parse_job_ref, refs)), **values)


_WATCH_OPTIONS: Table = {
    "since": OptionType("since", parse_number),
    "job": OptionType("job", parse_job_ref),
    "queue": OptionType("queue", parse_name),
}


def parse_watch(usage: str, text: str) -> WatchRequest:
    """Parse WATCH."""
    return WatchRequest(**parse_arguments(usage, text, 0, 0, _WATCH_OPTIONS)[1])


def _parse_queue_slots(text: str) -> int | None:
    if text in ("none", "default"):
        return 0 if text == "none" else None
    try:
        return parse_integer(text, 1, MAX_SLOTS)
    except BadRequest:
        raise BadRequest(
            f"expected a whole number from 1 to {MAX_SLOTS}, none (no limit for the queue) or default (the "
            f"value in the settings), not {text[:40]!r}; PAUSE stops a queue"
        ) from None


def _parse_queue_fair(text: str) -> bool | None:
    if text not in ("true", "false", "default"):
        raise BadRequest(f"expected true, false or default (the value in the settings), not {text[:40]!r}")
    return None if text == "default" else text == "true"


def _parse_queue_rate(text: str) -> str | None:
    return None if text == "default" else parse_start_rate(text)


_QUEUE_OPTIONS = {
    "slots": OptionType("slots", _parse_queue_slots),
    "fair": OptionType("fair", _parse_queue_fair),
    "rate": OptionType("rate", _parse_queue_rate),
}


def parse_set_queue(usage: str, text: str) -> SetQueueRequest:
    """Parse SET-QUEUE."""
    (queue,), values = parse_arguments(usage, text, 1, 1, _QUEUE_OPTIONS)
    if not values:
        raise BadRequest(f"expected {usage}")
    return SetQueueRequest(queue=parse_name(queue), values=values)


def parse_set_slots(usage: str, text: str) -> SetSlotsRequest:
    """Parse SET-SLOTS."""
    (slots,), _ = parse_arguments(usage, text, 1, 1)
    if slots == "default":
        return SetSlotsRequest(slots=None)
    try:
        return SetSlotsRequest(slots=parse_integer(slots, 1, MAX_SLOTS))
    except BadRequest:
        raise BadRequest(
            f"expected a whole number from 1 to {MAX_SLOTS} or default (the value in the settings), not "
            f"{slots[:40]!r}; PAUSE starts no more jobs at all"
        ) from None


def parse_schedule_number(text: str) -> int:
    """Return the number of a schedule."""
    if not text.isascii() or not text.isdigit():
        raise BadRequest(f"expected a schedule's number, a whole number from 1, not {text[:40]!r}")
    return parse_positive(text)


def parse_pause(usage: str, text: str) -> PauseRequest:
    """Parse PAUSE or RESUME."""
    words, values = parse_arguments(
        usage, text, 0, 1, {"schedule": OptionType("schedule", parse_schedule_number)}
    )
    if words and values:
        raise BadRequest("a queue and --schedule cannot be given together; give one of them")
    return PauseRequest(queue=parse_name(words[0]) if words else None, **values)


def parse_schedules(usage: str, text: str) -> SchedulesRequest:
    """Parse SCHEDULES."""
    words, _ = parse_arguments(usage, text, 0, 1)
    return SchedulesRequest(schedule=parse_schedule_number(words[0]) if words else None)


def parse_unschedule(usage: str, text: str) -> UnscheduleRequest:
    """Parse UNSCHEDULE."""
    (number,), _ = parse_arguments(usage, text, 1, 1)
    return UnscheduleRequest(schedule=parse_schedule_number(number))
