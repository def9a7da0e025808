"""Where jobs stand and how they came there."""

from collections.abc import Sequence
from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.cli.job_selection import say_status, tell_each
from taskqd.client import Client, Facts, Ref

PAGE = 100
"""``list`` prints this many jobs unless told, and says so where there are more."""


@taskq.command(
    epilog="""\b
Examples:
  taskq status 7
  taskq status 3-7 12.1
"""
)
@parameters.several_jobs
@click.pass_obj
def status(session: Session, jobs: Sequence[Ref]) -> int:
    """Print where a job stands.

    That is its status, and its progress in percent. Of several jobs each line begins with the job's id.
    """
    return tell_each(
        session, jobs, lambda client, job: say_status(session, job, client.status(job), len(jobs) > 1)
    )


@taskq.command(
    epilog="""\b
Examples:
  taskq show 7
  taskq show 7 --json | jq '.runs[] | {attempt, exit_code, memory_peak}'
"""
)
@parameters.several_jobs
@click.pass_obj
def show(session: Session, jobs: Sequence[Ref]) -> int:
    """Print all that is known of a job.

    A line a fact, and an empty line between several jobs. Its attempts are all there: when each began and
    ended, how, what it used and how much it printed.
    """

    def show_one(client: Client, job: Ref) -> None:
        facts = client.show(job)
        text = "\n".join(terminal.lines({**facts, "runs": _by_attempt(facts)}))
        session.say(text if job == jobs[-1] else text + "\n", facts)

    return tell_each(session, jobs, show_one)


def _by_attempt(job: Facts) -> dict[str, Facts]:
    """Return what is known of each attempt of a job by its number, so that its lines begin with that."""
    return {str(run["attempt"]): run for run in job.get("runs", [])}


@taskq.command(
    epilog="""\b
Examples:
  taskq why 7
  taskq why 3-7
"""
)
@parameters.several_jobs
@click.pass_obj
def why(session: Session, jobs: Sequence[Ref]) -> int:
    """Print why a job is where it is.

    Of a pending one that is what it waits for: its place in the line, a queue or resource that is full, jobs
    that it comes after, a time, a hold or a pause; and when it will start, where there is ground to tell. Of
    several jobs each line begins with the job's id.
    """

    def tell(client: Client, job: Ref) -> None:
        text = client.why(job)
        before = f"{job} " if len(jobs) > 1 else ""
        session.say(before + terminal.sanitize_line(text), {"id": job, "why": text})

    return tell_each(session, jobs, tell)


@taskq.command(
    epilog="""\b
Examples:
  taskq history 7
  taskq history 7 --jsonl | jq 'select(.type == "ended")'
"""
)
@parameters.one_job
@click.pass_obj
def history(session: Session, job: Ref) -> int:
    """Print all that happened to a job.

    A line an event, with a tab between its time, what happened, by whom or why, and the exit code of an
    attempt that ended: -N if signal N ended it, - if there is none.
    """
    with session.connect() as client:
        events = client.history(job)
    rows = [terminal.event_cells(event) for event in events]
    with session.listed():
        for row, event in zip(terminal.aligned(rows), events, strict=True):
            session.say(row, event)
    return 0


@taskq.command(
    "list",
    epilog="""\b
Examples:
  taskq list --status FAILED --reverse --limit 20
  taskq list --queue nightly --json | jq '.[].command'
  taskq list --array 12 --status FAILED
""",
)
@parameters.statuses("--status", "Only jobs in one of these: PENDING RUNNING COMPLETED FAILED CANCELLED.")
@parameters.text("--queue", "Only jobs of this queue.", "NAME", completes="queues")
@click.option("--owner", metavar="NAME", help="Only jobs of this user.")
@click.option("--label", metavar="TEXT", help="Only jobs with this label.")
@click.option("--key", metavar="NAME", help="Only the job with this key.")
@parameters.number("--array", "Only the tasks of the array of this id.", 1, completes="jobs")
@click.option("--tasks", is_flag=True, help="The tasks of arrays too, which are left out otherwise.")
@parameters.number("--from", "Begin with the job of this id.", 1, completes="jobs")
@parameters.number("--limit", "So many at most.  [default: 100]", 1)
@click.option("--reverse", is_flag=True, help="The last ones first.")
@click.pass_obj
def list_jobs(session: Session, /, **filters: Any) -> int:
    """Print jobs, by id upwards.

    On a terminal as a table; elsewhere a line a job, with a tab between its id, status, exit code, time of
    submission and command. If there are more than 100 and no --limit is given, stderr says so.
    """
    limit = filters.pop("limit")
    with session.connect() as client:
        jobs = client.list(start=filters.pop("from"), limit=limit or PAGE + 1, **filters)
    more = jobs[PAGE:] if limit is None else ()
    jobs = jobs[: limit or PAGE]
    if session.is_json or not terminal.is_terminal():
        with session.listed():
            for job in jobs:
                session.say(terminal.columns(job), job)
    else:
        printer.print_jobs(jobs)
        following = jobs[-1]["id"] + (-1 if filters["reverse"] else 1) if jobs else 0
        if len(jobs) == limit and following:
            click.echo(f"There may be more: --from {following}", err=True)
    if more:
        session.complain(f"there are more than these {PAGE}: --from {more[0]['id']} or a --limit shows them")
    return 0
