"""Schedules: commands that the daemon submits again and again."""

from typing import Any

import click

from taskqd.cli import job_options, parameters, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer, text
from taskqd.cli.job_selection import for_each
from taskqd.cli.parameters import UNTIL_COMMAND
from taskqd.client import Client, Facts, Ref


@taskq.command(
    context_settings=UNTIL_COMMAND,
    epilog="""\b
Examples:
  taskq schedule --every 10m ./poll
  taskq schedule --cron '30 2 * * mon-fri' --label nightly -- ./backup --all
  taskq schedule --cron @daily --queue slow 'find /tmp -mtime +7 -delete'
""",
)
@parameters.duration("--every", "Once in so long.")
@parameters.text("--cron", "When these five fields say so: minute hour day month weekday.", "'* * * * *'")
@click.option("--overlap", is_flag=True, help="Also while the job before has not ended.")
@job_options.recurring
@click.pass_obj
def schedule(
    session: Session,
    /,
    words: tuple[str, ...],
    every: str | None,
    cron: str | None,
    overlap: bool,
    **given: Any,
) -> int:
    """Have the daemon submit a job again and again, and print the schedule's number.

    The command is as in `taskq submit`, and what is given here holds for each job. Times are those of the
    daemon's time zone, unless you name one by --tz. What was missed while the daemon did not run is made up
    for once. While the last job of the schedule has not ended, no other is submitted, unless you say
    --overlap.
    """
    if (every is None) == (cron is None):
        raise click.UsageError("expected either --every or --cron")
    if not words:
        raise click.UsageError("expected a COMMAND")
    command = submit_request.line(words)
    with session.connect() as client:
        number = client.schedule(
            command,
            every=every,
            cron=cron,
            overlap=overlap,
            **submit_request.recurring(client.is_local, given),
        )
    session.say(str(number), {"schedule": number})
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq schedules
  taskq schedules --json | jq '.[] | {schedule, next_run_at, last_job}'
"""
)
@click.pass_obj
def schedules(session: Session) -> int:
    """Print the schedules.

    A line each, with a tab between its number, when it runs, its next run, its last one and the job of that,
    and the command. The next run is - while it is paused.
    """
    with session.connect() as client:
        found = client.schedules()
    rows = [_cells(schedule) for schedule in found]
    if text.is_terminal() and not session.is_json:
        printer.print_schedules(found)
        return 0
    with session.listed():
        for row, facts in zip(rows, found, strict=True):
            session.say("\t".join(row), facts)
    return 0


def _cells(schedule: Facts) -> tuple[str, ...]:
    cron, every, zone = schedule.get("cron"), schedule.get("every"), schedule.get("tz")
    return (
        str(schedule["schedule"]),
        text.sanitize_line(cron + (f" ({zone})" if zone else "")) if cron else f"every {every:g} s",
        "- (paused)" if schedule["paused"] else schedule.get("next_run_at") or "-",
        schedule.get("last_run_at") or "-",
        str(schedule.get("last_job") or "-"),
        text.command_of(schedule),
    )


@taskq.command(
    epilog="""\b
Example:
  taskq unschedule 3
"""
)
@parameters.schedule_numbers
@click.pass_obj
def unschedule(session: Session, schedules: tuple[int, ...]) -> int:
    """End a schedule.

    Prints its number. Jobs that it has submitted go on.
    """

    def end_one(client: Client, schedule: Ref) -> None:
        client.unschedule(int(schedule))
        session.say(str(schedule), {"schedule": schedule})

    with session.connect() as client, session.listed(len(schedules) > 1):
        return max(for_each(session, client, schedules, end_one, "schedule"))
