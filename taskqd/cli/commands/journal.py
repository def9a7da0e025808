"""What the daemon keeps, without the daemon."""

import click

from taskqd.cli import parameters
from taskqd.cli.app import Offline, taskq
from taskqd.cli.context import Session


@taskq.group(
    cls=Offline,
    epilog="""\b
Examples:
  taskq journal verify /var/lib/taskqd
  taskq journal dump /var/lib/taskqd --job 7 --since 2026-11-24T07:00:00Z
  taskq journal dump /var/lib/taskqd | jq -r 'select(.type == "submitted") | .owner' | sort | uniq -c
""",
)
def journal() -> None:
    """Look into a state directory, whether its daemon runs or not.

    Nothing is changed, locked or waited for. The files are the daemon's: be its user, or root.
    """


@journal.command()
@parameters.directory
@click.pass_obj
def verify(session: Session, directory: str) -> int:
    """Read a whole journal and tell whether it can be trusted.

    Every line is held against its checksum, its number and what had happened to its job before, as at a
    start of the daemon. Prints how much there is; or the file and the line of what is wrong, and ends with 1.
    """
    from taskqd.cli.offline.journal import verify as look  # noqa: PLC0415 - it is slow to load

    return look(session, directory)


@journal.command()
@parameters.directory
@parameters.number("--job", "Only what happened to the job of this id.", 1)
@parameters.moment("--since", "Only what happened then or later: 2026-11-24T07:00:00Z.")
@click.pass_obj
def dump(session: Session, directory: str, job: int | None, since: float | None) -> int:
    """Print the records of a journal in JSON, one a line.

    Each has its number as seq; docs/journal.md tells the other fields. Times are written as on the wire.
    """
    from taskqd.cli.offline.journal import dump as look  # noqa: PLC0415 - it is slow to load

    return look(session, directory, job, since)
