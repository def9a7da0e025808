"""Encodes values as request lines: words, options, SUBMIT with its blocks (docs/protocol.md §2, §3).

Does no I/O. Values that cannot form a valid request are rejected here with the error code that the server
would use; everything else is validated by the server.
"""

import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from taskqd.errors import BadRequest, LineTooLong, TooLarge
from taskqd.protocol.values import parse_name, quoted

MAX_LINE_BYTES = 65_536
"""Maximum length of a request line without its line end (bytes); the server rejects longer ones."""
MAX_CHANGE_BYTES = MAX_LINE_BYTES - 100
"""Maximum length of the options of a SET (bytes), which leaves room for the verb and the id."""
MAX_BLOCK_BYTES = 64 * 1024**2
"""Maximum size of a script or stdin (bytes); the daemon closes the connection if a block is larger."""

_PLAIN = re.compile(rb"[A-Za-z0-9._+/:@,%-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[!-~]+")
_LINE_BREAK = re.compile(rb"[\r\n]")
_REF = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
_BLOCKS = ("script", "stdin", "environment", "inherit_env")
"""Options that become blocks."""
_EXECUTION = ("command", "script")
_CLEARED_BY_NOTHING = ("label", "unless")
"""Options that a change removes by an empty value, since their values may be any text."""

Command = str | bytes | Sequence[str | bytes]
"""A shell command, or a list of a program and its arguments, which no shell interprets."""
Ref = int | str
"""The id of a job, or a task of an array as text: ``"7.3"`` is the task with index 3 of array 7."""


