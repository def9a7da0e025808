"""Values -> request lines, for the client: words, options, SUBMIT with its blocks (docs/protocol.md §2, §3).

Nothing here knows a connection. What can be seen to be no request is refused here with the code by which the
server would refuse it; everything else is the server's to judge.
"""

import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from taskqd.errors import BadRequest, LineTooLong, TooLarge
from taskqd.protocol.values import parse_name, quoted

LONGEST_LINE = 65_536
"""A request line is at most so long, in bytes, its line end not counted."""
LARGEST_BLOCK = 64 * 1024**2
"""A larger script or stdin, in bytes, no daemon even reads past: it would close the connection."""

_PLAIN = re.compile(rb"[A-Za-z0-9._+/:@,%-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[!-~]+")
_LINE_BREAK = re.compile(rb"[\r\n]")
_REF = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
_BLOCKS = ("script", "stdin")

Command = str | bytes | Sequence[str | bytes]
"""A line for the shell, or in a list a program and its arguments, which reach it as they are."""
Ref = int | str
"""A job by its id, or a task of an array as text: ``"7.3"`` is the one with that index in array 7."""


class Recurring(TypedDict, total=False):
    """What every submission may ask for, that of a schedule too; each may be left out.

    Durations are seconds, or text such as ``"10m"``; sizes are bytes, or text such as ``"64k"``. ``need`` has
    amounts by resource, or is text such as ``"gpu:1"``; ``retry_on`` and ``no_retry_on`` are conditions such
    as ``"exit:75"``; ``array`` is text such as ``"1-100%8"``; ``tz`` is a time zone such as ``"UTC"``.
    """

    queue: str
    priority: int
    slots: int
    need: Mapping[str, int] | str
    timeout: float | str
    idle_timeout: float | str
    kill_after: float | str
    retries: int
    retry_delay: float | str
    retry_delay_max: float | str
    retry_on: Iterable[str] | str
    no_retry_on: Iterable[str] | str
    array: str
    tz: str
    label: str
    cwd: str
    env: Mapping[str, str]
    umask: int
    nice: int
    memory: int | str
    cpu_time: float | str
    nofile: int
    max_output: int | str
    notify_fail: bool


class Options(Recurring, total=False):
    """What one submission may ask for besides its command.

    ``at`` is a time of RFC 3339, or seconds since the epoch. ``after``, ``after_any`` and ``after_fail`` are
    the jobs to wait for. ``secret`` has variables whose values the daemon shows to nobody but the job.
    ``stdin`` is what the job reads; ``script`` stands in place of the command.
    """

    delay: float | str
    at: float | str
    after: Iterable[Ref] | Ref
    after_any: Iterable[Ref] | Ref
    after_fail: Iterable[Ref] | Ref
    hold: bool
    key: str
    secret: Mapping[str, str | bytes]
    stdin: bytes
    script: bytes


class Changes(TypedDict, total=False):
    """What can be changed of a pending job; None takes away what was asked for, and ``delay`` begins anew."""

    queue: str
    priority: int
    slots: int
    need: Mapping[str, int] | str | None
    label: str
    timeout: float | str | None
    idle_timeout: float | str | None
    kill_after: float | str
    retries: int
    retry_delay: float | str
    retry_delay_max: float | str
    retry_on: Iterable[str] | str | None
    no_retry_on: Iterable[str] | str | None
    delay: float | str | None
    at: float | str | None
    tz: str | None
    nice: int | None
    memory: int | str | None
    cpu_time: float | str | None
    nofile: int | None
    max_output: int | str


def ref(job: Ref) -> bytes:
    """Return how a request names a job, or a task of an array; raises BadRequest for what is no id."""
    text = str(job)
    if not _REF.fullmatch(text):
        raise BadRequest(f"expected a job's id such as 7, or 7.3 for a task of an array, not {text[:40]!r}")
    return text.encode("ascii")


def name(text: str) -> bytes:
    """Return a name as a word of a request line; raises BadRequest for what is none."""
    return parse_name(text).encode("ascii")


def word(value: str | bytes) -> bytes:
    """Return ``value`` as a word of a request line: as it is where that is safe, else ``<quoted>``."""
    data = _encoded(value)
    return data if _PLAIN.fullmatch(data) else quoted(data)


def option(name: str, value: str | bytes | float | None) -> bytes:
    """Return `` --name=value`` with the space before it, or nothing for None."""
    if value is None:
        return b""
    text = value if isinstance(value, str | bytes) else f"{value:.9f}".rstrip("0").rstrip(".")
    return b" --%b=%b" % (name.encode("ascii"), word(text))


def submit_options(options: Options) -> bytes:
    """Return the options of a SUBMIT, but for its blocks, each with a space before it.

    Raises BadRequest for a name that no environment variable can have, and TypeError for an unknown option.
    """
    return _options(
        "a submission", Options, {name: value for name, value in options.items() if name not in _BLOCKS}
    )


def changes(options: Changes) -> bytes:
    """Return the options of a SET, each with a space before it."""
    given = {name: "none" if value is None else value for name, value in options.items()}
    return _options("a change", Changes, given)


def _options(what: str, known: type, options: Mapping[str, Any]) -> bytes:
    for name in options.keys() - known.__annotations__.keys():
        raise TypeError(f"{what} has no option {name!r}")
    return b"".join(_written(name, value) for name, value in options.items())


