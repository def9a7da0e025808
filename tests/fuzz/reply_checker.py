"""Checks the replies of a server, in pieces of any size: each request has one reply, in order."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator
from typing import NamedTuple

from tests.fuzz.stream_parser import AYT_ANSWER, IAC, TELNET_ANSWER_STARTS, ParsedRequest, ParsedStream

MAX_AUTH_FAILURES = 3
"""Failed AUTHs after which the daemon ends a connection."""

_Step = Generator[None, None, None]
_Form = Callable[[str], bool]


class RuleBroken(Exception):
    """A rule of the protocol was broken; the text has what was expected and what was received."""


def _matches(pattern: str) -> _Form:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_no_constant), dict)
    except ValueError:
        return False


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are not JSON though Python accepts them."""
    raise ValueError(name)


def _is_event(text: str) -> bool:
    sequence, _, content = text.partition(" ")
    return _is_number(sequence) and _is_object(content)


def _is_hello(text: str) -> bool:
    return text.startswith("1 ") and _is_object(text[2:])


_QUOTED = r'"(?:[ !#-\[\]-~]|\\[\\"nrt]|\\x[0-9A-F]{2})*"'
_STATUS = "(PENDING|RUNNING|COMPLETED|FAILED|CANCELLED) (100|[0-9]{1,2})"
_is_number = _matches("0|[1-9][0-9]*")
_is_status = _matches(_STATUS)
_is_one_of_several = _matches(_STATUS + r" [1-9][0-9]*(\.[0-9]+)?")
_is_empty = _matches("")


class Reply(NamedTuple):
    """The form of a reply: any number of lines with one word, then a last line.

    ``first`` is a line before those. ``codes`` are the errors with which the verb may be refused.
    """

    last: tuple[str, _Form]
    many: tuple[str, _Form] | None = None
    first: tuple[str, _Form] | None = None
    codes: tuple[str, ...] = ()


_OF_A_JOB = ("NO_SUCH_JOB", "GONE")
_OF_A_CHANGE = (*_OF_A_JOB, "WRONG_STATE")
_OF_WORK = ("QUEUE_FULL", "TOO_LARGE")
_OF_A_RECORD = (*_OF_A_CHANGE, "QUEUE_FULL")
"""A verb that records an event counts against the rate of submissions."""
_ONE_STATUS = ("STATUS", _is_status)
_JUST_OK = ("OK", _is_empty)
_COUNT = ("END", _is_number)
_PARTIAL_COUNT = ("END", _matches("(0|[1-9][0-9]*)( [1-9][0-9]*)?"))
"""With the id from which the list goes on."""
_ON_MANY = ("OK", _is_number)
_LOG_DATA = _matches("(stdout|stderr) [0-9]+ [0-9]+ [0-9TZ.:-]+( unordered)?")
_ACTS = (b"CANCEL", b"RETRY", b"HOLD", b"RELEASE", b"SUSPEND", b"CONTINUE", b"SET", b"REMOVE")
"""Verbs that are answered with a count if a filter is in place of the id."""

