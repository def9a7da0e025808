"""The checkers of taskqd for twisted.cred: credentials -> avatar id, the user to whom they belong."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from zope.interface import implementer

from taskqd.auth.credentials import ICertificate, IPeer, IToken
from taskqd.auth.hash_cache import HashCache
from taskqd.auth.realm import NAME, TOKEN, UID, make_avatar_id
from taskqd.auth.token_registry import TokenRegistry

AvatarId: TypeAlias = Deferred[bytes | tuple[()]]
"""The result of a checker. twisted.cred allows an empty tuple for anonymous users; it is not used here."""
UNKNOWN = "the token is unknown; ask the server's operator for one (`taskq token add`)"


class Expired(UnauthorizedLogin):
    """The token is right, but has expired."""


@implementer(ICredentialsChecker)
class PeerChecker:
    """Accepts the user that the kernel reports."""

    credentialInterfaces = (IPeer,)

    def requestAvatarId(self, credentials: Any) -> AvatarId:
        """Fire with the user of the process."""
        return succeed(make_avatar_id(UID, str(credentials.uid)))


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Accepts the name in a certificate, which TLS has verified."""

    credentialInterfaces = (ICertificate,)

    def requestAvatarId(self, credentials: Any) -> AvatarId:
        """Fire with the name."""
        return succeed(make_avatar_id(NAME, credentials.name))


@implementer(ICredentialsChecker)
class TokenChecker:
    """Checks tokens against the hashes of their entries.

    A token without an entry takes as long to check as one that has an entry, so the time does not reveal
    which ids exist.
    """

    credentialInterfaces = (IToken,)

    def __init__(self, registry: TokenRegistry, hash_cache: HashCache, now: Callable[[], float]) -> None:
        self._registry = registry
        self._hash_cache = hash_cache
        self._now = now

    def is_cheap(self, text: str) -> bool:
        """Whether checking a token needs no slow hash, because it has matched before or is being checked."""
        return self._hash_cache.is_cheap(self._registry.find(text), text)

    def requestAvatarId(self, credentials: Any) -> AvatarId:
        """Fire with the id of the entry; fails with UnauthorizedLogin, or Expired if the token is right."""
        return Deferred.fromCoroutine(self._check(credentials.text))

    async def _check(self, text: str) -> bytes | tuple[()]:
        entry = self._registry.find(text)
        is_match = await self._hash_cache.check(entry, text)
        if not is_match or not self._registry.has(entry):  # it may have been revoked during the check
            raise UnauthorizedLogin(UNKNOWN)
        if entry.is_expired(self._now()):
            raise Expired("the token has expired; ask the server's operator for another (`taskq token add`)")
        return make_avatar_id(TOKEN, entry.id)


@implementer(ICredentialsChecker)
class FirstOf:
    """Asks several checkers of one kind of credentials in turn, until one accepts them.

    If all refuse, the refusal of the first one counts. Any other failure ends the check.
    """

    def __init__(self, interface: Any, checkers: Sequence[Any]) -> None:
        self.credentialInterfaces = (interface,)
        self._checkers = checkers

    def requestAvatarId(self, credentials: Any) -> AvatarId:
        """Fire with the avatar id of the first checker that accepts the credentials."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> Any:
        refusals = []
        for checker in self._checkers:
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except LoginFailed as refusal:
                refusals.append(refusal)
        raise refusals[0]
