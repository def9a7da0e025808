"""Tokens: who may use the daemon from another machine."""

import click

from taskqd.cli import parameters
from taskqd.cli.app import Offline, taskq
from taskqd.cli.context import Session
from taskqd.protocol.values import parse_name

ROLES = ("submit", "read", "admin")

_directory = click.option(
    "--state",
    metavar="DIR",
    help="The daemon's state directory.  [default: that of a daemon of yours]",
)


@taskq.group(
    cls=Offline,
    epilog="""\b
Examples:
  taskq token add ci --role submit --queue builds --expires 90d > ci.token
  taskq token list
  taskq token revoke ci
""",
)
def token() -> None:
    """Make, list and revoke tokens.

    A client that does not come by the daemon's UNIX socket gives one to AUTH; `taskq` takes it from
    TASKQ_TOKEN or TASKQ_TOKEN_FILE. They are kept in the daemon's state directory, so be its user, or root.
    The daemon may run or not; it takes a change up within a second.
    """


@token.command()
@click.argument("name", metavar="NAME", callback=parameters.reading(parse_name))
@click.option(
    "--role",
    type=click.Choice(ROLES),
    required=True,
    help="submit: jobs of one's own; read: looks at all and changes nothing; admin: everything.",
)
@parameters.text("--queue", "Good for jobs in this queue only.", "NAME", parse_name)
@click.option(
    "--expires",
    metavar="DURATION|TIME",
    help="When it ends: 90d, or 2026-11-24T07:00:00Z.  [default: never]",
)
@_directory
@click.pass_obj
def add(
    session: Session, name: str, role: str, queue: str | None, expires: str | None, state: str | None
) -> int:
    """Make a token for NAME, and print it.

    It is shown this once: only a hash of it is kept. Jobs that are submitted with it are NAME's. A name may
    have several tokens of the same role and queue, so that a new one can take the place of an old one.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - it is slow to load

    return tokens.add(session, state, name, role, queue, expires)


@token.command("list")
@_directory
@click.pass_obj
def list_them(session: Session, state: str | None) -> int:
    """Print what is known of all tokens.

    A line each, with a tab between its id, its name, its role, the queue that it is good for, when it was
    made and when it ends; - where there is none.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - it is slow to load

    return tokens.show(session, state)


@token.command()
@click.argument("which", metavar="NAME|ID")
@_directory
@click.pass_obj
def revoke(session: Session, which: str, state: str | None) -> int:
    """Take away the token of an id, or all of a name.

    Connections that were opened with it end.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - it is slow to load

    return tokens.revoke(session, state, which)
