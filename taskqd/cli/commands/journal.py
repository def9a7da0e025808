"""The commands journal verify and journal dump."""

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
    """Verify or print a journal, whether its daemon runs or not.

    Nothing is changed or locked. Run this as the daemon's user or as root.
    """


@journal.command()
@parameters.directory
@click.pass_obj
def verify(session: Session, directory: str) -> int:
    """Verify a journal.

    Checks the checksum and number of every record, and whether it is consistent with the earlier records of
    its job, as the daemon does when it starts. Prints a summary, or the file and line of an error and exits
    with 1.
    """
    from taskqd.cli.offline.journal import verify as run_verify  # noqa: PLC0415 - slow to import

    return run_verify(session, directory)


@journal.command()
@parameters.directory
@parameters.number("--job", "Only records of the job with this id.", 1)
@parameters.moment("--since", "Only records from this time on: 2026-11-24T07:00:00Z.")
@click.pass_obj
def dump(session: Session, directory: str, job: int | None, since: float | None) -> int:
    """Print the records of a journal as JSON, one per line.

    Each has its number as seq; docs/journal.md explains the other fields. Times have the format of the
    protocol.
    """
    from taskqd.cli.offline.journal import dump as run_dump  # noqa: PLC0415 - slow to import

    return run_dump(session, directory, job, since)
