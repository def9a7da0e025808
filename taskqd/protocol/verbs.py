"""Request lines -> values: the table of all verbs, each with the reader of its words (docs/protocol.md §3).

``read_line`` is the door: it never fails, since a refused line must still say how many bytes follow it.
No connection is in sight here, and no job. The readers are in requests.py and submission.py, what the server
answers in replies.py.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taskqd.errors import BadRequest, TaskqError, UnknownCommand
from taskqd.protocol import requests, submit
from taskqd.protocol.submit_cache import read_plain
from taskqd.protocol.values import capitals

LONGEST_LINE = 65_536
"""A request line is at most so long, in bytes, its line end not counted."""
WITH_BLOCKS = frozenset({"SUBMIT", "SCHEDULE"})
"""The verbs whose lines blocks may follow; SCHEDULE's are refused, and read past."""

_LINE = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")


class Verb(NamedTuple):
    """A verb: how it is written, what it does in one line, and the reader of what follows it.

    The reader takes the usage and the text. ``options`` tells how the options are written that the usage only
    mentions.
    """

    usage: str
    summary: str
    read: Callable[[str, str], Any]
    options: Mapping[str, str | None] = {}


class Request(NamedTuple):
    """A request line as read: the verb and its argument, or the error; and the sizes of the blocks after it.

    ``blocks`` has the sizes in bytes, script before stdin. Where the line is refused its blocks still follow,
    to be thrown away; where it ``is_lost``, nobody can tell what follows, and the connection has to end.
    ``secret`` has the values of a submission's secrets, of which the argument has only the names.
    """

    verb: str
    argument: Any
    error: TaskqError | None = None
    blocks: tuple[int, ...] = ()
    is_lost: bool = False
    secret: bytes | None = None


def is_http(line: bytes) -> bool:
    """Whether a connection's first line is a web browser's rather than a client's."""
    return _HTTP.match(line) is not None


def read_line(line: bytes) -> Request:
    """Read one request line, which came without its line end."""
    plain = read_plain(line)
    if plain is not None:
        return Request("SUBMIT", plain[0], None, plain[1])
    text = line.decode("utf-8", "surrogateescape")
    form = _LINE.fullmatch(text)
    word, rest = form.groups() if form else ("", "")
    verb = capitals(word)
    blocks: tuple[int, ...] = ()
    try:
        if verb in WITH_BLOCKS:
            blocks = submit.block_sizes(rest)
    except TaskqError as why:
        return Request(verb, None, why, is_lost=True)
    try:
        _check_text(line)
        if verb not in VERBS:
            raise UnknownCommand(f"{word[:40]!r} is no command of this server; HELP lists them")
        asked = VERBS[verb]
        argument = asked.read(asked.usage, rest)
        has_secrets = verb == "SUBMIT" and argument.spec.secrets
        secret = submit.secret_block(rest) if has_secrets else None
        return Request(verb, argument, None, blocks, secret=secret)
    except TaskqError as why:
        return Request(verb, None, why, blocks)


def _check_text(line: bytes) -> None:
    if b"\0" in line:
        raise BadRequest("a request is text without NUL bytes; send binary data with --stdin")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("a request is UTF-8 text; send other bytes with --stdin") from None


def _topic(usage: str, text: str) -> str | None:
    topics, _ = requests.cut(usage, text, 0, 1)
    if not topics:
        return None
    topic = capitals(topics[0])
    if topic not in VERBS:
        raise BadRequest(f"{topics[0][:40]!r} is no command of this server; HELP alone lists them")
    return topic


