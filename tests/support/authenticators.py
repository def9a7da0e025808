"""An Authenticator with cheap hashes, whose clock and threads the test controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import alsoProvides

from taskqd.auth import tokens
from taskqd.auth.authenticator import REFUSAL_DELAY, Authenticator, assemble_authenticator
from taskqd.auth.hash_cache import HashCache
from taskqd.auth.plugins import Plugin
from taskqd.auth.realm import Realm
from taskqd.auth.token_file import TokenFile
from taskqd.auth.token_registry import TokenRegistry
from taskqd.auth.tokens import Cost, Entry, Hash
from taskqd.errors import AuthFailed
from taskqd.model.roles import Role
from tests.fakes.clocks import START, Threads, clock
from tests.fakes.connections import FakeSocket
from tests.fakes.deferreds import error_of

CHEAP = Cost(1, 1, 1)
DAEMON = 4711
"""The uid of the daemon's user."""
HERE = "10.0.0.5:4242"
"""The origin of a client."""


def cheap(text: str, salt: bytes, cost: Cost = CHEAP) -> Hash:
    """Return a hash that is computed at once."""
    return Hash(cost, salt, tokens._digest(text, salt, cost))


class Site:
    """A state directory with tokens. With `ready`, hashes are computed at once."""

    def __init__(self, state: Path, *, ready: bool = True) -> None:
        self.state = state
        self.file = TokenFile(str(state))
        self.clock = clock()
        self.threads = Threads()
        self.is_ready = ready
        self.hashed: list[str] = []
        self.registry = TokenRegistry(
            self.file, self.clock, tokens.placeholder_entry(bytes(tokens.RANDOMNESS), CHEAP)
        )

    def in_thread(self, function: Any, entry: Entry, text: str) -> Any:
        """Replace a thread, and record the tokens that were hashed."""
        self.hashed.append(text)
        done = self.threads(function, entry, text)
        if self.is_ready:
            self.threads.run()
        return done

    def open(
        self,
        roles: Mapping[str, Role] | None = None,
        plugins: Sequence[Plugin] = (),
        *,
        has_ca: bool = False,
    ) -> Authenticator:
        """Return the authenticator."""
        self.registry.open()
        hashes = HashCache(self.in_thread, b"k" * 32)
        self.registry.add_observer(lambda: hashes.forget_all_but(self.registry.entries))
        realm = Realm(self.registry, roles or {}, DAEMON)
        return assemble_authenticator(self.registry, hashes, realm, self.clock, plugins, has_ca=has_ca)

    def add(
        self,
        name: str = "ci",
        role: Role = Role.SUBMIT,
        queue: str | None = None,
        expires_in: float | None = None,
    ) -> str:
        """Make a token, as ``taskq token add`` does, and return it."""
        expires_at = None if expires_in is None else self.clock.now() + expires_in
        return self.file.add(name, role, queue, START, expires_at)[1]


class Transport(StringTransport):
    """A transport without TLS on a socket."""

    def __init__(self, handle: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._handle = handle or FakeSocket()

    def getHandle(self) -> Any:
        return self._handle


class TlsTransport(Transport):
    """A transport with TLS."""

    def __init__(self) -> None:
        super().__init__()
        alsoProvides(self, ISSLTransport)


def refused(
    authenticator: Authenticator, text: str, address: str = HERE, throttled: Site | None = None
) -> str:
    """Return why an AUTH is refused; with ``throttled``, after the delay of a throttled refusal."""
    asked = authenticator.authenticate(text, address)
    if not asked.called and throttled is not None:
        throttled.clock.advance(REFUSAL_DELAY)
    error = error_of(asked)
    assert isinstance(error, AuthFailed)
    return str(error)
