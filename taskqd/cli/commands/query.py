"""The commands status, show, why and history."""

import time
from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import text as terminal
from taskqd.cli.job_selection import print_each
from taskqd.client import Client, Facts, Ref

_STATUS_FACTS = ("id", "status", "progress", "reason", "exit_code", "signal")
_FACTS_WHILE_RUNNING = ("progress_text", "suspended_at", "cancelling")
"""The fields of a job that ``status`` prints as JSON."""
_TITLES = ("time", "event", "by or why", "exit")
"""The titles of ``history`` on a terminal."""


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
    """Print the status of a job.

    The first word is the status: PENDING, RUNNING, COMPLETED, FAILED or CANCELLED. Behind it is how the job
    ended, or how far it has come. With several jobs, each line begins with the id of the job.
    """

    def print_one(client: Client, job: Ref) -> None:
        facts = client.show(job)
        before = f"{job} " if len(jobs) > 1 else ""
        found = {name: facts.get(name) for name in _STATUS_FACTS}
        found |= {name: facts[name] for name in _FACTS_WHILE_RUNNING if name in facts}
        session.print_answer(before + terminal.describe_status(facts), found)

    return print_each(session, jobs, print_one)


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
    resource usage and the amount of output. On a terminal, two lines before the fields say what happened and
    why, times are local, and what says nothing is left out: the fields that are 0 or false, and the list of
    attempts if there is only one.
    """

    def show_one(client: Client, job: Ref) -> None:
        facts = client.show(job)
        if terminal.is_terminal() and not session.is_json:
            now = time.time()
            lines = [terminal.headline(facts, now), terminal.sanitize_line(client.why(job)), ""]
            lines += terminal.fact_lines(_for_people(facts))
            text = terminal.with_local_times("\n".join(lines), now)
        else:
            text = "\n".join(terminal.fact_lines({**facts, "runs": _by_attempt(facts)}))
        session.print_answer(text if job == jobs[-1] else text + "\n", facts)

    return print_each(session, jobs, show_one)


def _by_attempt(job: Facts) -> dict[str, Facts]:
    """Return the attempts of a job by number, so that their lines begin with it."""
    return {str(run["attempt"]): run for run in job.get("runs", [])}


def _for_people(job: Facts) -> Facts:
    """Return the fields of a job that say something; the exit code does even if it is 0.

    The only attempt of a job is left out: the job has its fields.
    """
    runs = _by_attempt(job) if len(job.get("runs", [])) > 1 else {}
    shown = {name: value for name, value in job.items() if value or name == "exit_code"}
    return {**shown, "runs": {number: _for_people(run) for number, run in runs.items()}}


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
        shown = terminal.with_local_times(text, time.time()) if terminal.is_terminal() else text
        session.print_answer(before + terminal.sanitize_line(shown), {"id": job, "why": text})

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
    attempt that ended (-N: ended by signal N; -: none). On a terminal it has titles and local times.
    """
    with session.connect() as client:
        events = client.history(job)
    rows = [terminal.event_cells(event) for event in events]
    if terminal.is_terminal():
        now = time.time()
        rows = [tuple(terminal.with_local_times(cell, now) for cell in row) for row in rows]
    has_titles = terminal.is_terminal() and not session.is_json
    lines = iter(terminal.aligned([_TITLES, *rows] if has_titles else rows))
    with session.answer_list():
        if has_titles:
            click.echo(next(lines))
        for row, event in zip(lines, events, strict=True):
            session.print_answer(row, event)
    return 0
