"""What a server says, in whatever pieces, held against what it was asked: one reply each, in order."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator
from typing import NamedTuple

from tests.fuzz.reading import HERE, IAC, MARKS, Asked, Reading

MAX_AUTH_FAILURES = 3
"""So many failed AUTHs end a connection."""

_Step = Generator[None, None, None]
_Form = Callable[[str], bool]


class Broken(Exception):
    """A rule of the protocol does not hold; the text says what was expected and what came."""


def _matches(pattern: str) -> _Form:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_no_constant), dict)
    except ValueError:
        return False


def _no_constant(name: str) -> None:
    """Python reads NaN and Infinity, which no other reader of JSON knows."""
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
    """The form of a reply: any number of lines of one word, then a last one, each in a form of its own.

    ``first`` is a line that comes before those; ``codes`` are those with which the verb may be refused.
    """

    last: tuple[str, _Form]
    many: tuple[str, _Form] | None = None
    first: tuple[str, _Form] | None = None
    codes: tuple[str, ...] = ()


_OF_A_JOB = ("NO_SUCH_JOB", "GONE")
_OF_A_CHANGE = (*_OF_A_JOB, "WRONG_STATE")
_OF_WORK = ("QUEUE_FULL", "TOO_LARGE")
_OF_A_RECORD = (*_OF_A_CHANGE, "QUEUE_FULL")
"""A verb that writes a record counts against the rate of submissions."""
_ONE_STATUS = ("STATUS", _is_status)
_JUST_OK = ("OK", _is_empty)
_COUNT = ("END", _is_number)

REPLIES: dict[bytes, Reply] = {
    b"SUBMIT": Reply(("JOB_ID", _is_number), codes=(*_OF_A_CHANGE, *_OF_WORK, "KEY_CONFLICT", "DRAINING")),
    b"STATUS": Reply(_ONE_STATUS, codes=_OF_A_JOB),
    b"RESULT": Reply(
        ("RESULT", _matches(f"{_QUOTED} {_QUOTED} (-?[0-9]+|-)")),
        codes=(*_OF_A_CHANGE, "NOT_FINISHED", "TOO_LARGE"),
    ),
    b"SHOW": Reply(("JOB", _is_object), codes=_OF_A_JOB),
    b"LIST": Reply(_COUNT, ("JOB", _is_object), codes=_OF_A_CHANGE),
    b"OUTPUT": Reply(("DATA", _matches("(stdout|stderr) [0-9]+ [0-9]+")), codes=_OF_A_CHANGE),
    b"WAIT": Reply(_ONE_STATUS, codes=(*_OF_A_JOB, "TIMED_OUT")),
    b"FOLLOW": Reply(_ONE_STATUS, ("DATA", _matches("(stdout|stderr) [0-9]+ [0-9]+")), codes=_OF_A_CHANGE),
    b"CANCEL": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"RETRY": Reply(("JOB_ID", _is_number), codes=(*_OF_A_CHANGE, "QUEUE_FULL", "DRAINING")),
    b"HOLD": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"RELEASE": Reply(_ONE_STATUS, codes=_OF_A_RECORD),
    b"SET": Reply(("JOB", _is_object), codes=(*_OF_A_CHANGE, *_OF_WORK)),
    b"REMOVE": Reply(_JUST_OK, codes=_OF_A_RECORD),
    b"HISTORY": Reply(_COUNT, ("EVENT", _is_event), codes=_OF_A_JOB),
    b"WHY": Reply(("OK", _matches(".+")), codes=_OF_A_JOB),
    b"QUEUES": Reply(_COUNT, ("QUEUE", _is_object)),
    b"SET-QUEUE": Reply(("QUEUE", _is_object)),
    b"PAUSE": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"RESUME": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"SCHEDULE": Reply(("OK", _is_number), codes=(*_OF_A_CHANGE, *_OF_WORK, "DRAINING")),
    b"SCHEDULES": Reply(_COUNT, ("SCHEDULE", _is_object)),
    b"UNSCHEDULE": Reply(_JUST_OK, codes=(*_OF_A_JOB, "QUEUE_FULL")),
    b"WATCH": Reply(
        ("END", _is_empty), ("EVENT", _is_event), ("OK", _is_number), codes=(*_OF_A_JOB, "LAGGED")
    ),
    b"STATS": Reply(("STATS", _is_object)),
    b"DRAIN": Reply(_JUST_OK),
    b"HELLO": Reply(("TASKQ", _is_hello)),
    b"AUTH": Reply(("OK", _matches(r"\S+ (admin|submit|read)")), codes=("AUTH_FAILED",)),
    b"PING": Reply(_JUST_OK),
    b"HELP": Reply(("END", _is_empty), ("OK", _matches(".+"))),
    b"QUIT": Reply(_JUST_OK),
}
"""What each verb is answered, and with what it may be refused beside BAD_REQUEST, if it is an admin's."""

