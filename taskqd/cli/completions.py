"""Shell completion: the scripts for the shells, and completion of jobs, queues, schedules and programs.

Completions are requested while the user waits, so they take at most half a second, and no daemon means no
completions, not an error.
"""

import os
from collections.abc import Callable, Iterable
from threading import Thread

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from taskqd.cli import statuses
from taskqd.cli.context import Session
from taskqd.cli.display.text import command_of, sanitize_line
from taskqd.client import Client, Facts, Refused, Unreachable

REPLY_TIMEOUT = 0.5
"""Time that the daemon has to reply (seconds)."""
MAX_JOBS = 200
"""Maximum number of jobs that are offered, the latest first."""

_BASH_SCRIPT = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Completes the line up to the cursor, whose words click splits as a shell does.

    Bash itself also splits at the characters of COMP_WORDBREAKS, such as the colon in the name of a queue,
    and replaces only the part after the last of them.
    """

    source_template = _BASH_SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        self._incomplete = words.pop() if words and not line[-1].isspace() else ""
        return words, self._incomplete

    def format_completion(self, item: CompletionItem) -> str:
        value = self._incomplete.rpartition("=")[2]  # of --queue=build:fast
        before, colon, _ = value.rpartition(":")
        is_split = colon and ":" in os.environ.get("COMP_WORDBREAKS", "")
        return f"{item.type},{item.value.removeprefix(before + colon) if is_split else item.value}"


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}
APPLICABLE = {
    **dict.fromkeys(("cancel", "follow", "wait"), statuses.LIVE),
    **dict.fromkeys(("hold", "release", "set", "edit"), statuses.PENDING),
    **dict.fromkeys(("suspend", "continue", "send"), statuses.RUNNING),
    **dict.fromkeys(("retry", "remove", "result"), statuses.FINISHED),
}
"""The statuses of jobs that a command can be applied to; all others accept any."""


def script(group: click.Group, shell: str) -> str:
    """Return the script with which a shell completes ``taskq``."""
    completer = _SHELLS[shell]
    # Not BashComplete.source, which runs bash to check its version.
    text = ShellComplete.source(completer(group, {}, "taskq", "_TASKQ_COMPLETE")).strip()
    if shell == "fish":  # its script splits at every comma and sorts 10 before 9
        text = text.replace('split ","', 'split --max 1 ","').replace("--no-files", "--no-files --keep-order")
    return text


def register() -> None:
    """Make click use the classes of this module when a shell calls ``taskq`` for completions."""
    add_completion_class(_Bash)


def words(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete a word of the command of a job: a program of PATH as the first word, a file otherwise."""
    is_program = not context.params.get("words") and not context.params.get("script")
    if is_program and incomplete and "/" not in incomplete:
        programs = sorted(_programs(incomplete))
        if programs:
            return [CompletionItem(name) for name in programs]
    return [CompletionItem(incomplete, type="file")]


def files(_: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the path of a file."""
    return [CompletionItem(incomplete, type="file")]


def directories(_: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the path of a directory."""
    return [CompletionItem(incomplete, type="dir")]


def variables(_: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an environment variable."""
    return [CompletionItem(name) for name in sorted(os.environ) if name.startswith(incomplete)]


def _programs(prefix: str) -> set[str]:
    """Return the names of the programs in PATH that begin with ``prefix``."""
    found = set[str]()
    for folder in os.get_exec_path():
        try:
            with os.scandir(folder) as entries:
                found.update(
                    entry.name
                    for entry in entries
                    if entry.name.startswith(prefix) and entry.is_file() and os.access(entry.path, os.X_OK)
                )
        except OSError:
            continue  # PATH may name a folder that does not exist or may not be read
    return found


def jobs(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a job, also the last one of a list with commas; the help is its command."""
    before, comma, prefix = incomplete.rpartition(",")
    array, dot, _ = prefix.partition(".")
    status = ",".join(APPLICABLE.get(context.info_name or "", ())) or None

    def request(client: Client) -> Iterable[Facts]:
        if dot and array.isdecimal():
            return client.list(array=int(array), limit=MAX_JOBS, status=status)
        return client.list(reverse=True, limit=MAX_JOBS, status=status)

    items = []
    for job in _query(context, request):
        name = f"{array}.{job['index']}" if dot else str(job["id"])
        if name.startswith(prefix):
            items.append(CompletionItem(before + comma + name, help=f"{job['status']} {command_of(job)}"))
    return items


def queues(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a queue; the help is its number of jobs."""
    return [
        CompletionItem(
            sanitize_line(queue["name"]), help=f"{queue['running']} running, {queue['pending']} pending"
        )
        for queue in _query(context, lambda client: client.queues())
        if queue["name"].startswith(incomplete)
    ]


def labels(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete a label of one of the user's latest jobs."""
    return [CompletionItem(label) for label in _own_values(context, "label") if label.startswith(incomplete)]


def keys(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete a key of one of the user's latest jobs, also the last one of a list with commas."""
    before, comma, prefix = incomplete.rpartition(",")
    return [
        CompletionItem(before + comma + key) for key in _own_values(context, "key") if key.startswith(prefix)
    ]


def _own_values(context: click.Context, field: str) -> list[str]:
    """Return the different printable values of a field of the user's latest jobs, the latest first."""

    def request(client: Client) -> Iterable[Facts]:
        return client.list(owner=client.hello()["you"]["name"], reverse=True, limit=MAX_JOBS)

    values = [str(job[field]) for job in _query(context, request) if job.get(field)]
    return [value for value in dict.fromkeys(values) if value.isprintable()]


def job_statuses(_: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete a status, also the last one of a list with commas."""
    before, comma, prefix = incomplete.rpartition(",")
    return [CompletionItem(before + comma + name) for name in statuses.ALL if name.startswith(prefix.upper())]


def schedules(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete the number of a schedule; the help is its command."""
    return [
        CompletionItem(str(schedule["schedule"]), help=command_of(schedule))
        for schedule in _query(context, lambda client: client.schedules())
        if str(schedule["schedule"]).startswith(incomplete)
    ]


def _query(context: click.Context, request: Callable[[Client], Iterable[Facts]]) -> Iterable[Facts]:
    """Return the daemon's reply, or nothing if there is none within REPLY_TIMEOUT."""
    session = context.ensure_object(Session)
    found: list[Facts] = []

    def query() -> None:
        try:
            with session.connect() as client:
                found.extend(request(client))
        except (Refused, Unreachable, OSError, click.UsageError):
            return  # a message would appear within the line that the user is typing

    # A daemon thread does not delay the exit while it waits for a reply.
    thread = Thread(target=query, daemon=True)
    thread.start()
    thread.join(REPLY_TIMEOUT)
    return list(found)