REPLIES: dict[bytes, Reply] = {
    b"SUBMIT": Reply(
        ("JOB_ID", _is_number),
        codes=(*_OF_A_CHANGE, *_OF_WORK, "KEY_CONFLICT", "DRAINING", "FORBIDDEN"),  # --environment over TCP
    ),
    b"STATUS": Reply(_ONE_STATUS, codes=_OF_A_JOB),
    b"RESULT": Reply(
        ("RESULT", _matches(f"{_QUOTED} {_QUOTED} (-?[0-9]+|-)")),
        codes=(*_OF_A_CHANGE, "NOT_FINISHED", "TOO_LARGE"),
    ),
    b"SHOW": Reply(("JOB", _is_object), codes=_OF_A_JOB),
    b"LIST": Reply(_PARTIAL_COUNT, ("JOB", _is_object), codes=_OF_A_CHANGE),
    b"OUTPUT": Reply(
        ("DATA", _matches("(stdout|stderr|script) [0-9]+ [0-9]+")), codes=(*_OF_A_CHANGE, "FORBIDDEN")
    ),
    b"LOG": Reply(("END", _matches("[0-9]+( [0-9]+){4}")), ("DATA", _LOG_DATA), codes=_OF_A_CHANGE),
    b"WAIT": Reply(_ONE_STATUS, codes=(*_OF_A_JOB, "TIMED_OUT")),
    b"FOLLOW": Reply(_ONE_STATUS, ("DATA", _matches("(stdout|stderr) [0-9]+ [0-9]+")), codes=_OF_A_CHANGE),
    b"CANCEL": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"RETRY": Reply(("JOB_ID", _is_number), codes=(*_OF_A_CHANGE, "QUEUE_FULL", "DRAINING")),
    b"HOLD": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"RELEASE": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"SUSPEND": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"CONTINUE": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"SET": Reply(("JOB", _is_object), codes=(*_OF_A_CHANGE, *_OF_WORK, "FORBIDDEN")),
    b"REMOVE": Reply(_JUST_OK, codes=_OF_A_RECORD),
    b"SEND": Reply(("OK", _is_number), codes=(*_OF_A_CHANGE, *_OF_WORK, "TIMED_OUT", "FORBIDDEN")),
    b"HISTORY": Reply(_COUNT, ("EVENT", _is_event), codes=_OF_A_JOB),
    b"WHY": Reply(("OK", _matches(".+")), codes=_OF_A_JOB),
    b"QUEUES": Reply(_COUNT, ("QUEUE", _is_object)),
    b"SET-QUEUE": Reply(("QUEUE", _is_object)),
    b"SET-SLOTS": Reply(("OK", _is_number)),
    b"PAUSE": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"RESUME": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"SCHEDULE": Reply(("OK", _is_number), codes=(*_OF_A_CHANGE, *_OF_WORK, "DRAINING", "FORBIDDEN")),
    b"SCHEDULES": Reply(_COUNT, ("SCHEDULE", _is_object), codes=_OF_A_JOB),
    b"UNSCHEDULE": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"WATCH": Reply(
        ("END", _is_empty), ("EVENT", _is_event), ("OK", _is_number), codes=(*_OF_A_JOB, "LAGGED")
    ),
    b"STATS": Reply(("STATS", _is_object)),
    b"DRAIN": Reply(_JUST_OK),
    b"SHUTDOWN": Reply(("OK", _matches(r"[0-9]+ (left|ended|requeued)"))),
    b"HELLO": Reply(("TASKQ", _is_hello)),
    b"AUTH": Reply(("OK", _matches(r"\S+ (admin|submit|read)")), codes=("AUTH_FAILED",)),
    b"PING": Reply(_JUST_OK),
    b"HELP": Reply(("END", _is_empty), ("OK", _matches(".+"))),
    b"QUIT": Reply(_JUST_OK),
}
"""The reply to each verb, and the errors besides BAD_REQUEST with which an admin's request may be refused."""

ALL_CODES = frozenset(
    [
        "BAD_REQUEST",
        "UNKNOWN_COMMAND",
        "LINE_TOO_LONG",
        "TOO_LARGE",
        "NO_SUCH_JOB",
        "GONE",
        "WRONG_STATE",
        "KEY_CONFLICT",
        "FORBIDDEN",
        "AUTH_FAILED",
        "NOT_FINISHED",
        "AUTH_REQUIRED",
        "TIMED_OUT",
        "LAGGED",
        "QUEUE_FULL",
        "DRAINING",
        "STORE_FAILED",
        "INTERNAL",
    ]
)
"""All error codes (docs/protocol.md §7)."""


