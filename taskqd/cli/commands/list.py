"""The command list: an overview of the queue, or all jobs that match."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice
from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.cli.local_time import next_time
from taskqd.cli.ordered_lists import list_in_line, list_latest_ended
from taskqd.cli.statuses import FINISHED, LIVE
from taskqd.cli.typed_values import read_duration
from taskqd.client import Client, Facts
from taskqd.errors import BadRequest
from taskqd.model.time_zones import LOCAL
from taskqd.protocol.values import parse_duration

OVERVIEW_COUNT = 20
"""Number of pending jobs, and of ended ones, that the overview shows."""
TABLE_LENGTH = 1000
"""Rows of a table; a longer list is printed as several, so that the first appears at once."""


def _parse_since(text: str) -> float:
    """Return the time, in seconds since the epoch, of a duration ago, or of a time."""
    with suppress(BadRequest):
        return time.time() - parse_duration(read_duration(text))
    now = datetime.now(LOCAL).replace(tzinfo=None)
    return terminal.epoch_seconds(next_time(text, now))


@taskq.command(
    "list",
    epilog="""\b
Examples:
  taskq list
  taskq list --failed --since 1d
  taskq list --match rsync --reverse
  taskq list --status FAILED --reverse --limit 20
  taskq list --queue nightly --json | jq '.[].command'
  taskq list --array 12 --status FAILED
""",
)
@click.option("--all", "-a", "is_all", is_flag=True, help="All jobs, in the order of their ids.")
@parameters.statuses("--status", "Only jobs with one of these: PENDING RUNNING COMPLETED FAILED CANCELLED.")
@click.option("--failed", "is_failed", is_flag=True, help="The same as --status FAILED.")
@parameters.parsed(
    "--since",
    "Only jobs that ended since then, or have not: 2h, 7:00, '2026-11-24 07:00'.",
    "TIME",
    _parse_since,
)
@parameters.text("--queue", "Only jobs of this queue.", "NAME", short="-q", completes="queues")
@click.option("--owner", metavar="NAME", help="Only jobs of this user.")
@click.option("-l", "--label", metavar="TEXT", help="Only jobs with this label.")
@click.option("--match", metavar="TEXT", help="Only jobs whose command or label has this text, in any case.")
@click.option("--key", metavar="NAME", help="Only the job with this key.")
@parameters.number("--array", "Only the tasks of the array with this id.", 1, completes="jobs")
@click.option("--tasks", is_flag=True, help="Include the tasks of arrays.")
@parameters.number("--from", "Start with this id.", 1, completes="jobs")
@parameters.number("--limit", "Maximum number of jobs.  [default: no limit]", 1, short="-n")
@click.option("--reverse", is_flag=True, help="Descending order of ids.")
@click.pass_obj
def list_jobs(session: Session, /, is_all: bool, is_failed: bool, since: float | None, **filters: Any) -> int:
    """List jobs.

    Without options this is an overview: all running jobs, the pending ones, and the 20 that have ended
    last; on a terminal, the next 20 of the pending ones in the order of their starts. A message says what
    is left out. With --all or filters it lists all jobs that match, in the order of their ids.

    On a terminal the jobs are a table; otherwise one job per line, separated by tabs: its id, status, exit
    code, time of submission and command.
    """
    if is_failed and filters["status"]:
        raise click.UsageError("expected either --failed or --status")
    if is_failed:
        filters["status"] = "FAILED"
    has_table = terminal.is_terminal() and not session.is_json
    with session.connect() as client:
        if is_all or since is not None or any(filters.values()):
            jobs: Iterator[Facts] = _matching(session, client, since, **filters)
        else:
            jobs = _overview(session, client, OVERVIEW_COUNT if has_table else None)
        first = list(islice(jobs, 1))  # a refusal comes before the beginning of a JSON list
        jobs = chain(first, jobs)
        if has_table:
            _print_tables(session, jobs)
        else:
            with session.answer_list():
                for job in jobs:
                    session.print_answer(terminal.job_line(job), job)
    return 0


def _matching(
    session: Session, client: Client, since: float | None, *, limit: int | None, reverse: bool, **filters: Any
) -> Iterator[Facts]:
    """Yield the jobs that match, and say if there are more than a limit."""
    found = client.list_all(filters.pop("from"), reverse=reverse, **filters)
    jobs = (job for job in found if since is None or _is_since(job, since))
    yield from islice(jobs, limit)
    if following := next(jobs, None):
        session.print_message(f"there are more jobs; --from {following['id']} lists the next ones")


def _is_since(job: Facts, since: float) -> bool:
    return job["completed_at"] is None or terminal.epoch_seconds(job["completed_at"]) >= since


def _overview(session: Session, client: Client, max_pending: int | None) -> Iterator[Facts]:
    """Yield running jobs, pending ones in line, and the latest ended ones; say how many are left out."""
    yield from client.list_all(status="RUNNING")
    if max_pending is None:
        yield from client.list_all(status="PENDING")
    pending = [] if max_pending is None else list_in_line(client, max_pending + 1)
    yield from pending[:max_pending]
    ended = list_latest_ended(client, OVERVIEW_COUNT + 1)
    yield from reversed(ended[:OVERVIEW_COUNT])
    more = []
    if max_pending is not None and len(pending) > max_pending:
        more.append("pending")
    if len(ended) > OVERVIEW_COUNT:
        more.append("ended")
    if more:
        session.print_message(
            f"there are more {' and '.join(more)} jobs; --all lists them ({_describe_counts(client)})"
        )


def _describe_counts(client: Client) -> str:
    """Return how many jobs the daemon has: of all users, and with the tasks of arrays."""
    counts = client.stats()["jobs"]
    pending, running = (counts[name.lower()] for name in LIVE)
    ended = sum(counts[name.lower()] for name in FINISHED)
    return f"the daemon has {pending:,} pending, {running:,} running and {ended:,} ended"


def _print_tables(session: Session, jobs: Iterable[Facts]) -> None:
    iterator, is_empty = iter(jobs), True
    while rows := list(islice(iterator, TABLE_LENGTH)):
        printer.print_jobs(rows)
        is_empty = False
    if is_empty:
        session.print_message("no jobs")
