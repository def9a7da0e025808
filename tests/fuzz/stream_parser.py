"""A second parser for docs/protocol.md §1 to §3, which shares no code with taskqd.

If this parser and the daemon interpret a stream differently, one of them is wrong. It finds the
requests and where the daemon has to end the connection; whether each request is answered
correctly is checked by reply_checker.py.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

MAX_LINE = 65_536
MAX_SKIPPED = 64 * 1024**2
MAX_SUBNEGOTIATION = 1024
MAX_SHOWN = 200
"""Bytes of a line that are kept for messages."""

IAC, SE, SB, WILL, WONT, DO, DONT = 0xFF, 0xF0, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE
AYT = 0xF6
AYT_ANSWER = b"[yes]\r\n"
TELNET_ANSWER_STARTS = (IAC, AYT_ANSWER[0])
"""Each answer to a telnet sequence begins with one of these bytes, and no reply does."""
TIMING_MARK = 6

WITH_BLOCKS = frozenset({b"SUBMIT", b"SCHEDULE", b"SET", b"SEND"})
AMONG_WORDS = {b"SET": b"script", b"SEND": b"data"}
"""The option that announces a block, of verbs whose options may be between their words."""
WAITING = frozenset({b"WAIT", b"FOLLOW", b"SEND"})
"""Verbs whose replies may take long."""

_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")
_WORDS = re.compile(rb"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)
_WORD = re.compile(rb"[^ \t]*")
_OPTION = re.compile(rb"--([a-z][a-z-]{0,39})(?:(=)|(?=[ \t]|\Z))")
_ENV_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,199}=")
_LETTER = (  # of UTF-8 beyond ASCII, but for control characters (RFC 3629 section 4)
    rb"\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|' + _LETTER + rb'|\\[\\"nrt]|\\x[0-9A-Fa-f]{2})*)"(?=[ \t]|\Z)')
_ESCAPE = re.compile(rb'\\(?:x([0-9A-Fa-f]{2})|([\\"nrt]))')
_LETTERS = {b"\\": b"\\", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_KNOWN_ENVIRONMENT = re.compile(rb"[0-9]{1,9}:[0-9a-f]{64}")
_SUBNEGOTIATION = re.compile(rb"\xff\xfa(?:[^\xff]|\xff[^\xf0])*?\xff\xf0", re.DOTALL)


class ParsedRequest(NamedTuple):
    """One request of a stream, or other input that is answered.

    If there are ``codes``, it must be refused with one of them. If it ``is_optional``, it may have no
    reply; if it ``may_wait``, the reply may take long. The connection ends after it if it
    ``is_last``; also after a QUIT, but only the daemon decides whether that is accepted.
    """

    verb: bytes
    line: bytes
    codes: frozenset[str] = frozenset()
    is_optional: bool = False
    may_wait: bool = False
    is_last: bool = False


class ParsedStream(NamedTuple):
    """The requests of a stream, and the expected answers to its telnet sequences.

    It ``is_ended`` if the daemon ends the connection, with or without an error.
    """

    requests: list[ParsedRequest]
    telnet_answers: bytes
    is_ended: bool


class _UnknownSizes(Exception):
    """The sizes of the blocks are unknown, so the connection must end; the argument has the codes."""


BAD = frozenset({"BAD_REQUEST"})
UNKNOWN = frozenset({"UNKNOWN_COMMAND"})
TOO_LONG = frozenset({"LINE_TOO_LONG"})
TOO_LARGE = frozenset({"TOO_LARGE"})
FIRST = frozenset({"AUTH_REQUIRED", "FORBIDDEN"})
"""Errors that may come before any other check."""


def parse_stream(stream: bytes, verbs: Collection[bytes]) -> ParsedStream:
    """Parse a whole stream, from the first byte of the connection, for a server that has these verbs."""
    return _Reader(stream, verbs).parse_stream()


class _Reader:
    def __init__(self, stream: bytes, verbs: Collection[bytes]) -> None:
        self._stream = stream
        self._verbs = verbs
        self._at = 0
        self._requests: list[ParsedRequest] = []
        self._telnet_answers = b""
        self._is_ended = False

    def parse_stream(self) -> ParsedStream:
        is_first, is_watching = True, False
        for whole in self._lines():
            line, before = whole.removesuffix(b"\r"), len(self._requests)
            if len(line) > MAX_LINE:
                self._add(ParsedRequest(b"", line[:MAX_SHOWN], TOO_LONG, is_last=True))
            elif is_first and _HTTP.match(line):
                self._is_ended = True
            elif line.strip():
                self._request(line)
            is_first = False
            is_watching = len(self._requests) > before and self._requests[-1].verb == b"WATCH"
        if is_watching:  # any line behind it, even an empty one, would have ended it
            self._requests[-1] = self._requests[-1]._replace(may_wait=True)
        return ParsedStream(self._requests, self._telnet_answers, self._is_ended)

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines without their LF; skip blocks and telnet sequences between them."""
        stream = self._stream
        while self._at < len(stream) and not self._is_ended:
            if stream[self._at] == IAC:
                self._telnet()
                continue
            end = stream.find(b"\n", self._at)
            line = stream[self._at : end if end >= 0 else len(stream)]
            self._at += len(line) + 1
            if end >= 0 or len(line) > MAX_LINE + 1:  # a line without an end may have a CR
                yield line

    def _telnet(self) -> None:
        data, at = self._stream, self._at
        command, option = data[at + 1 : at + 2], data[at + 2 : at + 3]
        if not command:
            self._at = len(data)
        elif command[0] == SB:
            whole = _SUBNEGOTIATION.match(data, at, at + MAX_SUBNEGOTIATION)
            self._at = whole.end() if whole else min(at + MAX_SUBNEGOTIATION, len(data))
        elif command[0] not in (WILL, WONT, DO, DONT):
            self._at += 2
            self._telnet_answers += AYT_ANSWER if command[0] == AYT else b""
        elif not option:
            self._at = len(data)
        else:
            self._at += 3
            if command[0] == DO:
                self._telnet_answers += bytes((IAC, WILL if option[0] == TIMING_MARK else WONT)) + option
            if command[0] == WILL:
                self._telnet_answers += bytes((IAC, DONT)) + option

    def _request(self, line: bytes) -> None:
        form = _WORDS.fullmatch(line)
        assert form
        word, rest = form.groups()
        verb = word.upper() if word.isascii() else word
        shown = line[:MAX_SHOWN]
        codes = _refusal(line, verb, self._verbs)
        if verb not in WITH_BLOCKS:
            self._add(ParsedRequest(verb, shown, codes, may_wait=verb in WAITING))
            return
        try:
            name = AMONG_WORDS.get(verb)
            sizes = _block_sizes(rest) if name is None else _size_among_words(rest, name)
        except _UnknownSizes as why:
            self._add(ParsedRequest(verb, shown, why.args[0], is_last=True))
        else:
            self._blocks(ParsedRequest(verb, shown, codes, may_wait=verb in WAITING), sizes)

    def _blocks(self, request: ParsedRequest, sizes: list[int]) -> None:
        """Skip the blocks of a line; if it is refused, it may be answered before they have arrived."""
        for size in sizes:
            self._at += size
            if self._stream.startswith(b"\r\n", self._at):
                self._at += 2
            elif self._stream.startswith(b"\n", self._at):
                self._at += 1
            else:
                self._add(request._replace(is_optional=True))
                if self._stream[self._at : self._at + 2] not in (b"", b"\r"):
                    self._add(ParsedRequest(b"", b"(the end of a block)", BAD, is_last=True))
                self._at = len(self._stream)
                return
        self._add(request)

    def _add(self, request: ParsedRequest) -> None:
        self._requests.append(request)
        self._is_ended = self._is_ended or request.is_last


