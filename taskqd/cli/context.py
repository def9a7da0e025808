"""One call of the command line: which daemon it speaks to, how it answers, which exit code it ends with."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from taskqd.cli.display.text import sanitize_line
from taskqd.cli.interrupts import INTERRUPTED, raising
from taskqd.client import Client, Facts, Ref, Refused, Unreachable, Untrusted, find_address, parse_address
from taskqd.client.reconnect import RECONNECT_TIMEOUT

REFUSED = 1
NO_DAEMON = 69
DROPPED = 74
NOT_FINISHED = 75
SIGNALLED = 128
BROKEN_PIPE = 141
"""Exit codes: 69, 74 and 75 are of sysexits.h; 128 and its number is what a shell makes of a signal."""

_HINTS = {
    "AUTH_REQUIRED": "set TASKQ_TOKEN or TASKQ_TOKEN_FILE to a token; `taskq token add` makes one",
    "AUTH_FAILED": "it came from TASKQ_TOKEN or TASKQ_TOKEN_FILE",
    "FORBIDDEN": "`taskq hello` tells who you are to the daemon, and what you may do",
    "QUEUE_FULL": "`taskq hello` tells the limits",
    "NO_SUCH_JOB": "`taskq list` shows those that there are",
    "NOT_FINISHED": "`taskq output` prints what there is so far",
    "DRAINING": "once the daemon has been started again it takes jobs again",
    "KEY_CONFLICT": "`taskq list --key` shows the job that has it",
    "UNKNOWN_COMMAND": "the daemon is of another version: `taskq hello` tells which",
    "STORE_FAILED": "nothing was changed; the daemon's log tells what its disk said",
}
_HINTS_OF: dict[tuple[str, str | None], str | None] = {
    ("NO_SUCH_JOB", "unschedule"): None,
    ("NO_SUCH_JOB", "pause"): None,
    ("NO_SUCH_JOB", "resume"): None,
    ("TIMED_OUT", "wait"): "it goes on; `taskq why` tells what a pending one waits for",
}
"""What to do about a refusal: of a code by one command, or by any; None where its text says it already."""


class Session:
    """What the options of every command have settled; no ``address`` means that of a daemon of the user's.

    ``is_json`` says that answers are documents: a line each, or with ``is_listed`` one list of all where an
    answer is about several things. ``calm`` is called before words of our own stand among what jobs print.
    A daemon that goes may take ``reconnect`` seconds to come back.
    """

    def __init__(self) -> None:
        self.address: str | None = None
        self.is_json = False
        self.is_listed = False
        self.calm: Callable[[], None] = lambda: None
        self.reconnect = RECONNECT_TIMEOUT
        self._list: list[Facts] | None = None

    def connect(self, *, is_patient: bool = True) -> Client:
        """Connect to the daemon; with the token of the environment where it is asked for one.

        A client that ``is_patient`` waits for a daemon that is started again, and says so.
        """
        address = self._where()
        token = None if parse_address(address).is_local else _token()
        try:
            client = Client(address, token, reconnect=self.reconnect if is_patient else 0)
            client.on_news = self.complain
            return client
        except Untrusted:
            raise  # a daemon is there, and its text says what to do
        except Unreachable as error:
            raise Unreachable(f"{error}; start one with `twistd taskq` or give its --address") from None

    def connect_once(self) -> Client:
        """Connect to the daemon, for a caller that comes back to it in a way of its own."""
        return self.connect(is_patient=False)

    def _where(self) -> str:
        self.address = self.address or find_address()
        return self.address

    def run(self, act: Callable[[], Any]) -> Any:
        """Do what a command does; return the exit code, its own or that of the error that ended it."""
        try:
            with raising():
                code = act()
                sys.stdout.flush()
                return code
        except KeyboardInterrupt:
            return INTERRUPTED
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
        """Return the form of an answer that was asked for: ``text``, or ``facts`` on one line."""
        return json.dumps(facts) if self.is_json else text

    def say(self, text: str, facts: Facts) -> None:
        """Print an answer: ``text``, or ``facts`` on a line or in the list that they are part of."""
        if self._list is None:
            sys.stdout.write(self.form(text, facts) + "\n")
        else:
            self._list.append(facts)

    @contextmanager
    def listed(self, is_several: bool = True) -> Iterator[None]:
        """Within it, what is said is about ``is_several`` things: --json makes one list of it, in the end."""
        if not (self.is_json and self.is_listed and is_several):
            yield
            return
        self._list = found = list[Facts]()
        try:
            yield
        finally:
            self._list = None
            sys.stdout.write("[" + ",\n ".join(map(json.dumps, found)) + "]\n")

    def complain(self, text: str) -> None:
        """Print one line on stderr, where it may stand beside what jobs print."""
        self.calm()
        sys.stdout.flush()
        with suppress(OSError):  # its terminal or reader has gone, and nobody is left to say it to
            sys.stderr.write(f"taskq: {sanitize_line(text)}\n")
            sys.stderr.flush()

    def refuse(self, refusal: Refused, subject: str = "", facts: Facts | None = None) -> int:
        """Tell what was refused of which ``subject``, in JSON as a document too; return the exit code."""
        if self.is_json:
            self.say("", {**(facts or {}), "error": {"code": refusal.code, "text": refusal.text}})
        hint = self._hint(refusal.code)
        self.complain(
            (f"{subject}: " if subject else "")
            + f"{refusal.text} ({refusal.code})"
            + (f"; {hint}" if hint else "")
        )
        return NOT_FINISHED if refusal.code in ("NOT_FINISHED", "TIMED_OUT") else REFUSED

    def _hint(self, code: str) -> str | None:
        """Return what to do about a refusal, None where its own text says all that there is."""
        context = click.get_current_context(silent=True)
        key = (code, context.info_name if context else None)
        if key in _HINTS_OF:
            return _HINTS_OF[key]
        if code == "NO_SUCH_JOB" and self._is_empty():
            return f"the daemon at {self._where()} knows no job at all: is it the one that you mean?"
        return _HINTS.get(code)

    def _is_empty(self) -> bool:
        """Whether the daemon has no job; what it refuses to say does not matter beside what was refused."""
        with suppress(Refused, Unreachable), self.connect() as client:
            return not client.list(limit=1)
        return False

    def printed(self, job: Facts, *, is_new: bool = False) -> int:
        """Return the exit code of a job whose output was printed; DROPPED if some of it was not kept.

        A job that ended badly keeps its own code. How an end that ``is_new`` came about is said on stderr.
        """
        is_cut = self.tell_dropped(job["id"], job)
        return self.outcome(job, is_new=is_new) or (DROPPED if is_cut else 0)

    def tell_dropped(self, job: Ref, facts: Facts, streams: Sequence[str] = ("stdout", "stderr")) -> bool:
        """Say how much of what a job or one of its attempts printed was not kept; whether that is so."""
        is_cut = False
        for stream in streams:
            if dropped := facts.get(f"{stream}_dropped"):
                is_cut = True
                self.complain(
                    f"{dropped} bytes of the {stream} of job {job} were dropped, behind the "
                    f"{facts.get(f'{stream}_bytes', 0)} that were kept; --max-output sets how many are"
                )
        return is_cut

    def outcome(self, job: Facts, *, is_new: bool = False) -> int:
        """Return the exit code that stands for a job's end: its own, or 128+N where signal N ended it.

        Zero is for a COMPLETED job alone: one that failed or was cancelled although its process said 0, and
        one that has no exit code, as an array, end with 1 and the reason on stderr. Of an end that ``is_new``
        to the user, the reason is said too unless it is the exit code.
        """
        code = job["exit_code"]
        if job["status"] == "COMPLETED":
            return 0
        if not code:
            self.complain(f"job {job['id']} is {job['status']}{_reasons(job)}")
            return REFUSED
        if is_new and job.get("reason") not in (None, "exit"):
            self.complain(f"job {job['id']} is {job['status']}{_reasons(job)}")
        return int(code) if code > 0 else 128 - int(code)


def _reasons(job: Facts) -> str:
    """Return why a job ended as it did, and how many of its tasks, as what is said behind its status."""
    tasks = job.get("tasks") or {}
    whys = [f"{tasks[name]} of its tasks {name}" for name in ("failed", "cancelled") if tasks.get(name)]
    whys = whys or [str(job[name]) for name in ("reason", "signal", "detail") if job.get(name)]
    shown = f" ({', '.join(whys)})" if whys else ""
    if tasks or job["exit_code"]:
        return shown
    return shown + (": it has no exit code" if job["exit_code"] is None else ", though its exit code is 0")


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
