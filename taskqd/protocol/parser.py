"""Parses a request line; it never fails, since blocks may follow a line that is refused."""

import re
from typing import Any, NamedTuple

from taskqd.errors import BadRequest, TaskqError, UnknownCommand
from taskqd.protocol import submit
from taskqd.protocol.submit_cache import parse_cached
from taskqd.protocol.values import capitals
from taskqd.protocol.verbs import VERBS

MAX_LINE_LENGTH = 65_536
"""A request line is at most so long, in bytes, its line end not counted."""


WITH_BLOCKS = frozenset({"SUBMIT", "SCHEDULE"})
"""The verbs whose lines blocks may follow; SCHEDULE's are refused, and read past."""


_LINE = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)


_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")


class Request(NamedTuple):
    """A request line as read: the verb and its argument, or the error; and the sizes of the blocks after it.

    ``blocks`` has the sizes in bytes, script before stdin. Where the line is refused its blocks still follow,
    to be thrown away; where it ``is_lost``, nobody can tell what follows, and the connection has to end.
    ``secret`` has the values of a submission's secrets, of which the argument has only the names.
    """

    verb: str
    argument: Any
    error: TaskqError | None = None
    blocks: tuple[int, ...] = ()
    is_lost: bool = False
    secret: bytes | None = None


def is_http(line: bytes) -> bool:
    """Whether a connection's first line is a web browser's rather than a client's."""
    return _HTTP.match(line) is not None


def parse_line(line: bytes) -> Request:
    """Read one request line, which came without its line end."""
    plain = parse_cached(line)
    if plain is not None:
        return Request("SUBMIT", plain[0], None, plain[1])
    text = line.decode("utf-8", "surrogateescape")
    form = _LINE.fullmatch(text)
    word, rest = form.groups() if form else ("", "")
    verb = capitals(word)
    blocks: tuple[int, ...] = ()
    try:
        if verb in WITH_BLOCKS:
            blocks = submit.block_sizes(rest)
    except TaskqError as why:
        return Request(verb, None, why, is_lost=True)
    try:
        _check_text(line)
        if verb not in VERBS:
            raise UnknownCommand(f"{word[:40]!r} is no command of this server; HELP lists them")
        asked = VERBS[verb]
        argument = asked.read(asked.usage, rest)
        has_secrets = verb == "SUBMIT" and argument.spec.secrets
        secret = submit.secret_block(rest) if has_secrets else None
        return Request(verb, argument, None, blocks, secret=secret)
    except TaskqError as why:
        return Request(verb, None, why, blocks)


def _check_text(line: bytes) -> None:
    if b"\0" in line:
        raise BadRequest("a request is text without NUL bytes; send binary data with --stdin")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("a request is UTF-8 text; send other bytes with --stdin") from None
