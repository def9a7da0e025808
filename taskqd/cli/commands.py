"""The commands of ``taskq``, one function a verb; each returns the exit code with which it ends.

What they take is in ``arguments``, and what the options mean in docs/protocol.md §3.
"""

import sys
import time
from collections.abc import Callable, Iterable
from io import BufferedReader
from typing import Any, NoReturn, cast

import click

from taskqd import __version__
from taskqd.cli import arguments, submission, terminal
from taskqd.cli.arguments import Command, Verb
from taskqd.cli.attend import Interrupts, attend
from taskqd.cli.bulk import submit_lines
from taskqd.cli.raw import content, write_raw, writer
from taskqd.cli.session import BROKEN_PIPE, INTERRUPTED, REFUSED, Session, drop_stdout
from taskqd.client import Client, Facts, Output, Refused, Status, Unreachable
from taskqd.words import parse_size

LOOK_EVERY = 0.5
"""``drain --wait`` asks so often, in seconds, whether something still runs."""
UNTIL_COMMAND = {"allow_interspersed_args": False}
"""Options end at the first word of the command: what follows, as -la, is its own."""


class Taskq(click.Group):
    """The group of all commands, in the order in which they are defined."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Offline(click.Group):
    """The group of the commands that ask no daemon."""

    command_class = Command


@click.group(
    cls=Taskq,
    params=arguments.everywhere("TASKQ_ADDRESS"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes: 0 done; result, wait and run: the job's own, 128+N for signal N;
  1 refused, or a job without an exit code; 2 usage; 69 no daemon; 75 not finished.
Environment: TASKQ_ADDRESS, and for TCP TASKQ_TOKEN or TASKQ_TOKEN_FILE.

\b
Examples:
  taskq submit make -j4                a job; its id is printed
  taskq wait 7 && taskq result 7       its end, and what it printed
  taskq run ./backup.sh                a job with its output here, ended with its exit code
  taskq list --status PENDING,RUNNING  what is still to be done
  taskq history 7                      all that happened to it, and who asked for it

\b
DURATION is a number of seconds or has a unit: 1.5 500ms 10m 2h 1d
SIZE is a number of bytes or has a unit: 4096 64k 1M 2G
""",
)
@click.version_option(__version__, message="taskq %(version)s")
def taskq() -> None:
    """Hand shell commands to a taskqd daemon, which keeps them on disk and runs them in turn."""


