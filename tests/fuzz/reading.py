"""A second reading of docs/protocol.md §1 to §3: what a stream asks for, with nothing taken from taskqd.

Where this file and the daemon understand a stream differently, one of them is wrong. It tells how many
requests there are, in which order, and where the daemon has to end the connection; whether each is answered
as it must be is in hearing.py.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

LONGEST_LINE = 65_536
LARGEST_SKIP = 64 * 1024**2
LONGEST_SUBNEGOTIATION = 1024
SHOWN = 200
"""So many bytes of a line are kept, to be shown."""

IAC, SE, SB, WILL, WONT, DO, DONT = 0xFF, 0xF0, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE
AYT = 0xF6
HERE = b"[yes]\r\n"
MARKS = (IAC, HERE[0])
"""Each answer to a telnet program begins with one of these bytes, and no reply does."""
TIMING_MARK = 6

WITH_BLOCKS = frozenset({b"SUBMIT", b"SCHEDULE"})
WAITING = frozenset({b"WAIT", b"FOLLOW"})
"""Verbs whose replies may be long in coming."""

_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) ")
_WORDS = re.compile(rb"[ \t]*([^ \t]*)[ \t]*(.*)", re.DOTALL)
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
_SUBNEGOTIATION = re.compile(rb"\xff\xfa(?:[^\xff]|\xff[^\xf0])*?\xff\xf0", re.DOTALL)


class Asked(NamedTuple):
    """One request of a stream, or what is no request and is answered all the same.

    ``codes``, if there are any, are those with which it has to be refused; what ``is_optional`` may be left
    without a reply; what ``may_wait`` may be without one for long. The connection ends after what
    ``is_last``; after a QUIT too, but whether it is one is for the daemon to say.
    """

    verb: bytes
    line: bytes
    codes: frozenset[str] = frozenset()
    is_optional: bool = False
    may_wait: bool = False
    is_last: bool = False


class Reading(NamedTuple):
    """What a stream asks for, and the ``marks`` that telnet is owed.

    It ``is_ended`` where the daemon ends the connection by itself, in silence too.
    """

    asked: list[Asked]
    marks: bytes
    is_ended: bool


class _Misplaced(Exception):
    """The lengths of the blocks cannot be told, and the connection is lost; the argument has the codes."""


BAD = frozenset({"BAD_REQUEST"})
UNKNOWN = frozenset({"UNKNOWN_COMMAND"})
TOO_LONG = frozenset({"LINE_TOO_LONG"})
TOO_LARGE = frozenset({"TOO_LARGE"})
FIRST = frozenset({"AUTH_REQUIRED", "FORBIDDEN"})
"""What may be said before anything else is looked at."""


def read(stream: bytes, verbs: Collection[bytes]) -> Reading:
    """Return what a whole stream, from the connection's first byte on, asks a server that has these verbs."""
    return _Reader(stream, verbs).read()


class _Reader:
    def __init__(self, stream: bytes, verbs: Collection[bytes]) -> None:
        self._stream = stream
        self._verbs = verbs
        self._at = 0
        self._asked: list[Asked] = []
        self._marks = b""
        self._is_ended = False

    def read(self) -> Reading:
        is_first, is_watching = True, False
        for whole in self._lines():
            line, before = whole.removesuffix(b"\r"), len(self._asked)
            if len(line) > LONGEST_LINE:
                self._ask(Asked(b"", line[:SHOWN], TOO_LONG, is_last=True))
            elif is_first and _HTTP.match(line):
                self._is_ended = True
            elif line.strip():
                self._request(line)
            is_first = False
            is_watching = len(self._asked) > before and self._asked[-1].verb == b"WATCH"
        if is_watching:  # every other line, an empty one too, would have ended it
            self._asked[-1] = self._asked[-1]._replace(may_wait=True)
        return Reading(self._asked, self._marks, self._is_ended)

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines without their LF; blocks and telnet's sequences between them are passed over."""
        stream = self._stream
        while self._at < len(stream) and not self._is_ended:
            if stream[self._at] == IAC:
                self._telnet()
                continue
            end = stream.find(b"\n", self._at)
            line = stream[self._at : end if end >= 0 else len(stream)]
            self._at += len(line) + 1
            if end >= 0 or len(line) > LONGEST_LINE + 1:  # what has no end may be a CR longer
                yield line

    def _telnet(self) -> None:
        data, at = self._stream, self._at
        command, option = data[at + 1 : at + 2], data[at + 2 : at + 3]
        if not command:
            self._at = len(data)
        elif command[0] == SB:
            whole = _SUBNEGOTIATION.match(data, at, at + LONGEST_SUBNEGOTIATION)
            self._at = whole.end() if whole else min(at + LONGEST_SUBNEGOTIATION, len(data))
        elif command[0] not in (WILL, WONT, DO, DONT):
            self._at += 2
            self._marks += HERE if command[0] == AYT else b""
        elif not option:
            self._at = len(data)
        else:
            self._at += 3
            if command[0] == DO:
                self._marks += bytes((IAC, WILL if option[0] == TIMING_MARK else WONT)) + option
            if command[0] == WILL:
                self._marks += bytes((IAC, DONT)) + option

    def _request(self, line: bytes) -> None:
        form = _WORDS.fullmatch(line)
        assert form
        word, rest = form.groups()
        verb = word.upper() if word.isascii() else word
        shown = line[:SHOWN]
        codes = _refusal(line, verb, self._verbs)
        if verb not in WITH_BLOCKS:
            self._ask(Asked(verb, shown, codes, may_wait=verb in WAITING))
            return
        try:
            sizes = _block_sizes(rest)
        except _Misplaced as why:
            self._ask(Asked(verb, shown, why.args[0], is_last=True))
        else:
            self._blocks(Asked(verb, shown, codes), sizes)

    def _blocks(self, asked: Asked, sizes: list[int]) -> None:
        """Pass over the blocks of a line; it may be answered before they are there, if it is refused."""
        for size in sizes:
            self._at += size
            if self._stream.startswith(b"\r\n", self._at):
                self._at += 2
            elif self._stream.startswith(b"\n", self._at):
                self._at += 1
            else:
                self._ask(asked._replace(is_optional=True))
                if self._stream[self._at : self._at + 2] not in (b"", b"\r"):
                    self._ask(Asked(b"", b"(the end of a block)", BAD, is_last=True))
                self._at = len(self._stream)
                return
        self._ask(asked)

    def _ask(self, asked: Asked) -> None:
        self._asked.append(asked)
        self._is_ended = self._is_ended or asked.is_last


def _refusal(line: bytes, verb: bytes, verbs: Collection[bytes]) -> frozenset[str]:
    """Return the codes of which a line must be refused with one, none where that depends on more."""
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
    """Return the sizes of the blocks behind a SUBMIT line, in their order; raises _Misplaced."""
    found: dict[bytes, list[bytes]] = {b"script": [], b"stdin": []}
    try:
        for name, value in _options(rest):
            if name in found:
                found[name].append(value)
    except ValueError:
        if b"--script" in rest or b"--stdin" in rest:
            raise _Misplaced(BAD) from None
        return []
    return [_size(values) for values in found.values() if values]


def _size(values: list[bytes]) -> int:
    (value, *others) = values
    if others or not value.isdigit():
        raise _Misplaced(BAD)
    if len(value) > 18 or int(value) > LARGEST_SKIP:
        raise _Misplaced(TOO_LARGE)
    return int(value)


def _options(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the options that begin a text; raises ValueError where one has no proper form."""
    at = _blanks(text, 0)
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
        yield name, value
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
