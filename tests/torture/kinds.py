"""The kinds of jobs that are submitted, and how each must end if it is not interrupted.

A job first locks a file named by its token until all of its processes have ended; if another attempt has the
lock, it appends a line ``conflict``. Then it appends ``<id> <attempt> <word>``, which shows that it runs. Its
output is a function of its token and the number of the attempt.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.wire import quote

OWN_SESSION = "sleep 0.4"
"""A process that has left its job's process group; it ends by itself unless a crash interrupts the job."""


PIECE = 1 << 18
"""Bytes that a paced job prints between two pauses."""


class End(NamedTuple):
    """The end of an attempt that is not interrupted; ``reason`` is None if it completes.

    ``is_exact`` tells whether the output must be complete; if the daemon ends the attempt, it is a prefix.
    """

    reason: str | None
    stdout: bytes
    stderr: bytes = b""
    exit_code: str = "0"
    is_exact: bool = True


class Data(NamedTuple):
    """Pseudorandom bytes, which are generated each time they are read."""

    seed: str
    size: int

    def read(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


class Plan(NamedTuple):
    """One submission: its options and its command or script, and the end of each attempt by its number."""

    kind: str
    command: str
    end: Callable[[int], End]
    options: str = ""
    script: bytes | None = None
    stdin: Data | None = None
    environment: bytes | None = None
    retries: int = 0

    def request(self, token: str, key: str | None) -> bytes:
        """Return the line and the blocks of the SUBMIT."""
        words = ["SUBMIT", f"--label={quote(token.encode())}", self.options]
        words += [f"--retries={self.retries}", "--retry-delay=40ms"] if self.retries else []
        words += [f"--key={key}"] if key else []
        blocks = [] if self.script is None else [self.script]
        blocks += [] if self.stdin is None else [self.stdin.read()]
        blocks += [] if self.environment is None else [self.environment]
        words += [f"--script={len(self.script)}"] if self.script is not None else []
        words += [f"--stdin={self.stdin.size}"] if self.stdin is not None else []
        words += [f"--environment={len(self.environment)}"] if self.environment is not None else []
        words += [self.command]
        return b"\r\n".join([" ".join(word for word in words if word).encode(), *blocks, b""])


Maker = Callable[[str, str, random.Random], Plan]
"""Makes a plan of (token, the command that notes the attempt, chance)."""


def _quick(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "quick",
        f"{note}; echo {token} $TASKQ_ATTEMPT",
        lambda attempt: End(None, b"%b %d\n" % (token.encode(), attempt)),
    )


def _binary(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "binary",
        rf"{note}; printf '\000\377\r\n{token}'; printf 'e\351\n' >&2",
        lambda _: End(None, b"\0\xff\r\n" + token.encode(), b"e\xe9\n"),
        retries=chance.choice((0, 1)),
    )


def _failing(token: str, note: str, chance: random.Random) -> Plan:
    code = chance.randint(1, 120)
    return Plan(
        "failing",
        f"{note}; echo {token}; exit {code}",
        lambda _: End("exit", token.encode() + b"\n", b"", str(code)),
        retries=chance.choice((0, 0, 1, 2)),
    )


def _at_last(token: str, note: str, chance: random.Random) -> Plan:
    least = chance.randint(2, 3)

    def end(attempt: int) -> End:
        printed = b"try %d\n" % attempt
        return End(None, printed) if attempt >= least else End("exit", printed, b"", "7")

    return Plan(
        "at-last",
        f"{note}; echo try $TASKQ_ATTEMPT; [ $TASKQ_ATTEMPT -ge {least} ] || exit 7",
        end,
        retries=chance.choice((1, 2, 4)),
    )


def _signalled(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "signalled",
        f"{note}; echo {token}; kill -9 $$",
        lambda _: End("signal", token.encode() + b"\n", b"", "-9"),
    )


def _merged(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "merged",
        f"{note}; for n in 1 2 3; do echo {token}; echo $n >&2; done",
        lambda _: End(None, b"".join(b"%b\n%d\n" % (token.encode(), number) for number in (1, 2, 3))),
        "--merge",
        retries=chance.choice((0, 1)),
    )


def _sleeper(token: str, note: str, chance: random.Random) -> Plan:
    seconds = chance.choice((0.05, 0.1, 0.3, 0.8, 1.5, 3))
    return Plan(
        "sleeper",
        f"{note}; echo begun; sleep {seconds}; echo {token} >&2",
        lambda _: End(None, b"begun\n", token.encode() + b"\n"),
        retries=chance.choice((0, 0, 1, 3)),
    )


def _family(token: str, note: str, chance: random.Random) -> Plan:
    seconds = chance.choice((0.1, 0.4, 1.0))
    return Plan(
        "family",
        f"{note}; trap '' HUP; (sleep {seconds}; echo a) & (sleep {seconds}; sleep {seconds}) & wait; echo b",
        lambda _: End(None, b"a\nb\n"),
        retries=chance.choice((0, 2)),
    )


def _own_session(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "own-session",
        f"{note}; setsid -w {OWN_SESSION} 9>&-; echo {token}",
        lambda _: End(None, token.encode() + b"\n"),
    )


def _leaver(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "leaver",
        f"{note}; sleep 20 9>&- & echo {token}",
        lambda _: End(None, token.encode() + b"\n"),
        retries=1,
    )


def _stubborn(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "stubborn",
        f"trap '' TERM; {note}; echo {token}; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo end",
        lambda _: End(None, token.encode() + b"\nend\n"),
        options="--kill-after=200ms",
    )


def _late(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "late",
        f"{note}; echo {token}; sleep 30",
        lambda _: End("timeout", token.encode() + b"\n", b"", "-15", is_exact=False),
        options="--timeout=150ms --kill-after=1s",
        retries=chance.choice((0, 1)),
    )


def _nowhere(token: str, note: str, chance: random.Random) -> Plan:
    return Plan(
        "nowhere",
        f"{note}; echo {token}",
        lambda _: End("spawn", b"", b"", "-"),
        options="--cwd=/nonexistent",
        retries=chance.choice((0, 1)),
    )


def _copier(token: str, note: str, chance: random.Random) -> Plan:
    data = Data(token, chance.choice((0, 10, 5000, 100_000)))
    return Plan(
        "copier", f"{note}; cat", lambda _: End(None, data.read()), stdin=data, retries=chance.choice((0, 1))
    )


def _script(token: str, note: str, chance: random.Random) -> Plan:
    first = chance.choice((b"", b"#!/bin/sh\n"))
    data = Data(token, 100)
    return Plan(
        "script",
        "",
        lambda _: End(None, b"here\n" + data.read()),
        script=b"%becho here\n%b; cat\n" % (first, note.encode()),
        stdin=data,
    )


def _inheriting(token: str, note: str, chance: random.Random) -> Plan:
    value = b"%d" % chance.randint(1, 20)
    return Plan(
        "inheriting",
        f'{note}; printf %s "$INHERITED"; sleep 0.2',
        lambda _: End(None, value),
        environment=b"INHERITED=%b\0" % value,
        retries=chance.choice((0, 1)),
    )


def _large(token: str, note: str, chance: random.Random) -> Plan:
    size = chance.choice((5_000, 80_000, 300_000, 1_500_000))
    line = token.encode() + b"\n"
    return Plan(
        "large",
        f"{note}; yes {token} | head -c {size}; echo end >&2",
        lambda _: End(None, (line * (size // len(line) + 1))[:size], b"end\n"),
        retries=chance.choice((0, 1)),
    )


def _paced(token: str, note: str, chance: random.Random) -> Plan:
    """Print 1 MiB in four pieces, with pauses."""
    line = token.encode() + b"\n"
    piece = (line * (PIECE // len(line) + 1))[:PIECE]
    pause = chance.choice((0.05, 0.2, 0.5))
    return Plan(
        "paced",
        f"{note}; for i in 1 2 3 4; do yes {token} | head -c {PIECE}; sleep {pause}; done",
        lambda _: End(None, piece * 4),
        retries=chance.choice((0, 1)),
    )


_WEIGHTS: dict[Maker, int] = {
    _quick: 30,
    _binary: 8,
    _failing: 8,
    _at_last: 6,
    _signalled: 3,
    _merged: 5,
    _sleeper: 16,
    _family: 5,
    _own_session: 2,
    _leaver: 4,
    _stubborn: 3,
    _late: 3,
    _nowhere: 2,
    _copier: 6,
    _script: 5,
    _inheriting: 5,
    _large: 4,
    _paced: 2,
}


_PLACES = (
    *("", "", "", "", "--priority=5", "--priority=-5", "--queue=a", "--queue=b --priority=1"),
    *("--delay=100ms", "--slots=2", "--need=gpu:1", "--need=gpu:2 --queue=a"),
)
"""When and where a job runs, which changes nothing of what it does."""


def note(runs: Path) -> str:
    """Return the command by which a job locks its file and notes its attempt there."""
    return (
        f"exec 9>>{runs}; flock -n 9 || echo conflict $TASKQ_RUN >&9; "
        "echo $TASKQ_JOB_ID $TASKQ_ATTEMPT ${TASKQ_RUN##*.} >&9"
    )


def make(token: str, runs: Path, chance: random.Random) -> Plan:
    """Return the plan of a job of some kind, which notes its attempts in ``runs/<token>``."""
    maker = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    plan = maker(token, note(runs / token), chance)
    return plan._replace(options=f"{plan.options} {chance.choice(_PLACES)}".strip())