class Recurring(TypedDict, total=False):
    """Options of a submission that a schedule accepts too; all are optional.

    Durations are seconds, or text such as ``"10m"``; sizes are bytes, or text such as ``"64k"``. ``need``
    maps resources to amounts, or is text such as ``"gpu:1"``; ``retry_on`` and ``no_retry_on`` are conditions
    such as ``"exit:75"``; ``array`` is text such as ``"1-100%8"``; ``tz`` is a time zone such as ``"UTC"``.
    ``stdout`` and ``stderr`` are absolute paths of files, in which ``%j`` is the job's id and ``%a`` the
    number of the attempt; with ``merge`` the job has one stream for both.
    ``secret`` contains variables whose values the daemon reveals only to the job. ``stdin`` is the input of
    the job; ``script`` replaces the command, which is then its arguments, if any. A schedule accepts these
    three since release 0.9.
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
    expires: float | str
    tz: str
    label: str
    unless: str
    cwd: str
    env: Mapping[str, str]
    umask: int
    nice: int
    memory: int | str
    memory_max: int | str
    cpu_time: float | str
    nofile: int
    max_output: int | str
    merge: bool
    stdout: str
    stderr: str
    notify_fail: bool
    secret: Mapping[str, str | bytes]
    stdin: bytes
    script: bytes


class Options(Recurring, total=False):
    """Options of a single submission.

    ``at`` is a time in RFC 3339 format, or seconds since the epoch. ``after``, ``after_any`` and
    ``after_fail`` are the jobs to wait for; ``after_label`` means all known jobs of the user with a label,
    ``after_key`` those with these keys (since release 0.10). The stdin of an ``interactive`` job is open for
    ``send`` while it runs (since release 0.10). ``environment`` contains variables whose values the daemon
    reveals only to the job and stores once for all jobs that have the same; with ``inherit_env`` they are
    those of this process that a job may inherit (``environment.inheritable``). Both are only for a daemon on
    this machine, since release 0.10; ``env`` and ``secret`` take precedence.
    """

    delay: float | str
    at: float | str
    after: Iterable[Ref] | Ref
    after_any: Iterable[Ref] | Ref
    after_fail: Iterable[Ref] | Ref
    after_label: str
    after_any_label: str
    after_fail_label: str
    after_key: Iterable[str] | str
    after_any_key: Iterable[str] | str
    after_fail_key: Iterable[str] | str
    hold: bool
    key: str
    interactive: bool
    environment: Mapping[str, str | bytes]
    inherit_env: bool


class Changes(TypedDict, total=False):
    """Options of a pending job that can be changed; None removes an option, and ``delay`` counts from now.

    A ``command`` replaces the command of one's own job, or its script; a ``script`` both, with the command as
    its arguments, if any. These two are since release 0.10, and for one job.
    """

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
    memory_max: int | str | None
    cpu_time: float | str | None
    nofile: int | None
    max_output: int | str
    merge: bool
    command: Command
    script: bytes


def ref(job: Ref) -> bytes:
    """Encode a reference to a job, or to a task of an array; raises BadRequest for anything else."""
    text = str(job)
    if not _REF.fullmatch(text):
        raise BadRequest(f"expected a job's id such as 7, or 7.3 for a task of an array, not {text[:40]!r}")
    return text.encode("ascii")


def name(text: str) -> bytes:
    """Encode a name as a word of a request line; raises BadRequest for an invalid name."""
    return parse_name(text).encode("ascii")


def word(value: str | bytes) -> bytes:
    """Encode ``value`` as a word of a request line, quoted if necessary."""
    data = encode_text(value)
    return data if _PLAIN.fullmatch(data) else quoted(data)


def option(name: str, value: str | bytes | float | None) -> bytes:
    """Return `` --name=value`` with a leading space, or nothing for None."""
    if value is None:
        return b""
    text = value if isinstance(value, str | bytes) else f"{value:.9f}".rstrip("0").rstrip(".")
    return b" --%b=%b" % (name.encode("ascii"), word(text))


def submit_options(options: Options) -> bytes:
    """Return the options of a SUBMIT except its blocks, each with a leading space.

    Raises BadRequest for an invalid name of an environment variable, and TypeError for an unknown option.
    """
    return _encode_options("a submission", Options, _without_blocks(options))


def _without_blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _BLOCKS}


def changes(options: Changes) -> bytes:
    """Return the options of a SET, each with a leading space, and the script behind the line, if any.

    A command that does not fit on a line is sent as a script, as by ``submit``.
    """
    command, script = options.get("command"), options.get("script")
    given = {name: "none" if value is None else _switched(value) for name, value in options.items()}
    line = _encode_options(
        "a change", Changes, {name: given[name] for name in given if name not in _EXECUTION}
    )
    if command is not None:
        text = _command_bytes(command) if script is None else _argument_bytes(command)
        words = b" --command=" + quoted(_without_nul(text))
        if script is None and not (_fits_on_line(text) and len(line) + len(words) < MAX_CHANGE_BYTES):
            script, words = text, b""
        line += words
    if script is None:
        return line
    line += b" --script=%d" % len(script)
    _check_sizes(line, [script], MAX_CHANGE_BYTES)
    return line + b"\r\n" + script


def _switched(value: object) -> object:
    """Return a switch as a word, since a change may set it to false; another value unchanged."""
    return str(value).lower() if isinstance(value, bool) else value


def _encode_options(what: str, known: type, options: Mapping[str, Any]) -> bytes:
    for name in options.keys() - known.__annotations__.keys():
        raise TypeError(f"{what} has no option {name!r}")
    return b"".join(_encode_option(name, value) for name, value in options.items())


def _encode_option(name: str, value: Any) -> bytes:
    if name in ("env", "secret"):
        return b"".join(_encode_variable(name, *variable) for variable in value.items())
    if isinstance(value, bool):
        return f" --{name.replace('_', '-')}".encode("ascii") * value
    return option(name.replace("_", "-"), _option_text(name, value))


def _option_text(name: str, value: Any) -> str | bytes | float | None:
    """Convert the value of an option to the argument of ``option``."""
    if name == "umask":
        return f"{value:03o}"
    if name == "at" and isinstance(value, float | int):
        return format_time(value)
    if isinstance(value, str | bytes | float | int | None):
        return value
    if isinstance(value, Mapping):
        value = (f"{resource}:{amount}" for resource, amount in value.items())
    return ",".join(map(str, value))


def format_time(seconds: float) -> str:
    """Format a time (seconds since the epoch) as RFC 3339 with milliseconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{thousandths:03}Z"


