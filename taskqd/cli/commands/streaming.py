"""What happens, as it happens: what jobs print, and the events of all."""

from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.streaming import follow as following
from taskqd.cli.streaming import watch as watching
from taskqd.client import Ref


@taskq.command(
    epilog="""\b
Examples:
  taskq follow 7
  taskq follow 3 4 5      each line with its job before it
  taskq follow 12.0 12.1  tasks of array 12
"""
)
@parameters.several_jobs
@parameters.reconnect
@parameters.raw
@click.pass_obj
def follow(session: Session, jobs: Sequence[Ref], is_raw: bool) -> int:
    """Print what a job prints, as it comes, to its end.

    From its first byte on, stdout to stdout and stderr to stderr, and ends with its exit code. A pending job
    is waited for; one that is run again is followed on. Of several jobs there are whole lines, each with its
    job before it, and the exit code is that of the first, in the order of the call, that did not do well.

    A terminal gets text and colours, and other control characters are shown, as ^[ for ESC. A restart of the
    daemon is waited for, and the output goes on where it was. Ctrl-C leaves the jobs alone.
    """
    if len(jobs) > following.MOST_JOBS:
        raise click.UsageError(f"expected at most {following.MOST_JOBS} jobs")
    return following.follow(session, jobs, is_raw)


@taskq.command(
    epilog="""\b
Examples:
  taskq watch
  taskq watch --since 0 --jsonl        all that the journal still has, and then what comes
  taskq watch --jsonl | jq -c 'select(.type == "ended" and .status == "FAILED")'
"""
)
@parameters.number("--since", "From the event with this number on.  [default: what happens from now on]")
@parameters.watched_job
@parameters.watched_queue
@parameters.reconnect
@click.pass_obj
def watch(session: Session, since: int | None, job: Ref | None, queue: str | None) -> None:
    """Print what happens to jobs, queues and schedules.

    As it happens, a line an event: its time, the job, what happened, and by whom or why. With --jsonl each
    has its number `seq`, and --since with the number behind the last one goes on without a gap.

    A restart of the daemon is waited for, and no event is missed by it. Where some are no longer there, or
    they are read too slowly, stderr tells with which number it goes on.
    """
    watching.watch(session, since, job, queue)
