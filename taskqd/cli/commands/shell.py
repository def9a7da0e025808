"""What a shell and a manual are told of ``taskq``."""

import click

from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.parameters import Command


@taskq.command(
    cls=Command,
    epilog="""\b
Examples:
  taskq completions bash > ~/.local/share/bash-completion/completions/taskq
  taskq completions zsh > "${fpath[1]}/_taskq"
  taskq completions fish > ~/.config/fish/completions/taskq.fish
""",
)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completions(session: Session, shell: str) -> int:
    """Print what a shell needs to complete command lines of taskq.

    It then completes commands and options, and asks the daemon for the ids of jobs, the names of queues and
    the numbers of schedules; without one it says nothing.
    """
    from taskqd.cli.completions import script  # noqa: PLC0415

    text = script(taskq, shell)
    session.say(text, {"shell": shell, "script": text})
    return 0


@taskq.command(
    cls=Command,
    epilog="""\b
Examples:
  taskq manual | man -l -
  taskq manual > /usr/local/share/man/man1/taskq.1
""",
)
@click.pass_context
def manual(context: click.Context) -> int:
    """Print the manual page taskq(1), made of the same help."""
    from taskqd.cli.manual import page  # noqa: PLC0415

    text = page(taskq)
    context.ensure_object(Session).say(text, {"manual": text})
    return 0
