"""The commands queues, set-queue, pause and resume."""

from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.client import Client, Facts
from taskqd.protocol.values import parse_start_rate

MAX_KNOWN = 20
"""Number of queues that a message names."""


@taskq.command(
    epilog="""\b
Examples:
  taskq queues
  taskq queues --jsonl | jq -r 'select(.paused).name'
"""
)
@click.pass_obj
def queues(session: Session) -> int:
    """List the queues.

    On a terminal as a table; otherwise one queue per line, separated by tabs: its name, its used slots, its
    slots (- without a limit), its number of pending, running, completed, failed and cancelled jobs, `paused`
    or -, `fair` or -, and its start rate or -. A queue exists while it has jobs, a setting or a pause.
    """
    with session.connect() as client:
        found = client.queues()
    rows = [_cells(queue) for queue in found]
    if terminal.is_terminal() and not session.is_json:
        printer.print_queues(found)
        return 0
    with session.answer_list():
        for row, queue in zip(rows, found, strict=True):
            session.print_answer("\t".join(row), queue)
    return 0


def _cells(queue: Facts) -> tuple[str, ...]:
    counts = (queue[name] for name in ("pending", "running", "completed", "failed", "cancelled"))
    return (
        terminal.sanitize_line(queue["name"]),
        str(queue["busy"]),
        _slots(queue),
        *map(str, counts),
        "paused" if queue["paused"] else "-",
        "fair" if queue.get("fair") else "-",
        queue.get("rate") or "-",
    )


def _slots(queue: Facts) -> str:
    return "-" if queue["slots"] is None else str(queue["slots"])


def _limit(text: str) -> str | int:
    return text if text in ("none", "default") else parameters.parse_slots(text)


def _rate(text: str) -> str:
    return text if text == "default" else parse_start_rate(text)


@taskq.command(
    "set-queue",
    epilog="""\b
Examples:
  taskq set-queue nightly --slots 2
  taskq set-queue nightly --slots none      only the limit of the daemon
  taskq set-queue nightly --slots default   the value of the daemon's settings
  taskq set-queue nightly --fair true       its users take turns
  taskq set-queue mail --rate 10/m          start up to 10 jobs within any minute
""",
)
@parameters.queue_name(is_required=True)
@parameters.parsed("--slots", "A number, none or default.", "N", _limit)
@click.option(
    "--fair",
    type=click.Choice(["true", "false", "default"]),
    help="true: at equal priority, the users of the queue take turns.",
)
@parameters.parsed("--rate", "Starts, as 5/s, 10/m, 100/h or 1/15m; none or default.", "RATE", _rate)
@click.pass_obj
def set_queue(
    session: Session, queue: str, slots: str | int | None, fair: str | None, rate: str | None
) -> int:
    """Change the slots, the turns or the start rate of a queue.

    With `--fair true` the users of its jobs take turns at equal priority. A rate is the number of jobs that
    start within any second, minute or hour. The values survive a restart of the daemon and take precedence
    over its settings. Running jobs continue. Prints the name and the slots of the queue, then `fair` and the
    rate, if it is fair or has one.
    """
    given = {"slots": slots, "fair": fair, "rate": rate}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not values:
        raise click.UsageError("expected --slots, --fair or --rate")
    with session.connect() as client:
        _report_unknown(session, client, queue)
        facts = client.set_queue(queue, **values)
    words = (queue, _slots(facts), "fair" if facts.get("fair") else None, facts.get("rate"))
    session.print_answer(" ".join(filter(None, words)), facts)
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq pause                start no more jobs
  taskq pause nightly        start no more jobs of this queue
  taskq pause --schedule 3   submit no more jobs of this schedule
"""
)
@parameters.queue_name(is_required=False)
@parameters.number("--schedule", "A schedule instead of a queue.", 1, completes="schedules")
@click.pass_obj
def pause(session: Session, queue: str | None, schedule: int | None) -> int:
    """Start no more jobs: at all, of a queue, or of a schedule.

    Running jobs continue (`taskq suspend` stops them), and jobs can be submitted. The pause survives a
    restart of the daemon, until `taskq resume` with the same argument ends it.
    """
    return _set_paused(session, queue, schedule, is_paused=True)


@taskq.command(
    epilog="""\b
Examples:
  taskq resume
  taskq resume nightly
"""
)
@parameters.queue_name(is_required=False)
@parameters.number("--schedule", "A schedule instead of a queue.", 1, completes="schedules")
@click.pass_obj
def resume(session: Session, queue: str | None, schedule: int | None) -> int:
    """End a pause. `taskq continue` is for suspended jobs.

    Without an argument it ends the general pause: queues and schedules that were paused individually stay
    paused until they are resumed by name or number.
    """
    return _set_paused(session, queue, schedule, is_paused=False)


def _report_unknown(session: Session, client: Client, queue: str, for_job: str = "") -> None:
    """Say on stderr that a queue has no job, limit or pause yet: its name may be mistyped.

    ``for_job`` is the command that does the same to a job, whose id may have been given as the name.
    """
    known = [each["name"] for each in client.queues()]
    if queue not in known:
        names = ", ".join(known[:MAX_KNOWN]) + (", …" if len(known) > MAX_KNOWN else "")
        hint = f"; for job {queue}: `taskq {for_job} {queue}`" if for_job and queue.isdecimal() else ""
        session.print_message(f"there was no queue {queue} yet; the queues are: {names or 'none'}{hint}")


def _set_paused(session: Session, queue: str | None, schedule: int | None, *, is_paused: bool) -> int:
    if queue is not None and schedule is not None:
        raise click.UsageError("expected either a QUEUE or a --schedule")
    with session.connect() as client:
        if queue is not None:
            _report_unknown(session, client, queue, "suspend" if is_paused else "continue")
        (Client.pause if is_paused else Client.resume)(client, queue, schedule=schedule)
        if not is_paused and queue is None and schedule is None and client.stats()["draining"]:
            session.print_message("the daemon is draining, so no job starts; `taskq drain --off` ends that")
    target = "all" if queue is None else f"queue {queue}"
    if schedule is not None:
        target = f"schedule {schedule}"
    facts = {"queue": queue, "schedule": schedule, "paused": is_paused}
    session.print_answer(f"{target} {'paused' if is_paused else 'resumed'}", facts)
    return 0
