"""Options and arguments that several commands of ``taskq`` share, with their validation.

Options have the same names as in the protocol (docs/protocol.md §3). Invalid values are usage errors before
anything is sent; valid ones are sent as typed.
"""

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, TypeVar, cast

import click

from taskqd.cli import statuses as job_statuses
from taskqd.cli.context import Session
from taskqd.cli.typed_values import read_duration, read_size
from taskqd.client import Ref
from taskqd.errors import BadRequest
from taskqd.protocol.values import capitals, parse_duration, parse_integer, parse_name, parse_time

Function = TypeVar("Function", bound=Callable[..., Any])
Parser = Callable[[str], Any]
Decorator = Callable[[Any], Any]
Callback = Callable[[click.Context, click.Parameter, Any], Any]

OPTIONS_FIRST = {"allow_interspersed_args": False}
"""click settings: options end at the first word of the command, so that -la in `ls -la` belongs to it."""
FILTERS = ("of_queue", "of_label", "is_all")
"""The parameters that select jobs without ids."""
MAX_JOBS = 100_000
"""Maximum number of jobs that ranges on a command line may name: each needs a request."""
MAX_SLOTS = 10_000
MAX_PRIORITY = 1_000_000
MAX_NUMBER = 10**18 - 1
"""Limits of the protocol (docs/protocol.md §2, §3)."""


def _validated(parse: Parser) -> Callback:
    """Return a callback that validates a value with ``parse`` and returns it as typed."""
    read = parsed_by(parse)

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        read(context, parameter, value)
        return value

    return check


def parsed_by(parse: Parser) -> Callback:
    """Return a callback that returns the parsed value, or a tuple of them for an option with several."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except (BadRequest, ValueError) as why:
            raise click.BadParameter(str(why), context, parameter) from None

    return read


def _parsed_together_by(parse: Callable[[Any], Any]) -> Callback:
    """Return a callback that passes all words of an argument to ``parse`` and returns its result."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return parse(value)
        except BadRequest as why:
            raise click.BadParameter(str(why), context, parameter) from None

    return read


def _integer(minimum: int, maximum: int = MAX_NUMBER) -> Callback:
    return parsed_by(lambda text: parse_integer(text, minimum, maximum))


def _check_statuses(text: str) -> None:
    if not set(capitals(text).split(",")) <= set(job_statuses.ALL):
        raise BadRequest(f"expected statuses from {','.join(job_statuses.ALL)}, not {text!r}")


def _parse_job_or_range(text: str) -> Ref | range:
    """Parse a job, a task of an array, or a range of jobs such as ``3-7``."""
    first, dash, last = text.partition("-")
    if dash:
        start, end = (parse_integer(each, 1, MAX_NUMBER) for each in (first, last))
        if end < start:
            raise BadRequest(f"expected an ascending range such as 3-7, not {text[:60]!r}")
        return range(start, end + 1)
    array, dot, index = text.partition(".")
    if not dot:
        return parse_integer(text, 1, MAX_NUMBER)
    return f"{parse_integer(array, 1, MAX_NUMBER)}.{parse_integer(index, 0, MAX_NUMBER)}"


def parse_jobs(texts: tuple[str, ...]) -> tuple[Ref, ...]:
    """Parse jobs; ranges are expanded, and duplicates are removed."""
    jobs: list[Ref] = []
    for named in map(_parse_job_or_range, texts):
        if isinstance(named, range):
            if len(jobs) + len(named) > MAX_JOBS:
                raise BadRequest(f"expected at most {MAX_JOBS} jobs")
            jobs += named
        else:
            jobs.append(named)
    return tuple(dict.fromkeys(jobs))


def _parse_job(text: str) -> Ref:
    named = _parse_job_or_range(text)
    if isinstance(named, range):
        raise BadRequest(f"expected one job, not the range {text}")
    return named


def _parse_percentage(text: str) -> int:
    return parse_integer(text.removesuffix("%"), 0, 100)


