"""TLS endpoint strings: their arguments, the files that they name, and handshakes."""

import os
import socket
import ssl
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import SettingsError, StartRefused
from taskqd.server import endpoints, tls
from tests.support.certificates import CLIENT, SERVER, Authority, Pair, self_signed, write_key

# Endpoint strings.

BASE = tls.TlsOptions(9501, "", 4096, "k", "c", None, None, None)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ([("", "9501"), ("key", "k"), ("cert", "c")], BASE),
        ([("", "9501"), ("privateKey", "k"), ("certKey", "c")], BASE),
        ([("key", "k"), ("cert", "c"), ("port", "9501")], BASE),
        ([("", "9501"), ("key", "k")], BASE._replace(cert="k")),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("interface", "::1")], BASE._replace(interface="::1")),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("interface", "")], BASE),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("backlog", "5")], BASE._replace(backlog=5)),
        ([("", "0"), ("key", "k"), ("cert", "c"), ("ca", "a")], BASE._replace(port=0, ca="a")),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("caCertsDir", "d")], BASE._replace(ca_directory="d")),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("chain", "i")], BASE._replace(chain="i")),
        ([("", "9501"), ("key", "k"), ("cert", "c"), ("extraCertChain", "i")], BASE._replace(chain="i")),
    ],
)
def test_short_names_and_twisted_s_names_mean_the_same(
    arguments: list[tuple[str, str]], options: tls.TlsOptions
) -> None:
    assert tls.parse_options(arguments) == options


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "no port is given: expected tls:PORT:key=FILE:cert=FILE"),
        ([("", "9501")], "no key is given"),
        ([("", "9501"), ("cert", "c")], "no key is given"),
        ([("", ""), ("key", "k")], "port has no value"),
        ([("", "9501"), ("key", "")], "key has no value"),
        ([("", "x"), ("key", "k")], "port: expected a number up to 65535, not 'x'"),
        ([("", "65536"), ("key", "k")], "port: expected a number up to 65535"),
        ([("", "-1"), ("key", "k")], "port: expected a number"),
        ([("", "٣"), ("key", "k")], "port: expected a number"),
        ([("", "1"), ("key", "k"), ("backlog", "x")], "backlog: expected a number up to 100000, not 'x'"),
        ([("", "1"), ("key", "k"), ("sslmethod", "TLSv1_METHOD")], "both sides use the newest version"),
        ([("", "1"), ("key", "k"), ("sslMethod", "TLSv1_METHOD")], "both sides use the newest version"),
        ([("", "1"), ("key", "k"), ("colour", "red")], "expected port, interface, .* not colour=red"),
        ([("", "1"), ("key", "k"), ("dhParameters", "d")], "expected port, .* not dhParameters=d"),
        ([("", "1"), ("key", "k"), ("privateKey", "l")], "key is given twice, the second time as privateKey"),
        ([("", "1"), ("", "k.pem")], "port is given twice, the second time as k.pem"),
    ],
)
def test_invalid_arguments_are_refused_with_the_expected_ones(
    arguments: list[tuple[str, str]], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        tls.parse_options(arguments)


# Files.


class Site:
    """A directory with a CA and a certificate for the daemon."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca = Authority(place)
        self.ours = self.ca.issue("localhost", "localhost", "127.0.0.1")

    def endpoint(self, *more: str, pair: Pair | None = None) -> str:
        key, cert = (pair or self.ours).key, (pair or self.ours).cert
        return ":".join(["tls:0:interface=127.0.0.1", f"key={key}", f"cert={cert}", *more])

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return the client's context, with its certificate if it has one."""
        context = ssl.create_default_context(cafile=self.ca.cert)
        if pair:
            context.load_cert_chain(pair.cert, pair.key)
        return context


@pytest.fixture(name="site")
def make_site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def refusal_of(endpoint: str, reactor: Any) -> str:
    """Return why an endpoint is refused, without the words that name it."""
    with pytest.raises(SettingsError) as refusal:
        endpoints.check(reactor, endpoint, "twistd taskq")
    text = str(refusal.value)
    beginning = f"twistd taskq: listen: {endpoint!r} cannot be used: "
    assert text.startswith(beginning)
    assert "\n" not in text
    return text.removeprefix(beginning)


@pytest.mark.parametrize(
    "words",
    [
        "tls:9501:key={key}:cert={cert}",
        "tls:port=9501:key={key}:cert={cert}:ca={ca}",
        "ssl:9501:privateKey={key}:certKey={cert}",
        "ssl:9501:privateKey={key}:certKey={cert}:extraCertChain={ca}",
        "ssl:9501:key={key}:cert={cert}:caCertsDir={place}/trusted",
        "tls:9501:key={both}",
    ],
)
def test_valid_files_pass_the_check(words: str, site: Site, reactor: Any) -> None:
    both = site.place / "both"
    both.touch(0o600)
    both.write_bytes(site.ours.cert.read_bytes() + site.ours.key.read_bytes())
    (site.place / "trusted").mkdir()
    (site.place / "trusted" / "one.PEM").write_bytes(site.ca.cert.read_bytes())
    (site.place / "trusted" / "README").write_text("no certificate")
    files = {"key": site.ours.key, "cert": site.ours.cert, "ca": site.ca.cert, "both": both}
    endpoints.check(reactor, words.format(place=site.place, **files), "here")


@pytest.mark.parametrize("which", ["key", "cert", "chain", "ca", "caCertsDir"])
def test_missing_file_is_refused_by_name(which: str, site: Site, reactor: Any) -> None:
    files = {"key": str(site.ours.key), "cert": str(site.ours.cert), which: "/none/x.pem"}
    endpoint = ":".join(["tls:9501", *(f"{name}={path}" for name, path in files.items())])
    assert refusal_of(endpoint, reactor).endswith("/none/x.pem cannot be read: No such file or directory")


def test_directory_without_a_ca_is_refused(site: Site, reactor: Any) -> None:
    (site.place / "empty").mkdir()
    refusal = refusal_of(site.endpoint(f"caCertsDir={site.place}/empty"), reactor)
    assert refusal == f"the directory {site.place}/empty has no file *.pem, so no CA"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\0", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
@pytest.mark.parametrize("which", ["cert", "chain", "ca"])
def test_file_without_certificates_is_refused(which: str, content: bytes, site: Site, reactor: Any) -> None:
    broken = site.place / "broken"
    broken.write_bytes(content)
    if which == "cert":
        endpoint = site.endpoint(pair=Pair(broken, site.ours.key))
    else:
        endpoint = site.endpoint(f"{which}={broken}")
    assert refusal_of(endpoint, reactor).startswith(f"{broken} has no certificates in PEM format: ")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\0", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_file_without_a_key_is_refused(content: bytes, site: Site, reactor: Any) -> None:
    site.ours.key.write_bytes(content)
    assert refusal_of(site.endpoint(), reactor).startswith(f"{site.ours.key} has no key in PEM format: ")


def test_key_with_a_passphrase_is_refused_without_a_prompt(site: Site, reactor: Any) -> None:
    write_key(site.ours.key, ec.generate_private_key(ec.SECP256R1()), b"sesame")
    assert refusal_of(site.endpoint(), reactor).startswith(f"the key in {site.ours.key} has a passphrase")


def test_key_of_another_certificate_is_refused(site: Site, reactor: Any) -> None:
    other = site.ca.issue("other")
    refusal = refusal_of(site.endpoint(pair=Pair(site.ours.cert, other.key)), reactor)
    assert refusal.startswith(
        f"the certificate in {site.ours.cert} (CN=localhost) does not belong to the key in {other.key}"
    )


def test_certificate_behind_its_chain_is_refused(site: Site, reactor: Any) -> None:
    site.ours.cert.write_bytes(site.ca.cert.read_bytes() + site.ours.cert.read_bytes())
    assert refusal_of(site.endpoint(), reactor).endswith("the daemon's must be the first")


def test_key_that_openssl_considers_weak_is_refused(site: Site, reactor: Any) -> None:
    key = rsa.generate_private_key(65537, 1024)
    weak = site.ca.issue("weak", key=key)
    refusal = refusal_of(site.endpoint(pair=weak), reactor)
    assert refusal == f"OpenSSL does not accept {weak.cert} and {weak.key}: ee key too small"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620, 0o602])