def _refusal(line: bytes, verb: bytes, verbs: Collection[bytes]) -> frozenset[str]:
    """Return the codes with one of which a line must be refused; none if that depends on more."""
    if b"\0" in line or not _is_utf8(line):
        return BAD | FIRST if verb in verbs else BAD
    return frozenset() if verb in verbs else UNKNOWN


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _block_sizes(rest: bytes) -> list[int]:
    """Return the sizes of the blocks behind a SUBMIT line in order; raises _UnknownSizes."""
    found: dict[bytes, list[bytes]] = {b"script": [], b"stdin": [], b"environment": []}
    try:
        for name, value in _options(rest):
            if name in found:
                found[name].append(value)
    except ValueError:
        if any(b"--" + name in rest for name in found):
            raise _UnknownSizes(BAD) from None
        return []
    known = [value for value in found[b"environment"] if _KNOWN_ENVIRONMENT.fullmatch(value)]
    if known and len(found[b"environment"]) == 1:  # no block follows
        found[b"environment"] = []
    return [_size(values) for values in found.values() if values]


def _size_among_words(rest: bytes, option: bytes) -> list[int]:
    """Return the size of the block behind a line whose options may be between its words."""
    values: list[bytes] = []
    at = 0
    try:
        while at < len(rest):
            for name, value, end in _options_from(rest, at):
                at = end
                if name == option:
                    values.append(value)
            at = _blanks(rest, at)
            if rest.startswith(b"--", at):
                at += 2  # a lone one, which a word follows
                at = _blanks(rest, at)
            word = _WORD.match(rest, at)
            at = _blanks(rest, word.end() if word else at)
    except ValueError:
        if b"--" + option in rest:
            raise _UnknownSizes(BAD) from None
        return []
    return [_size(values)] if values else []


def _size(values: list[bytes]) -> int:
    (value, *others) = values
    if others or not value.isdigit():
        raise _UnknownSizes(BAD)
    if len(value) > 18 or int(value) > MAX_SKIPPED:
        raise _UnknownSizes(TOO_LARGE)
    return int(value)


def _options(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the options at the start of a text; raises ValueError if one is malformed."""
    return ((name, value) for name, value, _ in _options_from(text, 0))


def _options_from(text: bytes, at: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the options from an offset on, each with the offset of its end."""
    at = _blanks(text, at)
    while text.startswith(b"--", at) and text[at + 2 : at + 3] not in (b"", b" ", b"\t"):
        head = _OPTION.match(text, at)
        if not head:
            raise ValueError
        name, at = head[1], head.end()
        if not head[2]:
            value = b""
        else:
            if name in (b"env", b"secret") and (before := _ENV_NAME.match(text, at)):
                at = before.end()
            if text.startswith(b'"', at):
                value, at = _quoted(text, at, name)
            else:
                end = min(end if (end := text.find(blank, at)) >= 0 else len(text) for blank in (b" ", b"\t"))
                value, at = text[at:end], end
        yield name, value, at
        at = _blanks(text, at)


def _quoted(text: bytes, at: int, name: bytes) -> tuple[bytes, int]:
    form = _QUOTED.match(text, at)
    if not form:
        raise ValueError
    value = _ESCAPE.sub(lambda it: bytes([int(it[1], 16)]) if it[1] else _LETTERS[it[2]], form[1])
    if b"\0" in value or (name not in (b"env", b"secret", b"cwd") and not _is_utf8(value)):
        raise ValueError
    return value, form.end()


def _blanks(text: bytes, at: int) -> int:
    while text[at : at + 1] in (b" ", b"\t"):
        at += 1
    return at
