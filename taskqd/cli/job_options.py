"""What may be asked of a job on a ``taskq`` command line: the options of submit, run, schedule and set.

Each has the name that it has on the wire (docs/protocol.md §3).
"""

import os
from datetime import datetime
from typing import Any

import click

from taskqd.cli.local_time import next_time
from taskqd.cli.parameters import (
    HIGHEST_PRIORITY,
    MOST,
    MOST_SLOTS,
    Decorator,
    Parser,
    all_of,
    duration,
    number,
    parsed,
    reading,
    refs,
    size,
    text,
)
from taskqd.client import Changes, Ref
from taskqd.client.encoder import MAX_LINE_BYTES
from taskqd.errors import BadRequest
from taskqd.model.time_zones import LOCAL, named
from taskqd.protocol.values import parse_duration, parse_integer, parse_name, parse_octal, parse_size


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadRequest(f"expected NAME=VALUE, not {text!r}")
    return name, value


def _secret(name: str) -> tuple[str, bytes]:
    """Return a variable of our own environment; what may be a value is not repeated in any message."""
    name, equals, _ = name.partition("=")
    if equals:
        raise BadRequest(
            "expected a NAME alone: a value on a command line is in the process list for everybody to read. "
            "The value is that of NAME in the environment of taskq, or give --secret-file NAME=PATH"
        )
    try:
        return name, os.environb[os.fsencode(name)]
    except KeyError:
        raise BadRequest(
            f"there is no {name} in the environment of taskq; export it, or give --secret-file {name}=PATH"
        ) from None


def _secret_file(text: str) -> tuple[str, bytes]:
    """Return what a file has, without the end of its last line; no more than a request can hold anyway."""
    name, equals, path = text.partition("=")
    if not equals:
        raise BadRequest(f"expected NAME=PATH, not {text!r}")
    try:
        with open(path, "rb") as file:
            value = file.read(MAX_LINE_BYTES + 1)
    except OSError as why:
        raise BadRequest(f"{path} cannot be read: {why.strerror}") from None
    return name, value.removesuffix(b"\n").removesuffix(b"\r")


def _local_time(text: str) -> str:
    name = click.get_current_context().params.get("tz")
    zone = LOCAL if name in (None, "none") else named(str(name))
    return next_time(text, datetime.now(zone).replace(tzinfo=None), zone)


def _refs_of(text: str) -> tuple[Ref, ...]:
    return refs(tuple(text.split(",")))


def _needs(text: str) -> None:
    for need in text.split(","):
        resource, colon, amount = need.rpartition(":")
        if not colon:
            raise BadRequest(f"expected RESOURCE:N, such as gpu:1, not {need[:60]!r}")
        parse_name(resource)
        parse_integer(amount, 1, MOST)


def _or_none(parse: Parser) -> Parser:
    """Return a parser that takes the word ``none`` too."""
    return lambda text: text if text == "none" else parse(text)


def submission(function: Any) -> Any:
    """Give a command the options of a submission, and the words of what is submitted."""
    return all_of(
        *_PLACE,
        *_TIMES,
        *_ORDER,
        *_ENDS,
        *_RETRIES,
        *_SURROUNDINGS,
        *_SECRETS,
        *_ONCE,
        *_BLOCKS,
        _WORDS,
    )(function)


def recurring(function: Any) -> Any:
    """Give a command the options of each submission of a schedule, and the words of what is submitted."""
    return all_of(_ZONE, *_PLACE, *_ENDS, *_RETRIES, *_SURROUNDINGS, _WORDS)(function)


def changes(function: Any) -> Any:
    """Give a command the options that may be changed of a pending job; most take ``none``."""
    return all_of(*_CHANGES)(function)


_WHEN = "Start it then at the earliest: 7:00, '2026-11-24 07:00', or with its offset from UTC."
_ZONE: Decorator = click.option(
    "--tz",
    metavar="ZONE",
    is_eager=True,
    help="The time zone of its times, and the job's TZ: Europe/Berlin.",
)
_NEEDS = "What it needs of the daemon's resources: gpu:1,licence:2."
_MEMORY = "How much address space each of its processes may have."
_CPU_TIME = "How much CPU time each of its processes may take."
_NOFILE = "How many files each of its processes may have open."
_RETRY_ON = "Run it again only if it ends so: exit:75,signal:KILL,timeout."
_NO_RETRY_ON = "Do not run it again if it ends so: exit:2,spawn."