_ALL = (
    Verb(
        "SUBMIT [options] <command>",
        "Take a job: JOB_ID <id> once it is on disk. The command goes to /bin/sh -c as it is.",
        lambda _, text: submit.read_submission(text),
        submit.USAGES,
    ),
    Verb("STATUS <id>", "Tell where a job stands: STATUS <status> <progress>.", requests.job),
    Verb("RESULT <id>", "Give a finished job's stdout, stderr and exit code.", requests.job),
    Verb("SHOW <id>", "Tell all that is known of a job, as JSON.", requests.job),
    Verb(
        "LIST [--status=A,B] [--queue=Q] [--owner=O] [--label=L] [--key=K] [--array=<id>] [--tasks] "
        "[--from=<id>] [--limit=N] [--reverse]",
        "List jobs by id, 100 unless told; the next page starts --from the id after the last.",
        requests.listing,
    ),
    Verb(
        "OUTPUT <id> stdout|stderr [--attempt=N] [--offset=N] [--limit=<size>] [--tail=<size>]",
        "Give raw output, of a running job too: DATA <stream> <offset> <length>, then the bytes.",
        requests.part,
    ),
    Verb(
        "WAIT <id> [<id> ...] [--any] [--timeout=<duration>]",
        "Answer with STATUS when the job has ended; of several, for each as it ends, then END <count>.",
        requests.wait,
    ),
    Verb(
        "FOLLOW <id> [--stdout=N] [--stderr=N]",
        "Give output as it appears, from those offsets on: DATA each, then STATUS when the job has ended.",
        requests.follow,
    ),
    Verb(
        "CANCEL <id> [--signal=NAME] [--cascade]",
        "End a job: a pending one at once, a running one by a signal to all of its processes.",
        requests.cancellation,
    ),
    Verb(
        "RETRY <id> [--cascade]",
        "Make a finished job PENDING again, under the same id; --cascade: and those that failed by it.",
        requests.retrial,
    ),
    Verb("HOLD <id>", "Have a pending job not start until it is released.", requests.job),
    Verb("RELEASE <id>", "Let a pending job start that is held or delayed.", requests.job),
    Verb(
        "SET <id> --<option>=<value> ...",
        "Change what is asked of a pending job: JOB <json>.",
        requests.change,
        requests.SET_USAGES,
    ),
    Verb("REMOVE <id>", "Forget a finished job and its output.", requests.job),
    Verb(
        "HISTORY <id>",
        "Tell all that happened to a job: EVENT <seq> <json> each, then END <count>.",
        requests.job,
    ),
    Verb("WHY <id>", "Say what a pending job waits for: OK <text>.", requests.job),
    Verb("QUEUES", "Tell of each queue: QUEUE <json> each, then END <count>.", requests.nothing),
    Verb(
        "SET-QUEUE <queue> --slots=<n>|none|default",
        "Change how many slots the jobs of a queue may take at once; default is what the settings say.",
        requests.queue_change,
    ),
    Verb(
        "PAUSE [<queue>] [--schedule=N]",
        "Start nothing more: of a queue, of a schedule, or at all. What runs goes on.",
        requests.pause,
    ),
    Verb(
        "RESUME [<queue>] [--schedule=N]",
        "End a pause: that of a queue, of a schedule, or the one of all.",
        requests.pause,
    ),
    Verb(
        "SCHEDULE --every=<duration>|--cron=<quoted> [--overlap] [options] <command>",
        "Submit a job again and again: OK <number of the schedule>.",
        lambda _, text: submit.read_scheduling(text),
        submit.SCHEDULE_USAGES,
    ),
    Verb("SCHEDULES", "Tell of each schedule: SCHEDULE <json> each, then END <count>.", requests.nothing),
    Verb("UNSCHEDULE <n>", "End a schedule; its jobs go on.", requests.schedule_number),
    Verb(
        "WATCH [--since=SEQ] [--job=<id>] [--queue=Q]",
        "Tell what happens, as it happens: EVENT <seq> <json> each, until the next line.",
        requests.watch,
    ),
    Verb("DRAIN", "Take no new jobs and start none, before a planned stop.", requests.nothing),
    Verb("STATS", "Give counters, gauges, uptime, version and limits, as JSON.", requests.nothing),
    Verb("HELLO", "Tell version, verbs, limits and who you are, as JSON.", requests.nothing),
    Verb("AUTH <token>", "Say who you are; `taskq token add` makes a token.", requests.token),
    Verb("PING", "Answer OK.", requests.nothing),
    Verb("HELP [verb]", "Explain the commands, or one.", _topic),
    Verb("QUIT", "Answer OK and close.", requests.nothing),
)

VERBS: dict[str, Verb] = {verb.usage.partition(" ")[0]: verb for verb in _ALL}
"""Every verb of this version, by name: the protocol, HELP, HELLO and the documents all read it from here."""
