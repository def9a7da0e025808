"""The command top."""

import os
import sys

import click

from taskqd.cli.app import taskq
from taskqd.cli.context import Session


@taskq.command(
    epilog="""\b
Keys:
  up down, k j   select a job
  o              show its output; Tab: other stream, q: back
  c              cancel it
  h              hold or release it
  z              suspend or continue it
  r              retry it
  p P            pause or resume its queue, or everything
  ? q            help, quit
"""
)
@click.pass_obj
def top(session: Session) -> int:
    """Show queues and jobs live on the whole screen.

    Shows the queues with their slots, running jobs with their progress, pending jobs, and jobs that ended
    last. Keys apply commands to the selected job.
    """
    if session.is_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "top needs a terminal; programs can use `taskq queues --json` and `taskq list --json`"
        )
    if os.environ.get("TERM") in ("dumb", "unknown"):
        raise click.UsageError(
            f"top does not support a terminal with TERM={os.environ['TERM']}; "
            "use `taskq queues` and `taskq list`"
        )
    from taskqd.cli.top.screen import show  # noqa: PLC0415 - rich is slow to import

    return show(session)
