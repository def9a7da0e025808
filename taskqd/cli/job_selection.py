"""Selects the jobs of a command by id, range or filter, and applies an action to them.

If jobs were selected by a range or filter, the user is asked for confirmation on a terminal, and the number
of jobs is printed at the end; not so for jobs given by their ids. Jobs selected by filters are changed by one
request, those given by ids or ranges by one request each.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypedDict

import click

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.act_progress import ActProgress
from taskqd.cli.display.text import confirm, describe_status, sanitize_line
from taskqd.client import ActFilters, Changes, Client, Facts, Filters, Ref, Refused, Status
from taskqd.protocol.values import capitals

_RETRY_IN = re.compile(r"retry in ([0-9]{1,9}(?:\.[0-9]+)?) s")
"""In a refusal by the rate limit: when the next request is accepted (docs/protocol.md §7)."""


MAX_COUNTED = 1000
"""Jobs of a daemon before 0.9 that are counted for the question; of more it says so."""
FILTERS: Final = ("queue", "label", "owner", "status", "match")
"""The names of the filters in ``ActFilters``."""
MAX_PIPELINED = 1000
"""Requests that are sent before the first of them that the rate limit refuses is sent again."""
MIN_RATE_DELAY = 0.1
"""Seconds to wait at least before refused requests are sent again: in the time for one, many are accepted."""


class Action(NamedTuple):
    """An action on jobs: its name, past participle and verb, and the statuses of jobs that it applies to."""

    name: str
    done: str
    verb: str
    statuses: Sequence[str]


class ActOptions(TypedDict, total=False):
    """The options of an action, as ``Client.act_on_each`` has them."""

    signal: str | None
    cascade: bool
    changes: Changes


class Selection(NamedTuple):
    """The selected jobs, and whether a range or filter selected them."""

    jobs: Sequence[Ref]
    is_searched: bool

    @property
    def is_several(self) -> bool:
        """Whether the answer has the form for several jobs, even if there is only one."""
        return self.is_searched or len(self.jobs) > 1


class _RateLimitRetry:
    """Repeats requests that the daemon refuses because of its rate limit."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_notified = False

    def call(self, request: Callable[[], None]) -> None:
        """Call ``request`` until the rate limit accepts it; raises any other Refused."""
        while True:
            try:
                request()
                return
            except Refused as refusal:
                wait = _rate_delay(refusal)
                if wait is None:
                    raise
            self._has_notified = self._has_notified or _notify_rate_limit(self._session, wait)
            time.sleep(wait)


def _rate_delay(refusal: Refused) -> float | None:
    """Return the seconds until a request that the rate limit has refused is accepted, else None."""
    match = _RETRY_IN.search(refusal.text) if refusal.code == "QUEUE_FULL" else None
    return None if match is None else float(match[1])


def _notify_rate_limit(session: Session, wait: float) -> bool:
    """Print that the daemon's rate limit delays the command; return True."""
    session.print_message(
        f"rate limit: the daemon accepts the next change in {wait:g} s; "
        "continuing at the speed that it allows"
    )
    return True


def for_each(
    session: Session,
    client: Client,
    jobs: Sequence[Ref],
    request: Callable[[Client, Ref], None],
    kind: str = "job",
) -> Sequence[int]:
    """Call ``request`` for each job, or other ``kind`` of thing, and return an exit code for each.

    Refusals are printed and do not stop the loop. Requests that exceed the rate limit are repeated.
    """
    name = "id" if kind == "job" else kind
    codes = []
    retry = _RateLimitRetry(session)
    for job in jobs:
        try:
            retry.call(lambda job=job: request(client, job))  # type: ignore[misc]
            codes.append(0)
        except Refused as refusal:
            codes.append(
                session.print_refusal(refusal, f"{kind} {job}" if len(jobs) > 1 else "", {name: job})
            )
    return codes


def print_each(session: Session, jobs: Sequence[Ref], print_one: Callable[[Client, Ref], None]) -> int:
    """Call ``print_one`` for each job; return the exit code."""
    with session.connect() as client, session.answer_list(len(jobs) > 1):
        return max(for_each(session, client, jobs, print_one))


