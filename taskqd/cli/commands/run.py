"""The command run."""

import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import click

from taskqd.cli import job_options, parameters, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import BROKEN_PIPE, SIGNALLED, Session, drop_stdout
from taskqd.cli.job_output import print_output
from taskqd.cli.parameters import OPTIONS_FIRST, raw
from taskqd.cli.piped_stdin import STDIN, piped_stdin
from taskqd.cli.streaming.attach import ASK, INTERRUPT_ACTIONS, LEAVE, SignalRecorder, attach
from taskqd.client import Unreachable


@taskq.command(
    context_settings=OPTIONS_FIRST,
    epilog="""\b
Examples:
  taskq run make test && echo passed
  taskq run --timeout 1h --nice 10 -- ./report > report.txt
  zcat access.log.gz | taskq run --queue reports ./count
  timeout 1h taskq run --on-interrupt cancel ./crawl
  taskq run --interactive python3 -iq
""",
)
@job_options.submission
@click.option(
    "--no-stdin", "-n", is_flag=True, help="Do not pass stdin to the job if it is a pipe or a file."
)
@click.option(
    "--on-interrupt",
    type=click.Choice(INTERRUPT_ACTIONS),
    default=ASK,
    show_default=True,
    help="Action on Ctrl-C, SIGTERM or SIGHUP; asks only for Ctrl-C on a terminal.",
)
@parameters.reconnect
@raw
@click.pass_obj
def run(
    session: Session,
    /,
    words: Sequence[str],
    no_stdin: bool,
    on_interrupt: str,
    is_raw: bool,
    **given: Any,
) -> int:
    """Submit a job, print its output, and exit with its exit code.

    The output is printed as it arrives; on a terminal, control characters except colours are shown as text.
    If stdin is a pipe or a file, it is read to its end first and passed to the job, up to the limit of a
    block. With --interactive it is sent while the job runs, line by line from a terminal; Ctrl-D ends it.

    Ctrl-C asks whether to cancel the job, unless it is --interactive; otherwise it continues without taskq.
    After SIGTERM and SIGHUP it continues, unless --on-interrupt is given. If the daemon is restarted, taskq
    reconnects.
    """
    command = submit_request.command(words, given)
    if given["array"] is not None:
        raise click.UsageError("run accepts no --array; use `taskq submit` and `taskq wait`")
    is_forwarded = not no_stdin and _pass_stdin(session, given)
    # What is typed is for the job, so it cannot answer a question.
    on_interrupt = LEAVE if is_forwarded and on_interrupt == ASK else on_interrupt
    with SignalRecorder() as signals:
        with session.connect() as client:
            job = client.submit(command, **submit_request.options(client, given))
        if session.is_json:
            session.print_answer("", {"id": job})
            sys.stdout.flush()
        if is_forwarded:
            _forward_stdin(session, job)
        try:
            with print_output(session, is_raw) as write:
                facts = attach(session, job, write, signals, on_interrupt)
            if facts is not None:
                if session.is_json:
                    session.print_answer("", facts)
                return session.exit_code_after_output(facts, is_new=True)
            code = SIGNALLED + signals.last
        except KeyboardInterrupt:
            code = SIGNALLED + signals.last
        except BrokenPipeError:
            drop_stdout()
            code = BROKEN_PIPE
        except Unreachable as error:
            raise Unreachable(f"{error}; job {job} is submitted: see `taskq wait {job}`") from None
        signals.ignore()
        session.print_message(
            f"job {job} continues; see `taskq wait {job}`, or cancel it with `taskq cancel {job}`"
        )
        return code


def _pass_stdin(session: Session, given: dict[str, Any]) -> bool:
    """Read stdin for the submission; return True if it is for an interactive job, which is sent it later."""
    if not given["interactive"]:
        given["stdin"] = given["stdin"] or piped_stdin(session, given["script"])
        return False
    script: BufferedReader | None = given["script"]
    return script is None or script.fileno() != STDIN


def _forward_stdin(session: Session, job: int) -> None:
    from taskqd.cli.streaming.stdin_forwarder import StdinForwarder  # noqa: PLC0415 - only needed here

    StdinForwarder(session, job).start()
