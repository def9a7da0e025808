"""Authentication by client certificates, over real TLS in memory."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLContextFactory, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from taskqd.auth.authenticator import Authenticator
from taskqd.auth.principal import Principal
from taskqd.model.roles import Role
from tests.support import certificates
from tests.support.authenticators import Site, Transport
from tests.support.certificates import CLIENT, Authority, Pair, self_signed

HERE = "10.0.0.5:4242"
ROLES = {"ana": Role.ADMIN, "ben": Role.READ}
ANA = Principal("ana", Role.ADMIN, HERE)


@pytest.fixture(name="site")
def a_site(tmp_path: Path) -> Site:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Site(state)


@pytest.fixture(name="ca")
def a_ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@implementer(IHandshakeListener)
class IdentifyingProtocol(Protocol):
    """Identifies the client certificate after the handshake."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self.found: list[Principal | None] = []

    def handshakeCompleted(self) -> None:
        self.found.append(self._authenticator.identify_certificate(cast("ITransport", self.transport)))


@implementer(IOpenSSLContextFactory)
class Contexts:
    """TLS contexts of a port that asks for certificates of a CA; `verdict` is the result of its callback."""

    def __init__(self, ca: Authority, verdict: Callable[..., bool] | None) -> None:
        ours = ca.issue("localhost", "localhost")
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_certificate_chain_file(str(ours.cert))
        self._context.use_privatekey_file(str(ours.key))
        self._context.load_verify_locations(str(ca.cert))
        self._context.set_verify(SSL.VERIFY_PEER, verdict)

    def getContext(self) -> SSL.Context:
        return self._context


def shown(
    authenticator: Authenticator, ca: Authority, pair: Pair | None, verdict: Callable[..., bool] | None = None
) -> list[Principal | None]:
    """Connect with a certificate; return the principals that were identified, none if the handshake fails."""
    protocol = IdentifyingProtocol(authenticator)
    factory = Factory.forProtocol(lambda: protocol)
    server: Any = TLSMemoryBIOFactory(Contexts(ca, verdict), False, factory).buildProtocol(None)
    transport = StringTransport(peerAddress=IPv4Address("TCP", "10.0.0.5", 4242))
    server.makeConnection(transport)
    context = ssl.create_default_context(cafile=ca.cert)
    if pair:
        context.load_cert_chain(pair.cert, pair.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    for _ in range(4):
        with suppress(ssl.SSLError):
            client.do_handshake()
        if data := outgoing.read():
            server.dataReceived(data)
        incoming.write(transport.value())
        transport.clear()
    return protocol.found


@pytest.mark.parametrize("name, role", [("ana", Role.ADMIN), ("ben", Role.READ), ("eve", None)])
def test_certificate_identifies_a_name_that_has_a_role(
    site: Site, ca: Authority, name: str, role: Role | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = shown(site.open(ROLES, has_ca=True), ca, ca.issue(name, usage=CLIENT))
    assert found == [role and Principal(name, role, HERE)]
    assert ("refused: eve has no role here" in caplog.text) is (role is None)


def test_role_for_all_names_applies_to_certificates(site: Site, ca: Authority) -> None:
    found = shown(site.open({**ROLES, "*": Role.SUBMIT}), ca, ca.issue("eve", usage=CLIENT))
    assert found == [Principal("eve", Role.SUBMIT, HERE)]


def test_client_without_certificate_is_not_identified(site: Site, ca: Authority) -> None:
    assert shown(site.open(ROLES), ca, None) == [None]


def test_certificate_of_another_ca_fails_the_handshake(site: Site, ca: Authority) -> None:
    place = ca.cert.parent
    assert shown(site.open(ROLES), ca, self_signed(place, "ana")) == []


def test_certificate_accepted_by_a_lax_callback_is_verified_again(site: Site, ca: Authority) -> None:
    place = ca.cert.parent
    authenticator = site.open(ROLES)
    others = Authority(place, "Other").issue("ana", usage=CLIENT)
    for pair in (self_signed(place, "ana"), others):
        assert shown(authenticator, ca, pair, lambda *_: True) == [None]
    assert shown(authenticator, ca, ca.issue("ana", usage=CLIENT), lambda *_: True) == [ANA]


def test_certificate_of_intermediate_ca_is_accepted(site: Site, ca: Authority) -> None:
    between = Authority(ca.cert.parent, "Between", ca)
    assert shown(site.open(ROLES), ca, between.issue("ana", usage=CLIENT)) == [ANA]


@pytest.mark.parametrize("names", [(), ("ana", "ben"), ("ana", "ana"), ("two words",), ("ana\0",)])
def test_certificate_without_exactly_one_name_is_not_identified(
    site: Site, ca: Authority, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])
    key = ec.generate_private_key(ec.SECP256R1())
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "name", lambda _: subject)
        pair = ca.issue("odd", usage=CLIENT, key=key)
    assert x509.load_pem_x509_certificate(pair.cert.read_bytes()).subject == subject
    assert shown(site.open({**ROLES, "*": Role.READ}), ca, pair) == [None]


def test_identify_certificate_without_tls_is_none(site: Site) -> None:
    assert site.open(ROLES).identify_certificate(Transport()) is None
