"""The command group ``taskq``: the table of commands, the loading of their modules, and the exit code.

A command's module is imported when the command is called or the help of all commands is shown, because
importing is most of the cost of a short command. Command modules import ``taskq`` from here and add their
commands to it.
"""

import os
import shlex
import sys
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from taskqd import __version__
from taskqd.cli.base import Command, DaemonCommand, global_options
from taskqd.cli.client_settings import check_options, read_client_settings, settings_path
from taskqd.cli.context import REFUSED, Session, drop_unwritable_output
from taskqd.cli.interrupts import INTERRUPTED

SECTIONS: dict[str, dict[str, str]] = {
    "Submit": {
        "submit": "submit",
        "run": "run",
    },
    "Inspect": {
        "status": "query",
        "show": "query",
        "list": "list",
        "why": "query",
        "wait": "wait",
        "history": "query",
        "watch": "streaming",
        "top": "top",
    },
    "Output": {
        "log": "log",
        "result": "output",
        "output": "output",
        "follow": "streaming",
    },
    "Control": {
        "cancel": "control",
        "hold": "control",
        "release": "control",
        "suspend": "control",
        "continue": "control",
        "set": "control",
        "edit": "edit",
        "retry": "control",
        "send": "send",
        "remove": "control",
    },
    "Queues": {
        "queues": "queues",
        "set-queue": "queues",
        "slots": "slots",
        "pause": "queues",
        "resume": "queues",
    },
    "Schedules": {
        "schedule": "schedules",
        "schedules": "schedules",
        "unschedule": "schedules",
    },
    "Within jobs": {
        "progress": "progress",
    },
    "Daemon": {
        "stats": "server",
        "hello": "server",
        "address": "server",
        "drain": "server",
        "shutdown": "server",
        "journal": "journal",
        "token": "tokens",
    },
    "Shell and manual": {
        "help": "shell",
        "completions": "shell",
        "manual": "shell",
    },
}
"""The commands by section of the help: name -> module of ``cli.commands`` that defines it."""

_MODULES = {name: module for section in SECTIONS.values() for name, module in section.items()}


def _hint(word: str) -> str:
    """Return a hint after a word that is no command: another program's, or a typing mistake."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed after a mistake

    from taskqd.cli.other_programs import EQUIVALENTS  # noqa: PLC0415

    if word in EQUIVALENTS:
        return f"; use `taskq {EQUIVALENTS[word]}`"
    matches = get_close_matches(word, _MODULES, 1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class Taskq(click.Group):
    """The group of all commands; each is imported on demand."""

    command_class = DaemonCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            import_module(f"taskqd.cli.commands.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Make the context of a call, with the defaults of the user's settings."""
        settings = read_client_settings(settings_path(os.environ))
        extra.setdefault("default_map", settings.default_map())
        session = Session(settings)
        return super().make_context(info_name, args, parent, obj=session, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        settings = ctx.ensure_object(Session).settings
        if args[0] in settings.aliases and args[0] not in _MODULES:
            args = shlex.split(settings.aliases[args[0]]) + args[1:]
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.UsageError:
            raise click.UsageError(f"no such command: {args[0]!r}{_hint(args[0])}", ctx) from None
        if command is not None and name in ("submit", "run"):
            check_options(settings, command)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, _MODULES))
        for title, names in SECTIONS.items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            with formatter.section(title):
                formatter.write_dl(
                    [(name, command.get_short_help_str(width)) for name, command in commands if command]
                )


class Offline(click.Group):
    """A group of commands that do not connect to a daemon."""

    command_class = Command


@click.group(
    cls=Taskq,
    params=global_options("TASKQ_ADDRESS"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes: 0 success; result, wait, follow and run: that of the job, 128+N for signal N;
  1 refused, or a job without an exit code; 2 usage error; 69 no daemon; 74 output was dropped;
  75 not finished.
Environment: TASKQ_ADDRESS, TASKQ_RECONNECT; TCP and TLS: TASKQ_TOKEN or TASKQ_TOKEN_FILE;
  TLS: TASKQ_CA, and TASKQ_CERT with TASKQ_KEY instead of a token.

\b
Examples:
  taskq submit make -j4                submit a job and print its id
  taskq wait 7 && taskq result 7       wait for its end and print its output
  taskq run ./backup.sh                submit a job, print its output, exit with its exit code
  taskq list --status PENDING,RUNNING  list unfinished jobs
  taskq history 7                      list the events of a job, and who caused them

\b
DURATION is a number of seconds, or has units: 1.5 500ms 10m 1h30m 2d 1w
SIZE is a number of bytes, or has a unit of 1024: 4096 64k 1.5M 2GB
TIME is local: 7:00 '9am tomorrow' 'now + 2 hours' 'fri 17:30' '2026-11-24 07:00'
""",
)
@click.version_option(__version__, message="taskq %(version)s")
def taskq() -> None:
    """Submit shell commands to a taskqd daemon, which stores them on disk and runs them in order."""


def main() -> NoReturn:
    """Run the command and exit."""
    # Output of jobs bypasses the text layer; other text must not fail if the encoding lacks characters.
    cast("Any", sys.stdout).reconfigure(errors="backslashreplace")
    if "_TASKQ_COMPLETE" in os.environ:
        from taskqd.cli.completions import register  # noqa: PLC0415 - only needed by shell completion

        register()
    try:
        code = taskq.main(prog_name="taskq", standalone_mode=False)
    except click.UsageError as error:
        _show_usage_error(error)
        code = error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except OSError as error:  # the help cannot be written
        drop_unwritable_output()
        Session().print_message(str(error.strerror))
        code = REFUSED
    sys.exit(code)


def _show_usage_error(error: click.UsageError) -> None:
    message = error.format_message()
    if isinstance(error, click.MissingParameter):  # it has a line per choice
        message = " ".join(message.split())
    if "\n" not in message:
        help_hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        message = f"taskq: {message.rstrip('.')}{help_hint}"
    click.echo(message, err=True)
