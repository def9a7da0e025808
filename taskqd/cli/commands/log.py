"""The command log."""

from collections.abc import Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import DROPPED, Session
from taskqd.cli.job_output import describe_output_files
from taskqd.cli.job_selection import print_each
from taskqd.cli.log_output import Write, print_log
from taskqd.cli.streaming.job_follower import LogFollower, Notice
from taskqd.client import Client, Facts, LogPiece, Output, Ref
from taskqd.client.follow_position import FollowPosition

_STREAMS = ("stdout", "stderr")


@taskq.command(
    epilog="""\b
Examples:
  taskq log 7
  taskq log 7 --tail 20 --follow     its last 20 lines, and what it prints from now on
  taskq log 7 --timestamps --stderr  only its stderr, with the time of each line
  taskq log 7 8 9                    each after a line with the id of the job
"""
)
@parameters.job_arguments
@click.option("--stdout", is_flag=True, help="Only stdout.")
@click.option("--stderr", is_flag=True, help="Only stderr.")
@click.option("--timestamps", "-t", "has_times", is_flag=True, help="Begin each line with its time.")
@parameters.number("--tail", "Print only this many of the last lines.", short="-n")
@click.option("--follow", "-f", "is_followed", is_flag=True, help="Go on until the job ends.")
@parameters.number("--attempt", "Number of the attempt, from 1.  [default: the latest]", 1)
@parameters.reconnect
@parameters.raw
@click.pass_obj
def log(
    session: Session,
    /,
    jobs: Sequence[Ref],
    has_times: bool,
    tail: int | None,
    is_followed: bool,
    attempt: int | None,
    is_raw: bool,
    **wanted: bool,
) -> int:
    """Print both output streams of a job so far, in order.

    They are printed to stdout; on a terminal stderr is dim, and control characters except colours are shown
    as text. The order is that in which the daemon's runner has read them; what it has read at once, as all
    output of a job of less than 10 ms, begins with stdout. With --timestamps, lines are whole, and times are
    local on a terminal, else UTC.

    With --follow it waits for a pending job, continues when a job is retried and when the daemon is
    restarted, and exits with the exit code of the job. Otherwise the exit code is 74 if output over the job's
    --max-output was dropped.
    """
    streams = [stream for stream in _STREAMS if wanted[stream]]
    stream = streams[0] if len(streams) == 1 else None
    if is_followed and (len(jobs) > 1 or attempt is not None):
        raise click.UsageError(
            "--follow is for one job, without --attempt; `taskq follow` takes several jobs"
        )
    if is_followed:
        with print_log(session, jobs[0], has_times=has_times, is_raw=is_raw) as write:
            facts = _follow(session, jobs[0], stream, tail, write)
        if session.is_json:
            session.print_answer("", facts)
        return session.exit_code_after_output(facts, is_new=True)
    codes = []

    def print_one(client: Client, job: Ref) -> None:
        if len(jobs) > 1 and not session.is_json:
            click.echo("\n" * (job != jobs[0]) + f"==> job {job} <==")
        with print_log(session, job, has_times=has_times, is_raw=is_raw) as write:
            for piece in client.log(job, attempt=attempt, stream=stream, tail_lines=tail):
                write(piece)
        facts = client.show(job)
        wanted_streams = _STREAMS if stream is None else (stream,)
        if where := describe_output_files(job, facts, wanted_streams, attempt):
            session.print_message(where)
        of_attempt = next((run for run in facts.get("runs", ()) if run["attempt"] == attempt), facts)
        if session.report_dropped_output(job, of_attempt, wanted_streams):
            codes.append(DROPPED)

    return print_each(session, jobs, print_one) or next(iter(codes), 0)


def _follow(session: Session, job: Ref, stream: str | None, tail: int | None, write: Write) -> Facts:
    """Print the log of a job until that ends, and return the job."""
    position = FollowPosition()
    if tail is not None:
        with session.connect() as client:
            page = client.log_page(job, stream=stream, tail_lines=tail)
        for piece in page.pieces:
            write(piece)
        position = FollowPosition(page.stdout, page.stderr)
    follower = LogFollower(job, session.connect_once, session.reconnect_timeout, position=position)
    follower.stream = stream
    for item in follower.items():
        if isinstance(item, LogPiece):
            write(item)
        elif isinstance(item, Notice):
            session.print_message(item.text)
        elif not isinstance(item, Output):
            return item
    raise AssertionError("LogFollower.items ends with the facts of the job")
