"""The client over TLS: certificates it trusts and shows, its errors, and its transfer of bytes."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from taskqd.client import Client, Refused, Unreachable, connection, streams
from taskqd.client.address import Untrusted
from tests.fakes.daemon import FakeDaemon, Request, Script, data
from tests.support.certificates import CLIENT, Authority, Pair, self_signed, write_key


class TlsDaemon(FakeDaemon):
    """A fake daemon that uses TLS with the given context."""

    def __init__(self, script: Script, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(script)
        self.address = self.address.replace("tcp:127.0.0.1", "tls:localhost")

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secured:
            self.connections.append(secured)
            super()._serve(secured)


class Site:
    """A CA, with a client certificate that it has signed; it signs certificates for daemons."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca = Authority(place)
        self.ana = self.ca.issue("ana", usage=CLIENT)

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return the context of a daemon that accepts clients of the CA and clients without a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca.cert)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(*(pair or self.ca.issue("localhost", "localhost")))
        return context

    def daemon(self, script: Script | None = None, pair: Pair | None = None) -> TlsDaemon:
        return TlsDaemon(script or (lambda _: b"OK\r\n"), self.context(pair))

    def client(self, daemon: FakeDaemon, token: str | None = None) -> Client:
        return Client(daemon.address, token, ca=str(self.ca.cert))


@pytest.fixture(name="site")
def a_site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# certificates of daemons


@pytest.mark.parametrize("kind", ["tls", "ssl"])
def test_certificate_of_the_ca_for_the_host_is_trusted(kind: str, site: Site) -> None:
    with site.daemon() as daemon:
        daemon.address = daemon.address.replace("tls", kind)
        with site.client(daemon) as client:
            client.ping()
            assert not client.is_local
        assert daemon.lines == ["PING"]


def test_certificate_may_name_an_ip_address(site: Site) -> None:
    with site.daemon(pair=site.ca.issue("x", "127.0.0.1")) as daemon:
        daemon.address = daemon.address.replace("localhost", "127.0.0.1")
        with site.client(daemon) as client:
            client.ping()