def apply(
    session: Session,
    given: dict[str, Any],
    action: Action,
    options: ActOptions,
    report: Callable[[Session, Client, Sequence[Ref]], None] = lambda *_: None,
) -> int:
    """Apply an action to the selected jobs, after confirmation if needed; return the exit code.

    ``given`` has the values of ``parameters.job_selection``. For jobs selected by filters only their number
    is printed, unless the daemon is older than release 0.8 or ``cascade`` is given: then they are changed one
    by one. ``report`` is called with the jobs that were changed one by one.
    """
    named, filters = _parse_selection(given, action)
    is_sure = given["is_sure"] or not can_ask()
    with session.connect() as client:
        limits = client.hello().get("limits", {}) if filters and not options.get("cascade") else {}
        if "acts" in limits:
            is_new = "list_in_order" in limits
            return _apply_to_many(session, client, action, filters, options, is_sure=is_sure, is_new=is_new)
        selection = _select(client, named, filters, action)
        count = len(selection.jobs)
        if selection.is_searched and not is_sure and not _confirm(session, action, count, filters):
            return REFUSED
        with session.answer_list(selection.is_several):
            codes = _apply_to_each(session, client, selection, action, options)
        report(session, client, [job for job, code in codes.items() if not code])
    if selection.is_searched:
        session.print_message(_summary(list(codes.values()).count(0), len(codes), action))
    return max(codes.values(), default=0)


def _apply_to_many(
    session: Session,
    client: Client,
    action: Action,
    filters: ActFilters,
    options: ActOptions,
    *,
    is_sure: bool,
    is_new: bool,
) -> int:
    """Apply an action to the jobs that filters select, by one request to a daemon since release 0.8.

    One that ``is_new``, since 0.9, counts jobs and reports the progress.
    """
    if not is_sure:
        listed = _listed(filters, action)
        found = client.count(**listed) if is_new else len(client.list(limit=MAX_COUNTED + 1, **listed))
        if not _confirm(session, action, found, filters, is_exact=is_new or found <= MAX_COUNTED):
            return REFUSED
    with ActProgress(action.done) as progress:
        changed = client.act_on_many(
            action.verb,
            signal=options.get("signal"),
            changes=options.get("changes"),
            on_progress=progress.update if is_new and progress.is_shown else None,
            **filters,
        )
    if session.is_json:
        session.print_answer("", {"changed": changed})
    session.print_message(_summary(changed, changed, action))
    return 0


def _apply_to_each(
    session: Session, client: Client, selection: Selection, action: Action, options: ActOptions
) -> dict[Ref, int]:
    """Apply an action to each job, print the results, and return an exit code for each.

    Refusals are printed and do not stop the loop. Requests that exceed the rate limit are repeated.
    """
    with ActProgress(action.done) as progress:
        return _request_each(session, client, selection, action, options, progress)


def _request_each(
    session: Session,
    client: Client,
    selection: Selection,
    action: Action,
    options: ActOptions,
    progress: ActProgress,
) -> dict[Ref, int]:
    codes: dict[Ref, int] = {}
    left = list(selection.jobs)
    has_notified = False
    while left:
        portion, left = left[:MAX_PIPELINED], left[MAX_PIPELINED:]
        refused: list[Ref] = []
        delay = 0.0
        results = client.act_on_each(action.verb, portion, **options)
        for result, job in zip(results, portion, strict=True):
            progress.update(len(codes), len(selection.jobs))
            if not isinstance(result, Refused):
                _print_result(session, job, result, selection.is_several, action.verb)
                codes[job] = 0
            elif options.get("cascade") and selection.is_searched and _is_retried(action, result, codes):
                _print_result(session, job, None, selection.is_several, action.verb)
                codes[job] = 0
            elif (wait := _rate_delay(result)) is not None:
                refused.append(job)
                delay = max(delay, wait)
            else:
                subject = f"job {job}" if len(selection.jobs) > 1 else ""
                codes[job] = session.print_refusal(result, subject, {"id": job})
        if refused:
            left = refused + left
            has_notified = has_notified or _notify_rate_limit(session, delay)
            time.sleep(max(delay, MIN_RATE_DELAY))
    return codes


def _is_retried(action: Action, refusal: Refused, codes: dict[Ref, int]) -> bool:
    """Whether a refusal says that the cascade of a job before has retried a job already."""
    return action.verb == "RETRY" and refusal.code == "WRONG_STATE" and 0 in codes.values()


def _print_result(
    session: Session, job: Ref, result: Status | Facts | int | None, is_several: bool, verb: str
) -> None:
    """Print what an action on one job has returned: its new status, or its id."""
    if isinstance(result, Status):
        print_new_status(session, job, result, is_several, verb)
    elif isinstance(result, dict):
        session.print_answer(str(result["id"]), result)
    else:
        number = job if result is None else result
        session.print_answer(str(number), {"id": number})