CLOSED_LIST = frozenset(
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
"""Every code that there is (docs/protocol.md §7)."""


class Ear:
    """Listens to one connection; ``feed`` takes what comes and ``end`` says that no more will.

    Both raise Broken. ``replies`` counts what came by its word, or by its code; ``jobs`` has the ids that
    submissions were given; what is ``awaited`` is the request whose reply is due, None when all have theirs.
    ``also`` are codes with which everything may be refused, for whom it is who asks.
    """

    def __init__(self, reading: Reading, also: Collection[str] = ()) -> None:
        self.replies: Counter[str] = Counter()
        self.jobs: list[int] = []
        self.is_over = False
        self.heard = 0
        self._reading = reading
        self._also = also
        self._awaited = 0
        self._failures = 0
        self._unheard = bytearray()
        self._marks = b""
        self._listening = self._listen()
        next(self._listening)

    @property
    def awaited(self) -> Asked | None:
        asked = self._reading.asked
        return asked[self._awaited] if self._awaited < len(asked) and not self.is_over else None

    @property
    def is_satisfied(self) -> bool:
        """Whether everything has come that must."""
        return self.awaited is None and (self.is_over or self._marks == self._reading.marks)

    def feed(self, data: bytes) -> None:
        """Take bytes that came."""
        self.heard += len(data)
        self._unheard += data
        self._listening.send(None)

    def end(self) -> None:
        """Take note that the daemon has closed."""
        if self._unheard:
            raise Broken(f"the connection ended within a reply: {bytes(self._unheard[:200])!r}")
        left = [] if self.is_over else self._reading.asked[self._awaited :]
        owed = sum(not asked.is_optional for asked in left)
        given_instead = sum(asked.is_optional for asked in self._reading.asked[: self._awaited])
        if owed > given_instead:
            raise Broken(
                f"the connection ended and left {len(left)} requests unanswered, first {left[0].line!r}"
            )

    @property
    def may_end(self) -> bool:
        """Whether the daemon may close by itself now."""
        return self.is_over or self._reading.is_ended

    def _listen(self) -> _Step:
        while True:
            asked = self.awaited
            if asked is None:
                yield from self._hear_nothing()
            else:
                yield from self._hear(asked)
                self._awaited += 1
                self.is_over = self.is_over or asked.is_last

    def _hear_nothing(self) -> _Step:
        """Only telnet's answers may still come."""
        while True:
            while not self._unheard:
                yield
            if self._unheard[0] not in MARKS:
                raise Broken(f"something came that nobody asked for: {bytes(self._unheard[:300])!r}")
            yield from self._mark()

    def _hear(self, asked: Asked) -> _Step:
        word, text = yield from self._line()
        if word == "ERROR":
            self._refused(asked, text)
            return
        form = REPLIES.get(asked.verb)
        if form is None or asked.codes:
            raise Broken(
                f"{asked.line!r} should be refused, {set(asked.codes) or 'as unknown'}; it got {word} {text}"
            )
        self.replies[word] += 1
        if asked.verb == b"WAIT" and not _is_status(text):
            form = Reply(("END", _is_number), ("STATUS", _is_one_of_several))
        count = 0
        if form.first:
            self._check(asked, form.first, word, text)
            word, text = yield from self._line()
        while form.many and word == form.many[0]:
            self._check(asked, form.many, word, text)
            yield from self._data(word, text)
            count += 1
            word, text = yield from self._line()
        if word == "ERROR" and (form.first or form.many):
            self._refused(asked, text)
            return
        self._check(asked, form.last, word, text)
        yield from self._data(word, text)
        self._ended(asked, form, text, count)

    def _ended(self, asked: Asked, form: Reply, text: str, count: int) -> None:
        if form.last == _COUNT and int(text) != count:
            raise Broken(f"{asked.line!r}: END {text} after {count} lines")
        if form.last[0] == "JOB_ID" and asked.verb == b"SUBMIT":
            self.jobs.append(int(text))
        if asked.verb == b"QUIT":
            self.is_over = True

    def _check(self, asked: Asked, form: tuple[str, _Form], word: str, text: str) -> None:
        if word != form[0] or not form[1](text):
            raise Broken(f"{asked.line!r} was answered {f'{word} {text}'[:300]!r}, where {form[0]} was due")

    def _refused(self, asked: Asked, text: str) -> None:
        code, _, why = text.partition(" ")
        self.replies[f"ERROR {code}"] += 1
        if code not in CLOSED_LIST or code in ("INTERNAL", "STORE_FAILED"):
            raise Broken(f"{asked.line!r} was answered ERROR {text[:300]}")
        allowed: Collection[str] = asked.codes
        if not allowed and asked.verb in REPLIES:
            allowed = {"BAD_REQUEST", *REPLIES[asked.verb].codes, *self._also}
        if code not in allowed:
            raise Broken(f"{asked.line!r} was refused with {text[:300]!r}, where {sorted(allowed)} would do")
        if not why.isprintable() or not why:
            raise Broken(f"{asked.line!r}: the text of its error is none for a person: {why[:300]!r}")
        if code == "AUTH_FAILED":
            self._failures += 1
            self.is_over = self._failures == MAX_AUTH_FAILURES

    # from bytes to words

    def _line(self) -> Generator[None, None, tuple[str, str]]:
        while not self._unheard or self._unheard[0] in MARKS:
            if self._unheard:
                yield from self._mark()
            else:
                yield
        seen = 0
        while (end := self._unheard.find(b"\n", seen)) < 0:
            seen = len(self._unheard)
            yield
        line = bytes(self._unheard[: end + 1])
        del self._unheard[: end + 1]
        if not line.endswith(b"\r\n"):
            raise Broken(f"a reply line ends in CRLF, not so {line[-100:]!r}")
        try:
            text = line[:-2].decode("utf-8")
        except UnicodeDecodeError:
            raise Broken(f"a reply line is UTF-8, not so {line[:300]!r}") from None
        if any(letter < " " for letter in text):
            raise Broken(f"a reply line has a control character in it: {line[:300]!r}")
        word, _, rest = text.partition(" ")
        return word, rest

    def _data(self, word: str, text: str) -> _Step:
        """Pass over the bytes behind a DATA line."""
        if word != "DATA":
            return
        length = int(text.split(" ")[2]) + 2
        while len(self._unheard) < length:
            yield
        if self._unheard[length - 2 : length] != b"\r\n":
            raise Broken(
                f"a block does not end in CRLF, but in {bytes(self._unheard[length - 20 : length])!r}"
            )
        del self._unheard[:length]

    def _mark(self) -> _Step:
        length = 3 if self._unheard[0] == IAC else len(HERE)
        while len(self._unheard) < length:
            yield
        self._marks += bytes(self._unheard[:length])
        del self._unheard[:length]
        if not self._reading.marks.startswith(self._marks):
            raise Broken(f"telnet is owed {self._reading.marks!r} and got {self._marks!r}")


class Deaf(Ear):
    """Listens to what is no protocol of ours: whatever comes is well, and so is an end."""

    def feed(self, data: bytes) -> None:
        self.heard += len(data)

    def end(self) -> None:
        """Nothing was owed."""
