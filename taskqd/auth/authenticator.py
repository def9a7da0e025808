"""Authenticates clients: by their UNIX socket, certificate, token, or name and password."""

import secrets
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, ISSLTransport, ITransport
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from taskqd.auth import tokens
from taskqd.auth.checkers import CertificateChecker, FirstOf, PeerChecker, TokenChecker
from taskqd.auth.credentials import Certificate, IToken, Peer, Token
from taskqd.auth.hash_cache import Busy, HashCache
from taskqd.auth.plugins import Plugin, make_plugins
from taskqd.auth.principal import IPrincipal, Principal
from taskqd.auth.realm import NoRole, Realm
from taskqd.auth.throttle import Throttle
from taskqd.auth.token_file import TokenFile
from taskqd.auth.token_registry import TokenRegistry
from taskqd.errors import AuthFailed
from taskqd.model.roles import Role
from taskqd.storage.interfaces import IClock

REFRESH_INTERVAL = 1.0
"""Seconds between two checks of the token file and of the log lines that are due."""
REFUSAL_DELAY = 1.0
"""Seconds after which an AUTH with a token's id is refused if its host has too many failures. A check takes
less, so the time does not reveal whether the id exists and the token was checked.
"""
_PEER_CREDENTIALS = struct.Struct("iII")


class Authenticator:
    """Finds out which user a client is.

    `portal` has the checkers; `token_checker` is the one that checks the tokens of `registry`. `methods` are
    the names of the ways to authenticate, except by a UNIX socket.
    """

    _log = Logger()

    def __init__(
        self,
        portal: Portal,
        registry: TokenRegistry,
        token_checker: TokenChecker,
        clock: IClock,
        methods: Sequence[str] = ("token",),
    ) -> None:
        self.methods = list(methods)
        self._portal = portal
        self._registry = registry
        self._token_checker = token_checker
        self._accepts_passwords = IUsernamePassword in portal.checkers
        self._clock = clock
        self._throttle = Throttle(clock)
        self._timer: IDelayedCall | None = None

    @property
    def accepts_remote_clients(self) -> bool:
        """Whether any client can authenticate that does not use a UNIX socket."""
        return bool(self._registry.entries) or self.methods != ["token"]

    def start(self) -> None:
        """Check the token file, and write the log lines that are due, every REFRESH_INTERVAL."""
        self._timer = self._clock.callLater(REFRESH_INTERVAL, self._refresh)

    def stop(self) -> None:
        """Stop this, and write the remaining log lines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._throttle.flush()

    def add_observer(self, on_changed: Callable[[], object]) -> None:
        """Call `on_changed` when a token was added, changed or revoked, or has expired."""
        self._registry.add_observer(on_changed)

    def is_valid(self, principal: Principal) -> bool:
        """Whether a principal is still valid: its token exists unchanged and has not expired."""
        return self._registry.is_valid(principal)

    def identify_peer(self, transport: ITransport) -> Principal | None:
        """Return the principal at the other end of a UNIX socket, None for any other transport.

        None also for a wrapped transport: the other end of its socket is TLS, or a proxy.
        """
        if isinstance(transport, ProtocolWrapper) or ISSLTransport.providedBy(transport):
            return None
        handle = cast("Any", transport).getHandle()  # a method of Twisted's sockets, not of ITransport
        if handle.family != socket.AF_UNIX:
            return None
        data = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        pid, uid, _ = _PEER_CREDENTIALS.unpack(data)
        return self._log_in_now(Peer(pid, uid), f"pid {pid}")

    def identify_certificate(self, transport: ITransport) -> Principal | None:
        """Return the principal of a client's certificate; None if it has none, or its name has no role.

        Must be called after the handshake, which fails for a certificate that cannot be verified.
        """
        if not ISSLTransport.providedBy(transport):
            return None
        name = _verified_name(transport)
        if name is None:
            return None
        address = cast("Any", transport).getPeer()
        try:
            return self._log_in_now(Certificate(name), f"{address.host}:{address.port}")
        except NoRole as error:
            self._log.info("client certificate of {address} refused: {error}", address=address, error=error)
            return None

    def authenticate(self, token: str, address: str) -> "Deferred[Principal]":
        """Fire with the principal of a token, or of `name:password`; fails with AuthFailed.

        `address` is that of the client: `10.0.0.5:4242`. May be cancelled.
        """
        return Deferred.fromCoroutine(self._authenticate(token, address))

    async def _authenticate(self, text: str, address: str) -> Principal:
        self._registry.refresh()
        started_at, known_id = self._clock.seconds(), self._registry.known_id(text)
        too_many = None if self._token_checker.is_cheap(text) else self._throttle.refusal(address)
        if too_many is not None and not self._throttle.may_try(address, known_id):
            self._throttle.refused(address)
            raise await self._delay_refusal(too_many, text, started_at)
        self._throttle.started(address, known_id)
        try:
            principal = await self._log_in_with_text(text, address)
        except LoginFailed as refusal:
            why = str(refusal) or "the name or the password is wrong"
            self._throttle.failed(address, why, counts=not isinstance(refusal, Busy), token=known_id)
            if too_many is not None:
                raise await self._delay_refusal(too_many, text, started_at) from None
            raise AuthFailed(why) from None
        except BaseException:  # cancelled because the client disconnected, or an internal error
            self._throttle.failed(address, "it was not completed", token=known_id)
            raise
        self._throttle.succeeded(address, known_id)
        return principal

    async def _delay_refusal(self, refusal: AuthFailed, text: str, started_at: float) -> AuthFailed:
        """Return a refusal: REFUSAL_DELAY after the start for a text with a token's id, else at once."""
        if tokens.parse_token_id(text) is not None:
            await deferLater(self._clock, max(0.0, started_at + REFUSAL_DELAY - self._clock.seconds()))
        return refusal

    async def _log_in_with_text(self, text: str, address: str) -> Principal:
        """Log in with the argument of AUTH; raises the refusal as a password if it can be one."""
        if not (self._accepts_passwords and ":" in text and tokens.parse_token_id(text) is None):
            return await self._log_in(Token(text, address), address)
        name, _, password = text.partition(":")
        try:
            return await self._log_in(UsernamePassword(name.encode(), password.encode()), address)
        except LoginFailed as refusal:
            try:
                return await self._log_in(Token(text, address), address)
            except LoginFailed:
                raise refusal from None

    async def _log_in(self, credentials: Any, origin: str) -> Principal:
        _, principal, _ = await self._portal.login(credentials, origin, IPrincipal)
        return cast("Principal", principal)

    def _log_in_now(self, credentials: Any, origin: str) -> Principal:
        """Log in with credentials whose checker answers at once; raises NoRole."""
        results: list[Any] = []
        self._portal.login(credentials, origin, IPrincipal).addBoth(results.append)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        principal: Principal = result[1]
        return principal

    def _refresh(self) -> None:
        self._timer = self._clock.callLater(REFRESH_INTERVAL, self._refresh)
        self._throttle.sweep()
        self._registry.refresh()