def main() -> NoReturn:
    """Run the command line and exit."""
    # What jobs print goes round the text layer; the rest must not fail where a terminal has few characters.
    cast("Any", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        code = taskq.main(prog_name="taskq", standalone_mode=False)
    except click.UsageError as error:
        _show_usage_error(error)
        code = error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except OSError as error:  # where the help cannot be written
        Session().complain(str(error.strerror))
        code = REFUSED
    sys.exit(code)


def _show_usage_error(error: click.UsageError) -> None:
    message = error.format_message()
    if "\n" not in message and error.ctx:
        message = f"taskq: {message.rstrip('.')} (see {error.ctx.command_path} --help)"
    click.echo(message, err=True)


# jobs in


@taskq.command(
    context_settings=UNTIL_COMMAND,
    epilog="""\b
Examples:
  taskq submit ls -la "my file"        words reach the program as they are here
  taskq submit 'sort < in | uniq -c'   one word is a line for the shell
  taskq submit --retries 3 --timeout 10m -- ./fetch
  taskq submit --script build.sh --label nightly
  taskq submit --stdin data.csv ./load
  seq 1000 | sed 's/^/factor /' | taskq submit --from-file -
""",
)
@arguments.submission
@click.option(
    "--from-file", metavar="FILE", type=click.File("rb"), help="Submit each line of it as a job, - for stdin."
)
@click.pass_obj
def submit(
    session: Session, /, words: tuple[str, ...], from_file: BufferedReader | None, **given: Any
) -> int:
    """Submit a job and print its id.

    It is on disk when the id is printed. Several words reach the program as they are; one is a line for
    /bin/sh. To a daemon on this machine your directory, PATH and umask go with it, unless told otherwise.
    """
    if not from_file:
        command = submission.command(words, given)
        with session.connect() as client:
            job = client.submit(command, **submission.options(client.is_local, given))
        session.say(str(job), {"id": job})
        return 0
    if words or given["script"] or given["key"]:
        raise click.UsageError("--from-file brings the commands: no COMMAND, --script or --key beside it")
    submission.check_stdin(from_file, given["stdin"])
    with session.connect() as client:
        return submit_lines(session, client, from_file, submission.options(client.is_local, given))


@taskq.command(
    context_settings=UNTIL_COMMAND,
    epilog="""\b
Examples:
  taskq run make test && echo good
  taskq run --timeout 1h --nice 10 -- ./report > report.txt
""",
)
@arguments.submission
@click.pass_obj
def run(session: Session, /, words: tuple[str, ...], **given: Any) -> int:
    """Submit a job and stay with it to its end.

    Prints what the job prints, as it comes, and ends with its exit code. Ctrl-C asks whether to cancel the
    job; left alone it goes on without taskq.
    """
    command = submission.command(words, given)
    with Interrupts() as interrupts, session.connect() as client:
        job = client.submit(command, **submission.options(client.is_local, given))
        if session.is_json:
            session.say("", {"id": job})
            sys.stdout.flush()
        try:
            if attend(session, client, job, writer(session), interrupts):
                facts = client.show(job)
                if session.is_json:
                    session.say("", facts)
                return session.outcome(facts)
            code = INTERRUPTED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:
            drop_stdout()
            code = BROKEN_PIPE
        except Unreachable as error:
            raise Unreachable(f"{error}; job {job} is the daemon's: see `taskq wait {job}`") from None
        session.complain(f"job {job} goes on; see `taskq wait {job}`, or end it with `taskq cancel {job}`")
        return code


# one job or several


@taskq.command()
@arguments.several_jobs
@click.pass_obj
def status(session: Session, jobs: tuple[int, ...]) -> int:
    """Print where a job stands.

    That is its status, and its progress in percent. Of several jobs each line begins with the job's id.
    """
    return _for_each(session, jobs, lambda client, job: _say_status(session, jobs, job, client.status(job)))


@taskq.command()
@arguments.several_jobs
@click.pass_obj
def show(session: Session, jobs: tuple[int, ...]) -> int:
    """Print all that is known of a job.

    A line a fact, and an empty line between several jobs.
    """

    def show_one(client: Client, job: int) -> None:
        facts = client.show(job)
        text = "\n".join(terminal.lines(facts))
        session.say(text if job == jobs[-1] else text + "\n", facts)

    return _for_each(session, jobs, show_one)


@taskq.command()
@arguments.several_jobs
@arguments.text("--signal", "Instead of TERM, to a running job's whole process group.", "NAME")
@click.pass_obj
def cancel(session: Session, jobs: tuple[int, ...], signal: str | None) -> int:
    """End a job before its time.

    Prints where the job then stands. A pending one ends at once. A running one gets SIGTERM, and SIGKILL
    after its --kill-after: it may say RUNNING for so long, and `taskq wait` tells when it has ended.
    """
    return _for_each(
        session, jobs, lambda client, job: _say_status(session, jobs, job, client.cancel(job, signal))
    )


@taskq.command()
@arguments.several_jobs
@click.pass_obj
def retry(session: Session, jobs: tuple[int, ...]) -> int:
    """Run a finished job once more.

    It becomes pending again under the same id, which is printed.
    """

    def retry_one(client: Client, job: int) -> None:
        again = client.retry(job)
        session.say(str(again), {"id": again})

    return _for_each(session, jobs, retry_one)


@taskq.command()
@arguments.several_jobs
@click.pass_obj
def remove(session: Session, jobs: tuple[int, ...]) -> int:
    """Forget a finished job and its output.

    Prints its id, which is not given to another job; whoever asks for it is told that it is GONE.
    """

    def remove_one(client: Client, job: int) -> None:
        client.remove(job)
        session.say(str(job), {"id": job})

    return _for_each(session, jobs, remove_one)


def _for_each(session: Session, jobs: tuple[int, ...], act: Callable[[Client, int], None]) -> int:
    """Do it for each job, whatever is refused of the others; return the exit code."""
    code = 0
    with session.connect() as client:
        for job in jobs:
            try:
                act(client, job)
            except Refused as refusal:
                code = session.refuse(refusal, f"job {job}" if len(jobs) > 1 else "", {"id": job})
    return code


def _say_status(session: Session, jobs: tuple[int, ...], job: int, found: Status) -> None:
    before = f"{job} " if len(jobs) > 1 else ""
    session.say(f"{before}{found.status} {found.progress}", {"id": job, **found._asdict()})


@taskq.command(
    epilog="""\b
Example:
  taskq wait 7 --timeout 10m || echo "not done, or not well: $?"
"""
)
@arguments.one_job
@arguments.duration("--timeout", "Give up after so long, with exit code 75.  [default: never]")
@click.pass_obj
def wait(session: Session, job: int, timeout: str | None) -> int:
    """Wait for the end of a job.

    Prints its status and progress, and ends with its exit code.
    """
    with session.connect() as client:
        found = client.wait(job, timeout)
        facts = client.show(job)
    session.say(f"{found.status} {found.progress}", facts)
    return session.outcome(facts)


@taskq.command(
    epilog="""\b
Examples:
  taskq history 7
  taskq history 7 --json | jq 'select(.type == "ended")'
"""
)
@arguments.one_job
@click.pass_obj
def history(session: Session, job: int) -> int:
    """Print all that happened to a job.

    A line an event, with a tab between its time, what happened, by whom or why, and the exit code of an
    attempt that ended: -N if signal N ended it, - if there is none.
    """
    with session.connect() as client:
        events = client.history(job)
    rows = [terminal.event_cells(event) for event in events]
    for row, event in zip(terminal.aligned(rows), events, strict=True):
        session.say(row, event)
    return 0


# what a job prints


@taskq.command()
@arguments.one_job
@click.pass_obj
def result(session: Session, job: int) -> int:
    """Print what a finished job printed.

    Its stdout goes to stdout and its stderr to stderr, byte for byte. Ends with the job's exit code, or with
    75 where it has not finished.
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
            return session.outcome(facts)
        for piece in pieces:
            write_raw(piece)
        return session.outcome(client.show(job))


def _pieces(client: Client, job: int) -> Iterable[Output]:
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
"""
)
@arguments.one_job
@click.argument("stream", type=click.Choice(["stdout", "stderr"]), default="stdout")
@arguments.size("--offset", "Begin after so many bytes.")
@arguments.size("--limit", "Print so many bytes at most.  [default: all]")
@arguments.size("--tail", "Begin so many bytes before the end.")
@click.pass_obj
def output(session: Session, /, job: int, stream: str, **part: Any) -> int:
    """Print what a job has printed so far.

    Byte for byte, and whether it has finished or not.
    """
    write = writer(session)
    left = None if part["limit"] is None else parse_size(part["limit"])
    with session.connect() as client:
        piece = client.output(job, stream, **part)
        while piece.data:
            write(piece)
            if left is not None:
                left -= len(piece.data)
            piece = client.output(job, stream, offset=piece.offset + len(piece.data), limit=left)
    return 0


