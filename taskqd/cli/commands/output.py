"""The commands result and output."""

from collections.abc import Iterable, Sequence
from typing import Any

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import DROPPED, Session
from taskqd.cli.job_output import bytes_field, describe_output_files, print_output
from taskqd.client import Client, Facts, Output, Ref, Refused
from taskqd.protocol.values import parse_size


@taskq.command()
@parameters.job_argument
@parameters.raw
@click.pass_obj
def result(session: Session, job: Ref, is_raw: bool) -> int:
    """Print the output of a finished job.

    Exits with its exit code. Its stdout is printed to stdout and its stderr to stderr, unchanged; on a
    terminal, control characters except colours are shown as text (^[ for ESC). The exit code is 75 if the
    job has not finished.
    """
    with session.connect() as client:
        pieces = _pieces(client, job)
        if session.is_json:
            whole = {"stdout": bytearray(), "stderr": bytearray()}
            for piece in pieces:
                whole[piece.stream] += piece.data
            streams = [bytes_field(stream, bytes(data)) for stream, data in whole.items()]
            facts = client.show(job)
            session.print_answer("", {"id": job, **streams[0], **streams[1], "exit_code": facts["exit_code"]})
            return session.exit_code_after_output(facts)
        with print_output(session, is_raw) as write:
            for piece in pieces:
                write(piece)
        facts = client.show(job)
        _report_output_files(session, job, facts, ("stdout", "stderr"))
        return session.exit_code_after_output(facts)


def _report_output_files(
    session: Session, job: Ref, facts: Facts, streams: Sequence[str], attempt: int | None = None
) -> None:
    """Print which files have the output that the daemon does not have."""
    if text := describe_output_files(job, facts, streams, attempt):
        session.print_message(text)


def _pieces(client: Client, job: Ref) -> Iterable[Output]:
    """Return the output of a finished job, in one reply or in pieces if it is too large."""
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
  taskq output 7                    its stdout so far
  taskq output 7 stderr --tail 2k   the last 2 KiB of its stderr
  taskq output 7 --attempt 1        the stdout of its first attempt
"""
)
@parameters.job_argument
@click.argument("stream", type=click.Choice(["stdout", "stderr"]), default="stdout")
@parameters.size("--offset", "Skip this many bytes.")
@parameters.size("--limit", "Print at most this many bytes.  [default: all]")
@parameters.size("--tail", "Print at most this many of the last bytes.")
@parameters.number("--attempt", "Number of the attempt, from 1.  [default: the latest]", 1)
@parameters.raw
@click.pass_obj
def output(session: Session, /, job: Ref, stream: str, attempt: int | None, is_raw: bool, **part: Any) -> int:
    """Print the stdout or stderr of a job so far.

    It is printed to stdout. The bytes are unchanged; on a terminal, control characters except colours are
    shown as text. The exit code is 74 if output over the job's --max-output was dropped.
    """
    left = None if part["limit"] is None else parse_size(part["limit"])
    with session.connect() as client, print_output(session, is_raw) as write:
        piece = client.output(job, stream, attempt=attempt, **part)
        while piece.data:
            # Both streams of the job are printed to stdout.
            write(piece if session.is_json else piece._replace(stream="stdout"))
            if left is not None:
                left -= len(piece.data)
            offset = piece.offset + len(piece.data)
            piece = client.output(job, stream, offset=offset, limit=left, attempt=attempt)
        if left == 0:
            return 0
        facts = client.show(job)
        _report_output_files(session, job, facts, [stream], attempt)
        facts = _of_attempt(facts, attempt)
    return DROPPED if session.report_dropped_output(job, facts, [stream]) else 0


def _of_attempt(job: Facts, attempt: int | None) -> Facts:
    """Return the facts of an attempt of a job, or of the job, which are those of the latest attempt."""
    return next((run for run in job.get("runs", ()) if run["attempt"] == attempt), job)