class ReplyChecker:
    """Checks the replies on one connection; ``feed`` is called with the bytes received, ``end`` at their end.

    Both raise RuleBroken. ``replies`` counts the replies by word or error code; ``jobs`` has the ids of
    submissions; ``awaited`` is the request whose reply is due, None if all are answered.
    ``also`` are errors with which every request of this client may be refused.
    """

    def __init__(self, expected: ParsedStream, also: Collection[str] = ()) -> None:
        self.replies: Counter[str] = Counter()
        self.jobs: list[int] = []
        self.is_over = False
        self.received_bytes = 0
        self._expected = expected
        self._also = also
        self._awaited = 0
        self._failures = 0
        self._unread = bytearray()
        self._telnet_answers = b""
        self._checking = self._check_replies()
        next(self._checking)

    @property
    def awaited(self) -> ParsedRequest | None:
        requests = self._expected.requests
        return requests[self._awaited] if self._awaited < len(requests) and not self.is_over else None

    @property
    def is_satisfied(self) -> bool:
        """Whether all replies have arrived that must."""
        return self.awaited is None and (
            self.is_over or self._telnet_answers == self._expected.telnet_answers
        )

    def feed(self, data: bytes) -> None:
        """Check bytes that were received."""
        self.received_bytes += len(data)
        self._unread += data
        self._checking.send(None)

    def end(self) -> None:
        """Check that the daemon may have closed the connection now."""
        if self._unread:
            raise RuleBroken(f"the connection ended within a reply: {bytes(self._unread[:200])!r}")
        left = [] if self.is_over else self._expected.requests[self._awaited :]
        owed = sum(not request.is_optional for request in left)
        given_instead = sum(request.is_optional for request in self._expected.requests[: self._awaited])
        if owed > given_instead:
            raise RuleBroken(
                f"the connection ended and left {len(left)} requests unanswered, first {left[0].line!r}"
            )

    @property
    def may_end(self) -> bool:
        """Whether the daemon may close by itself now."""
        return self.is_over or self._expected.is_ended

    def _check_replies(self) -> _Step:
        while True:
            request = self.awaited
            if request is None:
                yield from self._check_no_reply()
            else:
                yield from self._check_reply(request)
                self._awaited += 1
                self.is_over = self.is_over or request.is_last

    def _check_no_reply(self) -> _Step:
        """Accept answers to telnet sequences only."""
        while True:
            while not self._unread:
                yield
            if self._unread[0] not in TELNET_ANSWER_STARTS:
                raise RuleBroken(
                    f"bytes arrived that are no reply to a request: {bytes(self._unread[:300])!r}"
                )
            yield from self._telnet_answer()

    def _check_reply(self, request: ParsedRequest) -> _Step:
        word, text = yield from self._line()
        if word == "ERROR":
            self._check_error(request, text)
            return
        form = REPLIES.get(request.verb)
        if form is None or request.codes:
            raise RuleBroken(
                f"{request.line!r} should be refused with one of {set(request.codes)}; it got {word} {text}"
            )
        self.replies[word] += 1
        if request.verb == b"WAIT" and not _is_status(text):
            form = Reply(("END", _is_number), ("STATUS", _is_one_of_several))
        if request.verb == b"SCHEDULE" and b"--run-now" in request.line:
            form = Reply(("JOB_ID", _is_number))
        if request.verb in _ACTS and (word == "PROGRESS" or (word == "OK" and _is_number(text))):
            form = Reply(_ON_MANY, ("PROGRESS", _matches("[0-9]+ [1-9][0-9]*")))
        count = 0
        if form.first:
            self._check(request, form.first, word, text)
            word, text = yield from self._line()
        while form.many and word == form.many[0]:
            self._check(request, form.many, word, text)
            yield from self._data(word, text)
            count += 1
            word, text = yield from self._line()
        if word == "ERROR" and (form.first or form.many):
            self._check_error(request, text)
            return
        self._check(request, form.last, word, text)
        yield from self._data(word, text)
        self._finish_reply(request, form, text, count)

    def _finish_reply(self, request: ParsedRequest, form: Reply, text: str, count: int) -> None:
        is_count = request.verb == b"LIST" and b"--count" in request.line
        if not is_count and form.last in (_COUNT, _PARTIAL_COUNT) and int(text.split(maxsplit=1)[0]) != count:
            raise RuleBroken(f"{request.line!r}: END {text} after {count} lines")
        if form.last[0] == "JOB_ID" and request.verb == b"SUBMIT":
            self.jobs.append(int(text))
        if request.verb == b"QUIT":
            self.is_over = True

    def _check(self, request: ParsedRequest, form: tuple[str, _Form], word: str, text: str) -> None:
        if word != form[0] or not form[1](text):
            raise RuleBroken(
                f"{request.line!r} was answered {f'{word} {text}'[:300]!r}, where {form[0]} was due"
            )

    def _check_error(self, request: ParsedRequest, text: str) -> None:
        code, _, why = text.partition(" ")
        self.replies[f"ERROR {code}"] += 1
        if code not in ALL_CODES or code in ("INTERNAL", "STORE_FAILED"):
            raise RuleBroken(f"{request.line!r} was answered ERROR {text[:300]}")
        allowed: Collection[str] = request.codes
        if not allowed and request.verb in REPLIES:
            allowed = {"BAD_REQUEST", *REPLIES[request.verb].codes, *self._also}
        if code not in allowed:
            raise RuleBroken(
                f"{request.line!r} was refused with {text[:300]!r}, where {sorted(allowed)} would do"
            )
        if not why.isprintable() or not why:
            raise RuleBroken(f"{request.line!r}: the text of its error is not printable: {why[:300]!r}")
        if code == "AUTH_FAILED":
            self._failures += 1
            self.is_over = self._failures == MAX_AUTH_FAILURES

    # Bytes -> words.

    def _line(self) -> Generator[None, None, tuple[str, str]]:
        while not self._unread or self._unread[0] in TELNET_ANSWER_STARTS:
            if self._unread:
                yield from self._telnet_answer()
            else:
                yield
        seen = 0
        while (end := self._unread.find(b"\n", seen)) < 0:
            seen = len(self._unread)
            yield
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        if not line.endswith(b"\r\n"):
            raise RuleBroken(f"a reply line must end in CRLF: {line[-100:]!r}")
        try:
            text = line[:-2].decode("utf-8")
        except UnicodeDecodeError:
            raise RuleBroken(f"a reply line must be UTF-8: {line[:300]!r}") from None
        if any(letter < " " for letter in text):
            raise RuleBroken(f"a reply line has a control character: {line[:300]!r}")
        word, _, rest = text.partition(" ")
        return word, rest

    def _data(self, word: str, text: str) -> _Step:
        """Skip the bytes behind a DATA line."""
        if word != "DATA":
            return
        length = int(text.split(" ")[2]) + 2
        while len(self._unread) < length:
            yield
        if self._unread[length - 2 : length] != b"\r\n":
            raise RuleBroken(
                f"a block does not end in CRLF, but in {bytes(self._unread[length - 20 : length])!r}"
            )
        del self._unread[:length]

    def _telnet_answer(self) -> _Step:
        length = 3 if self._unread[0] == IAC else len(AYT_ANSWER)
        while len(self._unread) < length:
            yield
        self._telnet_answers += bytes(self._unread[:length])
        del self._unread[:length]
        if not self._expected.telnet_answers.startswith(self._telnet_answers):
            raise RuleBroken(
                f"expected the telnet answers {self._expected.telnet_answers!r}, "
                f"but received {self._telnet_answers!r}"
            )


class AnyReplies(ReplyChecker):
    """Accepts any bytes and any end: for input that is not TLS on a TLS port."""

    def feed(self, data: bytes) -> None:
        self.received_bytes += len(data)

    def end(self) -> None:
        """Accept the end."""
