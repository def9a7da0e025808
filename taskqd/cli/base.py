"""The classes of commands, and the options that every command has."""

import gc
from typing import TYPE_CHECKING, Any

import click

from taskqd.cli.context import Session
from taskqd.cli.parameters import parsed_by
from taskqd.client import parse_address

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MIN_SECTIONED = 20
"""Number of options from which the help has sections."""


class Command(click.Command):
    """A command with --json and --jsonl; it reports errors as one line and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += self.common_options()

    def common_options(self) -> list[click.Parameter]:
        """Return the options of all commands of this class."""
        return _format_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; those of a job are in sections if there are many."""
        records = [(each.name, each.get_help_record(ctx)) for each in self.get_params(ctx)]
        shown = [(name, record) for name, record in records if record is not None]
        if len(shown) < MIN_SECTIONED:
            super().format_options(ctx, formatter)
            return
        from taskqd.cli.job_options import sections  # noqa: PLC0415 - only needed for the help

        titles = sections()
        by_title: dict[str, list[tuple[str, str]]] = {}
        for name, record in shown:
            by_title.setdefault(titles.get(str(name), "Options"), []).append(record)
        for title in sorted(by_title, key=lambda title: title == "Options"):
            with formatter.section(title):
                formatter.write_dl(by_title[title])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete an option, or after the first word of a command, as in `ls -l`, another word of it."""
        if not ctx.allow_interspersed_args and ctx.params.get("words"):
            [words] = [each for each in self.params if each.name == "words"]
            return words.shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; return its exit code."""
        _enable_garbage_collection()
        return ctx.ensure_object(Session).run(lambda: super(Command, self).invoke(ctx))


class DaemonCommand(Command):
    """A command that connects to a daemon; it has --address too."""

    def common_options(self) -> list[click.Parameter]:
        return global_options()


def _enable_garbage_collection() -> None:
    """Collect garbage from now on, except the objects of modules: scanning them takes 10 ms per process."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def global_options(envvar: str | None = None) -> list[click.Parameter]:
    """Return the options that are accepted both before and after the name of a command."""
    return [
        click.Option(
            ["--address"],
            metavar="ADDRESS",
            envvar=envvar,
            show_envvar=envvar is not None,
            expose_value=False,
            callback=_set_address,
            help="unix:PATH, tcp:HOST:PORT or tls:HOST:PORT of the daemon.  "
            "[default: the socket of your daemon]",
        ),
        *_format_options(),
    ]


def _format_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_set_format,
            help="Print JSON: one document, a list if there are several results.",
        ),
        click.Option(
            ["--jsonl"],
            is_flag=True,
            expose_value=False,
            callback=_set_format,
            help="Print JSON, one document per line.",
        ),
    ]


def _set_address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        parsed_by(parse_address)(context, parameter, value)
        context.ensure_object(Session).address = value


def _set_format(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        session = context.ensure_object(Session)
        session.is_json = True
        session.uses_lists = parameter.name == "json"
