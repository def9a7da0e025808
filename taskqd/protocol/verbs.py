"""The table of verbs: usage, summary, parser and required permission of each (docs/protocol.md §3).

HELP, HELLO, authorization and the documents are made from this table.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

from taskqd.errors import BadRequest
from taskqd.model.roles import Permission
from taskqd.protocol import act_requests, output_requests, requests, schedule_requests, submit
from taskqd.protocol.arguments import Table
from taskqd.protocol.requests import HelpRequest
from taskqd.protocol.send_request import parse_send
from taskqd.protocol.values import capitals


class Verb(NamedTuple):
    """A verb. `parse` is called with the usage and the text after the verb.

    `options` has the options that the usage does not spell out. A verb that changes jobs is for jobs that
    have ended if it `is_for_ended`, else for those that have not.
    """

    usage: str
    summary: str
    parse: Callable[[str, str], Any]
    permission: Permission
    options: Table = MappingProxyType({})
    is_for_ended: bool = False


def _parse_help(usage: str, text: str) -> HelpRequest:
    words, _ = requests.parse_arguments(usage, text, 0, 1)
    if not words:
        return HelpRequest()
    verb = capitals(words[0])
    if verb not in VERBS:
        raise BadRequest(f"{words[0][:40]!r} is not a command of this server; HELP alone lists them")
    return HelpRequest(verb=verb)


_ALL = (
    Verb(
        "SUBMIT [options] <command>",
        "Add a job: JOB_ID <id> once it is on disk. The command is passed to /bin/sh -c unchanged.",
        lambda _, text: submit.parse_submission(text),
        Permission.SUBMIT,
        submit.SUBMIT_OPTIONS,
    ),
    Verb(
        "STATUS <id>",
        "Show the status of a job: STATUS <status> <progress>, and the text of its progress, if it has one.",
        requests.parse_job,
        Permission.VIEW,
    ),
    Verb(
        "RESULT <id>",
        "Return stdout, stderr and exit code of a finished job.",
        requests.parse_job,
        Permission.VIEW,
    ),
    Verb("SHOW <id>", "Show everything about a job, as JSON.", requests.parse_job, Permission.VIEW),
    Verb(
        "LIST [--status=A,B] [--queue=Q] [--owner=O] [--label=L] [--match=TEXT] [--key=K] [--array=<id>] "
        "[--tasks] [--from=<id>] [--limit=N] [--reverse] [--order=start|ended] "
        "[--count]",
        "List jobs by id, 100 by default; for the next page, pass --from the id after the last. --order: the "
        "pending ones by their place in line, or the ended ones, latest first. --count: END <count> alone.",
        requests.parse_list,
        Permission.KNOWN,
    ),
    Verb(
        "OUTPUT <id> stdout|stderr|script [--attempt=N] [--offset=N] [--limit=<size>] [--tail=<size>]",
        "Return raw output, also of a running job, or the script of your own job: DATA <stream> <offset> "
        "<length>, then the bytes.",
        output_requests.parse_output,
        Permission.VIEW,
    ),
    Verb(
        "LOG <id> [--attempt=N] [--since=N] [--limit=<size>] [--tail-lines=N] [--stream=stdout|stderr] "
        "[--stdout=N] [--stderr=N] [--follow]",
        "Return both streams in the order in which they were read: DATA blocks with their times, then END "
        "<next> <left> <dropped> <stdout> <stderr>. --follow: as output appears, then STATUS at the end of "
        "the job.",
        output_requests.parse_log,
        Permission.VIEW,
    ),
    Verb(
        "WAIT <id> [<id> ...] [--any] [--timeout=<duration>]",
        "Answer with STATUS when the job has ended; for several, with one line per job as each ends, then "
        "END <count>.",
        requests.parse_wait,
        Permission.VIEW,
    ),
    Verb(
        "FOLLOW <id> [--stdout=N] [--stderr=N]",
        "Send output as it appears, from those offsets on: DATA blocks, then STATUS when the job has ended.",
        output_requests.parse_follow,
        Permission.VIEW,
    ),
    Verb(
        "CANCEL <id>|<filters> [--signal=NAME] [--cascade] [--progress]",
        "End a job: a pending one at once, a running one by a signal to all of its processes; --cascade: "
        "also the jobs that depend on it. With filters in place of the id: all that match, OK <count>.",
        act_requests.parse_cancel,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
    ),
    Verb(
        "RETRY <id>|<filters> [--cascade] [--progress]",
        "Make a finished job PENDING again, under the same id; --cascade: also the jobs that failed because "
        "of it. With filters: all that match, OK <count>.",
        act_requests.parse_retry,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
        is_for_ended=True,
    ),
    Verb(
        "HOLD <id>|<filters> [--progress]",
        "Keep a pending job from starting until RELEASE. With filters: all that match, OK <count>.",
        act_requests.parse_act,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
    ),
    Verb(
        "RELEASE <id>|<filters> [--progress]",
        "Let a pending job start that is held or delayed. With filters: all that match, OK <count>.",
        act_requests.parse_act,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
    ),
    Verb(
        "SUSPEND <id>|<filters> [--progress]",
        "Stop the processes of a running job, and its timeouts, until CONTINUE; of an array, no task starts "
        "meanwhile. With filters: all that match, OK <count>.",
        act_requests.parse_act,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
    ),
    Verb(
        "CONTINUE <id>|<filters> [--progress]",
        "Let a suspended job go on. With filters: all that match, OK <count>.",
        act_requests.parse_act,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
    ),
    Verb(
        "SET <id>|<filters> --<option>=<value> ... [--progress]",
        "Change options, command or script of a pending job: JOB <json>. With filters (--in-queue, "
        "--with-label, --status, --owner, --match): options of all that match, OK <count>.",
        act_requests.parse_set,
        Permission.MODIFY,
        act_requests.SET_TABLE,
    ),
    Verb(
        "REMOVE <id>|<filters> [--progress]",
        "Delete a finished job and its output. With filters: all that match, OK <count>.",
        act_requests.parse_act,
        Permission.MODIFY,
        requests.FILTER_OPTIONS,
        is_for_ended=True,
    ),
    Verb(
        "SEND <id> [--data=<n>] [--eof] [--timeout=<duration>]",
        "Write n bytes, which follow the line, to the stdin of a running job that is --interactive: OK <n> "
        "when the pipe has them. --eof closes it, also without --data.",
        parse_send,
        Permission.OWN,
    ),
    Verb(
        "HISTORY <id>",
        "Show all events of a job: EVENT <seq> <json> for each, then END <count>.",
        requests.parse_job,
        Permission.VIEW,
    ),
    Verb("WHY <id>", "Explain why a job is not running: OK <text>.", requests.parse_job, Permission.VIEW),
    Verb(
        "QUEUES",
        "List the queues: QUEUE <json> for each, then END <count>.",
        requests.parse_empty,
        Permission.KNOWN,
    ),
    Verb(
        "SET-QUEUE <queue> [--slots=<n>|none|default] [--fair=true|false|default] "
        "[--rate=<rate>|none|default]",
        "Change the slots of a queue, whether its users take turns, or how many jobs it starts (10/m).",
        requests.parse_set_queue,
        Permission.ADMIN,
    ),
    Verb(
        "SET-SLOTS <n>|default",
        "Change the slots of the daemon: OK <slots>; default: those of the settings.",
        requests.parse_set_slots,
        Permission.ADMIN,
    ),
    # Only an admin may pause or resume a queue or all of them; Authorizer checks that.
    Verb(
        "PAUSE [<queue>] [--schedule=N]",
        "Start no more jobs: of a queue, of a schedule, or of all queues. Running jobs continue.",
        requests.parse_pause,
        Permission.MODIFY,
    ),
    Verb(
        "RESUME [<queue>] [--schedule=N]",
        "End the pause of a queue, of a schedule, or of all queues.",
        requests.parse_pause,
        Permission.MODIFY,
    ),
    Verb(
        "SCHEDULE --every=<duration>|--cron=<quoted> [--overlap] [options] <command>, or --run-now=<n>, or "
        "--set=<n> [options] [<command>]",
        "Submit a job repeatedly: OK <number of the schedule>; or one job of a schedule now: JOB_ID <id>; or "
        "change a schedule, which keeps all that is not given: OK <n>.",
        lambda _, text: schedule_requests.parse_schedule(text),
        Permission.SUBMIT,
        schedule_requests.ALL_SCHEDULE_OPTIONS,
    ),
    Verb(
        "SCHEDULES [<n>]",
        "List the schedules, or one with its next runs: SCHEDULE <json> for each, then END <count>.",
        requests.parse_schedules,
        Permission.KNOWN,
    ),
    Verb(
        "UNSCHEDULE <n>",
        "Delete a schedule; the jobs that it has submitted stay.",
        requests.parse_unschedule,
        Permission.MODIFY,
    ),
    Verb(
        "WATCH [--since=SEQ] [--job=<id>] [--queue=Q]",
        "Send events as they happen: EVENT <seq> <json> for each, until the client sends another line.",
        requests.parse_watch,
        Permission.KNOWN,
    ),
    Verb(
        "DRAIN [--off]",
        "Accept and start no more jobs, before a planned stop; --off: accept and start them again.",
        requests.parse_drain,
        Permission.ADMIN,
    ),
    Verb(
        "SHUTDOWN [--end] [--wait]",
        "Stop the daemon: OK <running jobs> left|ended|requeued; --end: end running jobs; --wait: answer "
        "when that is done.",
        requests.parse_shutdown,
        Permission.ADMIN,
    ),
    Verb(
        "STATS",
        "Show counters, gauges, uptime, version and limits, as JSON.",
        requests.parse_empty,
        Permission.KNOWN,
    ),
    Verb(
        "HELLO",
        "Show version, verbs, limits and the name and role of the client, as JSON.",
        requests.parse_empty,
        Permission.NOTHING,
    ),
    Verb(
        "AUTH <token>",
        "Authenticate; `taskq token add` makes a token.",
        requests.parse_auth,
        Permission.NOTHING,
    ),
    Verb("PING", "Answer OK.", requests.parse_empty, Permission.NOTHING),
    Verb("HELP [verb]", "Explain all commands, or one.", _parse_help, Permission.NOTHING),
    Verb("QUIT", "Answer OK and close the connection.", requests.parse_empty, Permission.NOTHING),
)

VERBS: dict[str, Verb] = {verb.usage.partition(" ")[0]: verb for verb in _ALL}
"""Every verb by name, in the order in which HELP and HELLO list them."""
