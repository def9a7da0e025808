"""Parses a request line. It never fails, because the blocks after a refused line must be skipped."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from taskqd.errors import BadRequest, TaskqError, UnknownCommand
from taskqd.model.submission import RescheduleRequest, ScheduleRequest, Submission
from taskqd.protocol import act_requests, send_request, submit
from taskqd.protocol.submit_cache import parse_cached
from taskqd.protocol.values import capitals
from taskqd.protocol.verbs import VERBS

MAX_LINE_LENGTH = 65_536
"""Bytes of a request line, without its line end."""

_BLOCK_SIZES: dict[str, Callable[[str], tuple[int, ...]]] = {
    "SUBMIT": submit.block_sizes,
    "SCHEDULE": submit.block_sizes,
    "SET": act_requests.sizes_of_set_blocks,
    "SEND": send_request.sizes_of_data,
}
VERBS_WITH_BLOCKS = frozenset(_BLOCK_SIZES)
"""Verbs whose line may announce blocks."""

_LINE = re.compile(r"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")


class Request(NamedTuple):
    """A parsed request line: the verb with its argument, or with the error.

    `argument` is a value of requests.py, a Submission or a ScheduleRequest. `blocks` has the sizes in bytes
    of the blocks after the line, in the order of `submission.BLOCKS`; those of a refused line have to be
    skipped. If `is_lost`, these sizes are unknown and the connection must be closed. `secret` has the values
    of secrets, of which the argument has only the names.
    """

    verb: str
    argument: Any
    error: TaskqError | None = None
    blocks: tuple[int, ...] = ()
    is_lost: bool = False
    secret: bytes | None = None


def is_http(line: bytes) -> bool:
    """Whether the first line of a connection was sent by an HTTP client."""
    return _HTTP.match(line) is not None


def parse_line(line: bytes) -> Request:
    """Parse a request line without its line end."""
    cached = parse_cached(line)
    if cached is not None:
        return Request("SUBMIT", cached[0], None, cached[1])
    text = line.decode("utf-8", "surrogateescape")
    match = _LINE.fullmatch(text)
    word, rest = match.groups() if match else ("", "")
    verb = capitals(word)
    blocks: tuple[int, ...] = ()
    try:
        if verb in VERBS_WITH_BLOCKS:
            blocks = _BLOCK_SIZES[verb](rest)
    except TaskqError as error:
        return Request(verb, None, error, is_lost=True)
    try:
        _check_encoding(line)
        if verb not in VERBS:
            raise UnknownCommand(f"{word[:40]!r} is not a command of this server; HELP lists them")
        row = VERBS[verb]
        argument = row.parse(row.usage, rest)
        secret = submit.secret_block(rest) if _has_secrets(argument) else None
        return Request(verb, argument, None, blocks, secret=secret)
    except TaskqError as error:
        return Request(verb, None, error, blocks)


def _has_secrets(argument: Any) -> bool:
    if isinstance(argument, RescheduleRequest):
        return "secrets" in argument.values
    return isinstance(argument, Submission | ScheduleRequest) and bool(argument.spec.secrets)


def _check_encoding(line: bytes) -> None:
    if b"\0" in line:
        raise BadRequest("a request is text without NUL bytes; send binary data with --stdin")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("a request is UTF-8 text; send other bytes with --stdin") from None
