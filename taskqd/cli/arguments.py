"""What may stand on a ``taskq`` command line: the options that commands share, and what each must look like.

Options have the names that they have on the wire (docs/protocol.md §3). What cannot be right is a usage error
before anything is sent; values go on as they were typed.
"""

from collections.abc import Callable
from datetime import datetime
from functools import reduce
from typing import Any, TypeVar

import click

from taskqd.cli.session import Session
from taskqd.client import parse_address
from taskqd.errors import BadRequest
from taskqd.words import parse_duration, parse_integer, parse_name, parse_octal, parse_size

Function = TypeVar("Function", bound=Callable[..., Any])
Parser = Callable[[str], Any]
Callback = Callable[[click.Context, click.Parameter, Any], Any]

STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")


def _checked(parse: Parser) -> Callback:
    """Return a callback that refuses what ``parse`` does not take, and leaves the rest as it was typed."""
    read = _parsed(parse)

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        read(context, parameter, value)
        return value

    return check


def _parsed(parse: Parser) -> Callback:
    """Return a callback that gives the value of what was typed, or of each where there may be several."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except (BadRequest, ValueError) as why:
            raise click.BadParameter(str(why), context, parameter) from None

    return read


def _whole(least: int, most: int = 10**18 - 1) -> Callback:
    return _parsed(lambda text: parse_integer(text, least, most))


def _statuses(text: str) -> None:
    if not set(text.upper().split(",")) <= set(STATUSES):
        raise BadRequest(f"expected some of {','.join(STATUSES)}, not {text!r}")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadRequest(f"expected NAME=VALUE, not {text!r}")
    return name, value


def _moment(text: str) -> float:
    """Return the seconds since the epoch of a time of RFC 3339, which says its offset."""
    expected = f"expected a time such as 2026-11-24T07:00:00Z, not {text!r}"
    try:
        moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        raise BadRequest(expected) from None
    if moment.tzinfo is None:
        raise BadRequest(expected)
    return moment.timestamp()


def _settle_address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        _parsed(parse_address)(context, parameter, value)
        context.ensure_object(Session).address = value


def _settle_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.ensure_object(Session).is_json |= value


def text(name: str, meaning: str, metavar: str, parse: Parser = str) -> Callable[[Function], Function]:
    """Return an option whose value ``parse`` has to take, and which goes on as it was typed."""
    return click.option(name, metavar=metavar, callback=_checked(parse), help=meaning)


def duration(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a duration."""
    return text(name, meaning, "DURATION", parse_duration)


def size(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a number of bytes."""
    return text(name, meaning, "SIZE", parse_size)


def number(name: str, meaning: str, least: int = 0, most: int = 10**18 - 1) -> Callable[[Function], Function]:
    """Return an option whose value is a whole number."""
    return click.option(name, metavar="N", callback=_whole(least, most), help=meaning)


def statuses(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is one status or several."""
    return text(name, meaning, "A,B", _statuses)


def moment(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a time; the command gets seconds since the epoch."""
    return click.option(name, metavar="TIME", callback=_parsed(_moment), help=meaning)


def one_job(function: Function) -> Function:
    """Give a command the argument ID."""
    return click.argument("job", metavar="ID", callback=_whole(1))(function)


def several_jobs(function: Function) -> Function:
    """Give a command the argument ID..."""
    return click.argument("jobs", metavar="ID...", nargs=-1, required=True, callback=_whole(1))(function)


def directory(function: Function) -> Function:
    """Give a command the argument DIR, a directory that is there."""
    return click.argument(
        "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=str)
    )(function)


def submission(function: Function) -> Function:
    """Give a command the options of a submission, and the words of what is submitted."""
    return reduce(lambda result, decorate: decorate(result), reversed(_SUBMISSION), function)


_SUBMISSION: tuple[Callable[[Any], Any], ...] = (
    duration("--timeout", "End the job when it has run so long: SIGTERM, later SIGKILL.  [default: never]"),
    duration("--kill-after", "How long after SIGTERM to send SIGKILL.  [default: 5s]"),
    number("--retries", "How often to run it again if it fails.  [default: 0]"),
    duration("--retry-delay", "How long to wait before the first retry; doubled each time.  [default: 1s]"),
    text("--key", "Make this safe to repeat: the same again answers with the same id.", "NAME", parse_name),
    text("--label", "Any text, to find the job by.", "TEXT"),
    text("--cwd", "Where to run it.  [default: here; over TCP, the daemon's directory]", "DIR"),
    click.option(
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parsed(_variable),
        help="Add to its environment, which is a small clean one with your PATH; repeatable.",
    ),
    click.option(
        "--umask",
        metavar="OCTAL",
        callback=_parsed(parse_octal),
        help="Of the files that it makes.  [default: yours; over TCP, 022]",
    ),
    number("--nice", "Its niceness, -20 to 19.  [default: the daemon's]", -20, 19),
    size("--max-output", "How much of its stdout, and of its stderr, to keep.  [default: 256M]"),
    click.option(
        "--stdin",
        metavar="FILE",
        type=click.File("rb"),
        help="What it reads, - for stdin.  [default: nothing]",
    ),
    click.option(
        "--script",
        metavar="FILE",
        type=click.File("rb"),
        help="A shell script to run in place of a COMMAND, - for stdin.",
    ),
    click.argument("words", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED),
)


class Command(click.Command):
    """A command that takes --json, and whose errors end in one line and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += self.more()

    def more(self) -> list[click.Parameter]:
        """Return the options that every command of this kind has."""
        return [_json()]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; return its exit code."""
        return ctx.ensure_object(Session).run(lambda: super(Command, self).invoke(ctx))


class Verb(Command):
    """A command that asks a daemon, and takes --address too."""

    def more(self) -> list[click.Parameter]:
        return everywhere()


def everywhere(envvar: str | None = None) -> list[click.Parameter]:
    """Return the options that may stand before a command's name as well as behind it."""
    return [
        click.Option(
            ["--address"],
            metavar="ADDRESS",
            envvar=envvar,
            show_envvar=envvar is not None,
            expose_value=False,
            callback=_settle_address,
            help="unix:PATH or tcp:HOST:PORT of the daemon.  [default: the socket of a daemon of yours]",
        ),
        _json(),
    ]


def _json() -> click.Option:
    return click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_settle_json,
        help="Answer in JSON, one document a line.",
    )