def test_key_that_others_can_read_is_refused_with_a_remedy(mode: int, site: Site, reactor: Any) -> None:
    site.ours.key.chmod(mode)
    refusal = refusal_of(site.endpoint(), reactor)
    assert refusal == f"others can read the key {site.ours.key} (mode {mode:03o}): chmod 600 {site.ours.key}"


@pytest.mark.parametrize(
    "owner, mode, is_taken",
    [
        (0, 0o640, True),
        (0, 0o440, True),
        (0, 0o644, False),
        (0, 0o660, False),
        (1000, 0o600, True),
        (1000, 0o400, True),
        (1000, 0o640, False),
    ],
)
def test_only_a_key_of_root_may_be_readable_by_its_group(
    owner: int, mode: int, is_taken: bool, site: Site, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.stat_result((0o100000 | mode, 0, 0, 1, owner, owner, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: found)
    options = tls.TlsOptions(0, "", 50, str(site.ours.key), str(site.ours.cert), None, None, None)
    if is_taken:
        assert tls.load_files(options).chain
    else:
        with pytest.raises(StartRefused, match="others can read the key"):
            tls.load_files(options)


def test_missing_openssl_is_refused_with_the_package_to_install(
    site: Site, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    assert refusal_of(site.endpoint(), reactor).startswith(
        "TLS needs pyOpenSSL: in the clone of taskqd, pip install '.[tls]' ("
    )


@pytest.mark.parametrize("behind", ["ssl", "tls"])
def test_tls_behind_haproxy_is_refused(behind: str, reactor: Any) -> None:
    refusal = refusal_of(f"haproxy:{behind}:9501:privateKey=k", reactor)
    assert refusal == "expected haproxy:tcp:...; end TLS at the proxy, or use a separate tls: port"


def test_haproxy_without_tls_passes_the_check(reactor: Any) -> None:
    endpoints.check(reactor, "haproxy:tcp:9501", "here")


async def test_file_removed_after_the_check_is_refused_when_listening(site: Site, reactor: Any) -> None:
    endpoint = site.endpoint()
    endpoints.check(reactor, endpoint, "here")
    site.ours.key.unlink()
    with pytest.raises(StartRefused, match=r"^cannot listen on tls:0:\S+: \S+-key.pem cannot be read"):
        await endpoints.listen(reactor, endpoint, Factory())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Twisted before 26.10 does not close it
async def test_tls_port_in_use_is_refused(site: Site, reactor: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = site.endpoint().replace("tls:0", f"tls:{other.getsockname()[1]}")
        with pytest.raises(StartRefused, match=r"^cannot listen on tls:\S+: .*in use"):
            await endpoints.listen(reactor, endpoint, Factory())


async def test_certificate_that_is_not_valid_now_is_used_with_a_warning(
    site: Site, reactor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = site.ca.issue("old", ends=timedelta(hours=-1))
    new = site.ca.issue("new", begins=timedelta(hours=1))
    for pair, warning in (
        (old, "CN=old has expired at "),
        (new, "CN=new is not valid before "),
        (site.ours, ""),
    ):
        caplog.clear()
        endpoint = site.endpoint(f"ca={old.cert}" if warning else f"ca={site.ca.cert}", pair=pair)
        port: Any = await endpoints.listen(reactor, endpoint, Factory())
        await port.stopListening()
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == 2 * bool(warning)
        if warning:
            assert warned[0].startswith(f"{endpoint}: the certificate {warning}")
            assert warned[1].startswith(f"{endpoint}: the CA CN=old has expired at ")


# Handshakes.


@implementer(IHandshakeListener)
class RecordingProtocol(Protocol):
    """Echoes, and records the subject of the client's certificate once it is verified."""

    transport: Any

    def __init__(self, recorder: "RecordingFactory") -> None:
        self._recorder = recorder

    def connectionMade(self) -> None:
        assert ISSLTransport.providedBy(self.transport)
        assert self.transport.getPeerCertificate() is None

    def handshakeCompleted(self) -> None:
        certificate = self.transport.getPeerCertificate()
        self._recorder.subjects.append(certificate and certificate.to_cryptography().subject.rfc4514_string())

    def dataReceived(self, data: bytes) -> None:
        self._recorder.received += data
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._recorder.lost.append(tls.handshake_error(reason))
        self._recorder.ended.callback(None)


class RecordingFactory(Factory):
    """Makes one connection at a time, and has the records of all."""

    noisy = False

    def __init__(self) -> None:
        self.subjects: list[str | None] = []
        self.received = b""
        self.lost: list[str | None] = []

    def buildProtocol(self, addr: object) -> RecordingProtocol:
        self.ended: Deferred[None] = Deferred()
        return RecordingProtocol(self)


@asynccontextmanager
async def listening(reactor: Any, endpoint: str) -> AsyncIterator[tuple[int, RecordingFactory]]:
    """Listen on an endpoint; yields the port number and the factory."""
    factory = RecordingFactory()
    port: Any = await endpoints.listen(reactor, endpoint, factory)
    try:
        yield port.getHost().port, factory
    finally:
        await port.stopListening()


def say(port: int, context: ssl.SSLContext) -> tuple[bytes, str | None]:
    """Connect to localhost and send a greeting; return the reply and the TLS version."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"hello")
        return secured.recv(100), secured.version()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["tls", "ssl"])
async def test_client_without_a_certificate_has_no_subject(
    version: ssl.TLSVersion, kind: str, site: Site, reactor: Any
) -> None:
    context = site.context()
    context.minimum_version = context.maximum_version = version
    endpoint = site.endpoint(f"ca={site.ca.cert}").replace("tls", kind, 1)
    async with listening(reactor, endpoint) as (port, factory):
        answer, spoken = await deferToThread(say, port, context)
        await factory.ended
    assert answer == b"hello"
    assert spoken == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert factory.subjects == [None]
    assert factory.lost == [None]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_older_tls_versions_are_refused(version: ssl.TLSVersion, site: Site, reactor: Any) -> None:
    context = site.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    async with listening(reactor, site.endpoint()) as (port, factory):
        with pytest.raises(ssl.SSLError) as refused:
            await deferToThread(say, port, context)
        assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
        await factory.ended
    assert factory.subjects == []
    [why] = factory.lost
    assert why, "in the words of OpenSSL"


def test_older_tls_versions_are_disabled_even_if_openssl_supports_them(site: Site, reactor: Any) -> None:
    options = BASE._replace(key=str(site.ours.key), cert=str(site.ours.cert))
    server: Any = tls.server(reactor, options, tls.load_files(options))
    off = SSL.OP_NO_SSLv3 | SSL.OP_NO_TLSv1 | SSL.OP_NO_TLSv1_1
    assert server._sslContextFactory._options & off == off


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("usage", [CLIENT, None])
async def test_certificate_of_the_ca_gives_its_subject(
    version: ssl.TLSVersion, usage: Any, site: Site, reactor: Any
) -> None:
    ana = site.ca.issue("ana", usage=usage)
    context = site.context(ana)
    context.minimum_version = context.maximum_version = version
    async with listening(reactor, site.endpoint(f"ca={site.ca.cert}")) as (port, factory):
        assert (await deferToThread(say, port, context))[0] == b"hello"
        await factory.ended
    assert factory.subjects == ["CN=ana"]


def _made(place: Path) -> Path:
    place.mkdir()
    return place


def _signed_by_a_client(place: Path, ca: Authority) -> Pair:
    return Authority(place, "eve", ca, is_ca=False).issue("ana", usage=CLIENT)


IMPOSTORS: dict[str, Callable[[Path, Authority], Pair]] = {
    "self-signed": lambda place, _: self_signed(place, "ana"),
    "another CA's": lambda place, _: Authority(place, "Other").issue("ana", usage=CLIENT),
    "a CA's of the same name": lambda place, _: Authority(_made(place / "other")).issue("ana", usage=CLIENT),
    "expired": lambda _, ca: ca.issue("ana", usage=CLIENT, ends=timedelta(seconds=-60)),
    "not valid yet": lambda _, ca: ca.issue("ana", usage=CLIENT, begins=timedelta(hours=1)),
    "for servers only": lambda _, ca: ca.issue("ana", usage=SERVER),
    "signed by a client": _signed_by_a_client,
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("impostor", IMPOSTORS)
async def test_certificate_that_is_not_valid_ends_the_handshake(
    version: ssl.TLSVersion, impostor: str, site: Site, reactor: Any
) -> None:
    context = site.context(IMPOSTORS[impostor](site.place, site.ca))
    context.minimum_version = context.maximum_version = version
    async with listening(reactor, site.endpoint(f"ca={site.ca.cert}")) as (port, factory):
        with pytest.raises(OSError):  # noqa: PT011 - an alert, or the reset that may overtake it
            await deferToThread(say, port, context)
        await factory.ended
    assert factory.subjects == []
    assert factory.received == b""
    [why] = factory.lost
    assert why, "in the words of OpenSSL"


async def test_no_certificate_is_requested_without_a_ca(site: Site, reactor: Any) -> None:
    for pair in (site.ca.issue("ana", usage=CLIENT), self_signed(site.place, "eve")):
        async with listening(reactor, site.endpoint()) as (port, factory):
            assert (await deferToThread(say, port, site.context(pair)))[0] == b"hello"
            await factory.ended
        assert factory.subjects == [None]


async def test_cas_of_a_file_and_of_a_directory_are_trusted(site: Site, reactor: Any) -> None:
    directory = _made(site.place / "trusted")
    third = Authority(site.place, "third")
    for name in ("first", "second"):
        Authority(directory, name)
    others = [Authority(_made(site.place / name), name) for name in ("a", "b")]
    (directory / "b.pem").write_bytes(others[1].cert.read_bytes())
    file = site.place / "two.pem"
    file.write_bytes(third.cert.read_bytes() + others[0].cert.read_bytes())
    async with listening(reactor, site.endpoint(f"ca={file}", f"caCertsDir={directory}")) as (port, factory):
        for number, authority in enumerate((third, *others)):
            context = site.context(authority.issue(f"ana{number}", usage=CLIENT))
            assert (await deferToThread(say, port, context))[0] == b"hello"
            await factory.ended
    assert factory.subjects == ["CN=ana0", "CN=ana1", "CN=ana2"]


async def test_intermediate_certificates_are_sent_and_accepted(site: Site, reactor: Any) -> None:
    between = Authority(site.place, "Between", site.ca)
    ours = between.issue("localhost", "localhost")
    ana = between.issue("ana", usage=CLIENT)
    async with listening(reactor, site.endpoint(f"ca={site.ca.cert}", pair=ours)) as (port, factory):
        assert (await deferToThread(say, port, site.context(ana)))[0] == b"hello"
        await factory.ended
    assert factory.subjects == ["CN=ana"]


async def test_intermediate_certificates_may_be_in_a_separate_file(site: Site, reactor: Any) -> None:
    between = Authority(site.place, "Between", site.ca)
    ours = between.issue("localhost", "localhost")
    whole = ours.cert.read_bytes()
    ours.cert.write_bytes(whole[: whole.index(b"-----END") + len(b"-----END CERTIFICATE-----\n")])
    async with listening(reactor, site.endpoint(pair=ours)) as (port, factory):
        with pytest.raises(ssl.SSLCertVerificationError):
            await deferToThread(say, port, site.context())
        await factory.ended
    async with listening(reactor, site.endpoint(f"chain={between.cert}", pair=ours)) as (port, factory):
        assert (await deferToThread(say, port, site.context()))[0] == b"hello"
        await factory.ended


async def test_sessions_are_not_resumed_so_every_connection_is_verified(site: Site, reactor: Any) -> None:
    context = site.context(site.ca.issue("ana", usage=CLIENT))

    def twice(port: int) -> list[bool | None]:
        session, reused = None, []
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port), 10) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
            ):
                secured.sendall(b"hello")
                secured.recv(100)
                session = secured.session
                reused.append(secured.session_reused)
        return reused

    async with listening(reactor, site.endpoint(f"ca={site.ca.cert}")) as (port, factory):
        assert await deferToThread(twice, port) == [False, False]
        await factory.ended
    assert factory.subjects == ["CN=ana", "CN=ana"]


async def test_client_that_does_not_speak_tls_is_closed(site: Site, reactor: Any) -> None:
    def speak(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.sendall(b"STATS\r\n" * 10)
            return plain.recv(100)

    async with listening(reactor, site.endpoint()) as (port, factory):
        await deferToThread(speak, port)
        await factory.ended
    assert factory.received == b""
    assert factory.subjects == []
    [why] = factory.lost
    assert why, "in the words of OpenSSL"
