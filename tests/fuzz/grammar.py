"""Makes requests from the grammar: every verb and every option, with valid and invalid values.

``Grammar`` makes the whole input of one connection. Requests are often wrong on purpose, but the input always
consists of requests; session_maker.py damages it further.
"""

import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from taskqd.protocol.schedule_requests import SCHEDULE_OPTIONS
from taskqd.protocol.submit import SET_OPTIONS, SUBMIT_OPTIONS
from tests.fuzz import oddities
from tests.fuzz.session import TOKEN

COMMANDS = (
    *(b"true", b"echo hello", b": a  b", b"test 1 = 2", b'echo "a b"', b"false", b"echo $TASKQ_JOB_ID"),
    b"true ;",
)
"""Harmless commands, in case one is started nevertheless."""

_ODD_COMMANDS = (
    b"",
    b"echo \xe2\x80\xae\xf0\x9f\x92\xa9",
    b"-x",
    b"+x",
    b"--hold true",
    b"echo " + b"x" * 60_000,
)
_TOKENS = (TOKEN, TOKEN, b"wrong", b"", b"a b", b"--x", b"\xc3\xa9", b"x" * 5000)
_STATUSES = (b"PENDING", b"RUNNING", b"COMPLETED", b"FAILED", b"CANCELLED")
_CONDITIONS = (
    *(b"exit", b"exit:3", b"exit:0", b"exit:256", b"signal", b"signal:KILL", b"timeout", b"spawn"),
    *(b"nothing", b""),
)
_DURATIONS = (
    *(b"1", b"1.5", b"500ms", b"10m", b"2h", b"1d", b"36525d", b"36526d", b"0", b"-1s", b"1w"),
    b"1.0000000001",
)
_SIZES = (b"0", b"1", b"4096", b"64k", b"1M", b"2G", b"9999999999G", b"1T", b"1.5M", b"-1")
_OFFSETS = (b"0", b"1", b"5", b"100000", b"999999999999999999")
_OUTPUT_FILES = (b"/dev/null", b'"/dev/null/%j"', b"/%a%", b'"/nowhere/%%\\n"', b"x")
_QUEUES = (*(b"q%d" % number for number in range(10)), b"default", b"q1", b"a/b:c@d+e-f.g_h")

_VALUES: dict[str, Sequence[bytes]] = {
    "queue": _QUEUES,
    "priority": (b"0", b"5", b"-5", b"1000000", b"-1000000", b"1000001"),
    "slots": (b"1", b"2", b"10000", b"10001", b"0"),
    "need": (b"gpu:1", b"gpu:2,disk:3", b"gpu:99", b"gpu", b":1", b"a:b:1", b"gpu:1,gpu:1"),
    "array": (
        *(b"0-3", b"1-5%2", b"7-7", b"5-1", b"0-0%0", b"0-40%9", b"1-", b"0-100000", b"0-999"),
        b"999999998-999999999",
    ),
    "label": (
        *(b"l", b'"a b"', b'"\\x1b[31m"', b'"\\xC3\\xA9"', b'"\\xC2\\x9B31m"', b'""'),
        b'"' + b"l" * 1000 + b'"',
    ),
    "expires": (b"50ms", b"1s", b"1h", b"0", b"x"),
    "environment": tuple(
        b"%d:%b" % (len(block), sha256(block).hexdigest().encode()) for block in (b"A=1\0", b"", b"C=3\0")
    ),
    "unless": (b"l", b'"a b"', b'""', b'"' + b"l" * 1001 + b'"'),
    "match": (b"true", b"TRUE", b'"a b"', b'"\\xC3\\x9F"', b'""', b'"' + b"m" * 1000 + b'"'),
    "umask": (b"022", b"0", b"777", b"0777", b"888", b"1777"),
    "nice": (b"0", b"19", b"-20", b"20", b"-21"),
    "nofile": (b"3", b"1024", b"1048576", b"1048577", b"2"),
    "retries": (b"0", b"1", b"3", b"1000000", b"1000001"),
    "cron": (
        *(b'"* * * * *"', b'"*/5 0-6 1,15 * MON-FRI"', b'"@daily"', b'"0 0 30 2 *"', b'"60 * * * *"', b"*"),
        *(b'"*/0 * * * *"', b'"@reboot"'),
    ),
    "every": (b"1h", b"1d", b"1s", b"0", b"999ms", b"36525d"),
    "owner": (b"root", b"token", b"daemon", b'"a b"', b""),
    "limit": (b"1", b"10", b"0", b"100", b"100000", b"100001"),
    "stdout": (*_OFFSETS, *_OUTPUT_FILES),
    "stderr": (*_OFFSETS, *_OUTPUT_FILES),
    "offset": _OFFSETS,
    "attempt": (b"1", b"2", b"0", b"99"),
    "command": (b"id", b'"echo 1"', b'"exit 3"', b'""', b'" "', b'"a\\nb"'),
    "stream": (b"stdout", b"STDERR", b"stdin"),
    "tail-lines": (b"0", b"1", b"10", b"1k", b"-1"),
    "signal": (b"TERM", b"KILL", b"SIGINT", b"usr1", b"0", b"9", b"STOP", b"RTMIN", b"SIGSIG", b""),
    "since": (b"0", b"1", b"100", b"5000", b"999999999"),
}
"""Valid and invalid values of options."""

