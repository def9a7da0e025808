"""Access: what the protocol asks about who somebody is, and what the daemon starts and stops."""

import secrets
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from taskqd.auth import tokens
from taskqd.auth.checkers import AnyOf, CertificateChecker, PeerChecker, TokenChecker
from taskqd.auth.credentials import Certificate, IToken, Peer, Token
from taskqd.auth.hash_cache import Busy, Hashes
from taskqd.auth.plugins import Plugin, make_plugins
from taskqd.auth.principal import IPrincipal, Principal
from taskqd.auth.realm import NoRole, Realm
from taskqd.auth.throttle import Throttle
from taskqd.auth.token_file import TokenFile
from taskqd.auth.token_registry import TokenRegistry
from taskqd.errors import AuthFailed
from taskqd.model.roles import Role

LOOK_EVERY = 1.0
"""The tokens and what the log is to be told are looked at every so many seconds at least."""
REFUSAL_DELAY = 1.0
"""Where too many AUTHs have failed, the next that claims a token is refused after this many seconds, which is
more than a check takes: the time does not tell whether there is a token of that id, which alone is checked.
"""
_CREDENTIALS = struct.Struct("iII")


class Authenticator:
    """Tells who a peer is, and who has a token.

    ``portal`` has the checkers, ``registry`` the tokens, which ``checker`` checks; ``methods`` are the ways
    in beside a UNIX socket, by name.
    """

    _log = Logger()

    def __init__(
        self,
        portal: Portal,
        registry: TokenRegistry,
        checker: TokenChecker,
        clock: Any,
        methods: Sequence[str] = ("token",),
    ) -> None:
        self.methods = list(methods)
        self._portal = portal
        self._registry = registry
        self._checker = checker
        self._takes_passwords = IUsernamePassword in portal.checkers
        self._clock = clock
        self._throttle = Throttle(clock)
        self._timer: Any = None

    @property
    def accepts_remote_clients(self) -> bool:
        """Whether anybody can be let in who does not come by a UNIX socket."""
        return bool(self._registry.entries) or self.methods != ["token"]

    def start(self) -> None:
        """Look after the tokens and the log every second from now on."""
        self._timer = self._clock.callLater(LOOK_EVERY, self._tick)

    def stop(self) -> None:
        """End that; the log gets what it has not been told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._throttle.flush()

    def changed(self, told: Callable[[], object]) -> None:
        """Have ``told`` called when a token was added, changed or revoked, or has expired."""
        self._registry.changed(told)

    def is_valid(self, principal: Principal) -> bool:
        """Whether somebody is still let in: their token is there, as it was, and has not expired."""
        return self._registry.is_valid(principal)

    def identify_peer(self, transport: Any) -> Principal | None:
        """Return who is behind a transport, None if it is no UNIX socket: others don't tell.

        Nor does one that is wrapped: who is at the other end of its socket is TLS, or a proxy.
        """
        if isinstance(transport, ProtocolWrapper) or ISSLTransport.providedBy(transport):
            return None
        handle = transport.getHandle()
        if handle.family != socket.AF_UNIX:
            return None
        found = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(found)
        return self._at_once(Peer(pid, uid), f"pid {pid}")

    def identify_certificate(self, transport: Any) -> Principal | None:
        """Return whom the certificate of a TLS peer names, None if it has none, or none that lets in here.

        To be asked after the handshake, which a certificate that is not verified does not survive.
        """
        if not ISSLTransport.providedBy(transport):
            return None
        name = _verified_name(transport)
        if name is None:
            return None
        address = transport.getPeer()
        try:
            return self._at_once(Certificate(name), f"{address.host}:{address.port}")
        except NoRole as why:
            self._log.info("a certificate lets nobody in: {why}", why=why)
            return None

    def authenticate(self, token: str, address: str) -> "Deferred[Principal]":
        """Fire with who has a token, or a name and a password; fails with AuthFailed. May be cancelled.

        ``address`` is from where it came: ``10.0.0.5:4242``.
        """
        return Deferred.fromCoroutine(self._authenticate(token, address))

    async def _authenticate(self, text: str, address: str) -> Principal:
        self._registry.look()
        began, claimed = self._clock.seconds(), self._registry.known_id(text)
        too_many = None if self._checker.is_cheap(text) else self._throttle.refusal(address)
        if too_many is not None and not self._throttle.may_try(address, claimed):
            self._throttle.refused(address)
            raise await self._delayed(too_many, text, began)
        self._throttle.begin(address, claimed)
        try:
            principal = await self._login(text, address)
        except LoginFailed as refusal:
            why = str(refusal) or "that lets nobody in"
            is_theirs = not isinstance(refusal, Busy)
            self._throttle.failed(address, why, is_theirs=is_theirs, token=claimed)
            if too_many is not None:
                raise await self._delayed(too_many, text, began) from None
            raise AuthFailed(why) from None
        except BaseException:  # cancelled as its connection ended, or a bug
            self._throttle.failed(address, "it was not answered", token=claimed)
            raise
        self._throttle.passed(address, claimed)
        return principal

    async def _delayed(self, refusal: AuthFailed, text: str, began: float) -> AuthFailed:
        """Return a refusal REFUSAL_DELAY after an AUTH that claims a token; of any other at once."""
        if tokens.id_of(text) is not None:
            await deferLater(self._clock, max(0.0, began + REFUSAL_DELAY - self._clock.seconds()))
        return refusal

    async def _login(self, text: str, address: str) -> Principal:
        if not (self._takes_passwords and ":" in text and tokens.id_of(text) is None):
            return await self._ask(Token(text, address), address)
        name, _, password = text.partition(":")
        try:
            return await self._ask(UsernamePassword(name.encode(), password.encode()), address)
        except LoginFailed as refusal:
            try:
                return await self._ask(Token(text, address), address)
            except LoginFailed:
                raise refusal from None

    async def _ask(self, credentials: Any, origin: str) -> Principal:
        _, principal, _ = await self._portal.login(credentials, origin, IPrincipal)
        return cast("Principal", principal)

    def _at_once(self, credentials: Any, origin: str) -> Principal:
        """Return who shows credentials whose checker does not have to wait; raises NoRole."""
        found: list[Any] = []
        self._portal.login(credentials, origin, IPrincipal).addBoth(found.append)
        (result,) = found
        if isinstance(result, Failure):
            result.raiseException()
        principal: Principal = result[1]
        return principal

    def _tick(self) -> None:
        self._timer = self._clock.callLater(LOOK_EVERY, self._tick)
        self._throttle.sweep()
        self._registry.look()


def _verified_name(transport: Any) -> str | None:
    """Return the only commonName of the certificate that a peer has shown, None if it is not verified.

    That was done in the handshake, unless whoever made the port has a callback that says yes to all: so it is
    done once more, with the CAs of the port.
    """
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return None
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - an extra, loaded with TLS only
    from OpenSSL.crypto import X509StoreContext, X509StoreContextError  # noqa: PLC0415 - as above

    handle = transport.getHandle()
    store = handle.get_context().get_cert_store()
    try:
        X509StoreContext(store, certificate, handle.get_peer_cert_chain()).verify_certificate()
    except X509StoreContextError:
        return None
    names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def make_access(
    directory: str,
    clock: Any,
    in_thread: Callable[..., "Deferred[Any]"],
    *,
    uid: int,
    roles: Mapping[str, Role],
    auth: Sequence[str] = (),
    has_ca: bool = False,
) -> Authenticator:
    """Return the access to a daemon whose state is in ``directory`` and whose user is ``uid``.

    ``roles`` and ``auth`` are the settings of that name; ``has_ca`` says that TLS asks for certificates. The
    tokens are read. Raises StartRefused.
    """
    random = secrets.token_bytes
    registry = TokenRegistry(TokenFile(directory), clock, tokens.nobody(random(tokens.RANDOMNESS)))
    plugins = make_plugins(auth)
    registry.open()
    hashes = Hashes(in_thread, random(32))
    registry.changed(lambda: hashes.forget(registry.entries))
    return assembled(registry, hashes, Realm(registry, roles, uid), clock, plugins, has_ca=has_ca)


def assembled(
    registry: TokenRegistry,
    hashes: Hashes,
    realm: Realm,
    clock: Any,
    plugins: Sequence[Plugin] = (),
    *,
    has_ca: bool = False,
) -> Authenticator:
    """Return the access of these parts."""
    own = TokenChecker(registry, hashes, clock.now)
    portal = Portal(realm, [PeerChecker(), CertificateChecker()])
    for interface, first in ((IToken, [own]), (IUsernamePassword, [])):
        asked = first + [each.checker for each in plugins if interface in each.checker.credentialInterfaces]
        if asked:
            portal.registerChecker(AnyOf(interface, asked))
    methods = ["token", *(["certificate"] if has_ca else []), *dict.fromkeys(each.name for each in plugins)]
    return Authenticator(portal, registry, own, clock, methods)
