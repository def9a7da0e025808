"""One call of the command line: which daemon it speaks to, how it answers, which exit code it ends with."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from taskqd.cli.terminal import harmless
from taskqd.client import Client, Facts, Refused, Unreachable, parse_address
from taskqd.places import default_socket

REFUSED = 1
NO_DAEMON = 69
NOT_FINISHED = 75
INTERRUPTED = 130
BROKEN_PIPE = 141
"""Exit codes: 69 and 75 are of sysexits.h, the last two are what a shell makes of SIGINT and SIGPIPE."""

_HINTS = {
    "AUTH_REQUIRED": "set TASKQ_TOKEN or TASKQ_TOKEN_FILE to the token in the daemon's state directory",
    "AUTH_FAILED": "it came from TASKQ_TOKEN or TASKQ_TOKEN_FILE",
}


class Session:
    """What the options of every command have settled; no ``address`` means the daemon's default socket."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.is_json = False

    def connect(self) -> Client:
        """Connect to the daemon; with the token of the environment where it is asked for one."""
        address = self.address or f"unix:{default_socket(os.environ, os.getuid())}"
        token = None if parse_address(address).is_local else _token()
        try:
            return Client(address, token)
        except Unreachable as error:
            raise Unreachable(f"{error}; start one with `twistd taskq` or give its --address") from None

    def run(self, act: Callable[[], Any]) -> Any:
        """Do what a command does; return the exit code, its own or that of the error that ended it."""
        try:
            code = act()
            sys.stdout.flush()
            return code
        except Refused as refusal:
            return self.refuse(refusal)
        except Unreachable as error:
            self.complain(str(error))
            return NO_DAEMON
        except BrokenPipeError:
            drop_stdout()
            return BROKEN_PIPE
        except OSError as error:
            self.complain(": ".join(str(part) for part in (error.filename, error.strerror) if part))
            return REFUSED

    def form(self, text: str, facts: Facts) -> str:
        """Return the form of an answer that was asked for: ``text``, or with --json ``facts`` on one line."""
        return json.dumps(facts) if self.is_json else text

    def say(self, text: str, facts: Facts) -> None:
        """Print an answer: ``text`` as one or more lines, or with --json ``facts`` as one."""
        sys.stdout.write(self.form(text, facts) + "\n")

    def complain(self, text: str) -> None:
        """Print one line on stderr, where it may stand beside what jobs print."""
        sys.stdout.flush()
        sys.stderr.write(f"taskq: {harmless(text)}\n")
        sys.stderr.flush()

    def refuse(self, refusal: Refused, subject: str = "", facts: Facts | None = None) -> int:
        """Tell what was refused of which ``subject``, with --json as a document too; return the exit code."""
        if self.is_json:
            self.say("", {**(facts or {}), "error": {"code": refusal.code, "text": refusal.text}})
        hint = _HINTS.get(refusal.code)
        self.complain(
            (f"{subject}: " if subject else "")
            + f"{refusal.text} ({refusal.code})"
            + (f"; {hint}" if hint else "")
        )
        return NOT_FINISHED if refusal.code in ("NOT_FINISHED", "TIMED_OUT") else REFUSED

    def outcome(self, job: Facts) -> int:
        """Return the exit code that stands for a job's end: its own, or 128+N where signal N ended it.

        Zero is for a COMPLETED job alone: one that failed or was cancelled although its process said 0, and
        one that has no exit code, end with 1 and the reason on stderr.
        """
        code = job["exit_code"]
        if code is None or (code == 0 and job["status"] != "COMPLETED"):
            why = ", ".join(str(job[name]) for name in ("reason", "detail") if job.get(name))
            but = ": it has no exit code" if code is None else ", though its exit code is 0"
            self.complain(f"job {job['id']} is {job['status']}{f' ({why})' if why else ''}{but}")
            return REFUSED
        return int(code) if code > 0 else 128 - int(code) if code else 0


def drop_stdout() -> None:
    """Send to nowhere what is still to go to a reader that went away, so that nothing fails on it later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _token() -> str | None:
    token = os.environ.get("TASKQ_TOKEN")
    path = os.environ.get("TASKQ_TOKEN_FILE")
    if token or not path:
        return token or None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read the token that TASKQ_TOKEN_FILE names: {error}") from None
