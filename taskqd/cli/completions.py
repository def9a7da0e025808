"""What a shell completes: the script that asks us, and what the daemon knows (jobs, queues, schedules).

All is asked while somebody waits with a finger on Tab: it takes half a second at most, and says nothing
where there is no daemon.
"""

from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from taskqd.cli.context import Session
from taskqd.cli.display.text import command_of, sanitize_line
from taskqd.client import Client, Facts, Refused, Unreachable

PATIENCE = 0.5
"""The daemon has so many seconds to answer."""
MOST = 200
"""So many jobs are offered at most, the latest first."""

_KINDS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_STATUSES = {
    "cancel": "PENDING,RUNNING",
    "follow": "PENDING,RUNNING",
    "wait": "PENDING,RUNNING",
    "hold": "PENDING",
    "release": "PENDING",
    "set": "PENDING",
    "retry": "COMPLETED,FAILED,CANCELLED",
    "remove": "COMPLETED,FAILED,CANCELLED",
    "result": "COMPLETED,FAILED,CANCELLED",
}
"""With which jobs a command can do something; all others can with any."""


def script(group: click.Group, shell: str) -> str:
    """Return what a shell has to run so that it completes ``taskq``."""
    kind = _KINDS[shell]
    # Not the source() of bash, which starts one here to see how old it is.
    text = ShellComplete.source(kind(group, {}, "taskq", "_TASKQ_COMPLETE")).strip()
    if shell == "fish":  # it would cut commands and lists of ids at their commas, and sort 9 behind 10
        text = text.replace('split ","', 'split --max 1 ","').replace("--no-files", "--no-files --keep-order")
    return text


def jobs(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the ids of jobs that begin so, of a list with commas the last; the command is the help."""
    before, comma, begun = incomplete.rpartition(",")
    array, dot, _ = begun.partition(".")
    status = _STATUSES.get(context.info_name or "")

    def ask(client: Client) -> Iterable[Facts]:
        if dot and array.isdecimal():
            return client.list(array=int(array), limit=MOST, status=status)
        return client.list(reverse=True, limit=MOST, status=status)

    items = []
    for job in _asked(context, ask):
        name = f"{array}.{job['index']}" if dot else str(job["id"])
        if name.startswith(begun):
            items.append(CompletionItem(before + comma + name, help=f"{job['status']} {command_of(job)}"))
    return items


def queues(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the names of queues that begin so; how full they are is the help."""
    return [
        CompletionItem(
            sanitize_line(queue["name"]), help=f"{queue['running']} running, {queue['pending']} pending"
        )
        for queue in _asked(context, lambda client: client.queues())
        if queue["name"].startswith(incomplete)
    ]


def statuses(_: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the statuses that begin so, of a list with commas the last."""
    before, comma, begun = incomplete.rpartition(",")
    return [CompletionItem(before + comma + name) for name in STATUSES if name.startswith(begun.upper())]


def schedules(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the numbers of schedules that begin so; the command is the help."""
    return [
        CompletionItem(str(schedule["schedule"]), help=command_of(schedule))
        for schedule in _asked(context, lambda client: client.schedules())
        if str(schedule["schedule"]).startswith(incomplete)
    ]


def _asked(context: click.Context, ask: Callable[[Client], Iterable[Facts]]) -> Iterable[Facts]:
    """Return what the daemon says, nothing where it does not at once."""
    session = context.ensure_object(Session)
    found: list[Facts] = []

    def try_it() -> None:
        try:
            with session.connect() as client:
                found.extend(ask(client))
        except (Refused, Unreachable, OSError, click.UsageError):
            return  # there is nobody to be told: the shell is in the middle of the user's line

    # A daemon thread: one that still waits for an answer does not keep the shell.
    asking: Any = Thread(target=try_it, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return list(found)


STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