# the queue and the daemon


@taskq.command(
    "list",
    epilog="""\b
Examples:
  taskq list --status FAILED --reverse --limit 20
  taskq list --label nightly --json | jq .command
""",
)
@arguments.statuses("--status", "Only jobs in one of these: PENDING RUNNING COMPLETED FAILED CANCELLED.")
@click.option("--owner", metavar="NAME", help="Only jobs of this user.")
@click.option("--label", metavar="TEXT", help="Only jobs with this label.")
@click.option("--key", metavar="NAME", help="Only the job with this key.")
@arguments.number("--from", "Begin with the job of this id.", 1)
@arguments.number("--limit", "So many at most.  [default: 100]", 1)
@click.option("--reverse", is_flag=True, help="The last ones first.")
@click.pass_obj
def list_jobs(session: Session, /, **filters: Any) -> int:
    """Print jobs, by id upwards.

    On a terminal as a table; elsewhere a line a job, with a tab between its id, status, exit code, time of
    submission and command.
    """
    with session.connect() as client:
        jobs = client.list(start=filters.pop("from"), **filters)
    if session.is_json or not terminal.is_terminal():
        for job in jobs:
            session.say(terminal.columns(job), job)
        return 0
    terminal.print_table(jobs)
    following = jobs[-1]["id"] + (-1 if filters["reverse"] else 1) if jobs else 0
    if len(jobs) == (filters["limit"] or 100) and following:
        click.echo(f"There may be more: --from {following}", err=True)
    return 0


