"""The command progress."""

import os
from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.base import Command
from taskqd.cli.context import Session

MAX_TEXT = 200
"""Characters of a text; the daemon cuts the rest."""


@taskq.command(
    cls=Command,
    epilog="""\b
Example script of a job:
  for n in $(seq 10); do ./part "$n"; taskq progress "${n}0" "part $n of 10"; done
""",
)
@parameters.percent
@click.argument("text", nargs=-1)
@click.pass_obj
def progress(session: Session, percent: int, text: Sequence[str]) -> int:
    """Report the progress of a job from within the job.

    Writes PERCENT, 0 to 100, and the TEXT to the file named by TASKQ_PROGRESS, which the daemon reads;
    `taskq status`, `list` and `top` show both. Only the first 200 characters of TEXT count. It does not
    connect to the daemon, so frequent calls are cheap.
    """
    path = os.environ.get("TASKQ_PROGRESS")
    if not path:
        raise click.UsageError("TASKQ_PROGRESS is not set; `taskq progress` works only within a job")
    words = " ".join(" ".join(text).split())[:MAX_TEXT]
    # A daemon up to 0.9 reads only lines without a text; others keep the text of the line before.
    report = f"{percent} {words}\n{percent}\n" if words else f"{percent}\n"
    with open(path, "ab", buffering=0) as file:
        file.write(report.encode("utf-8", "replace"))
    if session.is_json:
        session.print_answer("", {"progress": percent, **({"progress_text": words} if words else {})})
    return 0
