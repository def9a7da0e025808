"""Request lines -> values: the table of all verbs, each with the reader of its words (docs/protocol.md §3).

``parse_line`` is the door: it never fails, since a refused line must still say how many bytes follow it.
No connection is in sight here, and no job. The readers are in requests.py and submission.py, what the server
answers in replies.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taskqd.errors import BadRequest
from taskqd.protocol import requests, submit
from taskqd.protocol.values import capitals


class Verb(NamedTuple):
    """A verb: how it is written, what it does in one line, and the reader of what follows it.

    The reader takes the usage and the text. ``options`` tells how the options are written that the usage only
    mentions.
    """

    usage: str
    summary: str
    read: Callable[[str, str], Any]
    options: Mapping[str, str | None] = {}


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
        lambda _, text: submit.parse_submission(text),
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
        lambda _, text: submit.parse_schedule(text),
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