def _verified_name(transport: Any) -> str | None:
    """Return the only commonName of a client's certificate, None if it cannot be verified.

    The handshake has verified it, unless the port was created with a callback that accepts everything; so
    it is verified again with the CAs of the port. `transport` is Any, because its certificates are objects
    of OpenSSL, which is an extra.
    """
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return None
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - an extra, loaded only with TLS
    from OpenSSL.crypto import X509StoreContext, X509StoreContextError  # noqa: PLC0415 - as above

    handle = transport.getHandle()  # the OpenSSL connection
    store = handle.get_context().get_cert_store()
    try:
        X509StoreContext(store, certificate, handle.get_peer_cert_chain()).verify_certificate()
    except X509StoreContextError:
        return None
    names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def open_authenticator(
    directory: str,
    clock: IClock,
    in_thread: Callable[..., "Deferred[Any]"],
    *,
    uid: int,
    roles: Mapping[str, Role],
    auth: Sequence[str] = (),
    has_ca: bool = False,
) -> Authenticator:
    """Return the authenticator of a daemon with the state `directory` and the user `uid`; reads the tokens.

    `roles` and `auth` are the settings of these names; `has_ca` says that TLS asks for client certificates.
    Raises StartRefused.
    """
    random = secrets.token_bytes
    placeholder = tokens.placeholder_entry(random(tokens.RANDOMNESS))
    registry = TokenRegistry(TokenFile(directory), clock, placeholder)
    plugins = make_plugins(auth)
    registry.open()
    hash_cache = HashCache(in_thread, random(32))
    registry.add_observer(lambda: hash_cache.forget_all_but(registry.entries))
    realm = Realm(registry, roles, uid)
    return assemble_authenticator(registry, hash_cache, realm, clock, plugins, has_ca=has_ca)


def assemble_authenticator(
    registry: TokenRegistry,
    hash_cache: HashCache,
    realm: Realm,
    clock: IClock,
    plugins: Sequence[Plugin] = (),
    *,
    has_ca: bool = False,
) -> Authenticator:
    """Return an authenticator made of these parts."""
    token_checker = TokenChecker(registry, hash_cache, clock.now)
    portal = Portal(realm, [PeerChecker(), CertificateChecker()])
    for interface, own in ((IToken, [token_checker]), (IUsernamePassword, [])):
        checkers = own + [each.checker for each in plugins if interface in each.checker.credentialInterfaces]
        if checkers:
            portal.registerChecker(FirstOf(interface, checkers))
    methods = ["token", *(["certificate"] if has_ca else []), *dict.fromkeys(each.name for each in plugins)]
    return Authenticator(portal, registry, token_checker, clock, methods)