def _encode_variable(option: str, name: str, value: str | bytes) -> bytes:
    if not _ENV_NAME.fullmatch(name):
        raise BadRequest(f"expected the name of a variable, with letters, digits and _, not {name[:60]!r}")
    return b" --%b=%b=%b" % (option.encode("ascii"), name.encode("ascii"), word(value))


def shell_command(words: Sequence[str | bytes]) -> str:
    """Return a shell command that runs a program with exactly these arguments.

    Without ``exec``, ``if`` would be a keyword, ``A=1`` an assignment and ``echo`` a builtin of the shell. A
    name that begins with ``-`` needs env(1), because some shells take it for an option of exec.
    """
    texts = _texts(words)
    start = "exec env -- " if texts[0].startswith("-") else "exec "
    return start + shlex.join(texts)


def submit(
    command: Command | None,
    options: bytes = b"",
    script: bytes | None = None,
    stdin: bytes | None = None,
    environment: bytes | None = None,
) -> bytes:
    """Return a whole SUBMIT: its line with the encoded options, and the blocks that follow it.

    A command that does not fit on a line, because of line breaks, its length, or bytes that are not UTF-8, is
    sent as a script. With a script, the command is its arguments: words, or their text for the shell. Raises
    BadRequest for a NUL byte in the command and for arguments that do not fit on a line, LineTooLong, and
    TooLarge.
    """
    if command is None and script is None:
        raise BadRequest("expected either a command or a script")
    return _with_blocks(b"SUBMIT" + options, command, script, stdin, environment) + b"\r\n"


def _with_blocks(
    head: bytes,
    command: Command | None,
    script: bytes | None,
    stdin: bytes | None,
    environment: bytes | None = None,
) -> bytes:
    """Return a request without its last line end: its line, and the blocks that follow it; see ``submit``."""
    if stdin is not None:
        head += b" --stdin=%d" % len(stdin)
    if environment is not None:
        head += b" --environment=%d" % len(environment)
    line, arguments = head, b""
    if command is not None and script is not None:
        arguments = _script_arguments(command)
    elif command is not None:
        text = _command_bytes(command)
        line = head + _command_argument(text)
        if len(line) > MAX_LINE_BYTES or not _fits_on_line(text):
            script = text
    if script is not None:
        line = head + b" --script=%d" % len(script) + arguments
    blocks = [block for block in (script, stdin, environment) if block is not None]
    _check_sizes(line, blocks, MAX_LINE_BYTES)
    return b"\r\n".join([line, *blocks])


def _check_sizes(line: bytes, blocks: Iterable[bytes], limit: int) -> None:
    """Raise LineTooLong or TooLarge for a request that the daemon would not accept."""
    if len(line) > limit:
        raise LineTooLong(
            f"the options need a line of {len(line)} bytes, the limit is {limit}; "
            "shorten or remove some --env, --secret or arguments"
        )
    if any(len(block) > MAX_BLOCK_BYTES for block in blocks):
        raise TooLarge(
            f"a script, stdin or environment exceeds the limit of {MAX_BLOCK_BYTES} bytes; let the job read "
            "a file"
        )


def schedule(command: Command | None, options: Recurring, **when: Any) -> bytes:
    """Return a SCHEDULE with its blocks, without the last line end; ``when`` has every, cron and overlap.

    Raises as ``submit`` does.
    """
    if command is None and options.get("script") is None:
        raise BadRequest("expected either a command or a script")
    words = b"".join(_encode_option(name, value) for name, value in when.items())
    words += _encode_options("a schedule", Recurring, _without_blocks(options))
    return _with_blocks(b"SCHEDULE" + words, command, options.get("script"), options.get("stdin"))


