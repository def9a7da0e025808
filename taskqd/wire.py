"""Request lines -> values: the table of all verbs, each with the reader of its words (docs/protocol.md §3).

``read_line`` is the door: it never fails, since a refused line must still say how many bytes follow it.
No connection is in sight here, and no job. SUBMIT's options are in submission.py, what the server answers in
replies.py.
"""

import re
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from taskqd.errors import BadRequest, NoSuchJob, TaskqError, UnknownCommand
from taskqd.job import Status
from taskqd.options import Option, Table, flag, read, scan
from taskqd.submission import block_sizes, read_submission
from taskqd.words import capitals, parse_duration, parse_integer, parse_name, parse_size

LONGEST_LINE = 65_536
"""A request line is at most so long, in bytes, its line end not counted."""
DEFAULT_OUTPUT = 1024**2
"""One OUTPUT reply carries so many bytes unless told otherwise."""
LARGEST_OUTPUT = 16 * 1024**2
"""One OUTPUT reply carries at most so many bytes."""
LARGEST_PAGE = 100_000
"""One LIST answers at most so many jobs."""

_LARGEST_NUMBER = 10**18 - 1
_LINE = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")


class Listing(Struct, frozen=True, kw_only=True):
    """What LIST asks for; a filter that is None lets everything through."""

    statuses: frozenset[Status] | None = None
    owner: str | None = None
    label: str | None = None
    key: str | None = None
    first: int | None = None
    limit: int = 100
    is_reverse: bool = False


class Slice(Struct, frozen=True, kw_only=True):
    """The part of a job's output that OUTPUT asks for, in bytes; ``tail`` counts from the end."""

    id: int
    stream: str
    offset: int = 0
    limit: int = DEFAULT_OUTPUT
    tail: int | None = None


class Wait(Struct, frozen=True, kw_only=True):
    """WAIT for a job to end, for ``timeout`` seconds or for ever."""

    id: int
    timeout: float | None = None


class Cancellation(Struct, frozen=True, kw_only=True):
    """CANCEL a job by a signal."""

    id: int
    signal: int = signal.SIGTERM


class Verb(NamedTuple):
    """A verb: how it is written, what it does in one line, and the reader of what follows it."""

    usage: str
    summary: str
    read: Callable[[str], Any]


class Request(NamedTuple):
    """A request line as read: the verb and its argument, or the error; and the sizes of the blocks after it.

    ``blocks`` has the sizes in bytes, script before stdin. Where the line is refused its blocks still follow,
    to be thrown away; where it ``is_lost``, nobody can tell what follows, and the connection has to end.
    """

    verb: str
    argument: Any
    error: TaskqError | None = None
    blocks: tuple[int, ...] = ()
    is_lost: bool = False


def is_http(line: bytes) -> bool:
    """Whether a connection's first line is a web browser's rather than a client's."""
    return _HTTP.match(line) is not None


def read_line(line: bytes) -> Request:
    """Read one request line, which came without its line end."""
    text = line.decode("utf-8", "surrogateescape")
    form = _LINE.fullmatch(text)
    word, rest = form.groups() if form else ("", "")
    verb = capitals(word)
    blocks: tuple[int, ...] = ()
    try:
        if verb == "SUBMIT":
            blocks = block_sizes(rest)
    except TaskqError as why:
        return Request(verb, None, why, is_lost=True)
    try:
        _check_text(line)
        if verb not in VERBS:
            raise UnknownCommand(f"{word[:40]!r} is no command of this server; HELP lists them")
        return Request(verb, VERBS[verb].read(rest), None, blocks)
    except TaskqError as why:
        return Request(verb, None, why, blocks)


def _check_text(line: bytes) -> None:
    if b"\0" in line:
        raise BadRequest("a request is text without NUL bytes; send binary data with --stdin")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("a request is UTF-8 text; send other bytes with --stdin") from None


def parse_id(text: str) -> int:
    """Return a job number. Raises BadRequest, or NoSuchJob for a number that no job can have reached."""
    digits = text.lstrip("0")
    if not text.isascii() or not digits.isdigit():
        raise BadRequest(f"expected a job's id, a whole number from 1, not {text[:40]!r}")
    if len(digits) > 18:
        raise NoSuchJob(f"there is no job {digits[:40]}")
    return int(digits)


def parse_signal(text: str) -> int:
    """Return the number of a signal by its name, with or without SIG before it."""
    name = capitals(text).removeprefix("SIG")
    number = getattr(signal.Signals, "SIG" + name, None)
    if not isinstance(number, signal.Signals):
        raise BadRequest(f"expected the name of a signal such as TERM, INT or KILL, not {text[:40]!r}")
    return int(number)


def _parse_statuses(text: str) -> frozenset[Status]:
    names = capitals(text).split(",")
    if not set(names) <= set(Status.__members__):
        raise BadRequest(f"expected some of {','.join(Status.__members__)}, not {text[:60]!r}")
    return frozenset(map(Status, names))


def _parse_first(text: str) -> int:
    return parse_integer(text, 1, _LARGEST_NUMBER)


def _parse_offset(text: str) -> int:
    return parse_integer(text, 0, _LARGEST_NUMBER)


_LIST_OPTIONS: Table = {
    "status": ("statuses", _parse_statuses),
    "owner": ("owner", str),
    "label": ("label", str),
    "key": ("key", parse_name),
    "from": ("first", _parse_first),
    "limit": ("limit", lambda text: parse_integer(text, 0, LARGEST_PAGE)),
    "reverse": ("is_reverse", flag),
}
_OUTPUT_OPTIONS: Table = {
    "offset": ("offset", _parse_offset),
    "limit": ("limit", parse_size),
    "tail": ("tail", parse_size),
}


