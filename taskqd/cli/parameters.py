"""What may stand on a ``taskq`` command line: the options that commands share, and what each must look like.

Options have the names that they have on the wire (docs/protocol.md §3). What cannot be right is a usage error
before anything is sent; values go on as they were typed.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click

from taskqd.cli.completions import STATUSES
from taskqd.cli.context import Session
from taskqd.client import Ref, parse_address
from taskqd.errors import BadRequest
from taskqd.protocol.values import capitals, parse_duration, parse_integer, parse_name, parse_size, parse_time

Function = TypeVar("Function", bound=Callable[..., Any])
Parser = Callable[[str], Any]
Decorator = Callable[[Any], Any]
Callback = Callable[[click.Context, click.Parameter, Any], Any]

UNTIL_COMMAND = {"allow_interspersed_args": False}
"""Options end at the first word of the command: what follows, as -la, is its own."""
MOST_SPELLED_OUT = 100_000
"""A command line names so many jobs at most where each is asked for by itself."""

MOST_SLOTS = 10_000
HIGHEST_PRIORITY = 1_000_000

MOST = 10**18 - 1


def _checked(parse: Parser) -> Callback:
    """Return a callback that refuses what ``parse`` does not take, and leaves the rest as it was typed."""
    read = reading(parse)

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        read(context, parameter, value)
        return value

    return check


def reading(parse: Parser) -> Callback:
    """Return a callback that gives the value of what was typed, or of each where there may be several."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except (BadRequest, ValueError) as why:
            raise click.BadParameter(str(why), context, parameter) from None

    return read


def _at_once(parse: Callable[[Any], Any]) -> Callback:
    """Return a callback that gives the value of all words that were typed."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return parse(value)
        except BadRequest as why:
            raise click.BadParameter(str(why), context, parameter) from None

    return read


def _whole(least: int, most: int = MOST) -> Callback:
    return reading(lambda text: parse_integer(text, least, most))


def _statuses(text: str) -> None:
    if not set(capitals(text).split(",")) <= set(STATUSES):
        raise BadRequest(f"expected some of {','.join(STATUSES)}, not {text!r}")


def _named(text: str) -> Ref | range:
    """Return a job, a task of an array, or the range of jobs ``3-7``."""
    first, dash, last = text.partition("-")
    if dash:
        start, end = (parse_integer(each, 1, MOST) for each in (first, last))
        if end < start:
            raise BadRequest(f"expected a range that goes up, such as 3-7, not {text[:60]!r}")
        return range(start, end + 1)
    array, dot, index = text.partition(".")
    if not dot:
        return parse_integer(text, 1, MOST)
    return f"{parse_integer(array, 1, MOST)}.{parse_integer(index, 0, MOST)}"


def refs(texts: tuple[str, ...]) -> tuple[Ref, ...]:
    """Return jobs, those of ranges one by one, each only once."""
    refs: list[Ref] = []
    for named in map(_named, texts):
        if isinstance(named, range):
            if len(refs) + len(named) > MOST_SPELLED_OUT:
                raise BadRequest(f"expected at most {MOST_SPELLED_OUT} jobs")
            refs += named
        else:
            refs.append(named)
    return tuple(dict.fromkeys(refs))


def _one_ref(text: str) -> Ref:
    named = _named(text)
    if isinstance(named, range):
        raise BadRequest(f"expected one job, not the range {text}")
    return named


def _percentage(text: str) -> int:
    return parse_integer(text.removesuffix("%"), 0, 100)


def _settle_address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        reading(parse_address)(context, parameter, value)
        context.ensure_object(Session).address = value


def _settle_reconnect(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        seconds = reading(parse_duration)(context, parameter, value)
        context.ensure_object(Session).reconnect = seconds


def _settle_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        session = context.ensure_object(Session)
        session.is_json = True
        session.is_listed = parameter.name == "json"


def _completing(kind: str | None) -> Any:
    """Return what completes words by asking the daemon: ``kind`` is a function of ``cli.completions``.

    Without one it is None, and the shell completes nothing.
    """
    if kind is None:
        return None

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> Any:
        from taskqd.cli import completions  # noqa: PLC0415 - only a shell that completes a word needs it

        return getattr(completions, kind)(context, incomplete)

    return complete


def text(
    name: str, meaning: str, metavar: str, parse: Parser = str, *, completes: str | None = None
) -> Callable[[Function], Function]:
    """Return an option whose value ``parse`` has to take, and which goes on as it was typed.

    ``completes`` says what of the daemon's a shell offers for it: jobs, queues or schedules.
    """
    complete = _completing(completes)
    return click.option(
        name, metavar=metavar, callback=_checked(parse), shell_complete=complete, help=meaning
    )


def parsed(
    name: str,
    meaning: str,
    metavar: str,
    parse: Parser,
    *,
    is_required: bool = False,
    completes: str | None = None,
) -> Callable[[Function], Function]:
    """Return an option of whose value the command gets what ``parse`` returns."""
    return click.option(
        name,
        metavar=metavar,
        callback=reading(parse),
        required=is_required,
        shell_complete=_completing(completes),
        help=meaning,
    )


def duration(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a duration."""
    return text(name, meaning, "DURATION", parse_duration)


