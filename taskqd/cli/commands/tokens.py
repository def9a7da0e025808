"""The commands token add, token list and token revoke."""

import click

from taskqd.cli import parameters
from taskqd.cli.app import Offline, taskq
from taskqd.cli.context import Session
from taskqd.protocol.values import parse_name

ROLES = ("submit", "read", "admin")

_directory = click.option(
    "--state",
    metavar="DIR",
    help="The daemon's state directory.  [default: that of your daemon]",
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

    Clients on TCP and TLS authenticate with a token; `taskq` reads it from TASKQ_TOKEN or TASKQ_TOKEN_FILE.
    Tokens are stored in the daemon's state directory, so run this as its user or as root. The daemon need not
    run; if it does, a change takes effect within a second.
    """


@token.command()
@click.argument("name", metavar="NAME", callback=parameters.parsed_by(parse_name))
@click.option(
    "--role",
    type=click.Choice(ROLES),
    required=True,
    help="submit: own jobs; read: view all, change nothing; admin: everything.",
)
@parameters.text("--queue", "Restrict the token to this queue.", "NAME", parse_name)
@click.option(
    "--expires",
    metavar="DURATION|TIME",
    help="When it expires: 90d, or 2026-11-24T07:00:00Z.  [default: never]",
)
@_directory
@click.pass_obj
def add(
    session: Session, name: str, role: str, queue: str | None, expires: str | None, state: str | None
) -> int:
    """Make a token for NAME, and print it.

    It is shown only once, because only its hash is stored. Jobs that are submitted with it belong to NAME. A
    name may have several tokens with the same role and queue, so that tokens can be replaced.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - slow to import

    return tokens.add(session, state, name, role, queue, expires)


@token.command("list")
@_directory
@click.pass_obj
def list_tokens(session: Session, state: str | None) -> int:
    """List the tokens.

    On a terminal as a table; otherwise one token per line, separated by tabs: its id, name, role, queue, time
    of creation and of expiry; - if there is none.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - slow to import

    return tokens.show(session, state)


@token.command()
@click.argument("which", metavar="NAME|ID")
@_directory
@click.pass_obj
def revoke(session: Session, which: str, state: str | None) -> int:
    """Revoke the token with an id, or all tokens of a name.

    Connections that were authenticated with it are closed.
    """
    from taskqd.cli.offline import tokens  # noqa: PLC0415 - slow to import

    return tokens.revoke(session, state, which)
