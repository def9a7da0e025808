"""Queues: what is in them, how much may run in them, and stopping them for a while."""

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.client import Client, Facts


@taskq.command(
    epilog="""\b
Examples:
  taskq queues
  taskq queues --jsonl | jq -r 'select(.paused).name'
"""
)
@click.pass_obj
def queues(session: Session) -> int:
    """Print the queues.

    A line each, with a tab between its name, how many of its slots are taken and how many it has (- where it
    has no limit of its own), how many jobs are pending, running, completed, failed and cancelled, and whether
    it is paused. A queue is there while it has jobs, a limit or a pause.
    """
    with session.connect() as client:
        found = client.queues()
    rows = [_cells(queue) for queue in found]
    if terminal.is_terminal() and not session.is_json:
        printer.print_queues(found)
        return 0
    with session.listed():
        for row, queue in zip(rows, found, strict=True):
            session.say("\t".join(row), queue)
    return 0


def _cells(queue: Facts) -> tuple[str, ...]:
    counts = (queue[name] for name in ("pending", "running", "completed", "failed", "cancelled"))
    return (
        terminal.sanitize_line(queue["name"]),
        str(queue["busy"]),
        _slots(queue),
        *map(str, counts),
        "paused" if queue["paused"] else "-",
    )


def _slots(queue: Facts) -> str:
    return "-" if queue["slots"] is None else str(queue["slots"])


def _limit(text: str) -> str | int:
    return text if text in ("none", "default") else parameters.parse_slots(text)


@taskq.command(
    "set-queue",
    epilog="""\b
Examples:
  taskq set-queue nightly --slots 2
  taskq set-queue nightly --slots none      no limit but that of the daemon
  taskq set-queue nightly --slots default   as its settings say
""",
)
@parameters.queue_name(is_required=True)
@parameters.parsed("--slots", "A number; none, or default.", "N", _limit, is_required=True)
@click.pass_obj
def set_queue(session: Session, queue: str, slots: str | int) -> int:
    """Change how many slots a queue has.

    It holds through a restart of the daemon, and goes before its settings. Jobs that run already go on.
    Prints the queue's name and slots.
    """
    with session.connect() as client:
        facts = client.set_queue(queue, slots)
    session.say(f"{queue} {_slots(facts)}", facts)
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq pause                nothing new starts at all
  taskq pause nightly        nor in this queue
  taskq pause --schedule 3   nothing more is submitted by this schedule
"""
)
@parameters.queue_name(is_required=False)
@parameters.number("--schedule", "A schedule in place of a queue.", 1, completes="schedules")
@click.pass_obj
def pause(session: Session, queue: str | None, schedule: int | None) -> int:
    """Have nothing new start: at all, in a queue, or of a schedule.

    What runs goes on, and jobs are taken as before. It holds through a restart of the daemon, until `taskq
    resume` for the same thing ends it.
    """
    return _change(session, queue, schedule, is_paused=True)


@taskq.command(
    epilog="""\b
Examples:
  taskq resume
  taskq resume nightly
"""
)
@parameters.queue_name(is_required=False)
@parameters.number("--schedule", "A schedule in place of a queue.", 1, completes="schedules")
@click.pass_obj
def resume(session: Session, queue: str | None, schedule: int | None) -> int:
    """End a pause.

    Without a word it is the pause of all: queues and schedules that were paused by themselves stay so, and
    are resumed by name or number.
    """
    return _change(session, queue, schedule, is_paused=False)


def _change(session: Session, queue: str | None, schedule: int | None, *, is_paused: bool) -> int:
    if queue is not None and schedule is not None:
        raise click.UsageError("expected either a QUEUE or a --schedule")
    with session.connect() as client:
        (Client.pause if is_paused else Client.resume)(client, queue, schedule=schedule)
    what = "all" if queue is None else f"queue {queue}"
    if schedule is not None:
        what = f"schedule {schedule}"
    facts = {"queue": queue, "schedule": schedule, "paused": is_paused}
    session.say(f"{what} {'paused' if is_paused else 'resumed'}", facts)
    return 0
