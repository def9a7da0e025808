"""The two fuzzers: one makes sessions from the grammar, the other from damaged or random bytes."""

import random
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.fuzz import oddities
from tests.fuzz.grammar import Grammar
from tests.fuzz.session import Cut, Session, make_playable

GRAMMAR, BYTES = "grammar", "bytes"
KINDS = (GRAMMAR, BYTES)
MAX_PAUSE = 0.02
_PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
_RECORDED = re.compile(rb"^ {4}C: (.*)$", re.MULTILINE)


def recorded() -> list[bytes]:
    """Return the requests of the examples in docs/protocol.md as sessions."""
    parts = _PROTOCOL.read_bytes().split(b"\n\n")
    found = (_RECORDED.findall(part) for part in parts)
    return [b"".join(line + b"\r\n" for line in lines) for lines in found if lines]


class Maker:
    """Makes sessions; the same name, kept jobs and newest job give the same session."""

    def __init__(self, recordings: Sequence[bytes]) -> None:
        self._recordings = recordings
        self._hello = _client_hello()

    def make(
        self, name: str, kind: str, transport: str, login: str, kept: Sequence[int], newest: int
    ) -> Session:
        """Return the session of a name for a kind of fuzzer, a transport and a login."""
        chance = random.Random(f"{name} {kind} {transport} {login}")
        grammar = Grammar(chance, kept, newest)
        data = make_playable(self._data(chance, grammar, kind, transport))
        end = chance.choices(("half-close", "close", "abort"), (50, 35, 15))[0]
        return Session(kind, transport, login, data, _cuts(chance, len(data)), end)

    def _data(self, chance: random.Random, grammar: Grammar, kind: str, transport: str) -> bytes:
        if transport == "raw" and chance.random() < 0.8:
            return oddities.damaged(chance, self._hello, [self._hello], chance.choice((1, 2, 5)))
        return grammar.session() if kind == GRAMMAR else self._bytes(chance, grammar)

    def _bytes(self, chance: random.Random, grammar: Grammar) -> bytes:
        kind = chance.random()
        if kind < 0.08:
            return chance.randbytes(chance.choice((1, 10, 100, 1000, 5000, 100_000)))
        if kind < 0.2:
            return b"".join(self._token(chance, grammar) for _ in range(chance.choice((1, 5, 20, 100, 500))))
        others = [*self._recordings, grammar.session() or b"\n"]
        data = others[-1] if chance.random() < 0.7 else chance.choice(others)
        return oddities.damaged(chance, data, others, chance.choice((1, 1, 2, 3, 5, 10, 30)))

    def _token(self, chance: random.Random, grammar: Grammar) -> bytes:
        kind = chance.randrange(8)
        if kind == 0:
            return chance.choice(oddities.WORDS)
        if kind == 1:
            return chance.choice(oddities.TELNET)
        if kind == 2:
            return chance.choice(oddities.HUGE)
        if kind == 3:
            return chance.choice(sorted(grammar.verbs)).encode()
        if kind == 4:
            return b"--%b=" % chance.choice(sorted(grammar.options)).encode()
        return chance.choice((b" ", b"\n", b"\r\n", b"\r", b"\t", b"=", b'"', b"1", b"\xff"))


def _client_hello() -> bytes:
    """Return the first bytes of a TLS client."""
    output = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):  # it waits for a reply that does not come
        ssl.create_default_context().wrap_bio(
            ssl.MemoryBIO(), output, server_hostname="localhost"
        ).do_handshake()
    return output.read()


def _cuts(chance: random.Random, length: int) -> tuple[Cut, ...]:
    """Return where to cut the bytes: mostly nowhere, seldom everywhere, sometimes with pauses."""
    kind = chance.random()
    if kind < 0.6 or length < 2:
        return ()
    if kind < 0.65 and length < 400:
        return tuple(Cut(at, 0.0) for at in range(1, length))
    places = sorted({chance.randrange(1, length) for _ in range(chance.choice((1, 2, 3, 8)))})
    max_pause = MAX_PAUSE if kind > 0.8 else 0.0
    return tuple(Cut(at, chance.uniform(0, max_pause)) for at in places)
