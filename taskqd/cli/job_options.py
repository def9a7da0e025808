"""The options of a job for the commands submit, run, schedule and set.

They have the same names as in the protocol (docs/protocol.md §3).
"""

import os
from datetime import datetime
from typing import Any, cast

import click

from taskqd.cli.local_time import next_time
from taskqd.cli.parameters import (
    MAX_NUMBER,
    MAX_PRIORITY,
    MAX_SLOTS,
    Decorator,
    Parser,
    all_of,
    completion,
    duration,
    number,
    parse_jobs,
    parsed,
    parsed_by,
    size,
    text,
)
from taskqd.cli.typed_values import read_duration, read_size
from taskqd.cli.variables import parse_variable, read_variables
from taskqd.client import Changes, Ref
from taskqd.client.encoder import MAX_LINE_BYTES
from taskqd.errors import BadRequest
from taskqd.model.time_zones import LOCAL, named
from taskqd.protocol.values import parse_integer, parse_name, parse_octal


def _read_secret(name: str) -> tuple[str, bytes]:
    """Return a variable of the environment of taskq. No message repeats text that may be a value."""
    name, equals, _ = name.partition("=")
    if equals:
        raise BadRequest(
            "expected only a NAME, since every user can read command lines: export NAME to taskq, or use "
            "--secret-file NAME=PATH"
        )
    try:
        return name, os.environb[os.fsencode(name)]
    except KeyError:
        raise BadRequest(
            f"{name} is not in the environment of taskq; export it, or use --secret-file {name}=PATH"
        ) from None


def _read_secret_file(text: str) -> tuple[str, bytes]:
    """Return the content of a file without its last line end, limited to the size of a request."""
    name, equals, path = text.partition("=")
    if not equals:
        raise BadRequest(f"expected NAME=PATH, not {text!r}")
    try:
        with open(path, "rb") as file:
            value = file.read(MAX_LINE_BYTES + 1)
    except OSError as why:
        raise BadRequest(f"cannot read {path}: {why.strerror}") from None
    return name, value.removesuffix(b"\n").removesuffix(b"\r")


def _parse_local_time(text: str) -> str:
    name = click.get_current_context().params.get("tz")
    zone = LOCAL if name in (None, "none") else named(str(name))
    return next_time(text, datetime.now(zone).replace(tzinfo=None), zone)


def _parse_job_list(text: str) -> tuple[Ref, ...]:
    return parse_jobs(tuple(text.split(",")))


def _check_names(text: str) -> None:
    for name in text.split(","):
        parse_name(name)


def _check_needs(text: str) -> None:
    for need in text.split(","):
        resource, colon, amount = need.rpartition(":")
        if not colon:
            raise BadRequest(f"expected RESOURCE:N, such as gpu:1, not {need[:60]!r}")
        parse_name(resource)
        parse_integer(amount, 1, MAX_NUMBER)


def _or_none(parse: Parser) -> Parser:
    """Return a parser that also accepts the word ``none``."""
    return lambda text: text if text == "none" else parse(text)


def submission(function: Any) -> Any:
    """Add the options of a submission and the words of the command."""
    return all_of(
        *_SCHEDULING,
        *_START,
        *_DEPENDENCIES,
        *_NAMED_DEPENDENCIES,
        *_TIMEOUTS,
        *_RETRIES,
        *_ENVIRONMENT,
        *_INHERITANCE,
        *_SECRETS,
        *_KEY,
        *_BLOCKS,
        _INTERACTIVE,
        _WORDS,
    )(function)


def recurring(function: Any) -> Any:
    """Add the options for the submissions of a schedule, and the words of the command.

    With --set, which must be eager, the word none is accepted for each of them, but for secrets and files.
    """
    options = (_ZONE, *_SCHEDULING, *_TIMEOUTS, *_RETRIES, *_ENVIRONMENT)
    return all_of(*map(_clearable, options), *_SECRETS, *_BLOCKS, _WORDS)(function)