def _confirm(
    session: Session, action: Action, count: int, filters: ActFilters, *, is_exact: bool = True
) -> bool:
    """Ask whether to change several jobs; print a message if not."""
    number = f"{count:,}" if is_exact else f"more than {MAX_COUNTED:,}"
    if count < 2 or confirm(f"{action.name} {number} jobs{_describe(filters)}?"):
        return True
    session.print_message("cancelled; no job was changed")
    return False


def _describe(filters: ActFilters) -> str:
    """Return which jobs filters select, as the end of a phrase."""
    words = {"status": "that are", "queue": "of queue", "label": "with the label", "owner": "of user"}
    parts = [f" {words[name]} {value}" for name, value in filters.items() if value and name in words]
    match = filters.get("match")
    text: str = sanitize_line("".join(parts) + (f" that contain {match!r}" if match else ""))
    return text


_FIELDS_WHILE_RUNNING = {"CANCEL": "cancelling", "SUSPEND": "suspended_at"}
"""The field that a job has after an act, while it is RUNNING."""


def print_new_status(session: Session, job: Ref, status: Status, is_several: bool, verb: str) -> None:
    """Print the status of a job after an act, preceded by its id if it is one of several."""
    before = f"{job} " if is_several else ""
    field = _FIELDS_WHILE_RUNNING.get(verb, "")
    text = describe_status({"status": status.status, field: status.status == "RUNNING"})
    session.print_answer(before + text, {"id": job, **status._asdict()})


def can_ask() -> bool:
    """Whether a question can be asked on a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _summary(done: int, found: int, action: Action) -> str:
    if not found:
        return f"no matching job can be {action.done}"
    jobs = "1 job" if done == 1 else f"{done:,} jobs"
    return f"{jobs} {action.done}" + (f", {found - done:,} refused" if done < found else "")


def has_selection(given: dict[str, Any]) -> bool:
    """Whether the values of ``parameters.job_selection`` have an id or a filter."""
    return bool(given["jobs"]) or any(given[f"of_{name}"] is not None for name in FILTERS)


def _parse_selection(given: dict[str, Any], action: Action) -> tuple[Sequence[Ref | range], ActFilters]:
    """Return the ids and ranges, or the filters; raises a usage error without either, or with both."""
    named = given["jobs"]
    filters: ActFilters = {}
    for name in FILTERS:
        if given[f"of_{name}"] is not None:
            filters[name] = given[f"of_{name}"]
    if bool(named) == bool(filters):
        raise click.UsageError("expected either job IDs or filter options")
    if filters.get("status"):
        requested = capitals(filters["status"] or "").split(",")
        statuses = [status for status in action.statuses if status in requested]
        if not statuses:
            raise click.UsageError(
                f"only jobs with the status {' or '.join(action.statuses)} can be {action.done}"
            )
        filters["status"] = ",".join(statuses)
    return named, filters


def _select(client: Client, named: Sequence[Ref | range], filters: ActFilters, action: Action) -> Selection:
    if not filters:
        return _select_named(client, named, action)
    found = client.list_all(**_listed(filters, action))
    return Selection([job["id"] for job in found], is_searched=True)


def _listed(filters: ActFilters, action: Action) -> Filters:
    """Return the filters of LIST for the jobs that an action changes."""
    return Filters(
        status=filters.get("status") or ",".join(action.statuses),
        queue=filters.get("queue"),
        owner=filters.get("owner"),
        label=filters.get("label"),
        match=filters.get("match"),
    )


def _select_named(client: Client, named: Sequence[Ref | range], action: Action) -> Selection:
    jobs: dict[Ref, None] = {}
    for each in named:
        if isinstance(each, range):
            jobs.update(dict.fromkeys(job["id"] for job in _jobs_in_range(client, each, action)))
        else:
            jobs[each] = None
    return Selection(list(jobs), any(isinstance(each, range) for each in named))


def _jobs_in_range(client: Client, numbers: range, action: Action) -> Iterator[Facts]:
    """Yield the jobs of a range that the action applies to; an array stands for its tasks."""
    for job in client.list_all(numbers.start, status=",".join(action.statuses), tasks=True):
        if job["id"] >= numbers.stop:
            return
        if job.get("array") not in numbers:
            yield job
