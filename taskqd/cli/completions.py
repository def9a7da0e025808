"""Shell completion: the scripts for the shells, and completion of jobs, queues and schedules.

Completions are requested while the user waits, so they take at most half a second, and no daemon means no
completions, not an error.
"""

from collections.abc import Callable, Iterable
from threading import Thread

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from taskqd.cli import statuses
from taskqd.cli.context import Session
from taskqd.cli.display.text import command_of, sanitize_line
from taskqd.client import Client, Facts, Refused, Unreachable

REPLY_TIMEOUT = 0.5
"""Time that the daemon has to reply (seconds)."""
MAX_JOBS = 200
"""Maximum number of jobs that are offered, the latest first."""

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
APPLICABLE = {
    **dict.fromkeys(("cancel", "follow", "wait"), statuses.LIVE),
    **dict.fromkeys(("hold", "release", "set"), statuses.PENDING),
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
