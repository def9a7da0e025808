"""Which jobs a command is about: those named, those of a range, or those that pass filters.

What is found by a range or by filters is told of by its number in the end, and asked about beforehand where a
person sits at a terminal; about jobs that were named one by one, no question is asked.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import click

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.text import confirms
from taskqd.client import Client, Facts, Filters, Ref, Refused, Status
from taskqd.protocol.values import capitals

LIVE = ("PENDING", "RUNNING")
PENDING = ("PENDING",)
FINISHED = ("COMPLETED", "FAILED", "CANCELLED")

_RETRY_IN = re.compile(r"retry in ([0-9]{1,9}(?:\.[0-9]+)?) s")
"""How the daemon says that a request came too fast, and when it takes the next (docs/protocol.md §7)."""


class Act(NamedTuple):
    """What can be done to jobs: its name, what they then are, and the statuses in which it can be done."""

    name: str
    done: str
    statuses: Sequence[str]


class Chosen(NamedTuple):
    """The jobs that were chosen, and whether they had to be looked for."""

    jobs: Sequence[Ref]
    is_found: bool

    @property
    def is_several(self) -> bool:
        """Whether the answer is one about several jobs, however many there are."""
        return self.is_found or len(self.jobs) > 1


class _Pace:
    """Sends requests no faster than the daemon takes them from this user."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_said = False

    def keep(self, act: Callable[[], None]) -> None:
        """Call ``act``, again after each wait that the daemon asks for; raises any other Refused."""
        while True:
            try:
                act()
                return
            except Refused as refusal:
                found = _RETRY_IN.search(refusal.text) if refusal.code == "QUEUE_FULL" else None
                if found is None:
                    raise
                wait = float(found[1])
            if not self._has_said:
                self._has_said = True
                self._session.complain(
                    f"the daemon takes no more changes from you for {wait:g} s: "
                    "waiting, and going on as fast as it takes them"
                )
            time.sleep(wait)


def for_each(
    session: Session,
    client: Client,
    jobs: Sequence[Ref],
    act: Callable[[Client, Ref], None],
    kind: str = "job",
) -> Sequence[int]:
    """Do it for each job or other ``kind``, whatever is refused of the rest; return the exit code of each.

    A request that came too fast is sent again once the daemon takes it.
    """
    name = "id" if kind == "job" else kind
    codes = []
    pace = _Pace(session)
    for job in jobs:
        try:
            pace.keep(lambda job=job: act(client, job))  # type: ignore[misc]
            codes.append(0)
        except Refused as refusal:
            codes.append(session.refuse(refusal, f"{kind} {job}" if len(jobs) > 1 else "", {name: job}))
    return codes


def tell_each(session: Session, jobs: Sequence[Ref], tell: Callable[[Client, Ref], None]) -> int:
    """Tell something of each job that was named; return the exit code."""
    with session.connect() as client, session.listed(len(jobs) > 1):
        return max(for_each(session, client, jobs, tell))


def act_on_each(
    session: Session, given: dict[str, Any], act: Act, do: Callable[[Client, Ref], Status | Facts]
) -> int:
    """Do it to each job that was chosen, if a person who can be asked agrees; return the exit code.

    What ``do`` returns is told: where the job then stands, or facts with its id. ``given`` is what
    ``arguments.selection`` gives.
    """
    choose = _choice(given, act)
    with session.connect() as client:
        chosen = choose(client)
        count = len(chosen.jobs)
        if (
            chosen.is_found
            and count > 1
            and not given["is_sure"]
            and _is_attended()
            and not confirms(f"{act.name} {count} jobs?")
        ):
            session.complain("nothing was done")
            return REFUSED

        def do_one(client: Client, job: Ref) -> None:
            told = do(client, job)
            if isinstance(told, Status):
                say_status(session, job, told, chosen.is_several)
            else:
                session.say(str(told["id"]), told)

        with session.listed(chosen.is_several):
            codes = for_each(session, client, chosen.jobs, do_one)
    if chosen.is_found:
        session.complain(_count(codes.count(0), len(codes), act))
    return max(codes, default=0)


def say_status(session: Session, job: Ref, found: Status, is_several: bool) -> None:
    """Tell where a job stands, with its id before it where it is one of several."""
    before = f"{job} " if is_several else ""
    session.say(f"{before}{found.status} {found.progress}", {"id": job, **found._asdict()})


def _is_attended() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _count(done: int, found: int, act: Act) -> str:
    if not found:
        return f"no job that could be {act.done}"
    jobs = "1 job" if done == 1 else f"{done} jobs"
    return f"{jobs} {act.done}" + (f", {found - done} refused" if done < found else "")


def _choice(given: dict[str, Any], act: Act) -> Callable[[Client], Chosen]:
    """Return what finds the jobs; raises a usage error where the call does not say which."""
    named = given["jobs"]
    filters: Filters = {}
    for name in ("queue", "label", "owner", "status"):
        if given[f"of_{name}"] is not None:
            filters[name] = given[f"of_{name}"]
    if bool(named) == bool(filters):
        raise click.UsageError("expected either the IDs of jobs or options that say which")
    if not filters:
        return lambda client: _named(client, named, act)
    asked = capitals(filters.get("status") or ",".join(act.statuses)).split(",")
    statuses = [status for status in act.statuses if status in asked]
    if not statuses:
        raise click.UsageError(f"only jobs that are {' or '.join(act.statuses)} can be {act.done}")
    filters["status"] = ",".join(statuses)
    return lambda client: Chosen([job["id"] for job in client.list_all(**filters)], is_found=True)


def _named(client: Client, named: Sequence[Ref | range], act: Act) -> Chosen:
    jobs: dict[Ref, None] = {}
    for each in named:
        if isinstance(each, range):
            jobs.update(dict.fromkeys(job["id"] for job in _within(client, each, act)))
        else:
            jobs[each] = None
    return Chosen(list(jobs), any(isinstance(each, range) for each in named))


def _within(client: Client, numbers: range, act: Act) -> Iterator[Facts]:
    """Yield the jobs of a range with which it can be done; tasks of an array that is in it go with that."""
    for job in client.list_all(numbers.start, status=",".join(act.statuses), tasks=True):
        if job["id"] >= numbers.stop:
            return
        if job.get("array") not in numbers:
            yield job