_FLAGS = (
    "hold",
    "interactive",
    "eof",
    "merge",
    "notify-fail",
    "overlap",
    "tasks",
    "reverse",
    "cascade",
    "any",
)
_BLOCKS = (
    *(b"", b"echo\n", b"#!/bin/true\n", b"PING\r\nPING\r\n", b"\xff\xfd\x06\xff\xf4"),
    b"\x00" * 50,
    *(b"x" * 70_000, b"--\r\n\r\n"),
)
_ANNOUNCING = ("script", "stdin", "environment", "data")
"""Options that announce blocks, in the order of these."""
_ENVIRONMENTS = (
    *(b"A=1\0", b"B=2\0A=\xff\n\0", b"", b"A=1\0A=2\0", b"TASKQ_A=1\0", b"A=1", b"\0", b"a.b=1\0"),
    b"".join(b"V%d=%d\0" % (number, number) for number in range(9000)),
)
_ODD_SIZES = (*(b"67108865", b"16777217", b"", b"-1", b"1k", b'"5"', b"\xd9\xa1", b"9" * 30, b"7", b"007"),)
_BLOCK_ENDS = (*[b"\r\n"] * 12, *[b"\n"] * 6, b"", b"\r", b"\r\r\n", b"x\r\n")
_HTTP = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /x HTTP/1.0\n", b"PRI * HTTP/2.0\r\n\r\n")
_LONG = (65_520, 65_524, 65_525, 65_600, 200_000)
"""Lengths around the maximum of a line, and far beyond."""


