"""Selects the jobs of a command by id, range or filter, and applies an action to each.

If jobs were selected by a range or filter, the user is asked for confirmation on a terminal, and the number
of jobs is printed at the end; not so for jobs given by their ids.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import click

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.text import confirm, describe_status
from taskqd.client import Client, Facts, Filters, Ref, Refused, Status
from taskqd.protocol.values import capitals

_RETRY_IN = re.compile(r"retry in ([0-9]{1,9}(?:\.[0-9]+)?) s")
"""In a refusal by the rate limit: when the next request is accepted (docs/protocol.md §7)."""


class Action(NamedTuple):
    """An action on jobs: its name, its past participle, and the statuses of jobs that it applies to."""

    name: str
    done: str
    statuses: Sequence[str]


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
                match = _RETRY_IN.search(refusal.text) if refusal.code == "QUEUE_FULL" else None
                if match is None:
                    raise
                wait = float(match[1])
            if not self._has_notified:
                self._has_notified = True
                self._session.print_message(
                    f"rate limit: the daemon accepts the next change in {wait:g} s; "
                    "continuing at the speed that it allows"
                )
            time.sleep(wait)


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


def apply_to_each(
    session: Session, given: dict[str, Any], action: Action, apply: Callable[[Client, Ref], Status | Facts]
) -> int:
    """Apply an action to each selected job, after confirmation if needed; return the exit code.

    The result of ``apply`` is printed: the job's new status, or facts with its id. ``given`` has the values
    of ``parameters.job_selection``.
    """
    select = _selector(given, action)
    with session.connect() as client:
        selection = select(client)
        count = len(selection.jobs)
        if (
            selection.is_searched
            and count > 1
            and not given["is_sure"]
            and _can_ask()
            and not confirm(f"{action.name} {count} jobs?")
        ):
            session.print_message("cancelled; no job was changed")
            return REFUSED

        def apply_to_one(client: Client, job: Ref) -> None:
            result = apply(client, job)
            if isinstance(result, Status):
                print_new_status(session, job, result, selection.is_several)
            else:
                session.print_answer(str(result["id"]), result)

        with session.answer_list(selection.is_several):
            codes = for_each(session, client, selection.jobs, apply_to_one)
    if selection.is_searched:
        session.print_message(_summary(codes.count(0), len(codes), action))
    return max(codes, default=0)


def print_new_status(session: Session, job: Ref, status: Status, is_several: bool) -> None:
    """Print the status of a job after an act, preceded by its id if it is one of several.

    Of all acts only CANCEL leaves a job RUNNING, until its processes have ended.
    """
    before = f"{job} " if is_several else ""
    text = describe_status({"status": status.status, "cancelling": status.status == "RUNNING"})
    session.print_answer(before + text, {"id": job, **status._asdict()})


def _can_ask() -> bool:
    """Whether a question can be asked on a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _summary(done: int, found: int, action: Action) -> str:
    if not found:
        return f"no matching job can be {action.done}"
    jobs = "1 job" if done == 1 else f"{done} jobs"
    return f"{jobs} {action.done}" + (f", {found - done} refused" if done < found else "")


def _selector(given: dict[str, Any], action: Action) -> Callable[[Client], Selection]:
    """Return a function that selects the jobs; raises a usage error without ids and filters, or with both."""
    named = given["jobs"]
    filters: Filters = {}
    for name in ("queue", "label", "owner", "status"):
        if given[f"of_{name}"] is not None:
            filters[name] = given[f"of_{name}"]
    if bool(named) == bool(filters):
        raise click.UsageError("expected either job IDs or filter options")
    if not filters:
        return lambda client: _select_named(client, named, action)
    requested = capitals(filters.get("status") or ",".join(action.statuses)).split(",")
    statuses = [status for status in action.statuses if status in requested]
    if not statuses:
        raise click.UsageError(
            f"only jobs with the status {' or '.join(action.statuses)} can be {action.done}"
        )
    filters["status"] = ",".join(statuses)
    return lambda client: Selection([job["id"] for job in client.list_all(**filters)], is_searched=True)


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