def _written(name: str, value: Any) -> bytes:
    if name in ("env", "secret"):
        return b"".join(_variable(name, *variable) for variable in value.items())
    if isinstance(value, bool):
        return f" --{name.replace('_', '-')}".encode("ascii") * value
    return option(name.replace("_", "-"), _text(name, value))


def _text(name: str, value: Any) -> str | bytes | float | None:
    """Return the value of an option as ``option`` takes it."""
    if name == "umask":
        return f"{value:03o}"
    if name == "at" and isinstance(value, float | int):
        return moment(value)
    if isinstance(value, str | bytes | float | int | None):
        return value
    if isinstance(value, Mapping):
        value = (f"{resource}:{amount}" for resource, amount in value.items())
    return ",".join(map(str, value))


def moment(seconds: float) -> str:
    """Return a time, in seconds since the epoch, in the form of RFC 3339, to the millisecond."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{thousandths:03}Z"


def _variable(option: str, name: str, value: str | bytes) -> bytes:
    if not _ENV_NAME.fullmatch(name):
        raise BadRequest(f"expected a variable's name of letters, digits and _, not {name[:60]!r}")
    return b" --%b=%b=%b" % (option.encode("ascii"), name.encode("ascii"), word(value))


def program(words: Sequence[str | bytes]) -> str:
    """Return the shell command that runs a program with these words, whatever they mean to a shell.

    Without ``exec``, ``if`` would be a keyword, ``A=1`` an assignment and ``echo`` the shell's own. env(1) is
    for a name that begins with ``-``, which some shells take for an option of exec.
    """
    texts = [each if isinstance(each, str) else each.decode("utf-8", "surrogateescape") for each in words]
    start = "exec env -- " if texts[0].startswith("-") else "exec "
    return start + shlex.join(texts)


def submit(
    command: Command | None, options: bytes = b"", script: bytes | None = None, stdin: bytes | None = None
) -> bytes:
    """Return a whole SUBMIT: its line with the ``submit_options``, and the blocks that follow it.

    A command that cannot stand on a line, because of line breaks, its length, or bytes that are not UTF-8,
    goes as a script. Raises BadRequest for a NUL in it, which no shell takes, LineTooLong, and TooLarge.
    """
    if (command is None) == (script is None):
        raise BadRequest("expected either a command or a script")
    head = b"SUBMIT" + options
    if stdin is not None:
        head += b" --stdin=%d" % len(stdin)
    line = b""
    if command is not None:
        text = _text_of(command)
        line = head + _command(text)
        if len(line) > LONGEST_LINE or not _is_line(text):
            script = text
    if script is not None:
        line = head + b" --script=%d" % len(script)
    if len(line) > LONGEST_LINE:
        raise LineTooLong(
            f"the options make a line of {len(line)} bytes, and a line has {LONGEST_LINE} at most; "
            "leave some --env or --secret out"
        )
    blocks = [block for block in (script, stdin) if block is not None]
    if any(len(block) > LARGEST_BLOCK for block in blocks):
        raise TooLarge(f"a script or stdin has {LARGEST_BLOCK} bytes at most; let the job read a file")
    return b"\r\n".join([line, *blocks, b""])


def schedule(command: Command, options: Recurring, **when: Any) -> bytes:
    """Return a SCHEDULE, without its end; ``when`` are every, cron and overlap.

    Raises BadRequest for a command that cannot stand on a line, and LineTooLong.
    """
    words = b"".join(_written(name, value) for name, value in when.items())
    line = b"SCHEDULE" + words + _options("a schedule", Recurring, options) + _command(_text_of(command))
    if not _is_line(line):
        raise BadRequest("the command of a schedule is one line of UTF-8; let it run a file")
    if len(line) > LONGEST_LINE:
        raise LineTooLong(f"that makes a line of {len(line)} bytes, and a line has {LONGEST_LINE} at most")
    return line


def _text_of(command: Command) -> bytes:
    """Return what the shell is to run; raises BadRequest where there is no program in a list."""
    if isinstance(command, str | bytes):
        return _encoded(command)
    if not command:
        raise BadRequest("expected a program and its arguments, and the list is empty")
    return _encoded(program(command))


def _command(text: bytes) -> bytes:
    """Return a command as it ends a line, with the space before it; raises BadRequest for a NUL in it."""
    if b"\0" in text:
        raise BadRequest(f"a command cannot hold a NUL byte; this one has it after {text.index(0)} bytes")
    return (b" -- " if text.lstrip(b" \t").startswith(b"--") else b" ") + text


def auth(token: str) -> bytes:
    """Return an AUTH line, without its end; raises BadRequest for what cannot be a token."""
    if not _TOKEN.fullmatch(token):
        raise BadRequest("expected a token of printable ASCII without spaces")
    return b"AUTH " + token.encode("ascii")


def _encoded(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.encode("utf-8", "surrogateescape")  # as the command line and the environment come
    except UnicodeEncodeError:
        raise BadRequest(f"{value[:40]!r} has a lone surrogate in it, which is no character") from None


def _is_line(text: bytes) -> bool:
    if _LINE_BREAK.search(text):
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