def _arguments(verb: str, text: str, least: int, most: int) -> tuple[list[str], list[Option]]:
    """Cut ``text`` into words and options, in whatever order they stand."""
    found: list[str] = []
    options: list[Option] = []
    while text:
        more, text = scan(text)
        options += more
        if text:
            form = _LINE.fullmatch(text)
            word, text = form.groups() if form else (text, "")
            found.append(word)
    if not least <= len(found) <= most:
        raise BadRequest(f"expected {VERBS[verb].usage}")
    return found, options


def _alone(verb: str) -> Callable[[str], None]:
    def read_nothing(text: str) -> None:
        read(verb, _arguments(verb, text, 0, 0)[1], {})

    return read_nothing


def _job(verb: str) -> Callable[[str], int]:
    def read_job(text: str) -> int:
        if text.isascii() and text.isdigit():
            return parse_id(text)
        (job_id,), options = _arguments(verb, text, 1, 1)
        read(verb, options, {})
        return parse_id(job_id)

    return read_job


def _listing(text: str) -> Listing:
    options = _arguments("LIST", text, 0, 0)[1]
    for name, _ in options:
        if name == "queue":
            raise BadRequest("--queue is not supported yet")
    return Listing(**read("LIST", options, _LIST_OPTIONS))


def _slice(text: str) -> Slice:
    (job_id, stream), options = _arguments("OUTPUT", text, 2, 2)
    if stream.lower() not in ("stdout", "stderr"):
        raise BadRequest(f"expected stdout or stderr, not {stream[:40]!r}")
    values = read("OUTPUT", options, _OUTPUT_OPTIONS)
    if "tail" in values and "offset" in values:
        raise BadRequest("--tail counts from the end and --offset from the start; give one of them")
    limit = values.pop("limit", values.get("tail", DEFAULT_OUTPUT))
    values["limit"] = min(limit, LARGEST_OUTPUT)
    return Slice(id=parse_id(job_id), stream=stream.lower(), **values)


def _wait(text: str) -> Wait:
    (job_id,), options = _arguments("WAIT", text, 1, 1)
    return Wait(id=parse_id(job_id), **read("WAIT", options, {"timeout": ("timeout", parse_duration)}))


def _cancellation(text: str) -> Cancellation:
    (job_id,), options = _arguments("CANCEL", text, 1, 1)
    return Cancellation(id=parse_id(job_id), **read("CANCEL", options, {"signal": ("signal", parse_signal)}))


def _token(text: str) -> str:
    # No options here: a token may begin with -- itself.
    form = _LINE.fullmatch(text)
    if not form or not form[1] or form[2]:
        raise BadRequest(f"expected {VERBS['AUTH'].usage}")
    return form[1]


def _topic(text: str) -> str | None:
    topics, options = _arguments("HELP", text, 0, 1)
    read("HELP", options, {})
    if not topics:
        return None
    topic = capitals(topics[0])
    if topic not in VERBS:
        raise BadRequest(f"{topics[0][:40]!r} is no command of this server; HELP alone lists them")
    return topic


VERBS: dict[str, Verb] = {
    "SUBMIT": Verb(
        "SUBMIT [options] <command>",
        "Take a job: JOB_ID <id> once it is on disk. The command goes to /bin/sh -c as it is.",
        read_submission,
    ),
    "STATUS": Verb("STATUS <id>", "Tell where a job stands: STATUS <status> <progress>.", _job("STATUS")),
    "RESULT": Verb("RESULT <id>", "Give a finished job's stdout, stderr and exit code.", _job("RESULT")),
    "SHOW": Verb("SHOW <id>", "Tell all that is known of a job, as JSON.", _job("SHOW")),
    "LIST": Verb(
        "LIST [--status=A,B] [--owner=O] [--label=L] [--key=K] [--from=<id>] [--limit=N] [--reverse]",
        "List jobs by id, 100 unless told; the next page starts --from the id after the last.",
        _listing,
    ),
    "OUTPUT": Verb(
        "OUTPUT <id> stdout|stderr [--offset=N] [--limit=<size>] [--tail=<size>]",
        "Give raw output, of a running job too: DATA <stream> <offset> <length>, then the bytes.",
        _slice,
    ),
    "WAIT": Verb("WAIT <id> [--timeout=<duration>]", "Answer with STATUS when the job has ended.", _wait),
    "CANCEL": Verb(
        "CANCEL <id> [--signal=NAME]",
        "End a job: a pending one at once, a running one by a signal to its whole process group.",
        _cancellation,
    ),
    "RETRY": Verb("RETRY <id>", "Make a finished job PENDING again, under the same id.", _job("RETRY")),
    "REMOVE": Verb("REMOVE <id>", "Forget a finished job and its output.", _job("REMOVE")),
    "HISTORY": Verb(
        "HISTORY <id>",
        "Tell all that happened to a job: EVENT <seq> <json> each, then END <count>.",
        _job("HISTORY"),
    ),
    "DRAIN": Verb("DRAIN", "Take no new jobs and start none, before a planned stop.", _alone("DRAIN")),
    "STATS": Verb("STATS", "Give counters, gauges, uptime, version and limits, as JSON.", _alone("STATS")),
    "HELLO": Verb("HELLO", "Tell version, verbs, limits and who you are, as JSON.", _alone("HELLO")),
    "AUTH": Verb("AUTH <token>", "Say who you are; the token is in the daemon's state directory.", _token),
    "PING": Verb("PING", "Answer OK.", _alone("PING")),
    "HELP": Verb("HELP [verb]", "Explain the commands, or one.", _topic),
    "QUIT": Verb("QUIT", "Answer OK and close.", _alone("QUIT")),
}
"""Every verb of this version, by name: the protocol, HELP, HELLO and the documents all read it from here."""
