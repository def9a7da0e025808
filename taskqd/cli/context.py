"""State of one invocation of ``taskq``: the daemon's address, the output format, the exit code."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from taskqd.cli.client_settings import NO_SETTINGS, ClientSettings
from taskqd.cli.display.text import command_of, sanitize_line
from taskqd.cli.interrupts import INTERRUPTED, raising_keyboard_interrupt
from taskqd.client import Client, Facts, Ref, Refused, Unreachable, Untrusted, find_address, parse_address
from taskqd.client.address import AccessDenied
from taskqd.client.reconnect import RECONNECT_TIMEOUT

REFUSED = 1
NO_DAEMON = 69
DROPPED = 74
NOT_FINISHED = 75
SIGNALLED = 128
BROKEN_PIPE = 141
"""Exit codes: 69, 74 and 75 are those of sysexits.h; 128 plus a signal number is the convention of shells."""

_HINTS = {
    "AUTH_REQUIRED": "set TASKQ_TOKEN or TASKQ_TOKEN_FILE; `taskq token add` makes a token",
    "AUTH_FAILED": "check the token in TASKQ_TOKEN or TASKQ_TOKEN_FILE",
    "FORBIDDEN": "`taskq hello` shows your identity and role",
    "QUEUE_FULL": "`taskq hello` shows the limits",
    "NO_SUCH_JOB": "`taskq list` shows the jobs",
    "NOT_FINISHED": "`taskq output` prints the output so far",
    "DRAINING": "the daemon accepts jobs again after a restart, or after `taskq drain --off`",
    "KEY_CONFLICT": "`taskq list --key` shows the job with this key",
    "UNKNOWN_COMMAND": "the daemon has another version; `taskq hello` shows it",
    "STORE_FAILED": "nothing was changed; see the daemon's log for the error of its disk",
}
_HINTS_OF_COMMANDS: dict[tuple[str, str | None], str | None] = {
    ("NO_SUCH_JOB", "unschedule"): None,
    ("NO_SUCH_JOB", "pause"): None,
    ("NO_SUCH_JOB", "resume"): None,
    ("TIMED_OUT", "wait"): "the job continues; `taskq why` shows what a pending job waits for",
}
"""Advice by error code and command, which takes precedence over ``_HINTS``; None if the text suffices."""


class Session:
    """The settings of one invocation, and its output.

    ``settings`` are the user's. Without an ``address``, theirs is used, or the daemon of the user is
    searched. With ``is_json`` answers are JSON documents, one per line; with ``uses_lists`` the answers
    about several things form one JSON list. ``reset_colours`` is called before a message, which may follow
    coloured output of a job. ``reconnect_timeout`` is in seconds.
    """

    def __init__(self, settings: ClientSettings = NO_SETTINGS) -> None:
        self.settings = settings
        self.address: str | None = None
        self.is_json = False
        self.uses_lists = False
        self.reset_colours: Callable[[], None] = lambda: None
        self.reconnect_timeout = RECONNECT_TIMEOUT
        self._collected: list[Facts] | None = None

    def connect(self, *, can_reconnect: bool = True) -> Client:
        """Connect to the daemon, with the token of the environment on TCP and TLS.

        With ``can_reconnect`` the client waits for a daemon that is restarted, and prints messages about it.
        """
        address = self._find_address()
        token = None if parse_address(address).is_local else _read_token()
        try:
            client = Client(address, token, reconnect=self.reconnect_timeout if can_reconnect else 0)
            client.on_news = self.print_message
            return client
        except Untrusted:
            raise  # the daemon answers, and the message says what to do
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; the modes of the socket and its directory say who may use it; ask the server's "
                "operator for access, or set --address"
            ) from None
        except Unreachable as error:
            raise Unreachable(f"{error}; is it running? Start one with `taskqd`, or set --address") from None

    def connect_once(self) -> Client:
        """Connect to the daemon, for a caller that reconnects by itself."""
        return self.connect(can_reconnect=False)

    def find_latest_job(self) -> Ref:
        """Return the id of the user's latest job, and name it on stderr; exit if there is none."""
        with self.connect() as client:
            user = client.hello()["you"]["name"]
            jobs = client.list(owner=user, limit=1, reverse=True)
        if not jobs:
            raise click.UsageError(f"you ({user}) have no jobs; expected a job ID")
        latest: int = jobs[0]["id"]
        self.print_message(f"job {latest}: {command_of(jobs[0])}")
        return latest

    def _find_address(self) -> str:
        self.address = self.address or self.settings.address or find_address()
        return self.address

    def run(self, command: Callable[[], Any]) -> Any:
        """Run a command; return its exit code, or that of the error that ended it."""
        try:
            with raising_keyboard_interrupt():
                code = command()
                sys.stdout.flush()
                return code
        except KeyboardInterrupt:
            return INTERRUPTED
        except Refused as refusal:
            return self.print_refusal(refusal)
        except Unreachable as error:
            self.print_message(str(error))
            return NO_DAEMON
        except BrokenPipeError:
            drop_stdout()
            return BROKEN_PIPE
        except OSError as error:
            drop_unwritable_output()
            self.print_message(": ".join(str(part) for part in (error.filename, error.strerror) if part))
            return REFUSED

    def format_answer(self, text: str, facts: Facts) -> str:
        """Return an answer in the requested format: ``text``, or ``facts`` as JSON on one line."""
        return json.dumps(facts) if self.is_json else text

    def print_answer(self, text: str, facts: Facts) -> None:
        """Print an answer: ``text``, or ``facts`` as JSON, on a line or as an item of the current list."""
        if self._collected is None:
            sys.stdout.write(self.format_answer(text, facts) + "\n")
        else:
            self._collected.append(facts)

    @contextmanager
    def answer_list(self, is_several: bool = True) -> Iterator[None]:
        """Collect the answers of the block into one JSON list if --json is given and ``is_several``."""
        if not (self.is_json and self.uses_lists and is_several):
            yield
            return
        self._collected = collected = list[Facts]()
        try:
            yield
        finally:
            self._collected = None
            sys.stdout.write("[" + ",\n ".join(map(json.dumps, collected)) + "]\n")

    def print_message(self, text: str) -> None:
        """Print a line to stderr, possibly between lines of a job's output."""
        self.reset_colours()
        sys.stdout.flush()
        with suppress(OSError):  # its terminal or reader is gone
            sys.stderr.write(f"taskq: {sanitize_line(text)}\n")
            sys.stderr.flush()

    def print_refusal(self, refusal: Refused, subject: str = "", facts: Facts | None = None) -> int:
        """Print a refusal that concerns ``subject``, with --json also as a document; return the exit code."""
        if self.is_json:
            self.print_answer("", {**(facts or {}), "error": {"code": refusal.code, "text": refusal.text}})
        hint = self._hint(refusal.code)
        self.print_message(
            (f"{subject}: " if subject else "")
            + f"{refusal.text} ({refusal.code})"
            + (f"; {hint}" if hint else "")
        )
        return NOT_FINISHED if refusal.code in ("NOT_FINISHED", "TIMED_OUT") else REFUSED

    def _hint(self, code: str) -> str | None:
        """Return advice about a refusal, or None if its text suffices."""
        context = click.get_current_context(silent=True)
        key = (code, context.info_name if context else None)
        if key in _HINTS_OF_COMMANDS:
            return _HINTS_OF_COMMANDS[key]
        if code == "NO_SUCH_JOB" and self._has_no_jobs():
            return f"the daemon at {self._find_address()} has no jobs; is it the right one?"
        return _HINTS.get(code)

    def _has_no_jobs(self) -> bool:
        """Whether the daemon has no jobs; False if it does not say."""
        with suppress(Refused, Unreachable), self.connect() as client:
            return not client.list(limit=1)
        return False

    def exit_code_after_output(self, job: Facts, *, is_new: bool = False) -> int:
        """Return the exit code of a job whose output was printed: ``exit_code_of``, or DROPPED.

        DROPPED is returned if the job succeeded and some of its output was dropped.
        """
        was_dropped = self.report_dropped_output(job["id"], job)
        return self.exit_code_of(job, is_new=is_new) or (DROPPED if was_dropped else 0)

    def report_dropped_output(
        self, job: Ref, facts: Facts, streams: Sequence[str] = ("stdout", "stderr")
    ) -> bool:
        """Print how much output of a job or of one of its attempts was dropped; return whether any was."""
        was_dropped = False
        for stream in streams:
            if dropped := facts.get(f"{stream}_dropped"):
                was_dropped = True
                self.print_message(
                    f"{stream} of job {job}: {dropped} bytes were dropped after the first "
                    f"{facts.get(f'{stream}_bytes', 0)} bytes; --max-output sets the limit"
                )
        return was_dropped

    def exit_code_of(self, job: Facts, *, is_new: bool = False) -> int:
        """Return the exit code for a job's end: its own, or 128+N if signal N ended it.

        Only a COMPLETED job gives 0. A job that failed or was cancelled with exit code 0, or without one as
        an array, gives 1, and the reason is printed to stderr. If the end ``is_new`` to the user, the
        reason is printed too unless it is the exit code.
        """
        code = job["exit_code"]
        if job["status"] == "COMPLETED":
            return 0
        if not code:
            self.print_message(f"job {job['id']} is {job['status']}{_reasons(job)}")
            return REFUSED
        if is_new and job.get("reason") not in (None, "exit"):
            self.print_message(f"job {job['id']} is {job['status']}{_reasons(job)}")
        return int(code) if code > 0 else 128 - int(code)


def _reasons(job: Facts) -> str:
    """Return the reasons for a job's end, as text to append to its status."""
    tasks = job.get("tasks") or {}
    counts = ((name, tasks.get(name, 0)) for name in ("failed", "cancelled"))
    reasons = [f"{count} task{'s' * (count > 1)} {name}" for name, count in counts if count]
    reasons = reasons or [str(job[name]) for name in ("reason", "signal", "detail") if job.get(name)]
    text = f" ({', '.join(reasons)})" if reasons else ""
    if tasks or job["exit_code"]:
        return text
    return text + (", without an exit code" if job["exit_code"] is None else ", although its exit code is 0")


def drop_stdout() -> None:
    """Redirect stdout to /dev/null, so that later writes do not fail; its reader or its terminal is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def drop_unwritable_output() -> None:
    """Write what stdout has buffered; if that fails, as on a full disk or a lost terminal, discard it."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_stdout()


def _read_token() -> str | None:
    token = os.environ.get("TASKQ_TOKEN")
    path = os.environ.get("TASKQ_TOKEN_FILE")
    if token or not path:
        return token or None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read the token file (TASKQ_TOKEN_FILE): {error}") from None
