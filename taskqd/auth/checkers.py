"""The house's own checkers: whom a UNIX socket, a token or a certificate belongs to."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from zope.interface import implementer

from taskqd.auth.credentials import ICertificate, IPeer, IToken
from taskqd.auth.hash_cache import Hashes
from taskqd.auth.realm import NAME, TOKEN, UID, avatar_id
from taskqd.auth.token_registry import TokenRegistry

Found: TypeAlias = Deferred[bytes | tuple[()]]
"""What twisted.cred has a checker answer with; an empty tuple, for nobody in particular, is none of ours."""
UNKNOWN = "that is no token of this server's; its operator makes one with `taskq token add`"


class Expired(UnauthorizedLogin):
    """The token was right, and its time is over."""


@implementer(ICredentialsChecker)
class PeerChecker:
    """Believes the system."""

    credentialInterfaces = (IPeer,)

    def requestAvatarId(self, credentials: Any) -> Found:
        """Fire with whose process it is."""
        return succeed(avatar_id(UID, str(credentials.uid)))


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Believes TLS, which has verified the certificate."""

    credentialInterfaces = (ICertificate,)

    def requestAvatarId(self, credentials: Any) -> Found:
        """Fire with whom it names."""
        return succeed(avatar_id(NAME, credentials.name))


@implementer(ICredentialsChecker)
class TokenChecker:
    """Checks tokens by the hashes of their entries.

    A token without an entry takes the time of one that has one: nobody learns by a clock which ids there are.
    """

    credentialInterfaces = (IToken,)

    def __init__(self, registry: TokenRegistry, hashes: Hashes, seconds: Callable[[], float]) -> None:
        self._registry = registry
        self._hashes = hashes
        self._seconds = seconds

    def is_cheap(self, text: str) -> bool:
        """Whether checking a token costs no slow hash: it was found right before, or is being checked."""
        return self._hashes.is_cheap(self._registry.find(text), text)

    def requestAvatarId(self, credentials: Any) -> Found:
        """Fire with the entry's id; fails with UnauthorizedLogin, Expired only where the token is right."""
        return Deferred.fromCoroutine(self._check(credentials.text))

    async def _check(self, text: str) -> bytes | tuple[()]:
        entry = self._registry.find(text)
        is_right = await self._hashes.check(entry, text)
        if not is_right or not self._registry.has(entry):  # it may have been revoked while the hash was made
            raise UnauthorizedLogin(UNKNOWN)
        if entry.is_over(self._seconds()):
            raise Expired("that token has expired; its operator makes another with `taskq token add`")
        return avatar_id(TOKEN, entry.id)


@implementer(ICredentialsChecker)
class AnyOf:
    """Asks checkers in turn for credentials of one kind, until one lets them in.

    The first one's refusal is that of all. What is not a refusal but a failure ends the asking.
    """

    def __init__(self, interface: Any, checkers: Sequence[Any]) -> None:
        self.credentialInterfaces = (interface,)
        self._checkers = checkers

    def requestAvatarId(self, credentials: Any) -> Found:
        """Fire with the first answer."""
        return Deferred.fromCoroutine(self._ask(credentials))

    async def _ask(self, credentials: Any) -> Any:
        refusals = []
        for checker in self._checkers:
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except LoginFailed as refusal:
                refusals.append(refusal)
        raise refusals[0]