UNTRUSTED: dict[str, tuple[Callable[[Site], Pair], str]] = {
    "expired": (
        lambda site: site.ca.issue("x", "localhost", ends=timedelta(hours=-1)),
        "; the daemon needs a new one",
    ),
    "not yet valid": (
        lambda site: site.ca.issue("x", "localhost", begins=timedelta(hours=1)),
        "; check the clocks of both machines",
    ),
    "for another host": (
        lambda site: site.ca.issue("x", "example.org"),
        "; use a host of its subjectAltName in --address",
    ),
    "without a host": (
        lambda site: site.ca.issue("localhost"),
        "; use a host of its subjectAltName in --address",
    ),
    "by another CA": (
        lambda site: Authority(site.place, "Other").issue("x", "localhost"),
        "; check that the CA in {ca} (TASKQ_CA) signed it",
    ),
    "self-signed": (
        lambda site: self_signed(site.place, "localhost"),
        "; check that the CA in {ca} (TASKQ_CA) signed it",
    ),
    "for clients": (
        lambda site: site.ca.issue("x", "localhost", usage=CLIENT),
        "; it must be a server certificate",
    ),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_untrusted_certificate_is_reported_with_advice(kind: str, site: Site) -> None:
    make, advice = UNTRUSTED[kind]
    with site.daemon(pair=make(site)) as daemon:
        with pytest.raises(Untrusted) as untrusted:
            site.client(daemon)
        assert daemon.requests == []
    text = str(untrusted.value)
    assert text.startswith(f"the certificate of the daemon at {daemon.address} is not trusted: ")
    assert advice.format(ca=site.ca.cert) in text


def test_host_that_the_certificate_does_not_name_is_untrusted(site: Site) -> None:
    with site.daemon() as daemon:
        daemon.address = daemon.address.replace("localhost", "127.0.0.1")
        with pytest.raises(Untrusted, match="; use a host of its subjectAltName in --address"):
            site.client(daemon)


def test_cas_of_the_system_are_trusted_by_default(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.daemon() as daemon:
        with pytest.raises(Untrusted, match="; set TASKQ_CA to the file of the CA that signed it"):
            Client(daemon.address)
        monkeypatch.setenv("SSL_CERT_FILE", str(site.ca.cert))  # OpenSSL reads it as the CAs of the system
        with Client(daemon.address) as client:
            client.ping()


def test_versions_older_than_tls_1_2_are_rejected(site: Site, recwarn: pytest.WarningsRecorder) -> None:
    context = site.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    recwarn.clear()  # deprecation of these versions
    with (
        TlsDaemon(lambda _: b"OK\r\n", context) as daemon,
        pytest.raises(Untrusted, match="rejected the TLS handshake: "),
    ):
        site.client(daemon)


@pytest.mark.parametrize("host", [".example.org", "x" * 300, "a..b", "\udcff"])
def test_invalid_host_name_is_unreachable(host: str) -> None:
    with pytest.raises(Unreachable):
        Client(f"tls:{host}:1")


# certificates of clients


def subject_of(secured: socket.socket) -> object:
    """Return the common name of the client certificate of a connection."""
    assert isinstance(secured, ssl.SSLSocket)
    shown: Any = secured.getpeercert()
    return shown and shown["subject"][0][0][1]


def test_client_certificate_is_sent_without_a_token(site: Site) -> None:
    files = {"ca": str(site.ca.cert), "cert": str(site.ana.cert), "key": str(site.ana.key)}
    with site.daemon() as daemon, Client(daemon.address, **files) as client:
        client.ping()
        assert subject_of(daemon.connections[-1]) == "ana"
        assert daemon.lines == ["PING"]


def test_token_is_sent_with_or_without_client_certificate(site: Site) -> None:
    for files in ({}, {"cert": str(site.ana.cert), "key": str(site.ana.key)}):
        with (
            site.daemon() as daemon,
            Client(daemon.address, "secret", ca=str(site.ca.cert), **files) as client,
            client.another() as another,
        ):
            another.ping()
        assert daemon.lines == ["AUTH secret", "AUTH secret", "PING"]


def test_environment_names_files_that_are_not_given(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    both = site.place / "both.pem"
    both.write_bytes(site.ana.cert.read_bytes() + site.ana.key.read_bytes())
    monkeypatch.setenv("TASKQ_CA", str(site.ca.cert))
    monkeypatch.setenv("TASKQ_KEY", "")
    with site.daemon() as daemon:
        for cert, subject in (("", None), (str(both), "ana")):
            monkeypatch.setenv("TASKQ_CERT", cert)
            with Client(daemon.address) as client, client.another() as another:
                for each in (client, another):
                    each.ping()
                    assert subject_of(daemon.connections[-1]) == subject
        given = site.ca.issue("ben", usage=CLIENT)
        monkeypatch.setenv("TASKQ_KEY", "/none")
        with Client(daemon.address, cert=str(given.cert), key=str(given.key)) as client:
            client.ping()


REFUSED: dict[str, Callable[[Site], Pair]] = {
    "unknown ca": lambda site: Authority(site.place, "Other").issue("ana", usage=CLIENT),
    "certificate expired": lambda site: site.ca.issue("ana", usage=CLIENT, ends=timedelta(hours=-1)),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("why", REFUSED)
def test_certificate_rejected_by_the_daemon_is_reported(
    why: str, version: ssl.TLSVersion, site: Site
) -> None:
    pair = REFUSED[why](site)
    context = site.context()
    context.minimum_version = context.maximum_version = version
    files = {"ca": str(site.ca.cert), "cert": str(pair.cert), "key": str(pair.key)}
    with (
        TlsDaemon(lambda _: b"OK\r\n", context) as daemon,
        pytest.raises(Untrusted) as refused,
        Client(daemon.address, **files) as client,
    ):
        client.ping()
    text = f"the daemon at {daemon.address} rejected the certificate {pair.cert} (TASKQ_CERT): {why}"
    assert str(refused.value) == text


def test_connection_closed_without_reply_hints_at_the_certificate(site: Site) -> None:
    files = {"ca": str(site.ca.cert), "cert": str(site.ana.cert), "key": str(site.ana.key)}
    with (
        site.daemon(lambda _: None) as daemon,
        Client(daemon.address, **files) as client,
        pytest.raises(Unreachable) as lost,
    ):
        client.ping()
    assert f" (the daemon may reject the certificate {site.ana.cert}); " in str(lost.value)


def test_missing_client_certificate_is_reported(site: Site) -> None:
    context = site.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsDaemon(lambda _: b"OK\r\n", context) as daemon, pytest.raises(Unreachable) as refused:
        site.client(daemon)
    assert "set TASKQ_CERT and TASKQ_KEY" in str(refused.value) or "rejected the TLS handshake" in str(
        refused.value
    )


UNUSABLE: dict[str, tuple[Callable[[Site], dict[str, str]], str]] = {
    "no CA file": (
        lambda _: {"ca": "/none"},
        "cannot use the CA file /none (TASKQ_CA): No such file or directory",
    ),
    "no CA": (
        lambda site: {"ca": str(site.ana.key)},
        "cannot use the CA file {ana.key} (TASKQ_CA): no certificate or crl found",
    ),
    "no certificate file": (
        lambda _: {"cert": "/none"},
        "cannot use the certificate /none (TASKQ_CERT): No such file or directory",
    ),
    "no key file": (
        lambda site: {"cert": str(site.ana.cert), "key": "/none"},
        "cannot use the key /none (TASKQ_KEY): No such file or directory",
    ),
    "no key": (
        lambda site: {"cert": str(site.ana.cert)},
        "cannot use the certificate {ana.cert} (TASKQ_CERT): ",
    ),
    "another key": (
        lambda site: {"cert": str(site.ana.cert), "key": str(site.ca.issue("x").key)},
        "cannot use the certificate {ana.cert} (TASKQ_CERT): key values mismatch",
    ),
    "a key alone": (
        lambda site: {"key": str(site.ana.key)},
        "the key {ana.key} (TASKQ_KEY) needs a certificate: set TASKQ_CERT too",
    ),
    "a passphrase": (
        lambda site: {
            "cert": str(site.ana.cert),
            "key": str(write_key(site.place / "locked", ec.generate_private_key(ec.SECP256R1()), b"x")),
        },
        "the key (TASKQ_KEY) has a passphrase; remove it with `openssl pkey`",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_file_is_reported_before_anything_is_sent(case: str, site: Site) -> None:
    files, text = UNUSABLE[case]
    with site.daemon() as daemon, pytest.raises(Untrusted) as untrusted:
        Client(daemon.address, **files(site))
    assert str(untrusted.value).startswith(text.format(ana=site.ana))
    assert daemon.requests == []


# failed handshakes


@contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Accept one connection on loopback and pass it to ``answer``; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tls:localhost:{listener.getsockname()[1]}"
        thread.join()


NO_TLS = "the server at {} does not use TLS; if it is a daemon, its address begins with tcp:"


def test_server_without_tls_is_reported() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"ERROR BAD_REQUEST expected UTF-8\r\n")

    with server(answer) as address, pytest.raises(Unreachable) as lost:
        Client(address)
    assert str(lost.value) == NO_TLS.format(address)


def test_handshake_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.05)
    end = threading.Event()
    with server(lambda _: end.wait()) as address:
        with pytest.raises(Unreachable) as lost:
            Client(address)
        end.set()
    assert str(lost.value) == NO_TLS.format(address)


@pytest.mark.parametrize("length", [1000, 1])  # unread bytes make it a reset
def test_connection_closed_during_the_handshake_is_reported(length: int) -> None:
    with server(lambda connection: connection.recv(length)) as address, pytest.raises(Unreachable) as lost:
        Client(address)
    text = f"the daemon at {address} closed the connection during the TLS handshake; is it a taskqd daemon?"
    assert str(lost.value) == text


# transfer


def test_submit_many_does_not_deadlock_with_large_requests_and_replies(site: Site) -> None:
    # The data exceeds the socket buffers in both directions, and the fake reads nothing while it sends.
    long = b"ERROR BAD_REQUEST " + b"x" * 100_000 + b"\r\n"
    with site.daemon(lambda _: long) as daemon, site.client(daemon) as client:
        assert len(list(client.submit_many("y" * 60_000 for _ in range(300)))) == 300


def test_large_block_arrives_unchanged(site: Site) -> None:
    block = bytes(range(256)) * 80_000
    with site.daemon(lambda _: b"JOB_ID 7\r\n") as daemon, site.client(daemon) as client:
        assert client.submit("wc", stdin=block) == 7
        assert daemon.requests == [Request(f"SUBMIT --stdin={len(block)} wc", (block,))]


def test_submit_many_yields_ids_in_order(site: Site) -> None:
    ids = iter(range(1, 10**9))
    with (
        site.daemon(lambda _: b"JOB_ID %d\r\n" % next(ids)) as daemon,
        site.client(daemon) as client,
    ):
        assert list(client.submit_many(f"echo {number}" for number in range(20_000))) == [*range(1, 20_001)]


def test_bytes_buffered_by_openssl_are_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # When single bytes are read, most of a record is buffered by OpenSSL, where poll does not see it.
    monkeypatch.setattr("taskqd.client.tls.RECEIVE_SIZE", 1)
    reply = data("stdout", 0, b"a" * 1000) + data("stderr", 0, b"b") + b"STATUS COMPLETED 100\r\n"
    monkeypatch.setenv("TASKQ_RECONNECT", "0")  # no SHOW before the FOLLOW
    with site.daemon(lambda _: reply) as daemon, site.client(daemon) as client:
        pieces = [piece for piece in client.follow(7) if piece.data]
    assert pieces == [("stdout", 0, b"a" * 1000), ("stderr", 0, b"b")]


def test_incomplete_line_does_not_block_follow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_INTERVAL", 0.01)
    monkeypatch.setenv("TASKQ_RECONNECT", "0")  # no SHOW before the FOLLOW
    may_continue = threading.Event()

    def parts(_: Request) -> Iterator[bytes]:
        yield data("stdout", 0, b"a")
        yield b"STATUS"
        may_continue.wait()
        yield b" COMPLETED 100\r\n"

    with site.daemon(parts) as daemon, site.client(daemon) as client:
        pieces = client.follow(7)
        assert next(filter(lambda piece: piece.data, pieces)).data == b"a"
        assert next(pieces).data == b""
        assert next(pieces).data == b""
        may_continue.set()
        assert not [piece for piece in pieces if piece.data]


def test_connection_after_a_stream_was_left_uses_the_same_files_and_token(site: Site) -> None:
    with site.daemon(lambda it: b"OK 4\r\n" if it.verb == "WATCH" else b"OK token admin\r\n") as daemon:
        with site.client(daemon, "secret") as client:
            stream = client.watch()
            assert next(stream) is None
            stream.close()  # type: ignore[attr-defined]
            client.ping()
        assert daemon.lines == ["AUTH secret", "WATCH", "AUTH secret", "PING"]


def test_refusal_sent_before_the_end_of_a_block_is_read(site: Site) -> None:
    """The daemon refuses, closes TLS, and keeps reading while the client sends."""
    context = site.context()

    def refuse_and_close(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as secured:
            secured.recv(10)
            secured.sendall(b"ERROR TOO_LARGE 67108865 bytes\r\n")
            with suppress(OSError):
                secured.unwrap()  # fails at the first bytes of the block, after it has sent close_notify
            # A close with unread bytes resets the connection, perhaps before the client has read the reply.
            with suppress(OSError):
                while socket.socket.recv(secured, 1 << 20):
                    pass

    with (
        server(refuse_and_close) as address,
        Client(address, ca=str(site.ca.cert)) as client,
        pytest.raises(Refused, match="TOO_LARGE"),
    ):
        client.submit("wc", stdin=bytes(20_000_000))


def test_lost_connection_states_that_the_outcome_is_unknown(site: Site) -> None:
    with (
        site.daemon(lambda _: None) as daemon,
        site.client(daemon) as client,
        pytest.raises(Unreachable, match="may or may not have been carried out"),
    ):
        client.submit("a")


@pytest.mark.parametrize("call", [Client.ping, lambda client: client._connection.read_line()])
def test_closed_client_is_unreachable(call: Callable[[Client], object], site: Site) -> None:
    with site.daemon() as daemon, site.client(daemon) as client:
        client.ping()
        client.close()
        client.close()
        with pytest.raises(Unreachable, match="the client is closed"):
            call(client)


def test_closing_client_sends_close_notify(site: Site) -> None:
    ends: list[bytes] = []
    context = site.context()

    def serve(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as secured:
            ends.append(secured.recv(100))

    with server(serve) as address:
        Client(address, ca=str(site.ca.cert)).close()
    assert ends == [b""]


# loading of modules


def test_ssl_is_imported_only_for_tls_addresses(site: Site) -> None:
    code = "import sys; from taskqd.client import Client; Client(sys.argv[1]).ping(); print(*sys.modules)"

    def is_loaded(address: str) -> bool:
        shown = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, address],
            env={"TASKQ_CA": str(site.ca.cert)},
            capture_output=True,
            check=True,
        )
        return "ssl" in shown.stdout.decode().split()

    with FakeDaemon(lambda _: b"OK\r\n") as plain, site.daemon() as secured:
        assert not is_loaded(plain.address)
        assert is_loaded(secured.address)
