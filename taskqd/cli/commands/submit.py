"""How jobs come in: one, many, or one that is followed to its end."""

import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import click

from taskqd.cli import job_options, parameters, submit_request
from taskqd.cli.app import taskq
from taskqd.cli.context import BROKEN_PIPE, SIGNALLED, Session, drop_stdout
from taskqd.cli.interrupts import INTERRUPTED, finishing
from taskqd.cli.job_output import printing
from taskqd.cli.parameters import UNTIL_COMMAND, raw
from taskqd.cli.piped_stdin import piped_stdin
from taskqd.cli.streaming.attach import ASK, CHOICES, Interrupts, attend
from taskqd.cli.streaming.bulk_submit import submit_lines
from taskqd.client import Unreachable


@taskq.command(
    context_settings=UNTIL_COMMAND,
    epilog="""\b
Examples:
  taskq submit ls -la "my file"        words reach the program as they are here
  taskq submit 'sort < in | uniq -c'   one word is a line for the shell
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
    help="Submit each line of it as a job, but for empty lines and comments, - for stdin.",
)
@click.pass_obj
def submit(session: Session, /, words: Sequence[str], from_file: BufferedReader | None, **given: Any) -> int:
    r"""Submit a job and print its id.

    It is on disk when the id is printed. Several words reach the program as they are; one is a line for
    /bin/sh. To a daemon on this machine your directory, PATH and umask go with it, unless told otherwise.

    Jobs start by priority and then by id, as far as there is room: slots of the daemon and of the queue, and
    what the job needs of the daemon's resources. `taskq why` tells what one waits for.

    In a --from-file, a line that begins with # is a comment, and one that ends with \ goes on in the next.
    """
    if not from_file:
        command = submit_request.command(words, given)
        with session.connect() as client:
            asked = submit_request.options(client.is_local, given)
            try:
                with finishing() as interrupted:
                    job = client.submit(command, **asked)
                    session.say(str(job), {"id": job})
                    sys.stdout.flush()
            except KeyboardInterrupt:
                session.complain("the daemon has not answered yet; the job may have been submitted or not")
                return INTERRUPTED
        return INTERRUPTED if interrupted else 0
    if words or given["script"] or given["key"]:
        raise click.UsageError("--from-file brings the commands: no COMMAND, --script or --key beside it")
    submit_request.check_stdin(from_file, given["stdin"])
    submit_request.check_times(given)
    submit_request.check_names(given)
    with session.connect() as client:
        return submit_lines(session, client, from_file, submit_request.options(client.is_local, given))


@taskq.command(
    context_settings=UNTIL_COMMAND,
    epilog="""\b
Examples:
  taskq run make test && echo good
  taskq run --timeout 1h --nice 10 -- ./report > report.txt
  zcat access.log.gz | taskq run --queue reports ./count
  timeout 1h taskq run --on-interrupt cancel ./crawl
""",
)
@job_options.submission
@click.option("--no-stdin", "-n", is_flag=True, help="Do not hand on our stdin, if that is a pipe or a file.")
@click.option(
    "--on-interrupt",
    type=click.Choice(CHOICES),
    default=ASK,
    show_default=True,
    help="What becomes of the job at Ctrl-C, SIGTERM or SIGHUP; only Ctrl-C on a terminal asks.",
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
    """Submit a job and stay with it to its end.

    Prints what the job prints, as it comes, and ends with its exit code; a terminal gets text and colours,
    and other control characters are shown. If our stdin is a pipe or a file, it is read to its end first and
    is the job's stdin, up to the size of a block.

    Ctrl-C asks whether to cancel the job; left alone it goes on without taskq. At SIGTERM and SIGHUP it goes
    on, unless --on-interrupt says otherwise. A restart of the daemon is waited for.
    """
    command = submit_request.command(words, given)
    if given["array"] is not None:
        raise click.UsageError("an array is many jobs: `taskq submit` it, and `taskq wait` for it")
    if not no_stdin:
        given["stdin"] = given["stdin"] or piped_stdin(session, given["script"])
    with Interrupts() as interrupts:
        with session.connect() as client:
            job = client.submit(command, **submit_request.options(client.is_local, given))
        if session.is_json:
            session.say("", {"id": job})
            sys.stdout.flush()
        try:
            with printing(session, is_raw) as write:
                facts = attend(session, job, write, interrupts, on_interrupt)
            if facts is not None:
                if session.is_json:
                    session.say("", facts)
                return session.printed(facts, is_new=True)
            code = SIGNALLED + interrupts.last
        except KeyboardInterrupt:
            code = SIGNALLED + interrupts.last
        except BrokenPipeError:
            drop_stdout()
            code = BROKEN_PIPE
        except Unreachable as error:
            raise Unreachable(f"{error}; job {job} is the daemon's: see `taskq wait {job}`") from None
        interrupts.end()
        session.complain(f"job {job} goes on; see `taskq wait {job}`, or end it with `taskq cancel {job}`")
        return code
