"""The commands schedule, schedules and unschedule."""

import time
from typing import Any

import click
from click.core import ParameterSource

from taskqd.cli import job_options, parameters, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import printer, text
from taskqd.cli.job_selection import for_each
from taskqd.cli.parameters import OPTIONS_FIRST
from taskqd.client import Client, Facts, Ref


@taskq.command(
    context_settings=OPTIONS_FIRST,
    epilog="""\b
Examples:
  taskq schedule --every 10m ./poll
  taskq schedule --cron '30 2 * * mon-fri' --label nightly -- ./backup --all
  taskq schedule --every 1d --secret TOKEN --script sync.sh all
  taskq schedule --run-now 3
  taskq schedule --set 3 --cron '0 4 * * *' --timeout none
  taskq schedule --cron @daily --queue slow 'find /tmp -mtime +7 -delete'
""",
)
@parameters.duration("--every", "Interval between submissions.")
@parameters.text("--cron", "Five fields as in crontab(5): minute hour day month weekday.", "'* * * * *'")
@click.option(
    "--overlap/--no-overlap",
    default=None,
    help="Submit a job even if the previous one has not ended.  [default: no]",
)
@click.option(
    "--run-now",
    metavar="N",
    type=click.IntRange(1),
    shell_complete=parameters.completion("schedules"),
    help="Submit a job of schedule N now; prints the job's id.",
)
@click.option(
    "--set",
    "changed",
    metavar="N",
    type=click.IntRange(1),
    is_eager=True,
    shell_complete=parameters.completion("schedules"),
    help="Change schedule N: its times, its command, and the options that are given.",
)
@job_options.recurring
@click.pass_obj
def schedule(
    session: Session,
    /,
    words: tuple[str, ...],
    every: str | None,
    cron: str | None,
    overlap: bool | None,
    run_now: int | None,
    changed: int | None,
    **given: Any,
) -> int:
    """Submit a job periodically.

    Prints the number of the schedule. The command is as in `taskq submit`, and the options apply to each
    job. Times are in the daemon's time zone, or in that of --tz. If submissions were missed while the
    daemon was not running, one job is submitted for all of them. Without --overlap, no job is submitted
    while the previous one has not ended.

    With --set, what is not given stays, and so do the number, the pause and the last job; --env and --secret
    add variables, a COMMAND replaces a --script, `none` removes an option, and '' a label.
    """
    if run_now is not None:
        return _run_now(session, run_now)
    if changed is not None:
        return _change(session, changed, words, given)
    if (every is None) == (cron is None):
        raise click.UsageError("expected either --every or --cron")
    command = submit_request.command_to_schedule(words, given)
    with session.connect() as client:
        number = client.schedule(
            command,
            every=every,
            cron=cron,
            overlap=bool(overlap),
            **submit_request.recurring(client, given),
        )
    session.print_answer(str(number), {"schedule": number})
    return 0


def _typed(*own: str) -> dict[str, Any]:
    """Return the parameters that the command line has, but for ``own``; not those of the user's settings."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in context.params.items()
        if name not in own and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def _change(session: Session, number: int, words: tuple[str, ...], options: dict[str, Any]) -> int:
    command = submit_request.changed_command(words, options)
    given = _typed("changed", "words")
    if not given and not words:
        raise click.UsageError("expected what to change: options, or the new COMMAND")
    if "every" in given and "cron" in given:
        raise click.UsageError("expected either --every or --cron")
    changes = submit_request.schedule_changes(given)
    with session.connect() as client:
        client.set_schedule(number, command, **changes)
    session.print_answer(str(number), {"schedule": number})
    return 0


def _run_now(session: Session, number: int) -> int:
    if _typed("run_now"):
        raise click.UsageError("--run-now takes no command and no other options: the schedule has them")
    with session.connect() as client:
        job = client.run_schedule(number)
    session.print_answer(str(job), {"id": job})
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq schedules
  taskq schedules 3
  taskq schedules --json | jq '.[] | {schedule, next_run_at, last_job}'
"""
)
@parameters.schedule_number
@click.pass_obj
def schedules(session: Session, number: int | None) -> int:
    """List the schedules, or show one with its next five runs.

    On a terminal as a table; otherwise one schedule per line, separated by tabs: its number, its interval
    or cron fields, its next run (- while it is paused), its last run and the job of that, and its command.
    """
    with session.connect() as client:
        found = client.schedules(number)
    if number is not None and not session.is_json:
        for schedule in found:
            _print_runs(schedule)
        return 0
    rows = [_cells(schedule) for schedule in found]
    if text.is_terminal() and not session.is_json:
        printer.print_schedules(found)
        return 0
    with session.answer_list():
        for row, facts in zip(rows, found, strict=True):
            session.print_answer("\t".join(row), facts)
    return 0


def _print_runs(schedule: Facts) -> None:
    """Print a schedule and when it runs next: times on a terminal are local."""
    now = time.time()
    number, when, _, _, _, command = _cells(schedule)
    click.echo(f"schedule {number}: {when}: {command}")
    for at in schedule.get("next_runs", ()):
        shown = text.weekday_time(at) if text.is_terminal() else at
        click.echo(f"{shown} ({text.relative_time(at, now)})")
    if schedule["paused"]:
        click.echo("paused")
    elif not schedule.get("next_runs"):
        click.echo("never runs")


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
    """Delete a schedule.

    Prints its number. Jobs that it has submitted continue.
    """

    def delete_one(client: Client, schedule: Ref) -> None:
        client.unschedule(int(schedule))
        session.print_answer(str(schedule), {"schedule": schedule})

    with session.connect() as client, session.answer_list(len(schedules) > 1):
        return max(for_each(session, client, schedules, delete_one, "schedule"))
