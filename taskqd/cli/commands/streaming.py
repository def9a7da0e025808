"""The commands follow and watch."""

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
  taskq follow 3 4 5      each line begins with the id of its job
  taskq follow 12.0 12.1  tasks of array 12
"""
)
@parameters.job_arguments
@parameters.reconnect
@parameters.raw
@click.pass_obj
def follow(session: Session, jobs: Sequence[Ref], is_raw: bool) -> int:
    """Print the output of a job as it arrives, until the job ends.

    Starts with the first byte, stdout to stdout and stderr to stderr, and exits with the exit code of the
    job. Waits for a pending job, and continues when a job is retried. With several jobs, whole lines are
    printed, each after the id of its job; the exit code is that of the first job given that did not succeed.

    On a terminal, control characters except colours are shown as text (^[ for ESC). If the daemon is
    restarted, taskq reconnects and continues the output. Ctrl-C does not affect the jobs.
    """
    if len(jobs) > following.MAX_JOBS:
        raise click.UsageError(f"expected at most {following.MAX_JOBS} jobs")
    return following.follow(session, jobs, is_raw)


@taskq.command(
    epilog="""\b
Examples:
  taskq watch
  taskq watch --since 0 --jsonl        all events in the journal, then new ones
  taskq watch --jsonl | jq -c 'select(.type == "ended" and .status == "FAILED")'
"""
)
@parameters.number("--since", "Number of the first event.  [default: only new events]")
@parameters.watched_job
@parameters.watched_queue
@parameters.reconnect
@click.pass_obj
def watch(session: Session, since: int | None, job: Ref | None, queue: str | None) -> None:
    """Print events of jobs, queues and schedules as they occur.

    One event per line: its time, the job, its type, and its cause or initiator. With --jsonl each event has
    its number `seq`; --since with the next number continues without a gap.

    If the daemon is restarted, taskq reconnects and no event is missed. If events are no longer stored, or
    are read too slowly, a message gives the number of the next event that is printed.
    """
    watching.watch(session, since, job, queue)