@taskq.command()
@click.pass_obj
def stats(session: Session) -> int:
    """Print the daemon's counters and limits."""
    return _say_facts(session, Client.stats)


@taskq.command()
@click.pass_obj
def hello(session: Session) -> int:
    """Print the daemon's version and what it knows.

    Its commands and limits, too, and who you are to it.
    """
    return _say_facts(session, Client.hello)


@taskq.command(
    epilog="""\b
Example:
  taskq drain --wait && systemctl stop taskqd
"""
)
@click.option("--wait", is_flag=True, help="Wait until nothing runs any more.")
@click.pass_obj
def drain(session: Session, wait: bool) -> int:
    """Have the daemon start nothing more, before a planned stop.

    Until it is started again it refuses submissions (DRAINING), and leaves pending jobs pending. Prints how
    many jobs still run; they go on to their ends.
    """
    with session.connect() as client:
        client.drain()
        running = client.stats()["busy"]
        said = 0
        while wait and running:
            if running != said and sys.stderr.isatty():
                session.complain(f"waiting for {running} that still {'runs' if running == 1 else 'run'}")
            said = running
            time.sleep(LOOK_EVERY)
            running = client.stats()["busy"]
    session.say(f"draining: {running} running", {"draining": True, "running": running})
    return 0


def _say_facts(session: Session, ask: Callable[[Client], Facts]) -> int:
    with session.connect() as client:
        facts = ask(client)
    session.say("\n".join(terminal.lines(facts)), facts)
    return 0


# what the daemon keeps, without the daemon


@taskq.group(
    cls=Offline,
    epilog="""\b
Examples:
  taskq journal verify /var/lib/taskqd
  taskq journal dump /var/lib/taskqd --job 7 --since 2026-11-24T07:00:00Z
  taskq journal dump /var/lib/taskqd | jq -r 'select(.type == "submitted") | .owner' | sort | uniq -c
""",
)
def journal() -> None:
    """Look into a state directory, whether its daemon runs or not.

    Nothing is changed, locked or waited for. The files are the daemon's: be its user, or root.
    """


@journal.command()
@arguments.directory
@click.pass_obj
def verify(session: Session, directory: str) -> int:
    """Read a whole journal and tell whether it can be trusted.

    Every line is held against its checksum, its number and what had happened to its job before, as at a
    start of the daemon. Prints how much there is; or the file and the line of what is wrong, and ends with 1.
    """
    from taskqd.cli.journal import verify as look  # noqa: PLC0415 - it is slow to load

    return look(session, directory)


@journal.command()
@arguments.directory
@arguments.number("--job", "Only what happened to the job of this id.", 1)
@arguments.moment("--since", "Only what happened then or later: 2026-11-24T07:00:00Z.")
@click.pass_obj
def dump(session: Session, directory: str, job: int | None, since: float | None) -> int:
    """Print the records of a journal in JSON, one a line.

    Each has its number as seq; docs/journal.md tells the other fields. Times are written as on the wire.
    """
    from taskqd.cli.journal import dump as look  # noqa: PLC0415 - it is slow to load

    return look(session, directory, job, since)
