"""The commands that change jobs by id or by filter, such as cancel, hold and set."""

from collections.abc import Sequence
from typing import Any, cast

import click

from taskqd.cli import job_options, parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.text import command_of, confirm
from taskqd.cli.job_selection import Action, apply, can_ask, has_selection
from taskqd.cli.statuses import FINISHED, LIVE, PENDING, RUNNING
from taskqd.client import Changes, Client, Ref, Refused

CANCEL = Action("cancel", "cancelled", "CANCEL", LIVE)
HOLD = Action("hold", "held", "HOLD", PENDING)
RELEASE = Action("release", "released", "RELEASE", PENDING)
SUSPEND = Action("suspend", "suspended", "SUSPEND", RUNNING)
CONTINUE = Action("continue", "continued", "CONTINUE", LIVE)
SET = Action("change", "changed", "SET", PENDING)
RETRY = Action("retry", "retried", "RETRY", FINISHED)
REMOVE = Action("remove", "removed", "REMOVE", FINISHED)

JOB_SELECTION = parameters.job_selection("--queue", "--label")


@taskq.command(
    epilog="""\b
Examples:
  taskq cancel 7
  taskq cancel 3-7 12.1                jobs 3 to 7, and the task with index 1 of array 12
  taskq cancel --label nightly --yes   all pending and running jobs with this label
"""
)
@JOB_SELECTION
@parameters.text("--signal", "Signal for the processes of a running job, instead of TERM.", "NAME")
@click.option(
    "--cascade", is_flag=True, help="Also cancel pending jobs that depend on it, directly or indirectly."
)
@click.pass_obj
def cancel(session: Session, /, signal: str | None, cascade: bool, **given: Any) -> int:
    """Cancel a pending or running job.

    Without an ID it asks, on a terminal, about your latest job that has not ended. Prints its new status. A
    pending job ends at once. A running job gets SIGTERM, and SIGKILL after its --kill-after; until it has
    ended, its status is RUNNING. `taskq wait` waits for its end.
    """
    if not has_selection(given):
        latest = _ask_about_latest(session)
        if latest is None:
            return REFUSED
        given["jobs"] = (latest,)
    return apply(session, given, CANCEL, {"signal": signal, "cascade": cascade})


def _ask_about_latest(session: Session) -> Ref | None:
    """Return the id of the user's latest job that has not ended, None if the user does not confirm."""
    if not can_ask():
        raise click.UsageError(
            "expected job IDs or filter options; without them, taskq cancel asks about your latest job, and "
            "that needs a terminal"
        )
    with session.connect() as client:
        user = client.hello()["you"]["name"]
        jobs = client.list(owner=user, status=",".join(LIVE), limit=1, reverse=True)
    if not jobs:
        raise click.UsageError(f"you ({user}) have no job that is pending or running; expected a job ID")
    job = jobs[0]
    if not confirm(f"cancel job {job['id']} `{command_of(job)}` ({job['status']})?"):
        session.print_message("the job was not cancelled")
        return None
    latest: int = job["id"]
    return latest


@taskq.command(
    epilog="""\b
Examples:
  taskq hold 7
  taskq hold --queue nightly
"""
)
@JOB_SELECTION
@click.pass_obj
def hold(session: Session, /, **given: Any) -> int:
    """Prevent a pending job from starting.

    Prints its status. `taskq release` allows it to start; `taskq pause` stops a whole queue.
    """
    return apply(session, given, HOLD, {})


@taskq.command(
    epilog="""\b
Examples:
  taskq release 7
  taskq release --label nightly
"""
)
@JOB_SELECTION
@click.pass_obj
def release(session: Session, /, **given: Any) -> int:
    """Allow a held or delayed job to start.

    Prints its status. It starts when capacity is available and its dependencies have ended.
    """
    return apply(session, given, RELEASE, {})


@taskq.command(
    epilog="""\b
Examples:
  taskq suspend 7
  taskq suspend --queue render --yes
"""
)
@JOB_SELECTION
@click.pass_obj
def suspend(session: Session, /, **given: Any) -> int:
    """Stop a running job for a while.

    Prints its status, which is RUNNING still. All of its processes are stopped by SIGSTOP, and its --timeout
    and --idle-timeout stand still, until `taskq continue`. It keeps its slots. Of an array, the running tasks
    are stopped, and no other task starts. `taskq hold` is for a job that has not started.
    """
    return apply(session, given, SUSPEND, {})


@taskq.command(
    "continue",
    epilog="""\b
Examples:
  taskq continue 7
  taskq continue --queue render --yes
""",
)
@JOB_SELECTION
@click.pass_obj
def continue_job(session: Session, /, **given: Any) -> int:
    """Let a suspended job go on.

    Prints its status.
    """
    return apply(session, given, CONTINUE, {})


@taskq.command(
    "set",
    epilog="""\b
Examples:
  taskq set 7 --priority 10
  taskq set 3-7 --timeout none --retries 2
  taskq set --in-queue slow --with-label nightly --queue fast
  taskq set 7 --command 'make -j8 > log'
""",
)
@job_options.changes
@parameters.job_selection("--in-queue", "--with-label")
@click.pass_obj
def set_options(session: Session, /, **given: Any) -> int:
    """Change options of a pending job, or what it executes.

    Accepts the options of `taskq submit` that can still be changed; `none` removes a timeout, limit, need,
    condition, delay or time. Prints the id of the job. For an array, all pending tasks are changed; --command
    and --script need all of them to be pending. `taskq edit` opens all this in an editor.
    """
    changes = {name: given[name] for name in job_options.CHANGEABLE if given[name] is not None}
    if not changes:
        raise click.UsageError("expected at least one option to change")
    for name in {"command", "script"} & changes.keys():
        if not given["jobs"]:
            raise click.UsageError(f"--{name} is for jobs that are named by their IDs")
    if "script" in changes:
        changes["script"] = given["script"].read()
    return apply(session, given, SET, {"changes": cast("Changes", changes)})


@taskq.command(
    epilog="""\b
Examples:
  taskq retry 7
  taskq retry --status FAILED --label nightly
  taskq retry --cascade 7              and the jobs that depend on it
"""
)
@JOB_SELECTION
@click.option("--cascade", is_flag=True, help="Also retry jobs that failed because of it.")
@click.pass_obj
def retry(session: Session, /, cascade: bool, **given: Any) -> int:
    """Run a finished job again.

    It becomes pending again with the same id, which is printed. For an array, the tasks that did not complete
    run again, or all if all completed. Jobs that failed because they depend on it are retried only with
    --cascade; without it, a message gives their number.
    """
    return apply(session, given, RETRY, {"cascade": cascade}, _report_skipped)


@taskq.command(
    epilog="""\b
Examples:
  taskq remove 7
  taskq remove --status COMPLETED --yes
"""
)
@JOB_SELECTION
@click.pass_obj
def remove(session: Session, /, **given: Any) -> int:
    """Delete a finished job and its output.

    Prints its id, which is never used again; requests for it fail with GONE.
    """
    return apply(session, given, REMOVE, {})


def _report_skipped(session: Session, client: Client, jobs: Sequence[Ref]) -> None:
    """Print how many jobs that failed because of each retried one were not retried."""
    for job, shown in zip(jobs, client.show_each(jobs), strict=True):
        left = 0 if isinstance(shown, Refused) else shown.get("skipped", 0)
        if left:
            failed = (
                f"{left} jobs that failed because of it are"
                if left > 1
                else "1 job that failed because of it is"
            )
            session.print_message(f"job {job}: {failed} not retried; see --cascade")
