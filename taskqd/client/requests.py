"""Values -> request lines, for the client: words, options, SUBMIT with its blocks (docs/protocol.md §2, §3).

Nothing here knows a connection. What can be seen to be no request is refused here with the code by which the
server would refuse it; everything else is the server's to judge.
"""

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from taskqd.errors import BadRequest, LineTooLong, TooLarge
from taskqd.words import quoted

LONGEST_LINE = 65_536
"""A request line is at most so long, in bytes, its line end not counted."""
LARGEST_BLOCK = 64 * 1024**2
"""A larger script or stdin, in bytes, no daemon even reads past: it would close the connection."""

_PLAIN = re.compile(rb"[A-Za-z0-9._+/:@,%-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[!-~]+")
_LINE_BREAK = re.compile(rb"[\r\n]")


class Options(TypedDict, total=False):
    """What a submission may ask for besides its command; every one may be left out.

    Durations are seconds, or text such as ``"10m"``; sizes are bytes, or text such as ``"64k"``. ``stdin`` is
    what the job reads; ``script`` stands in place of the command.
    """

    timeout: float | str
    kill_after: float | str
    retries: int
    retry_delay: float | str
    key: str
    label: str
    cwd: str
    env: Mapping[str, str]
    umask: int
    nice: int
    max_output: int | str
    stdin: bytes
    script: bytes


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
    return b"".join(
        _written(name, value) for name, value in options.items() if name not in ("script", "stdin")
    )


def _written(name: str, value: Any) -> bytes:
    if name == "env":
        return b"".join(_env(*variable) for variable in value.items())
    if name not in Options.__annotations__:
        raise TypeError(f"a submission has no option {name!r}")
    return option(name.replace("_", "-"), f"{value:03o}" if name == "umask" else value)


def _env(name: str, value: str) -> bytes:
    if not _ENV_NAME.fullmatch(name):
        raise BadRequest(f"expected a variable's name of letters, digits and _, not {name[:60]!r}")
    return b" --env=%b=%b" % (name.encode("ascii"), word(value))


def submit(
    command: str | bytes | None, options: bytes = b"", script: bytes | None = None, stdin: bytes | None = None
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
        text = _encoded(command)
        if b"\0" in text:
            raise BadRequest(f"a command cannot hold a NUL byte; this one has it after {text.index(0)} bytes")
        line = head + (b" -- " if text.lstrip(b" \t").startswith(b"--") else b" ") + text
        if len(line) > LONGEST_LINE or not _is_line(text):
            script = text
    if script is not None:
        line = head + b" --script=%d" % len(script)
    if len(line) > LONGEST_LINE:
        raise LineTooLong(
            f"the options make a line of {len(line)} bytes, and a line has {LONGEST_LINE} at most; "
            "leave some --env out"
        )
    blocks = [block for block in (script, stdin) if block is not None]
    if any(len(block) > LARGEST_BLOCK for block in blocks):
        raise TooLarge(f"a script or stdin has {LARGEST_BLOCK} bytes at most; let the job read a file")
    return b"\r\n".join([line, *blocks, b""])


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
