"""The commands status, show, why, history and list."""

from collections.abc import Sequence
from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.cli.job_selection import print_each, print_status
from taskqd.client import Client, Facts, Ref

DEFAULT_LIMIT = 100
"""Number of jobs that ``list`` prints without --limit; a message says if there are more."""


@taskq.command(
    epilog="""\b
Examples:
  taskq status 7
  taskq status 3-7 12.1
"""
)
@parameters.job_arguments
@click.pass_obj
def status(session: Session, jobs: Sequence[Ref]) -> int:
    """Print the status of a job and its progress in percent.

    With several jobs, each line begins with the id of the job.
    """
    return print_each(
        session, jobs, lambda client, job: print_status(session, job, client.status(job), len(jobs) > 1)
    )


@taskq.command(
    epilog="""\b
Examples:
  taskq show 7
  taskq show 7 --json | jq '.runs[] | {attempt, exit_code, memory_peak}'
"""
)
@parameters.job_arguments
@click.pass_obj
def show(session: Session, jobs: Sequence[Ref]) -> int:
    """Print all fields of a job.

    One field per line, and an empty line between jobs. For each attempt it shows start and end, exit code,
    resource usage and the amount of output.
    """

    def show_one(client: Client, job: Ref) -> None:
        facts = client.show(job)
        text = "\n".join(terminal.fact_lines({**facts, "runs": _by_attempt(facts)}))
        session.print_answer(text if job == jobs[-1] else text + "\n", facts)

    return print_each(session, jobs, show_one)


def _by_attempt(job: Facts) -> dict[str, Facts]:
    """Return the attempts of a job by number, so that their lines begin with it."""
    return {str(run["attempt"]): run for run in job.get("runs", [])}


@taskq.command(
    epilog="""\b
Examples:
  taskq why 7
  taskq why 3-7
"""
)
@parameters.job_arguments
@click.pass_obj
def why(session: Session, jobs: Sequence[Ref]) -> int:
    """Explain why a job has its status.

    For a pending job this is what it waits for: its position in the queue, a full queue or resource, a
    dependency, a time, a hold or a pause; and an estimate of its start, if there is one. With several jobs,
    each line begins with the id of the job.
    """

    def explain(client: Client, job: Ref) -> None:
        text = client.why(job)
        before = f"{job} " if len(jobs) > 1 else ""
        session.print_answer(before + terminal.sanitize_line(text), {"id": job, "why": text})

    return print_each(session, jobs, explain)


@taskq.command(
    epilog="""\b
Examples:
  taskq history 7
  taskq history 7 --jsonl | jq 'select(.type == "ended")'
"""
)
@parameters.job_argument
@click.pass_obj
def history(session: Session, job: Ref) -> int:
    """Print the events of a job.

    One event per line, separated by tabs: its time, its type, its cause or initiator, and the exit code of an
    attempt that ended (-N: ended by signal N; -: none).
    """
    with session.connect() as client:
        events = client.history(job)
    rows = [terminal.event_cells(event) for event in events]
    with session.answer_list():
        for row, event in zip(terminal.aligned(rows), events, strict=True):
            session.print_answer(row, event)
    return 0


@taskq.command(
    "list",
    epilog="""\b
Examples:
  taskq list --status FAILED --reverse --limit 20
  taskq list --queue nightly --json | jq '.[].command'
  taskq list --match rsync --reverse
  taskq list --array 12 --status FAILED
""",
)
@parameters.statuses("--status", "Only jobs with one of these: PENDING RUNNING COMPLETED FAILED CANCELLED.")
@parameters.text("--queue", "Only jobs of this queue.", "NAME", completes="queues")
@click.option("--owner", metavar="NAME", help="Only jobs of this user.")
@click.option("--label", metavar="TEXT", help="Only jobs with this label.")
@click.option("--match", metavar="TEXT", help="Only jobs whose command or label has this text, in any case.")
@click.option("--key", metavar="NAME", help="Only the job with this key.")
@parameters.number("--array", "Only the tasks of the array with this id.", 1, completes="jobs")
@click.option("--tasks", is_flag=True, help="Include the tasks of arrays.")
@parameters.number("--from", "Start with this id.", 1, completes="jobs")
@parameters.number("--limit", "Maximum number of jobs.  [default: 100]", 1)
@click.option("--reverse", is_flag=True, help="Descending order.")
@click.pass_obj
def list_jobs(session: Session, /, **filters: Any) -> int:
    """List jobs in the order of their ids.

    On a terminal as a table; otherwise one job per line, separated by tabs: its id, status, exit code, time
    of submission and command. If there are more than 100 and no --limit is given, a message says so.
    """
    limit = filters.pop("limit")
    with session.connect() as client:
        jobs = client.list(start=filters.pop("from"), limit=limit or DEFAULT_LIMIT + 1, **filters)
    more = jobs[DEFAULT_LIMIT:] if limit is None else ()
    jobs = jobs[: limit or DEFAULT_LIMIT]
    if session.is_json or not terminal.is_terminal():
        with session.answer_list():
            for job in jobs:
                session.print_answer(terminal.job_line(job), job)
    else:
        printer.print_jobs(jobs)
        following = jobs[-1]["id"] + (-1 if filters["reverse"] else 1) if jobs else 0
        if len(jobs) == limit and following:
            click.echo(f"There may be more: use --from {following}", err=True)
    if more:
        session.print_message(
            f"there are more than {DEFAULT_LIMIT} jobs; use --from {more[0]['id']} or --limit to list them"
        )
    return 0
