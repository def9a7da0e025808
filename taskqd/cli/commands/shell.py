"""The commands help, completions and manual."""

from typing import cast

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
    "help",
    cls=Command,
    epilog="""\b
Examples:
  taskq help
  taskq help submit
""",
)
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def show_help(context: click.Context, words: tuple[str, ...]) -> int:
    """Print the help of a command, or the list of all commands."""
    parent = cast("click.Context", context.parent)
    command: click.Command = taskq
    for word in words:
        if not isinstance(command, click.Group):
            raise click.UsageError(f"the command {parent.info_name} has no subcommands", context)
        name, found, _ = command.resolve_command(parent, [word])
        command = cast("click.Command", found)
        parent = click.Context(command, info_name=name, parent=parent)
    text = command.get_help(parent)
    context.ensure_object(Session).print_answer(text, {"help": text})
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