_PLACE: tuple[Decorator, ...] = (
    text("--queue", "The queue that it is in.  [default: default]", "NAME", parse_name, completes="queues"),
    number(
        "--priority",
        "Higher ones start first, in all queues.  [default: 0]",
        -HIGHEST_PRIORITY,
        HIGHEST_PRIORITY,
    ),
    number("--slots", "How many slots it takes.  [default: 1]", 1, MOST_SLOTS),
    text("--need", _NEEDS, "RESOURCE:N,...", _needs),
    text("--label", "Any text, to find the job by.", "TEXT"),
    text("--array", "A job for each number from A to B, as TASKQ_INDEX; at most N at once.", "A-B[%N]"),
    click.option(
        "--notify-fail", is_flag=True, help="Have the daemon's on_end command run only if it fails."
    ),
)
_TIMES: tuple[Decorator, ...] = (
    duration("--delay", "Start it after so long at the earliest."),
    parsed("--at", _WHEN, "TIME", _local_time),
    _ZONE,
    click.option("--hold", is_flag=True, help="Start it only after a `taskq release`."),
)
_ORDER: tuple[Decorator, ...] = (
    parsed(
        "--after",
        "Start it when these have completed; if one does not, it fails.",
        "ID,...",
        _refs_of,
        completes="jobs",
    ),
    parsed("--after-any", "Start it when these have ended, however.", "ID,...", _refs_of, completes="jobs"),
    parsed(
        "--after-fail",
        "Start it when these have failed; if one does not, it fails.",
        "ID,...",
        _refs_of,
        completes="jobs",
    ),
)
_ENDS: tuple[Decorator, ...] = (
    duration("--timeout", "End the job when it has run so long: SIGTERM, later SIGKILL.  [default: never]"),
    duration("--idle-timeout", "End it when it has printed nothing for so long.  [default: never]"),
    duration("--kill-after", "How long after SIGTERM to send SIGKILL.  [default: 5s]"),
)
_RETRIES: tuple[Decorator, ...] = (
    number("--retries", "How often to run it again if it fails.  [default: 0]"),
    duration("--retry-delay", "How long to wait before the first retry; doubled each time.  [default: 1s]"),
    duration("--retry-delay-max", "How long to wait at most.  [default: 1h]"),
    text("--retry-on", _RETRY_ON, "HOW,..."),
    text("--no-retry-on", _NO_RETRY_ON, "HOW,..."),
)
_LIMITS: tuple[Decorator, ...] = (
    number("--nice", "Its niceness, -20 to 19.  [default: the daemon's]", -20, 19),
    size("--memory", _MEMORY),
    duration("--cpu-time", _CPU_TIME),
    number("--nofile", _NOFILE),
    size("--max-output", "How much of its stdout, and of its stderr, to keep.  [default: 256M]"),
)
_SURROUNDINGS: tuple[Decorator, ...] = (
    text("--cwd", "Where to run it.  [default: here; over TCP, the daemon's directory]", "DIR"),
    click.option(
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=reading(_variable),
        help="Add to its environment, which is a small clean one with your PATH; repeatable.",
    ),
    click.option(
        "--umask",
        metavar="OCTAL",
        callback=reading(parse_octal),
        help="Of the files that it makes.  [default: yours; over TCP, 022]",
    ),
    *_LIMITS,
)
_SECRETS: tuple[Decorator, ...] = (
    click.option(
        "--secret",
        metavar="NAME",
        multiple=True,
        callback=reading(_secret),
        help="Hand on this variable of yours, so that the job alone gets its value; repeatable.",
    ),
    click.option(
        "--secret-file",
        metavar="NAME=PATH",
        multiple=True,
        callback=reading(_secret_file),
        help="The same with what the file has, without its last line end; repeatable.",
    ),
)
_ONCE: tuple[Decorator, ...] = (
    text("--key", "Make this safe to repeat: the same again answers with the same id.", "NAME", parse_name),
)
_BLOCKS: tuple[Decorator, ...] = (
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
)
_WORDS: Decorator = click.argument("words", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)


def _whole_or_none(least: int, most: int = MOST) -> Parser:
    return _or_none(lambda text: parse_integer(text, least, most))


_CHANGES: tuple[Decorator, ...] = (
    text("--queue", "The queue that it is in.", "NAME", parse_name, completes="queues"),
    number("--priority", "Higher ones start first.", -HIGHEST_PRIORITY, HIGHEST_PRIORITY),
    number("--slots", "How many slots it takes.", 1, MOST_SLOTS),
    text("--need", _NEEDS, "RESOURCE:N,...", _or_none(_needs)),
    text("--label", "Any text, to find the job by; '' for none.", "TEXT"),
    text("--delay", "Start it after so long from now.", "DURATION", _or_none(parse_duration)),
    parsed("--at", _WHEN, "TIME", _or_none(_local_time)),
    _ZONE,
    text("--timeout", "End it when it has run so long.", "DURATION", _or_none(parse_duration)),
    text(
        "--idle-timeout",
        "End it when it has printed nothing for so long.",
        "DURATION",
        _or_none(parse_duration),
    ),
    duration("--kill-after", "How long after SIGTERM to send SIGKILL."),
    number("--retries", "How often to run it again if it fails."),
    duration("--retry-delay", "How long to wait before the first retry."),
    duration("--retry-delay-max", "How long to wait at most."),
    text("--retry-on", _RETRY_ON, "HOW,..."),
    text("--no-retry-on", _NO_RETRY_ON, "HOW,..."),
    text("--nice", "Its niceness, -20 to 19.", "N", _whole_or_none(-20, 19)),
    text("--memory", _MEMORY, "SIZE", _or_none(parse_size)),
    text("--cpu-time", _CPU_TIME, "DURATION", _or_none(parse_duration)),
    text("--nofile", _NOFILE, "N", _whole_or_none(0)),
    size("--max-output", "How much of its stdout, and of its stderr, to keep."),
)


CHANGEABLE = tuple(Changes.__annotations__)
"""The names of the options that ``changes`` gives."""
