"""The commands completions and manual."""

import click

from taskqd.cli.app import taskq
from taskqd.cli.base import Command
from taskqd.cli.context import Session


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
    """Print a completion script for a shell.

    With it, the shell completes commands and options, and, if a daemon runs, ids of jobs, names of queues and
    numbers of schedules.
    """
    from taskqd.cli.completions import script  # noqa: PLC0415

    text = script(taskq, shell)
    session.print_answer(text, {"shell": shell, "script": text})
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
    """Print the manual page taskq(1)."""
    from taskqd.cli.manual import page  # noqa: PLC0415

    text = page(taskq)
    context.ensure_object(Session).print_answer(text, {"manual": text})
    return 0
