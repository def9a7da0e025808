"""The command send."""

import os
from collections.abc import Iterator, Sequence

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.stdin_pieces import MAX_PIECE, NO_TIMEOUT, stdin_pieces
from taskqd.client import Ref, Refused


@taskq.command(
    epilog="""\b
Examples:
  taskq submit --interactive bc        prints the id of a job, such as 7
  taskq send 7 2+3                     `taskq output 7` then prints 5
  taskq send 7 --eof quit              the last line: bc gets the end of its input
  taskq send 7 < program.bc            sends a file, as fast as the job reads it
  taskq send 7 -n -- -x                without a line end; -- because the text begins with -
"""
)
@parameters.one_job
@click.argument("words", metavar="[TEXT]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--no-newline", "-n", is_flag=True, help="Send no line end after the TEXT.")
@click.option("--eof", is_flag=True, help="Then close the job's stdin: it gets the end of its input.")
@parameters.duration(
    "--timeout", "Time for the job to read what it got before.  [default: 10s for a TEXT, else none]"
)
@click.pass_obj
def send(
    session: Session, job: Ref, words: Sequence[str], no_newline: bool, eof: bool, timeout: str | None
) -> int:
    """Write to the stdin of a running job.

    The job was submitted with --interactive. Sends the words of the TEXT and a line end, or all of stdin if
    there is no TEXT, and ends when the job's pipe has it. A pipe holds 64 KiB that the job has not read. Only
    the owner of a job may send it input, and what was sent is stored nowhere.
    """
    if words:
        pieces = _text_pieces(words, "" if no_newline else "\n")
    elif no_newline:
        raise click.UsageError("--no-newline needs a TEXT; stdin is sent unchanged")
    else:
        pieces = stdin_pieces()
        timeout = timeout or NO_TIMEOUT
    written = 0
    with session.connect() as client:
        try:
            for piece in pieces:
                written += client.send(job, piece, timeout=timeout)
            if eof:
                client.send(job, eof=True, timeout=timeout)
        except Refused as why:
            before = f"; {written} bytes before these were written" if written else ""
            return session.print_refusal(Refused(why.code, why.text + before), facts={"id": job})
    if session.is_json:
        session.print_answer("", {"id": job, "written": written})
    return 0


def _text_pieces(words: Sequence[str], end: str) -> Iterator[bytes]:
    data = os.fsencode(" ".join(words) + end)
    return (data[at : at + MAX_PIECE] for at in range(0, len(data), MAX_PIECE))
