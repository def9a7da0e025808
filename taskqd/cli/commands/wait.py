"""The command wait."""

import sys
from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display.text import describe_status
from taskqd.client import Client, Facts, Ref, Refused


@taskq.command(
    epilog="""\b
Examples:
  taskq wait 7 --timeout 10m || echo "failed or timed out: $?"
  taskq wait 3 4 5-9
  taskq wait --any 3 4 5
"""
)
@parameters.job_arguments
@click.option("--any", "is_any", is_flag=True, help="Return when the first of them ends.")
@parameters.reconnect
@parameters.duration("--timeout", "Give up after this time with exit code 75.  [default: none]")
@click.pass_obj
def wait(session: Session, jobs: Sequence[Ref], is_any: bool, timeout: str | None) -> int:
    """Wait for the end of a job, and exit with its exit code.

    Prints its status, and how it ended. With several jobs, a line is printed when each ends, which begins
    with its id; the exit code is that of the first job given that did not succeed. If the daemon is
    restarted, taskq reconnects.
    """
    with session.connect() as client:
        if len(jobs) > 1:
            return _wait_for_several(session, client, jobs, is_any, timeout)
        client.wait(jobs[0], timeout)
        facts = client.show(jobs[0])
    session.print_answer(describe_status(facts), facts)
    return session.exit_code_of(facts)


def _wait_for_several(
    session: Session, client: Client, jobs: Sequence[Ref], is_any: bool, timeout: str | None
) -> int:
    ended: dict[Ref, Facts] = {}
    refused = 0
    with session.answer_list(), client.another() as second_client:
        try:
            for end in client.wait_many(jobs, any_=is_any, timeout=timeout):
                facts = second_client.show(end.job)
                name = _reference_in(jobs, facts)
                ended[name] = facts
                session.print_answer(f"{name} {describe_status(facts)}", facts)
                sys.stdout.flush()
        except Refused as refusal:
            refused = session.print_refusal(refusal)
    codes = [session.exit_code_of(ended[job]) for job in jobs if job in ended]
    return refused or next(filter(None, codes), 0)


def _reference_in(jobs: Sequence[Ref], facts: Facts) -> Ref:
    """Return the reference of a job as given: its id, or its array and index."""
    number: int = facts["id"]
    return number if number in jobs else f"{facts['array']}.{facts['index']}"
