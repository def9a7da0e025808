"""What a job says of itself while it runs."""

import os

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.parameters import Command


@taskq.command(
    cls=Command,
    epilog="""\b
Example, a script that is run as a job:
  for n in $(seq 10); do ./part "$n"; taskq progress "${n}0"; done
""",
)
@parameters.percent
@click.pass_obj
def progress(session: Session, percent: int) -> int:
    """Tell from within a job how far it has come.

    Writes PERCENT, 0 to 100, to the file that TASKQ_PROGRESS names, where the daemon has put it; `taskq
    status` shows it from then on. Asks no daemon, so it may be called as often as you like.
    """
    path = os.environ.get("TASKQ_PROGRESS")
    if not path:
        raise click.UsageError(
            "there is no TASKQ_PROGRESS: `taskq progress` is for commands that run as a job"
        )
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % percent)
    if session.is_json:
        session.say("", {"progress": percent})
    return 0
