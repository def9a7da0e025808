"""The command wait."""

import sys
import time
from collections.abc import Iterator, Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display.act_progress import ActProgress
from taskqd.cli.display.text import describe_status
from taskqd.cli.statuses import LIVE
from taskqd.client import Client, Ended, Facts, Ref, Refused
from taskqd.protocol.values import parse_duration

MAX_WAITED = 1000
"""Number of jobs for which one request can wait (docs/protocol.md §3)."""


@taskq.command(
    epilog="""\b
Examples:
  taskq wait 7 --timeout 10m || echo "failed or timed out: $?"
  taskq wait 3 4 5-9
  taskq wait --any 3 4 5
  taskq wait --label album
"""
)
@parameters.job_arguments
@click.option("-q", "--queue", "of_queue", metavar="NAME", help="Wait for the live jobs of this queue.")
@click.option("-l", "--label", "of_label", metavar="TEXT", help="Wait for the live jobs with this label.")
@click.option("--all", "is_all", is_flag=True, help="Wait for all live jobs that you can see.")
@click.option("--any", "is_any", is_flag=True, help="Return when the first of them ends.")
@parameters.reconnect
@parameters.duration("--timeout", "Give up after this time with exit code 75.  [default: none]")
@click.pass_obj
def wait(
    session: Session,
    jobs: Sequence[Ref],
    of_queue: str | None,
    of_label: str | None,
    is_all: bool,
    is_any: bool,
    timeout: str | None,
) -> int:
    """Wait for the end of a job, and exit with its exit code.

    Prints its status, and how it ended. With several jobs, a line is printed when each ends, which begins
    with its id; the exit code is that of the first job given that did not succeed. If the daemon is
    restarted, taskq reconnects.
    """
    is_searched = is_all or of_queue is not None or of_label is not None
    if is_searched and jobs:
        raise click.UsageError("expected either job IDs or filter options")
    with session.connect() as client:
        if is_searched:
            live = client.list_all(status=",".join(LIVE), queue=of_queue, label=of_label)
            jobs = [job["id"] for job in live]
            if not jobs:
                session.print_message("no matching job is pending or running")
                return 0
        if len(jobs) > 1 or is_searched:
            return _wait_for_several(session, client, jobs, is_any, timeout)
        client.wait(jobs[0], timeout)
        facts = client.show(jobs[0])
    session.print_answer(describe_status(facts), facts)
    return session.exit_code_of(facts)


def _wait_for_several(
    session: Session, client: Client, jobs: Sequence[Ref], is_any: bool, timeout: str | None
) -> int:
    if is_any and len(jobs) > MAX_WAITED:
        raise click.UsageError(f"--any accepts up to {MAX_WAITED:,} jobs, not {len(jobs):,}")
    ended: dict[Ref, Facts] = {}
    refused = 0
    with (
        session.answer_list(),
        client.another() as second_client,
        ActProgress("ended", is_patient=True) as progress,
    ):
        progress.update(0, len(jobs))
        try:
            for end in _ends(client, jobs, is_any, timeout):
                facts = second_client.show(end.job)
                name = _reference_in(jobs, facts)
                ended[name] = facts
                session.print_answer(f"{name} {describe_status(facts)}", facts)
                sys.stdout.flush()
                progress.update(len(ended), len(jobs))
        except Refused as refusal:
            refused = session.print_refusal(refusal)
    codes = [session.exit_code_of(ended[job]) for job in jobs if job in ended]
    return refused or next(filter(None, codes), 0)


def _ends(client: Client, jobs: Sequence[Ref], is_any: bool, timeout: str | None) -> Iterator[Ended]:
    """Yield the ends of jobs, for as many at once as a request may name."""
    deadline = None if timeout is None else time.monotonic() + parse_duration(timeout)
    yield from client.wait_many(jobs[:MAX_WAITED], any_=is_any, timeout=timeout)
    for first in range(MAX_WAITED, len(jobs), MAX_WAITED):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        yield from client.wait_many(jobs[first : first + MAX_WAITED], any_=is_any, timeout=left)


def _reference_in(jobs: Sequence[Ref], facts: Facts) -> Ref:
    """Return the reference of a job as given: its id, or its array and index."""
    number: int = facts["id"]
    return number if number in jobs else f"{facts['array']}.{facts['index']}"