def _clearable(add: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        function = add(function)
        parameter = function.__click_params__[-1]
        read = parameter.callback

        def check(context: click.Context, option: click.Parameter, value: Any) -> Any:
            if value == "none" and context.params.get("changed") is not None:
                return value
            return value if read is None else read(context, option, value)

        parameter.callback = check
        return function

    return decorate


def changes(function: Any) -> Any:
    """Add the options that can be changed on a pending job; most accept ``none``."""
    return all_of(*_EXECUTION, *_CHANGES)(function)


def parse_changes(given: dict[str, str]) -> Changes:
    """Return the changes of options that are given as text, by their names; raises UsageError."""
    command = all_of(*_CHANGES)(click.command("set")(lambda: None))
    switches = {("merge", "true"): "--merge", ("merge", "false"): "--no-merge"}
    words = [switches.get((name, value), f"--{name}={value}") for name, value in given.items()]
    context = command.make_context("set", words, resilient_parsing=False)
    return cast("Changes", {name: value for name, value in context.params.items() if value is not None})


_WHEN = "Earliest start: 7:00, '9am tomorrow', 'now + 2 hours', '2026-11-24 07:00'."
_ZONE: Decorator = click.option(
    "--tz",
    metavar="ZONE",
    is_eager=True,
    help="Time zone for times, and TZ of the job: Europe/Berlin.",
)
_NEEDS = "Resources to use: gpu:1,licence:2."
_MEMORY = "Maximum address space per process."
_MEMORY_MAX = "End the job if its processes together use more memory."
_CPU_TIME = "Maximum CPU time per process."
_NOFILE = "Maximum number of open files per process."
_MAX_OUTPUT = "Maximum size of output that is kept, per stream."
_RETRY_ON = "Retry only if the job ends like this: exit:75,signal:KILL,timeout."
_NO_RETRY_ON = "Do not retry if the job ends like this: exit:2,spawn."

_SCHEDULING: tuple[Decorator, ...] = (
    text(
        "--queue", "Queue of the job.  [default: default]", "NAME", parse_name, completes="queues", short="-q"
    ),
    number(
        "--priority",
        "Priority; higher ones start first, in all queues.  [default: 0]",
        -MAX_PRIORITY,
        MAX_PRIORITY,
        short="-p",
    ),
    number("--slots", "Number of slots to use.  [default: 1]", 1, MAX_SLOTS, short="-s"),
    text("--need", _NEEDS, "RESOURCE:N,...", _check_needs),
    text("--label", "Any text, to find the job by.", "TEXT", short="-l"),
    text(
        "--unless",
        "Submit nothing while a job of yours with this label is pending or running; it is the job's label "
        "too, unless --label gives another.",
        "LABEL",
    ),
    duration("--expires", "Cancel the job if it has not started by then, counted from the submission."),
    text("--array", "One task per number from A to B (TASKQ_INDEX), at most N in parallel.", "A-B[%N]"),
    click.option(
        "--notify-fail", is_flag=True, help="Run the daemon's on_end command only if the job fails."
    ),
)
_START: tuple[Decorator, ...] = (
    duration("--delay", "Earliest start, counted from now.", short="-d"),
    parsed("--at", _WHEN, "TIME", _parse_local_time),
    click.option(
        "--at-past",
        type=click.Choice(["refuse", "run"]),
        default="refuse",
        help="If the time of --at is past: refuse it, or run the job at once.  [default: refuse]",
    ),
    _ZONE,
    click.option("--hold", is_flag=True, help="Do not start before `taskq release`."),
)
_DEPENDENCIES: tuple[Decorator, ...] = (
    parsed(
        "--after",
        "Start after these have completed; fail if one does not.",
        "ID,...",
        _parse_job_list,
        completes="jobs",
        short="-a",
    ),
    parsed(
        "--after-any",
        "Start after these have ended, with any status.",
        "ID,...",
        _parse_job_list,
        completes="jobs",
    ),
    parsed(
        "--after-fail",
        "Start after these have failed; fail if one does not.",
        "ID,...",
        _parse_job_list,
        completes="jobs",
    ),
)
_NAMED_DEPENDENCIES: tuple[Decorator, ...] = tuple(
    text(f"--{kind}-{by}", f"Like --{kind}: {meaning}", metavar, parse, completes=completes)
    for kind in ("after", "after-any", "after-fail")
    for by, meaning, metavar, parse, completes in (
        ("label", "your jobs with this label, also those that have ended.", "TEXT", str, "labels"),
        ("key", "your jobs that were submitted with these keys.", "NAME,...", _check_names, "keys"),
    )
)
_TIMEOUTS: tuple[Decorator, ...] = (
    duration("--timeout", "Time limit of an attempt: SIGTERM, later SIGKILL.  [default: none]", short="-t"),
    duration("--idle-timeout", "Time limit without output.  [default: none]"),
    duration("--kill-after", "Time from SIGTERM to SIGKILL.  [default: 5s]"),
)
_RETRIES: tuple[Decorator, ...] = (
    number("--retries", "Maximum number of retries.  [default: 0]", short="-r"),
    duration("--retry-delay", "Delay before the first retry; doubles each time.  [default: 1s]"),
    duration("--retry-delay-max", "Maximum delay before a retry.  [default: 1h]"),
    text("--retry-on", _RETRY_ON, "HOW,..."),
    text("--no-retry-on", _NO_RETRY_ON, "HOW,..."),
)
_LIMITS: tuple[Decorator, ...] = (
    number("--nice", "Niceness, -20 to 19.  [default: the daemon's]", -20, 19),
    size("--memory", _MEMORY),
    size("--memory-max", _MEMORY_MAX),
    duration("--cpu-time", _CPU_TIME),
    number("--nofile", _NOFILE),
    size("--max-output", _MAX_OUTPUT + "  [default: 256M]"),
)
_MERGE: Decorator = click.option(
    "--merge/--no-merge",
    default=None,
    help="One stream for stdout and stderr, in the order of the writes; it is the job's stdout.  "
    "[default: no]",
)
_OUTPUT: tuple[Decorator, ...] = (
    _MERGE,
    text(
        "--stdout",
        "File for stdout, of which taskqd then keeps nothing. %j is the job's id, %a the attempt, %% a %.",
        "FILE",
        completes="files",
    ),
    text("--stderr", "File for stderr, likewise.", "FILE", completes="files"),
)
_ENVIRONMENT: tuple[Decorator, ...] = (
    text(
        "--cwd",
        "Working directory.  [default: yours; over TCP, the daemon's]",
        "DIR",
        short="-C",
        completes="directories",
    ),
    click.option(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        multiple=True,
        shell_complete=completion("variables"),
        callback=parsed_by(parse_variable),
        help="Environment variable; NAME alone copies yours. The default environment is minimal, with your "
        "PATH. Repeatable.",
    ),
    click.option(
        "--env-file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        multiple=True,
        callback=parsed_by(read_variables),
        help="Variables from lines NAME=VALUE or NAME; --env takes precedence. Repeatable.",
    ),
    click.option(
        "--umask",
        metavar="OCTAL",
        callback=parsed_by(parse_octal),
        help="File mode creation mask.  [default: yours; over TCP, 022]",
    ),
    *_LIMITS,
    *_OUTPUT,
)
_INHERITANCE: tuple[Decorator, ...] = (
    click.option(
        "--inherit-env/--no-inherit-env",
        default=None,
        help="Pass on your environment, but for TASKQ_* and *TOKEN* *SECRET* *PASSWORD* *_KEY; only to a "
        "daemon on this machine.  [default: no]",
    ),
)
_SECRETS: tuple[Decorator, ...] = (
    click.option(
        "--secret",
        metavar="NAME",
        multiple=True,
        shell_complete=completion("variables"),
        callback=parsed_by(_read_secret),
        help="Variable of your environment to pass on; only the job sees its value. Repeatable.",
    ),
    click.option(
        "--secret-file",
        metavar="NAME=PATH",
        multiple=True,
        callback=parsed_by(_read_secret_file),
        help="Secret variable from a file, without its last line end. Repeatable.",
    ),
)
_KEY: tuple[Decorator, ...] = (
    text(
        "--key", "Idempotency key: a repeated submission returns the id of the first job.", "NAME", parse_name
    ),
)
_INTERACTIVE: Decorator = click.option(
    "--interactive", is_flag=True, help="Keep stdin open: `taskq send` writes to it while the job runs."
)
_BLOCKS: tuple[Decorator, ...] = (
    click.option(
        "--stdin",
        metavar="FILE",
        type=click.File("rb"),
        help="Input of the job, - for stdin.  [default: empty]",
    ),
    click.option(
        "--script",
        metavar="FILE",
        type=click.File("rb"),
        help="Script instead of a COMMAND, - for stdin; words after the options are its arguments.",
    ),
)
_WORDS: Decorator = click.argument(
    "words",
    metavar="[COMMAND]...",
    nargs=-1,
    type=click.UNPROCESSED,
    shell_complete=completion("words"),
)


def _integer_or_none(minimum: int, maximum: int = MAX_NUMBER) -> Parser:
    return _or_none(lambda text: parse_integer(text, minimum, maximum))


_CHANGES: tuple[Decorator, ...] = (
    text("--queue", "Queue of the job.", "NAME", parse_name, completes="queues", short="-q"),
    number("--priority", "Priority; higher ones start first.", -MAX_PRIORITY, MAX_PRIORITY, short="-p"),
    number("--slots", "Number of slots to use.", 1, MAX_SLOTS, short="-s"),
    text("--need", _NEEDS, "RESOURCE:N,...", _or_none(_check_needs)),
    text("--label", "Any text, to find the job by; '' for none.", "TEXT", short="-l"),
    parsed("--delay", "Earliest start, counted from now.", "DURATION", _or_none(read_duration), short="-d"),
    parsed("--at", _WHEN, "TIME", _or_none(_parse_local_time)),
    _ZONE,
    parsed("--timeout", "Time limit of an attempt.", "DURATION", _or_none(read_duration), short="-t"),
    parsed(
        "--idle-timeout",
        "Time limit without output.",
        "DURATION",
        _or_none(read_duration),
    ),
    duration("--kill-after", "Time from SIGTERM to SIGKILL."),
    number("--retries", "Maximum number of retries.", short="-r"),
    duration("--retry-delay", "Delay before the first retry."),
    duration("--retry-delay-max", "Maximum delay before a retry."),
    text("--retry-on", _RETRY_ON, "HOW,..."),
    text("--no-retry-on", _NO_RETRY_ON, "HOW,..."),
    text("--nice", "Niceness, -20 to 19.", "N", _integer_or_none(-20, 19)),
    parsed("--memory", _MEMORY, "SIZE", _or_none(read_size)),
    parsed("--memory-max", _MEMORY_MAX, "SIZE", _or_none(read_size)),
    parsed("--cpu-time", _CPU_TIME, "DURATION", _or_none(read_duration)),
    text("--nofile", _NOFILE, "N", _integer_or_none(0)),
    size("--max-output", _MAX_OUTPUT),
    _MERGE,
)
_EXECUTION: tuple[Decorator, ...] = (
    text(
        "--command",
        "New shell command, in place of the command or script; with --script, the arguments of that.",
        "TEXT",
    ),
    click.option(
        "--script",
        metavar="FILE",
        type=click.File("rb"),
        help="New script, in place of the command or script; - for stdin.",
    ),
)


def _names(*groups: tuple[Decorator, ...]) -> frozenset[str]:
    """Return the parameter names of the options in groups."""
    command = all_of(*(option for group in groups for option in group))(lambda: None)
    return frozenset(parameter.name for parameter in command.__click_params__)


def sections() -> dict[str, str]:
    """Return the section of the help for each option, by its parameter name."""
    groups = {
        "Order": (_SCHEDULING,),
        "Time and dependencies": (_START, _DEPENDENCIES, _NAMED_DEPENDENCIES),
        "Timeouts and retries": (_TIMEOUTS, _RETRIES),
        "Environment and limits": (_ENVIRONMENT, _INHERITANCE, _SECRETS, _BLOCKS, (_INTERACTIVE,)),
    }
    return {name: title for title, options in groups.items() for name in _names(*options)}


CHANGEABLE = tuple(Changes.__annotations__)
"""The names of the options that ``changes`` adds."""
