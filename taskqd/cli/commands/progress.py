"""The command progress."""

import os

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.base import Command
from taskqd.cli.context import Session


@taskq.command(
    cls=Command,
    epilog="""\b
Example script of a job:
  for n in $(seq 10); do ./part "$n"; taskq progress "${n}0"; done
""",
)
@parameters.percent
@click.pass_obj
def progress(session: Session, percent: int) -> int:
    """Report the progress of a job from within the job.

    Writes PERCENT, 0 to 100, to the file named by TASKQ_PROGRESS, which the daemon reads; `taskq status`
    shows it. It does not connect to the daemon, so frequent calls are cheap.
    """
    path = os.environ.get("TASKQ_PROGRESS")
    if not path:
        raise click.UsageError("TASKQ_PROGRESS is not set; `taskq progress` works only within a job")
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % percent)
    if session.is_json:
        session.print_answer("", {"progress": percent})
    return 0
