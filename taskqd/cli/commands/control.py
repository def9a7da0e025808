"""The commands cancel, hold, release, set, retry and remove, for jobs by id or by filter."""

from typing import Any, cast

import click

from taskqd.cli import job_options, parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.job_selection import Action, apply_to_each
from taskqd.cli.statuses import FINISHED, LIVE, PENDING
from taskqd.client import Changes, Client, Facts, Ref, Status

CANCEL = Action("Cancel", "cancelled", LIVE)
HOLD = Action("Hold", "held", PENDING)
RELEASE = Action("Release", "released", PENDING)
SET = Action("Change", "changed", PENDING)
RETRY = Action("Retry", "retried", FINISHED)
REMOVE = Action("Remove", "removed", FINISHED)

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

    Prints its new status. A pending job ends at once. A running job gets SIGTERM, and SIGKILL after its
    --kill-after; until it has ended, its status is RUNNING. `taskq wait` waits for its end.
    """

    def cancel_one(client: Client, job: Ref) -> Status:
        return client.cancel(job, signal, cascade=cascade)

    return apply_to_each(session, given, CANCEL, cancel_one)


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

    def hold_one(client: Client, job: Ref) -> Status:
        return client.hold(job)

    return apply_to_each(session, given, HOLD, hold_one)


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

    def release_one(client: Client, job: Ref) -> Status:
        return client.release(job)

    return apply_to_each(session, given, RELEASE, release_one)


@taskq.command(
    "set",
    epilog="""\b
Examples:
  taskq set 7 --priority 10
  taskq set 3-7 --timeout none --retries 2
  taskq set --in-queue slow --with-label nightly --queue fast
""",
)
@job_options.changes
@parameters.job_selection("--in-queue", "--with-label")
@click.pass_obj
def set_options(session: Session, /, **given: Any) -> int:
    """Change options of a pending job.

    Accepts the options of `taskq submit` that can still be changed; `none` removes a timeout, limit, need,
    condition, delay or time. Prints the id of the job. For an array, all pending tasks are changed.
    """
    changes = {name: given[name] for name in job_options.CHANGEABLE if given[name] is not None}
    if not changes:
        raise click.UsageError("expected at least one option to change")

    def set_one(client: Client, job: Ref) -> Facts:
        return client.set(job, **cast("Changes", changes))

    return apply_to_each(session, given, SET, set_one)


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

    def retry_one(client: Client, job: Ref) -> Facts:
        number = client.retry(job, cascade=cascade)
        if left := client.show(number).get("skipped"):
            failed = "1 job that failed because of it is"
            if left > 1:
                failed = f"{left} jobs that failed because of it are"
            session.print_message(f"job {number}: {failed} not retried; see --cascade")
        return {"id": number}

    return apply_to_each(session, given, RETRY, retry_one)


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

    def remove_one(client: Client, job: Ref) -> Facts:
        client.remove(job)
        return {"id": job}

    return apply_to_each(session, given, REMOVE, remove_one)
