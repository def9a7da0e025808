"""``taskq`` itself: which commands there are, where each is defined, and how the process ends.

A command's module is loaded when the command is called, or when the help of all is shown: starting is most
of what a short command costs. A module of commands imports ``taskq`` from here and adds its own to it.
"""

import sys
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from taskqd import __version__
from taskqd.cli import parameters
from taskqd.cli.context import REFUSED, Session
from taskqd.cli.interrupts import INTERRUPTED
from taskqd.cli.parameters import Command, Verb

SECTIONS: dict[str, dict[str, str]] = {
    "QueryHandlers in": {
        "submit": "submit",
        "run": "submit",
    },
    "Where jobs stand": {
        "status": "query",
        "show": "query",
        "list": "query",
        "why": "query",
        "wait": "wait",
        "history": "query",
        "watch": "streaming",
        "top": "top",
    },
    "What jobs print": {
        "result": "output",
        "output": "output",
        "follow": "streaming",
    },
    "Changes of mind": {
        "cancel": "control",
        "hold": "control",
        "release": "control",
        "set": "control",
        "retry": "control",
        "remove": "control",
    },
    "Queues": {
        "queues": "queues",
        "set-queue": "queues",
        "pause": "queues",
        "resume": "queues",
    },
    "Schedules": {
        "schedule": "schedules",
        "schedules": "schedules",
        "unschedule": "schedules",
    },
    "For jobs themselves": {
        "progress": "progress",
    },
    "The daemon": {
        "stats": "server",
        "hello": "server",
        "address": "server",
        "drain": "server",
        "journal": "journal",
        "token": "tokens",
    },
    "The shell": {
        "completions": "shell",
        "manual": "shell",
    },
}
"""The commands by section, in the order of the help: name -> the module of ``cli.commands`` that has it."""

_MODULES = {name: module for section in SECTIONS.values() for name, module in section.items()}


class Taskq(click.Group):
    """The group of all commands, each loaded when it is asked for."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            import_module(f"taskqd.cli.commands.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches  # noqa: PLC0415 - only a mistake has to pay for it

            likely = get_close_matches(args[0], _MODULES, 1)
            hint = f"; did you mean {likely[0]!r}?" if likely else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, _MODULES))
        for title, names in SECTIONS.items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            with formatter.section(title):
                formatter.write_dl(
                    [(name, command.get_short_help_str(width)) for name, command in commands if command]
                )


class Offline(click.Group):
    """A group of commands that ask no daemon."""

    command_class = Command


@click.group(
    cls=Taskq,
    params=parameters.everywhere("TASKQ_ADDRESS"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes: 0 done; result, wait, follow and run: the job's own, 128+N for signal N;
  1 refused, or a job without an exit code; 2 usage; 69 no daemon; 74 output was dropped;
  75 not finished.
Environment: TASKQ_ADDRESS, TASKQ_RECONNECT; for TCP and TLS TASKQ_TOKEN or TASKQ_TOKEN_FILE;
  for TLS TASKQ_CA, and TASKQ_CERT with TASKQ_KEY in place of a token.

\b
Examples:
  taskq submit make -j4                a job; its id is printed
  taskq wait 7 && taskq result 7       its end, and what it printed
  taskq run ./backup.sh                a job with its output here, ended with its exit code
  taskq list --status PENDING,RUNNING  what is still to be done
  taskq history 7                      all that happened to it, and who asked for it

\b
DURATION is a number of seconds or has a unit: 1.5 500ms 10m 2h 1d
SIZE is a number of bytes or has a unit: 4096 64k 1M 2G
""",
)
@click.version_option(__version__, message="taskq %(version)s")
def taskq() -> None:
    """Hand shell commands to a taskqd daemon, which keeps them on disk and runs them in turn."""


def main() -> NoReturn:
    """Run the command line and exit."""
    # What jobs print goes round the text layer; the rest must not fail where a terminal has few characters.
    cast("Any", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        code = taskq.main(prog_name="taskq", standalone_mode=False)
    except click.UsageError as error:
        _show_usage_error(error)
        code = error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except OSError as error:  # where the help cannot be written
        Session().complain(str(error.strerror))
        code = REFUSED
    sys.exit(code)


def _show_usage_error(error: click.UsageError) -> None:
    message = error.format_message()
    if "\n" not in message and error.ctx:
        message = f"taskq: {message.rstrip('.')} (see {error.ctx.command_path} --help)"
    click.echo(message, err=True)