def schedule_change(
    number: int, command: Command | None, options: Recurring, remove: Iterable[str], **when: Any
) -> bytes:
    """Return a SCHEDULE --set with its blocks, without the last line end.

    Options named in ``remove`` get back their defaults. Raises as ``submit`` does, and TypeError for an
    unknown option.
    """
    given: dict[str, Any] = {name: value for name, value in when.items() if value is not None}
    given |= _without_blocks(options)
    remove = tuple(remove)
    given |= {name: "" if name in _CLEARED_BY_NOTHING else "none" for name in remove}
    for name in given.keys() - {*Recurring.__annotations__, *when}:
        raise TypeError(f"a schedule has no option {name!r}")
    for name in {"script", "stdin", "env", "secret"}.intersection(remove):
        raise TypeError(f"{name!r} cannot be removed from a schedule, only replaced")
    words = option("set", number)
    for name, value in given.items():
        words += _encode_option(name, _switched(value))
    return _with_blocks(b"SCHEDULE" + words, command, options.get("script"), options.get("stdin"))


def send(job: Ref, data: bytes, eof: bool, timeout: float | str | None) -> bytes:
    """Return a SEND with its block, if it has data, without the last line end."""
    options = b" --eof" * eof + option("timeout", timeout)
    if eof and not data:
        return b"SEND " + ref(job) + options
    return b"SEND %b --data=%d%b\r\n%b" % (ref(job), len(data), options, data)


def _command_bytes(command: Command) -> bytes:
    """Return the command for the shell; raises BadRequest for an empty list."""
    if isinstance(command, str | bytes):
        return encode_text(command)
    if not command:
        raise BadRequest("expected a program and its arguments, not an empty list")
    return encode_text(shell_command(command))


def _script_arguments(command: Command) -> bytes:
    """Return the arguments of a script as the end of a line, with a leading space."""
    return _command_argument(_argument_bytes(command))


def _argument_bytes(command: Command) -> bytes:
    """Return the arguments of a script as text for the shell."""
    text = (
        encode_text(command) if isinstance(command, str | bytes) else encode_text(shlex.join(_texts(command)))
    )
    if not _fits_on_line(text):
        raise BadRequest("the arguments of a script must be UTF-8 without line breaks; pass others by --env")
    return text


def _texts(words: Sequence[str | bytes]) -> list[str]:
    return [each if isinstance(each, str) else each.decode("utf-8", "surrogateescape") for each in words]


def _command_argument(text: bytes) -> bytes:
    """Return a command as the end of a line, with a leading space; raises BadRequest for a NUL byte."""
    text = _without_nul(text)
    return (b" -- " if text.lstrip(b" \t").startswith(b"--") else b" ") + text


def _without_nul(text: bytes) -> bytes:
    if b"\0" in text:
        raise BadRequest(f"a command cannot contain a NUL byte; this one has one at offset {text.index(0)}")
    return text


def auth(token: str) -> bytes:
    """Return an AUTH line without its line end; raises BadRequest for an invalid token."""
    if not _TOKEN.fullmatch(token):
        raise BadRequest("expected a token of printable ASCII without spaces")
    return b"AUTH " + token.encode("ascii")


def encode_text(value: str | bytes) -> bytes:
    """Return a text as bytes; raises BadRequest for characters that no system call gives."""
    if isinstance(value, bytes):
        return value
    try:
        return value.encode("utf-8", "surrogateescape")  # the encoding of arguments and of the environment
    except UnicodeEncodeError:
        raise BadRequest(
            f"{value[:40]!r} contains a lone surrogate, which is not a valid character"
        ) from None


def _fits_on_line(text: bytes) -> bool:
    if _LINE_BREAK.search(text):
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
