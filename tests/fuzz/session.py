"""What a fuzzer sends over one connection: as a value, in a file, and what must never be in it."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TOKEN = b"{{token}}"
"""Stands in a session for a token that is right: that of who plays it, an admin's if it has none."""

# Fuzzed jobs never start, since everything is paused: so nothing may end that pause, and nothing may end the
# campaign before its time. RESUME of one queue or one schedule leaves the pause of all as it is.
_UNFIT = re.compile(rb"resume|drain", re.IGNORECASE)
_HARMLESS = re.compile(rb"RESUME (?:q[0-9]|--schedule=[0-9]{1,9})\r?")


class Cut(NamedTuple):
    """A place where the bytes are sent apart, with a pause of so many seconds."""

    at: int
    pause: float


class Session(NamedTuple):
    """One connection's input: bytes, where they are cut, and how the client ends.

    It is played over a ``transport``, by whoever has the token of the role ``login``, or by a stranger where
    that is empty (on a UNIX socket nobody is one). The ``end`` is ``half-close``: say that nothing more
    comes, ``close``: once everything is answered, or ``abort``: at once, whatever is on its way.
    """

    kind: str
    transport: str
    login: str
    data: bytes
    cuts: tuple[Cut, ...] = ()
    end: str = "half-close"

    @property
    def is_fit(self) -> bool:
        """Whether it can be played: not if it could let fuzzed jobs run, or end the campaign."""
        return fit(self.data) == self.data

    def pieces(self, tokens: Mapping[str, str]) -> list[tuple[float, bytes]]:
        """Return what is sent, each piece after a pause of so many seconds; ``tokens`` are by role."""
        token = tokens[self.login or "admin"]
        edges = [0, *(cut.at for cut in self.cuts), len(self.data)]
        pauses = [0.0, *(cut.pause for cut in self.cuts)]
        hello = b"AUTH %b\r\n" % token.encode() if self.login else b""
        sent = [
            (pause, self.data[start:end].replace(TOKEN, token.encode()))
            for pause, start, end in zip(pauses, edges, edges[1:], strict=False)
        ]
        return [(0.0, hello), *sent] if hello else sent


def fit(data: bytes) -> bytes:
    """Return bytes that can be played: without the words that must not be in them."""
    lines = data.split(b"\n")
    return b"\n".join(line if _HARMLESS.fullmatch(line) else _UNFIT.sub(b"??", line) for line in lines)


def save(path: Path, sessions: list[Session], why: str) -> None:
    """Write sessions to a file that ``bin/fuzz --replay`` plays; the last one is what broke something."""
    kept = {
        "why": why,
        "sessions": [
            {**session._asdict(), "data": base64.b64encode(session.data).decode()} for session in sessions
        ],
    }
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Session]:
    """Return the sessions of a file."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [
        Session(
            **{
                **fields,
                "data": base64.b64decode(fields["data"]),
                "cuts": tuple(Cut(*cut) for cut in fields["cuts"]),
            }
        )
        for fields in kept["sessions"]
    ]