def _set_reconnect_timeout(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        duration = parsed_by(read_duration)(context, parameter, value)
        context.ensure_object(Session).reconnect_timeout = parse_duration(duration)


def completion(kind: str | None) -> Any:
    """Return a callback for shell completion that calls the function ``kind`` of ``cli.completions``.

    Without a ``kind``, return None: the shell completes nothing.
    """
    if kind is None:
        return None

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> Any:
        from taskqd.cli import completions  # noqa: PLC0415 - only needed by shell completion

        return getattr(completions, kind)(context, incomplete)

    return complete


def _forms(name: str, short: str | None) -> tuple[str, ...]:
    return (name,) if short is None else (short, name)


def text(
    name: str,
    help_text: str,
    metavar: str,
    parse: Parser = str,
    *,
    short: str | None = None,
    completes: str | None = None,
) -> Callable[[Function], Function]:
    """Return an option whose value is validated with ``parse`` and passed on as typed.

    ``short`` is its short form. ``completes`` names the function of ``cli.completions`` that completes it:
    jobs, queues or schedules.
    """
    complete = completion(completes)
    return click.option(
        *_forms(name, short),
        metavar=metavar,
        callback=_validated(parse),
        shell_complete=complete,
        help=help_text,
    )


def parsed(
    name: str,
    help_text: str,
    metavar: str,
    parse: Parser,
    *,
    is_required: bool = False,
    short: str | None = None,
    completes: str | None = None,
) -> Callable[[Function], Function]:
    """Return an option whose value is the result of ``parse``."""
    return click.option(
        *_forms(name, short),
        metavar=metavar,
        callback=parsed_by(parse),
        required=is_required,
        shell_complete=completion(completes),
        help=help_text,
    )


def duration(name: str, help_text: str, short: str | None = None) -> Callable[[Function], Function]:
    """Return an option whose value is a duration."""
    return parsed(name, help_text, "DURATION", read_duration, short=short)


def size(name: str, help_text: str) -> Callable[[Function], Function]:
    """Return an option whose value is a number of bytes."""
    return parsed(name, help_text, "SIZE", read_size)


def number(
    name: str,
    help_text: str,
    minimum: int = 0,
    maximum: int = MAX_NUMBER,
    *,
    short: str | None = None,
    completes: str | None = None,
) -> Callable[[Function], Function]:
    """Return an option whose value is a whole number."""
    return click.option(
        *_forms(name, short),
        metavar="N",
        callback=_integer(minimum, maximum),
        shell_complete=completion(completes),
        help=help_text,
    )


def statuses(name: str, help_text: str) -> Callable[[Function], Function]:
    """Return an option whose value is a list of statuses."""
    return text(name, help_text, "A,B", _check_statuses, completes="job_statuses")


def moment(name: str, help_text: str) -> Callable[[Function], Function]:
    """Return an option whose value is a time; it is passed on as seconds since the epoch."""
    return click.option(name, metavar="TIME", callback=parsed_by(parse_time), help=help_text)


def job_argument(function: Function) -> Function:
    """Add the argument [ID] to a command; without it, the command is about the user's latest job."""
    return click.argument(
        "job",
        metavar="[ID]",
        required=False,
        callback=parsed_by(_parse_job),
        shell_complete=completion("jobs"),
    )(_with_latest("job", lambda latest: latest, function))


def one_job(function: Function) -> Function:
    """Add the argument for one job, which must be given."""
    return click.argument(
        "job", metavar="ID", callback=parsed_by(_parse_job), shell_complete=completion("jobs")
    )(function)


def job_arguments(function: Function) -> Function:
    """Add the argument [ID]... to a command; ranges are expanded, and without one it is the latest job."""
    return click.argument(
        "jobs",
        metavar="[ID]...",
        nargs=-1,
        callback=_parsed_together_by(parse_jobs),
        shell_complete=completion("jobs"),
    )(_with_latest("jobs", lambda latest: (latest,), function))


def _with_latest(name: str, convert: Callable[[Ref], Any], function: Function) -> Function:
    """Return the function of a command that gets the user's latest job if no job is given."""

    @wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        if not values[name] and not any(values.get(given) for given in FILTERS):
            values[name] = convert(click.get_current_context().ensure_object(Session).find_latest_job())
        return function(*args, **values)

    return cast("Function", call)


def job_selection(queue: str, label: str) -> Callable[[Function], Function]:
    """Return the argument [ID]... and the filters; ``queue`` and ``label`` are names of options."""
    return all_of(
        click.option(
            *_forms(queue, "-q" if queue == "--queue" else None),
            "of_queue",
            metavar="NAME",
            shell_complete=completion("queues"),
            help="Jobs of this queue.",
        ),
        click.option(
            *_forms(label, "-l" if label == "--label" else None),
            "of_label",
            metavar="TEXT",
            help="Jobs with this label.",
        ),
        click.option("--owner", "of_owner", metavar="NAME", help="Jobs of this user."),
        click.option(
            "--match",
            "of_match",
            metavar="TEXT",
            help="Jobs whose command or label has this text, in any case.",
        ),
        click.option(
            "--status",
            "of_status",
            metavar="A,B",
            callback=_validated(_check_statuses),
            shell_complete=completion("job_statuses"),
            help="Jobs with one of these statuses.  [default: all to which the command applies]",
        ),
        click.option(
            "--yes",
            "-y",
            "is_sure",
            is_flag=True,
            help="Do not ask for confirmation before acting on several jobs.",
        ),
        click.argument(
            "jobs",
            metavar="[ID]...",
            nargs=-1,
            callback=parsed_by(_parse_job_or_range),
            shell_complete=completion("jobs"),
        ),
    )


def watched_job(function: Function) -> Function:
    """Add the option --job to a command."""
    return parsed("--job", "Only this job.", "ID", _parse_job, completes="jobs")(function)


def watched_queue(function: Function) -> Function:
    """Add the option --queue to a command that filters events."""
    return text("--queue", "Only this queue and its jobs.", "NAME", parse_name, completes="queues")(function)


def reconnect(function: Function) -> Function:
    """Add the option --reconnect to a command; it is stored in the session."""
    return click.option(
        "--reconnect",
        metavar="DURATION",
        envvar="TASKQ_RECONNECT",
        show_envvar=True,
        expose_value=False,
        callback=_set_reconnect_timeout,
        help="How long to wait for a daemon that is being restarted; 0: not at all.  [default: 60s]",
    )(function)


def raw(function: Function) -> Function:
    """Add the option --raw to a command."""
    return click.option(
        "--raw",
        "is_raw",
        is_flag=True,
        help="Write to a terminal unchanged, with all control sequences.",
    )(function)


def queue_name(*, is_required: bool) -> Callable[[Function], Function]:
    """Return the argument QUEUE."""
    metavar = "QUEUE" if is_required else "[QUEUE]"
    return click.argument(
        "queue",
        metavar=metavar,
        required=is_required,
        callback=_validated(parse_name),
        shell_complete=completion("queues"),
    )


def schedule_numbers(function: Function) -> Function:
    """Add the argument N..., numbers of schedules, to a command."""
    return click.argument(
        "schedules",
        metavar="N...",
        nargs=-1,
        required=True,
        callback=_integer(1),
        shell_complete=completion("schedules"),
    )(function)


def schedule_number(function: Function) -> Function:
    """Add the optional argument N, the number of a schedule, to a command."""
    return click.argument(
        "number",
        metavar="[N]",
        required=False,
        type=click.IntRange(1),
        shell_complete=completion("schedules"),
    )(function)


def percent(function: Function) -> Function:
    """Add the argument PERCENT to a command."""
    return click.argument("percent", metavar="PERCENT", callback=parsed_by(_parse_percentage))(function)


def parse_slots(text: str) -> int:
    """Parse a number of slots."""
    return parse_integer(text, 1, MAX_SLOTS)


def directory(function: Function) -> Function:
    """Add the argument DIR, an existing directory, to a command."""
    return click.argument(
        "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=str)
    )(function)


def all_of(*decorators: Decorator) -> Decorator:
    """Combine decorators into one that applies them in order."""
    return lambda function: reduce(lambda result, decorate: decorate(result), reversed(decorators), function)
