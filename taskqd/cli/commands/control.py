"""What can be done to jobs once they are there, by id or to all that pass a filter."""

from typing import Any, cast

import click

from taskqd.cli import job_options, parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.job_selection import FINISHED, LIVE, PENDING, Act, act_on_each
from taskqd.client import Changes, Client, Facts, Ref, Status

CANCEL = Act("Cancel", "cancelled", LIVE)
HOLD = Act("Hold", "held", PENDING)
RELEASE = Act("Release", "released", PENDING)
SET = Act("Change", "changed", PENDING)
RETRY = Act("Retry", "retried", FINISHED)
REMOVE = Act("Remove", "removed", FINISHED)

BY_FILTER = parameters.selection("--queue", "--label")


@taskq.command(
    epilog="""\b
Examples:
  taskq cancel 7
  taskq cancel 3-7 12.1                of array 12 the task with index 1
  taskq cancel --label nightly --yes   what is pending or runs with this label
"""
)
@BY_FILTER
@parameters.text("--signal", "Instead of TERM, to all processes of a running job.", "NAME")
@click.option("--cascade", is_flag=True, help="Also the pending jobs that come after it, and after those.")
@click.pass_obj
def cancel(session: Session, /, signal: str | None, cascade: bool, **given: Any) -> int:
    """End a job before its time.

    Prints where the job then stands. A pending one ends at once. A running one gets SIGTERM, and SIGKILL
    after its --kill-after: it may say RUNNING for so long, and `taskq wait` tells when it has ended.
    """

    def cancel_one(client: Client, job: Ref) -> Status:
        return client.cancel(job, signal, cascade=cascade)

    return act_on_each(session, given, CANCEL, cancel_one)


@taskq.command(
    epilog="""\b
Examples:
  taskq hold 7
  taskq hold --queue nightly
"""
)
@BY_FILTER
@click.pass_obj
def hold(session: Session, /, **given: Any) -> int:
    """Have a pending job not start until it is released.

    Prints where the job stands. `taskq release` lets it go; `taskq pause` holds up a whole queue.
    """

    def hold_one(client: Client, job: Ref) -> Status:
        return client.hold(job)

    return act_on_each(session, given, HOLD, hold_one)


@taskq.command(
    epilog="""\b
Examples:
  taskq release 7
  taskq release --label nightly
"""
)
@BY_FILTER
@click.pass_obj
def release(session: Session, /, **given: Any) -> int:
    """Let a pending job start that was held or delayed.

    Prints where the job stands. It starts when there is room for it, and not before the jobs that it comes
    after have ended.
    """

    def release_one(client: Client, job: Ref) -> Status:
        return client.release(job)

    return act_on_each(session, given, RELEASE, release_one)


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
@parameters.selection("--in-queue", "--with-label")
@click.pass_obj
def set_options(session: Session, /, **given: Any) -> int:
    """Change what is asked of a job that has not started.

    Takes the options of `taskq submit` that can still be changed; `none` takes away a timeout, a limit, a
    need, a condition, a delay or a time. Prints the job's id. Of an array all tasks that are pending change.
    """
    changes = {name: given[name] for name in job_options.CHANGEABLE if given[name] is not None}
    if not changes:
        raise click.UsageError("expected at least one option that says what to change")

    def set_one(client: Client, job: Ref) -> Facts:
        return client.set(job, **cast("Changes", changes))

    return act_on_each(session, given, SET, set_one)


@taskq.command(
    epilog="""\b
Examples:
  taskq retry 7
  taskq retry --status FAILED --label nightly
  taskq retry --cascade 7              and what came after it
"""
)
@BY_FILTER
@click.option("--cascade", is_flag=True, help="Also the jobs that failed because it did not do well.")
@click.pass_obj
def retry(session: Session, /, cascade: bool, **given: Any) -> int:
    """Run a finished job once more.

    It becomes pending again under the same id, which is printed. Of an array those tasks run again that did
    not complete, or all if all did. Jobs that came after it and failed for that are left as they are, unless
    you say --cascade; how many that are is said on stderr.
    """

    def retry_one(client: Client, job: Ref) -> Facts:
        number = client.retry(job, cascade=cascade)
        if left := client.show(number).get("skipped"):
            jobs = "1 job that failed" if left == 1 else f"{left} jobs that failed"
            session.complain(f"job {number}: {jobs} because of it will not run again without --cascade")
        return {"id": number}

    return act_on_each(session, given, RETRY, retry_one)


@taskq.command(
    epilog="""\b
Examples:
  taskq remove 7
  taskq remove --status COMPLETED --yes
"""
)
@BY_FILTER
@click.pass_obj
def remove(session: Session, /, **given: Any) -> int:
    """Forget a finished job and its output.

    Prints its id, which is not given to another job; whoever asks for it is told that it is GONE.
    """

    def remove_one(client: Client, job: Ref) -> Facts:
        client.remove(job)
        return {"id": job}

    return act_on_each(session, given, REMOVE, remove_one)
