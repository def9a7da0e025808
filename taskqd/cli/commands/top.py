"""The live view of everything."""

import os
import sys

import click

from taskqd.cli.app import taskq
from taskqd.cli.context import Session


@taskq.command(
    epilog="""\b
Keys:
  up down, k j   select a job
  o              look into what it prints; Tab for the other stream, q to come back
  c              cancel it
  h              hold it, or release it
  r              run it again
  p P            pause or resume its queue, or everything
  ? q            help, and the end
"""
)
@click.pass_obj
def top(session: Session) -> int:
    """Show queues and jobs on the whole screen, as they change.

    The queues with their slots, what runs and how far it has come, what comes next, and what ended last; the
    keys do to the selected job what the commands of the same names do.
    """
    if session.is_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "top is for a person at a terminal; programs read `taskq queues --json` and `taskq list --json`"
        )
    if os.environ.get("TERM") in ("dumb", "unknown"):
        raise click.UsageError(
            f"top cannot draw on a terminal with TERM={os.environ['TERM']}; "
            "`taskq queues` and `taskq list` tell the same"
        )
    from taskqd.cli.top.screen import show  # noqa: PLC0415 - rich takes its time

    return show(session)
