"""The input that a fuzzer sends over one connection, and files of such sessions."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TOKEN = b"{{token}}"
"""Stands in a session for a valid token: that of its login, or an admin's if it has none."""

# Fuzzed jobs never start, since everything is paused. So no session may end that pause or the
# campaign. RESUME of one queue or one schedule does not affect the pause of everything.
_UNFIT = re.compile(rb"resume|drain|shutdown", re.IGNORECASE)
_HARMLESS = re.compile(rb"RESUME (?:q[0-9]|--schedule=[0-9]{1,9})\r?")


class Cut(NamedTuple):
    """A place where the bytes are sent in two pieces, with a pause in seconds between them."""

    at: int
    pause: float


class Session(NamedTuple):
    """The input of one connection: bytes, where they are cut, and how the client ends.

    It is played over a ``transport``, with the token of the role ``login``, or without a token if that is
    empty. The ``end`` is ``half-close`` (once all is sent), ``close`` (once everything is answered), or
    ``abort`` (at once).
    """

    kind: str
    transport: str
    login: str
    data: bytes
    cuts: tuple[Cut, ...] = ()
    end: str = "half-close"

    @property
    def is_playable(self) -> bool:
        """Whether it can be played: it must not let fuzzed jobs run, or end the campaign."""
        return make_playable(self.data) == self.data

    def pieces(self, tokens: Mapping[str, str]) -> list[tuple[float, bytes]]:
        """Return the (pause in seconds, bytes) of each piece; ``tokens`` are by role."""
        token = tokens[self.login or "admin"]
        edges = [0, *(cut.at for cut in self.cuts), len(self.data)]
        pauses = [0.0, *(cut.pause for cut in self.cuts)]
        hello = b"AUTH %b\r\n" % token.encode() if self.login else b""
        sent = [
            (pause, self.data[start:end].replace(TOKEN, token.encode()))
            for pause, start, end in zip(pauses, edges, edges[1:], strict=False)
        ]
        return [(0.0, hello), *sent] if hello else sent


def make_playable(data: bytes) -> bytes:
    """Replace the words that a session must not contain."""
    lines = data.split(b"\n")
    return b"\n".join(line if _HARMLESS.fullmatch(line) else _UNFIT.sub(b"??", line) for line in lines)


def save(path: Path, sessions: list[Session], why: str) -> None:
    """Write sessions to a file for ``bin/fuzz --replay``; the last one broke a rule."""
    kept = {
        "why": why,
        "sessions": [
            {**session._asdict(), "data": base64.b64encode(session.data).decode()} for session in sessions
        ],
    }
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Session]:
    """Read the sessions of a file."""
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
