"""What jobs print."""

from collections.abc import Iterable
from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import DROPPED, Session
from taskqd.cli.job_output import content, printing
from taskqd.client import Client, Facts, Output, Ref, Refused
from taskqd.protocol.values import parse_size


@taskq.command()
@parameters.one_job
@parameters.raw
@click.pass_obj
def result(session: Session, job: Ref, is_raw: bool) -> int:
    """Print what a finished job printed.

    Its stdout goes to stdout and its stderr to stderr, byte for byte; a terminal gets text and colours, and
    other control characters are shown, as ^[ for ESC. Ends with the job's exit code, or with 75 where it has
    not finished.
    """
    with session.connect() as client:
        pieces = _pieces(client, job)
        if session.is_json:
            whole = {"stdout": bytearray(), "stderr": bytearray()}
            for piece in pieces:
                whole[piece.stream] += piece.data
            streams = [content(stream, bytes(data)) for stream, data in whole.items()]
            facts = client.show(job)
            session.say("", {"id": job, **streams[0], **streams[1], "exit_code": facts["exit_code"]})
            return session.printed(facts)
        with printing(session, is_raw) as write:
            for piece in pieces:
                write(piece)
        return session.printed(client.show(job))


def _pieces(client: Client, job: Ref) -> Iterable[Output]:
    """Return all that a finished job has printed: at once, or piece by piece where that is too large."""
    try:
        stdout, stderr, _ = client.result(job)
        return Output("stdout", 0, stdout), Output("stderr", 0, stderr)
    except Refused as refusal:
        if refusal.code != "TOO_LARGE":
            raise
    return (piece for stream in ("stdout", "stderr") for piece in client.stream(job, stream))


@taskq.command(
    epilog="""\b
Examples:
  taskq output 7                    what it has printed so far
  taskq output 7 stderr --tail 2k   the end of what it has complained about
  taskq output 7 --attempt 1        what it printed when it ran first
"""
)
@parameters.one_job
@click.argument("stream", type=click.Choice(["stdout", "stderr"]), default="stdout")
@parameters.size("--offset", "Begin after so many bytes.")
@parameters.size("--limit", "Print so many bytes at most.  [default: all]")
@parameters.size("--tail", "Begin so many bytes before the end.")
@parameters.number("--attempt", "Of this attempt, counted from 1.  [default: the latest]", 1)
@parameters.raw
@click.pass_obj
def output(session: Session, /, job: Ref, stream: str, attempt: int | None, is_raw: bool, **part: Any) -> int:
    """Print what a job has printed so far, stdout or stderr, to stdout.

    Byte for byte, and whether it has finished or not; a terminal gets text and colours, and other control
    characters are shown. Ends with 74 where more was printed than the job's --max-output keeps.
    """
    left = None if part["limit"] is None else parse_size(part["limit"])
    with session.connect() as client, printing(session, is_raw) as write:
        piece = client.output(job, stream, attempt=attempt, **part)
        while piece.data:
            # What was asked for is our output, whichever of its streams the job wrote it to.
            write(piece if session.is_json else piece._replace(stream="stdout"))
            if left is not None:
                left -= len(piece.data)
            offset = piece.offset + len(piece.data)
            piece = client.output(job, stream, offset=offset, limit=left, attempt=attempt)
        if left == 0:
            return 0
        facts = _of_attempt(client.show(job), attempt)
    return DROPPED if session.tell_dropped(job, facts, [stream]) else 0


def _of_attempt(job: Facts, attempt: int | None) -> Facts:
    """Return the facts of one attempt of a job, those of the latest unless it is named."""
    return next((run for run in job.get("runs", ()) if run["attempt"] == attempt), job)