class Grammar:
    """Makes requests with random numbers from ``chance``.

    ``kept`` are the ids of jobs that are only queried, ``newest`` is the highest known id; jobs behind the
    kept ones are also changed.
    """

    def __init__(self, chance: random.Random, kept: Sequence[int], newest: int) -> None:
        self._chance = chance
        self._kept = list(kept)
        self._newest = max(newest, *self._kept, 1)
        self._values = self._make_values()
        self._verbs = self._make_verbs()
        rare = ("QUIT", "AUTH", "WATCH", "RESUME", "FOLLOW")
        self._likely = [verb for verb in self._verbs if verb not in rare]
        self._likely += ["SUBMIT"] * 5 + ["CANCEL", "REMOVE", "STATUS", "SHOW"]

    def _make_values(self) -> dict[str, Callable[[], bytes]]:
        """Return a function for the values of each option; all others are durations."""
        return {
            **{name: self._of(choices) for name, choices in _VALUES.items()},
            **dict.fromkeys(("after", "after-any", "after-fail"), self._ids),
            **dict.fromkeys(
                ("after-label", "after-any-label", "after-fail-label"), self._of(_VALUES["unless"])
            ),
            **dict.fromkeys(
                ("after-key", "after-any-key", "after-fail-key"), lambda: b"k%d" % self._number(50)
            ),
            **dict.fromkeys(("retry-on", "no-retry-on"), self._conditions),
            **dict.fromkeys(("memory", "memory-max", "max-output", "tail"), self._of(_SIZES)),
            **dict.fromkeys(("from", "job"), self._id),
            **dict.fromkeys(("env", "secret"), self._of(oddities.ENVIRONMENTS)),
            "at": self._of(oddities.TIMES),
            "cwd": self._of(oddities.PATHS),
            "tz": self._of(oddities.ZONES),
            "key": lambda: b"k%d" % self._number(50),
            "order": self._of((b"id", b"start", b"ended", b"age")),
            "schedule": lambda: b"%d" % self._number(30),
            "status": lambda: b",".join(self._some(_STATUSES, 3)) if self._maybe(0.9) else b"SLEEPING",
        }

    def _make_verbs(self) -> dict[str, Callable[[], bytes]]:
        """Return a function for the rest of the line of each verb."""
        filters = ("status", "queue", "owner", "label", "match")
        listing = (*filters, "key", "array", "tasks", "from", "limit", "reverse", "count")
        in_order = ("status", "queue", "owner", "label", "limit")
        part = ("attempt", "offset", "limit", "tail")
        log = ("attempt", "since", "limit", "tail-lines", "stream", "stdout", "stderr")
        slots = (
            b"--slots=1",
            b"--slots=none",
            b"--slots=default",
            b"--slots=0",
            b"--slots=10001",
            b"--fair=true",
            b"--fair=default --rate=none",
            b"--rate=9000/s",
            b"--rate=1/0s",
        )
        streams = (b"stdout", b"stderr", b"script", b"STDOUT", b"stdin")
        return {
            "SUBMIT": lambda: self._words(
                self._options(tuple(SUBMIT_OPTIONS)), self._one(b"", b"", b"--"), self._command()
            ),
            "SCHEDULE": self._scheduling,
            "LIST": lambda: (
                self._words(self._one(b"--order=start", b"--order=ended"), self._options(in_order))
                if self._maybe(0.2)
                else self._options((*listing, "order"))
            ),
            "OUTPUT": lambda: self._words(self._id(), self._one(*streams), self._options(part)),
            "LOG": lambda: self._words(self._id(), self._options(log)),
            "WAIT": self._wait,
            "FOLLOW": lambda: self._words(self._finish_reply(), self._options(("stdout", "stderr"))),
            "CANCEL": lambda: self._words(self._subject(), self._options(("signal", "cascade", "progress"))),
            "SET": lambda: self._words(
                self._subject(b"--with-label=l"), self._options((*SET_OPTIONS, "command"), 1)
            ),
            "SET-QUEUE": lambda: self._words(self._values["queue"](), self._one(*slots)),
            "SET-SLOTS": self._of((b"1", b"3", b"default", b"0", b"10001", b"none", b"")),
            "PAUSE": self._pause,
            "RESUME": lambda: self._one(b"q%d" % self._number(9), b"--schedule=%d" % self._number(9)),
            "SCHEDULES": lambda: b"" if self._maybe(0.5) else b"%d" % self._number(30),
            "UNSCHEDULE": lambda: b"%d" % self._number(30),
            "WATCH": lambda: self._options(("since", "job", "queue")),
            "SEND": lambda: self._words(self._id(), self._options(("eof",)), b"--timeout=20ms"),
            "AUTH": self._of(_TOKENS),
            "HELP": self._of((b"", b"submit", b"SET", b"FROB", b"HELP HELP")),
            **dict.fromkeys(("RETRY", "HOLD", "RELEASE", "SUSPEND", "CONTINUE", "REMOVE"), self._subject),
            **dict.fromkeys(("STATUS", "RESULT", "SHOW", "HISTORY", "WHY"), self._id),
            **dict.fromkeys(("QUEUES", "STATS", "HELLO", "PING", "QUIT"), self._of((b"",))),
        }

    @property
    def verbs(self) -> set[str]:
        """The verbs of which requests are made."""
        return set(self._verbs)

    @property
    def options(self) -> set[str]:
        """The options that have values; all others are invented."""
        return set(self._values)

    # Whole inputs.

    def session(self) -> bytes:
        """Return the input of one connection."""
        count = self._chance.choice((1, 1, 2, 5, 5, 10, 20, 60))
        parts = [self._input() for _ in range(count)]
        if self._maybe(0.02):
            parts.insert(0, self._one(*_HTTP))
        if self._maybe(0.01):
            parts.append(b"SUBMIT echo " + b"x" * self._one_of(*_LONG) + b"\r\n")
        if self._maybe(0.05):
            parts.append(self._request("QUIT"))
        if self._maybe(0.08):
            parts.append(self._request()[: self._number(40)])
        return b"".join(parts)

    def _input(self) -> bytes:
        kind = self._chance.random()
        if kind < 0.05:
            return self._one(*oddities.TELNET)
        if kind < 0.08:
            return self._one(b"\r\n", b"\n", b" \t\r\n", b"\r\r\n", b"\x0b\n")
        if kind < 0.10:
            return self._one(*oddities.WORDS) + self._one(b" ", b"") + self._request()
        return self._request()

    def _request(self, verb: str | None = None) -> bytes:
        verbs = self._likely if self._maybe(0.93) else list(self._verbs)
        name = verb or self._one_of(*verbs)
        kinds = {
            "SUBMIT": _ANNOUNCING[:3],
            "SCHEDULE": _ANNOUNCING[:3],
            "SET": ("script",),
            "SEND": ("data",),
        }
        blocks = self._blocks(kinds[name]) if name in kinds and self._maybe(0.3) else []
        line = self._line(name, blocks)
        if self._maybe(0.12) and name != "RESUME":
            line = self._spoilt(line, bool(blocks))
        ending = self._one(b"\r\n", b"\r\n", b"\n")
        return line + ending + b"".join(data + self._one(*_BLOCK_ENDS) for _, _, data in blocks)

    def _line(self, name: str, blocks: list[tuple[str, bytes, bytes]]) -> bytes:
        verb = name.encode()
        if name == "RESUME":
            return verb + b" " + self._verbs[name]()
        if self._maybe(0.1):
            verb = self._one(verb.lower(), verb.title(), verb.swapcase())
        announced = b" ".join(b"--%b=%b" % (option.encode(), size) for option, size, _ in blocks)
        rest = self._verbs[name]()
        if name != "SET" and any(option == "script" for option, _, _ in blocks) and self._maybe(0.8):
            rest = self._options(tuple(SUBMIT_OPTIONS))
        gap = self._one(b" ", b" ", b" ", b"  ", b"\t")
        return gap.join(part for part in (verb, announced, rest) if part)

    def _spoilt(self, line: bytes, has_blocks: bool) -> bytes:
        """Damage a line, but keep it one line; options that announce blocks stay at its start."""
        head = 0
        if has_blocks:
            head = max(line.rfind(b"--%b=" % option.encode()) for option in _ANNOUNCING)
            head = line.find(b" ", head) + 1 or len(line)
        times = self._one_of(1, 1, 2, 4)
        tail = oddities.damaged(self._chance, line[head:] or b" ", [line], times)
        return (line[:head] + tail).replace(b"\n", b"")

    def _blocks(self, kinds: Sequence[str]) -> list[tuple[str, bytes, bytes]]:
        """Return options that announce blocks, their values, and the blocks, in the order of the blocks."""
        blocks = []
        for option in sorted(self._some(kinds, 2), key=_ANNOUNCING.index):
            data = self._one(*_BLOCKS, self._chance.randbytes(self._number(300)))
            if option == "environment" and self._maybe(0.7):
                data = self._one(*_ENVIRONMENTS)
            size = b"%d" % len(data)
            blocks.append((option, self._one(*_ODD_SIZES) if self._maybe(0.06) else size, data))
        return blocks

    # Arguments of verbs.

    def _subject(self, many: bytes = b"--label=l") -> bytes:
        """Return a job to change, or a filter that no damage turns into one of other jobs."""
        if self._maybe(0.1):
            return self._words(many, b"--progress") if self._maybe(0.3) else many
        return self._changeable()

    def _scheduling(self) -> bytes:
        kind = self._chance.random()
        if kind < 0.15:
            return self._words(b"--run-now=%d" % self._number(9), self._options(("every",)) * (kind < 0.02))
        if kind < 0.4:
            changes = self._options(("every", "cron", "overlap", *SCHEDULE_OPTIONS), 1)
            return self._words(b"--set=%d" % self._number(9), changes, self._one(b"", self._command()))
        timing = self._options(("every", "cron", "overlap"), 1)
        return self._words(timing, self._options(tuple(SCHEDULE_OPTIONS)), self._command())

    def _command(self) -> bytes:
        return self._one(*(_ODD_COMMANDS if self._maybe(0.03) else COMMANDS))

    def _wait(self) -> bytes:
        ids = [self._id() for _ in range(self._one_of(1, 1, 1, 2, 5, 1001 if self._maybe(0.05) else 3))]
        timeout = self._one(b"--timeout=0", b"--timeout=1ms", b"--timeout=20ms", b"--timeout=20ms", b"")
        return self._words(*ids, timeout, self._one(b"", b"", b"--any"))

    def _pause(self) -> bytes:
        return self._one(b"", b"q%d" % self._number(9), b"--schedule=%d" % self._number(9), b"--", b"a b")

    def _options(self, names: Sequence[str], least: int = 0) -> bytes:
        count = self._one_of(0, 0, 1, 1, 2, 4) if not least else self._one_of(1, 1, 2)
        chosen = [self._chance.choice(names) for _ in range(count)]
        if self._maybe(0.02):
            chosen += chosen or [self._one_of("bogus", "x", "hold", "stdin")]
        return b" ".join(self._option(name) for name in chosen if name not in ("script", "stdin", "data"))

    def _option(self, name: str) -> bytes:
        if name in _FLAGS:
            return b"--" + name.encode() + (self._odd() if self._maybe(0.02) else b"")
        is_odd = self._maybe(0.08) and name != "environment"  # which could announce a block
        value = self._odd() if is_odd else self._values.get(name, self._of(_DURATIONS))()
        return b"--%b=%b" % (name.encode(), value)

    def _odd(self) -> bytes:
        return self._one(*oddities.WORDS, *oddities.HUGE)

    # Words.

    def _id(self) -> bytes:
        if self._maybe(0.05):
            return self._one(*oddities.HUGE)
        number = self._chance.choice((*self._kept, self._newest)) if self._maybe(0.4) else self._some_id()
        return b"%d" % number if self._maybe(0.92) else b"%d.%d" % (number, self._number(5))

    def _finish_reply(self) -> bytes:
        """Return a job that has mostly ended, so that a FOLLOW does not wait."""
        return b"%d" % self._chance.choice(self._kept) if self._kept and self._maybe(0.9) else self._id()

    def _changeable(self) -> bytes:
        if self._maybe(0.04):
            return self._one(*oddities.HUGE)
        return b"%d" % max(self._some_id(), max(self._kept, default=0) + 1)

    def _some_id(self) -> int:
        """Return a number, mostly that of a new job."""
        back = int(self._chance.expovariate(1 / 30))
        return max(1, self._newest + 2 - back)

    def _ids(self) -> bytes:
        count = self._one_of(1, 1, 2, 3) if self._maybe(0.98) else 1001
        return b",".join(self._id() for _ in range(count))

    def _conditions(self) -> bytes:
        return b",".join(self._some(_CONDITIONS, 3) or [b"exit"])

    # Random choices.

    def _of(self, choices: Sequence[bytes]) -> Callable[[], bytes]:
        """Return a function that returns one of these."""
        return lambda: self._chance.choice(choices)

    def _one(self, *choices: bytes) -> bytes:
        return self._chance.choice(choices)

    def _one_of(self, *choices: Any) -> Any:
        return self._chance.choice(choices)

    def _some(self, choices: Sequence[Any], maximum: int) -> list[Any]:
        return self._chance.sample(choices, self._chance.randint(1, min(maximum, len(choices))))

    def _words(self, *words: bytes) -> bytes:
        return b" ".join(word for word in words if word)

    def _number(self, maximum: int) -> int:
        return self._chance.randint(0, maximum)

    def _maybe(self, likelihood: float) -> bool:
        return self._chance.random() < likelihood
