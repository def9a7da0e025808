"""The command submit."""

import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import click

from taskqd.cli import job_options, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.interrupts import INTERRUPTED, Unanswered, deferring_interrupt
from taskqd.cli.parameters import OPTIONS_FIRST


@taskq.command(
    context_settings=OPTIONS_FIRST,
    epilog="""\b
Examples:
  taskq submit ls -la "my file"        several words: a program and its arguments
  taskq submit 'sort < in | uniq -c'   one word: a shell command
  taskq submit --retries 3 --timeout 10m -- ./fetch
  taskq submit --label nightly --script build.sh release 2.1
  taskq submit --stdin data.csv ./load
  taskq submit --unless backup ./backup.sh
  taskq submit --after 3,4 --at 22:00 --queue nightly ./report
  taskq submit --after-label build-42 ./package
  taskq submit --secret API_KEY --secret-file TLS_KEY=/root/tls.key ./publish
  taskq submit --array 1-100%8 'convert "$TASKQ_INDEX.png" "$TASKQ_INDEX.jpg"'
  taskq submit --need gpu:1 --memory-max 8G --retries 2 --retry-on exit:75,signal:KILL -- ./train
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
            options = submit_request.options(client, given)
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
    if words or given["script"] or given["key"] or given["unless"]:
        raise click.UsageError("--from-file cannot be combined with a COMMAND, --script, --key or --unless")
    submit_request.reject_shared_stdin(from_file, given["stdin"])
    submit_request.check_start_time(given)
    submit_request.reject_duplicate_variables(given)
    from taskqd.cli.streaming.bulk_submit import submit_lines  # noqa: PLC0415 - only needed here

    with session.connect() as client:
        return submit_lines(session, client, from_file, submit_request.options(client, given))
