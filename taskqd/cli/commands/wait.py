"""Waiting for the ends of jobs."""

import sys
from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.client import Client, Facts, Ref, Refused


@taskq.command(
    epilog="""\b
Examples:
  taskq wait 7 --timeout 10m || echo "not done, or not well: $?"
  taskq wait 3 4 5-9
  taskq wait --any 3 4 5
"""
)
@parameters.several_jobs
@click.option("--any", "is_any", is_flag=True, help="Only for the first of them.")
@parameters.reconnect
@parameters.duration("--timeout", "Give up after so long, with exit code 75.  [default: never]")
@click.pass_obj
def wait(session: Session, jobs: Sequence[Ref], is_any: bool, timeout: str | None) -> int:
    """Wait for the end of a job.

    Prints its status and progress, and ends with its exit code. Of several jobs there is a line for each as
    it ends, which begins with its id; the exit code is that of the first, in the order of the call, that did
    not do well. A restart of the daemon is waited for.
    """
    with session.connect() as client:
        if len(jobs) > 1:
            return _wait_for_several(session, client, jobs, is_any, timeout)
        found = client.wait(jobs[0], timeout)
        facts = client.show(jobs[0])
    session.say(f"{found.status} {found.progress}", facts)
    return session.outcome(facts)


def _wait_for_several(
    session: Session, client: Client, jobs: Sequence[Ref], is_any: bool, timeout: str | None
) -> int:
    ended: dict[Ref, Facts] = {}
    refused = 0
    with session.listed(), client.another() as asker:
        try:
            for end in client.wait_many(jobs, any_=is_any, timeout=timeout):
                facts = asker.show(end.job)
                name = _as_asked(jobs, facts)
                ended[name] = facts
                session.say(f"{name} {end.status} {end.progress}", facts)
                sys.stdout.flush()
        except Refused as refusal:
            refused = session.refuse(refusal)
    codes = [session.outcome(ended[job]) for job in jobs if job in ended]
    return refused or next(filter(None, codes), 0)


def _as_asked(jobs: Sequence[Ref], facts: Facts) -> Ref:
    """Return how the call has named a job: by its id, or as a task of its array."""
    number: int = facts["id"]
    return number if number in jobs else f"{facts['array']}.{facts['index']}"