def size(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a number of bytes."""
    return text(name, meaning, "SIZE", parse_size)


def number(
    name: str, meaning: str, least: int = 0, most: int = MOST, *, completes: str | None = None
) -> Callable[[Function], Function]:
    """Return an option whose value is a whole number."""
    complete = _completing(completes)
    return click.option(
        name, metavar="N", callback=_whole(least, most), shell_complete=complete, help=meaning
    )


def statuses(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is one status or several."""
    return text(name, meaning, "A,B", _statuses, completes="statuses")


def moment(name: str, meaning: str) -> Callable[[Function], Function]:
    """Return an option whose value is a time; the command gets seconds since the epoch."""
    return click.option(name, metavar="TIME", callback=reading(parse_time), help=meaning)


def one_job(function: Function) -> Function:
    """Give a command the argument ID."""
    return click.argument(
        "job", metavar="ID", callback=reading(_one_ref), shell_complete=_completing("jobs")
    )(function)


def several_jobs(function: Function) -> Function:
    """Give a command the argument ID..., ranges spelled out."""
    return click.argument(
        "jobs",
        metavar="ID...",
        nargs=-1,
        required=True,
        callback=_at_once(refs),
        shell_complete=_completing("jobs"),
    )(function)


def selection(queue: str, label: str) -> Callable[[Function], Function]:
    """Give a command the argument [ID]..., and filters, of which those for a queue and a label have names."""
    return all_of(
        click.option(
            queue,
            "of_queue",
            metavar="NAME",
            shell_complete=_completing("queues"),
            help="Those in this queue.",
        ),
        click.option(label, "of_label", metavar="TEXT", help="Those with this label."),
        click.option("--owner", "of_owner", metavar="NAME", help="Those of this user."),
        click.option(
            "--status",
            "of_status",
            metavar="A,B",
            callback=_checked(_statuses),
            shell_complete=_completing("statuses"),
            help="Those in one of these.  [default: those with which it can be done]",
        ),
        click.option(
            "--yes",
            "-y",
            "is_sure",
            is_flag=True,
            help="Do not ask before it is done to several that were found.",
        ),
        click.argument(
            "jobs",
            metavar="[ID]...",
            nargs=-1,
            callback=reading(_named),
            shell_complete=_completing("jobs"),
        ),
    )


def watched_job(function: Function) -> Function:
    """Give a command the option --job."""
    return parsed("--job", "Only of this job.", "ID", _one_ref, completes="jobs")(function)


def watched_queue(function: Function) -> Function:
    """Give a command the option --queue, whose value is only looked at."""
    return text("--queue", "Only of this queue and its jobs.", "NAME", parse_name, completes="queues")(
        function
    )


def reconnect(function: Function) -> Function:
    """Give a command the option --reconnect, which the session keeps."""
    return click.option(
        "--reconnect",
        metavar="DURATION",
        envvar="TASKQ_RECONNECT",
        show_envvar=True,
        expose_value=False,
        callback=_settle_reconnect,
        help="How long a daemon that has gone may take to come back; 0 waits for none.  [default: 60s]",
    )(function)


def raw(function: Function) -> Function:
    """Give a command the option --raw."""
    return click.option(
        "--raw",
        "is_raw",
        is_flag=True,
        help="Write it to a terminal as it is, with all that a terminal would obey.",
    )(function)


def queue_name(*, is_required: bool) -> Callable[[Function], Function]:
    """Return the argument QUEUE."""
    metavar = "QUEUE" if is_required else "[QUEUE]"
    return click.argument(
        "queue",
        metavar=metavar,
        required=is_required,
        callback=_checked(parse_name),
        shell_complete=_completing("queues"),
    )


def schedule_numbers(function: Function) -> Function:
    """Give a command the argument N..., the numbers of schedules."""
    return click.argument(
        "schedules",
        metavar="N...",
        nargs=-1,
        required=True,
        callback=_whole(1),
        shell_complete=_completing("schedules"),
    )(function)


def percent(function: Function) -> Function:
    """Give a command the argument PERCENT."""
    return click.argument("percent", metavar="PERCENT", callback=reading(_percentage))(function)


def parse_slots(text: str) -> int:
    """Return how many slots something may have."""
    return parse_integer(text, 1, MOST_SLOTS)


def directory(function: Function) -> Function:
    """Give a command the argument DIR, a directory that is there."""
    return click.argument(
        "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=str)
    )(function)


def all_of(*decorators: Decorator) -> Decorator:
    """Return what gives a command all of these, in their order."""
    return lambda function: reduce(lambda result, decorate: decorate(result), reversed(decorators), function)


class Command(click.Command):
    """A command that takes --json, and whose errors end in one line and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += self.more()

    def more(self) -> list[click.Parameter]:
        """Return the options that every command of this kind has."""
        return _json()

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
            help="unix:PATH, tcp:HOST:PORT or tls:HOST:PORT of the daemon.  "
            "[default: the socket of a daemon of yours]",
        ),
        *_json(),
    ]


def _json() -> list[click.Parameter]:
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_settle_json,
            help="Answer in JSON: one document, a list where it is about several things.",
        ),
        click.Option(
            ["--jsonl"],
            is_flag=True,
            expose_value=False,
            callback=_settle_json,
            help="Answer in JSON, a document a line.",
        ),
    ]
