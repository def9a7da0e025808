"""The commands submit and run."""

import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import click

from taskqd.cli import job_options, parameters, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import BROKEN_PIPE, SIGNALLED, Session, drop_stdout
from taskqd.cli.interrupts import INTERRUPTED, Unanswered, deferring_interrupt
from taskqd.cli.job_output import print_output
from taskqd.cli.parameters import OPTIONS_FIRST, raw
from taskqd.cli.piped_stdin import piped_stdin
from taskqd.cli.streaming.attach import ASK, INTERRUPT_ACTIONS, SignalRecorder, attach
from taskqd.cli.streaming.bulk_submit import submit_lines
from taskqd.client import Unreachable


@taskq.command(
    context_settings=OPTIONS_FIRST,
    epilog="""\b
Examples:
  taskq submit ls -la "my file"        several words: a program and its arguments
  taskq submit 'sort < in | uniq -c'   one word: a shell command
  taskq submit --retries 3 --timeout 10m -- ./fetch
  taskq submit --script build.sh --label nightly
  taskq submit --stdin data.csv ./load
  taskq submit --after 3,4 --at 22:00 --queue nightly ./report
  taskq submit --secret API_KEY --secret-file TLS_KEY=/root/tls.key ./publish
  taskq submit --array 1-100%8 'convert "$TASKQ_INDEX.png" "$TASKQ_INDEX.jpg"'
  taskq submit --need gpu:1 --memory 8G --retries 2 --retry-on exit:75,signal:KILL -- ./train
  seq 1000 | sed 's/^/factor /' | taskq submit --from-file -
""",
)
@job_options.submission
@click.option(
    "--from-file",
    metavar="FILE",
    type=click.File("rb"),
    help="Submit each line of a file as a job, except empty lines and comments; - for stdin.",
)
@click.pass_obj
def submit(session: Session, /, words: Sequence[str], from_file: BufferedReader | None, **given: Any) -> int:
    r"""Submit a job and print its id.

    The job is on disk when the id is printed. Several words are a program and its arguments; a single word
    is a command for /bin/sh. A daemon on this machine also gets your working directory, PATH and umask by
    default.

    Jobs start in the order of priority and id when capacity is available: slots of the daemon and of the
    queue, and the resources that the job needs. `taskq why` shows what a pending job waits for.

    In a --from-file, lines that begin with # are comments, and a line that ends with \ continues in the next.
    """
    if not from_file:
        command = submit_request.command(words, given)
        with session.connect() as client:
            options = submit_request.options(client.is_local, given)
            try:
                with deferring_interrupt() as interrupted:
                    job = client.submit(command, **options)
                    session.print_answer(str(job), {"id": job})
                    sys.stdout.flush()
            except Unanswered:
                session.print_message(
                    "the daemon has not replied yet; the job may or may not have been submitted"
                )
                return INTERRUPTED
        return INTERRUPTED if interrupted else 0
    if words or given["script"] or given["key"]:
        raise click.UsageError("--from-file cannot be combined with a COMMAND, --script or --key")
    submit_request.reject_shared_stdin(from_file, given["stdin"])
    submit_request.reject_two_start_times(given)
    submit_request.reject_duplicate_variables(given)
    with session.connect() as client:
        return submit_lines(session, client, from_file, submit_request.options(client.is_local, given))


@taskq.command(
    context_settings=OPTIONS_FIRST,
    epilog="""\b
Examples:
  taskq run make test && echo passed
  taskq run --timeout 1h --nice 10 -- ./report > report.txt
  zcat access.log.gz | taskq run --queue reports ./count
  timeout 1h taskq run --on-interrupt cancel ./crawl
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
    block.

    Ctrl-C asks whether to cancel the job; otherwise it continues without taskq. After SIGTERM and SIGHUP it
    continues, unless --on-interrupt is given. If the daemon is restarted, taskq reconnects.
    """
    command = submit_request.command(words, given)
    if given["array"] is not None:
        raise click.UsageError("run accepts no --array; use `taskq submit` and `taskq wait`")
    if not no_stdin:
        given["stdin"] = given["stdin"] or piped_stdin(session, given["script"])
    with SignalRecorder() as signals:
        with session.connect() as client:
            job = client.submit(command, **submit_request.options(client.is_local, given))
        if session.is_json:
            session.print_answer("", {"id": job})
            sys.stdout.flush()
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
