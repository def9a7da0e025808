"""The client over TLS: whom it trusts, whom it shows, and that bytes come and go as on other connections."""

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


class SecuredDaemon(FakeDaemon):
    """A fake daemon that speaks TLS, as ``context`` has it."""

    def __init__(self, script: Script, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(script)
        self.address = self.address.replace("tcp:127.0.0.1", "tls:localhost")

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secured:
            self._connections.append(secured)
            super()._serve(secured)


class Site:
    """A CA, and what it has signed: the daemon's certificate, and one of ours."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca = Authority(place)
        self.ana = self.ca.issue("ana", usage=CLIENT)

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return what a daemon takes: clients of the CA, and those without a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca.cert)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(*(pair or self.ca.issue("localhost", "localhost")))
        return context

    def daemon(self, script: Script | None = None, pair: Pair | None = None) -> SecuredDaemon:
        return SecuredDaemon(script or (lambda _: b"OK\r\n"), self.context(pair))

    def client(self, daemon: FakeDaemon, token: str | None = None) -> Client:
        return Client(daemon.address, token, ca=str(self.ca.cert))


@pytest.fixture(name="site")
def a_site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# Whom we trust.


@pytest.mark.parametrize("kind", ["tls", "ssl"])
def test_a_daemon_with_a_certificate_of_the_ca_for_its_host_is_trusted(kind: str, site: Site) -> None:
    with site.daemon() as daemon:
        daemon.address = daemon.address.replace("tls", kind)
        with site.client(daemon) as client:
            client.ping()
            assert not client.is_local
        assert daemon.lines == ["PING"]


def test_a_host_may_be_an_address_that_the_certificate_names(site: Site) -> None:
    with site.daemon(pair=site.ca.issue("x", "127.0.0.1")) as daemon:
        daemon.address = daemon.address.replace("localhost", "127.0.0.1")
        with site.client(daemon) as client:
            client.ping()


UNTRUSTED: dict[str, tuple[Callable[[Site], Pair], str]] = {
    "expired": (
        lambda site: site.ca.issue("x", "localhost", ends=timedelta(hours=-1)),
        "; the daemon needs a new one",
    ),
    "of tomorrow": (
        lambda site: site.ca.issue("x", "localhost", begins=timedelta(hours=1)),
        "; are the clocks of both machines right?",
    ),
    "of another host": (
        lambda site: site.ca.issue("x", "example.org"),
        "; give --address with a host of its",
    ),
    "without a host": (
        lambda site: site.ca.issue("localhost"),
        "; give --address with a host of its",
    ),
    "of another CA": (
        lambda site: Authority(site.place, "Other").issue("x", "localhost"),
        "; is it of the CA in {ca} (TASKQ_CA)?",
    ),
    "of nobody": (
        lambda site: self_signed(site.place, "localhost"),
        "; is it of the CA in {ca} (TASKQ_CA)?",
    ),
    "of a client": (
        lambda site: site.ca.issue("x", "localhost", usage=CLIENT),
        "; it was made for another use than a server's",
    ),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_a_certificate_that_is_not_trusted_is_told_with_what_to_do(kind: str, site: Site) -> None:
    make, told = UNTRUSTED[kind]
    with site.daemon(pair=make(site)) as daemon:
        with pytest.raises(Untrusted) as untrusted:
            site.client(daemon)
        assert daemon.requests == []
    text = str(untrusted.value)
    assert text.startswith(f"the certificate of the daemon at {daemon.address} is not trusted: ")
    assert told.format(ca=site.ca.cert) in text


def test_an_address_that_the_certificate_does_not_name_is_told(site: Site) -> None:
    with site.daemon() as daemon:
        daemon.address = daemon.address.replace("localhost", "127.0.0.1")
        with pytest.raises(Untrusted, match="; give --address with a host of its subjectAltName"):
            site.client(daemon)


def test_without_a_ca_the_system_s_are_trusted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.daemon() as daemon:
        with pytest.raises(Untrusted, match="; set TASKQ_CA to the file of the CA that signed it"):
            Client(daemon.address)
        monkeypatch.setenv("SSL_CERT_FILE", str(site.ca.cert))  # which OpenSSL takes for the system's
        with Client(daemon.address) as client:
            client.ping()


def test_older_versions_than_tls_1_2_are_not_spoken(site: Site, recwarn: pytest.WarningsRecorder) -> None:
    context = site.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    recwarn.clear()  # that these are old is what it is about
    with (
        SecuredDaemon(lambda _: b"OK\r\n", context) as daemon,
        pytest.raises(Untrusted, match="does not agree on TLS: "),
    ):
        site.client(daemon)


@pytest.mark.parametrize("host", [".example.org", "x" * 300, "a..b", "\udcff"])
def test_a_host_that_has_no_name_is_unreachable(host: str) -> None:
    with pytest.raises(Unreachable):
        Client(f"tls:{host}:1")


# Whom we show.


def subject_of(secured: socket.socket) -> object:
    """Return the common name of the certificate that a client has shown."""
    assert isinstance(secured, ssl.SSLSocket)
    shown: Any = secured.getpeercert()
    return shown and shown["subject"][0][0][1]


def test_a_certificate_is_shown_and_no_token_is_sent(site: Site) -> None:
    files = {"ca": str(site.ca.cert), "cert": str(site.ana.cert), "key": str(site.ana.key)}
    with site.daemon() as daemon, Client(daemon.address, **files) as client:
        client.ping()
        assert subject_of(daemon._connections[-1]) == "ana"
        assert daemon.lines == ["PING"]


def test_a_token_is_sent_over_tls_with_a_certificate_or_without(site: Site) -> None:
    for papers in ({}, {"cert": str(site.ana.cert), "key": str(site.ana.key)}):
        with (
            site.daemon() as daemon,
            Client(daemon.address, "secret", ca=str(site.ca.cert), **papers) as client,
            client.another() as another,
        ):
            another.ping()
        assert daemon.lines == ["AUTH secret", "AUTH secret", "PING"]


def test_the_environment_names_the_files_that_are_not_given(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
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
                    assert subject_of(daemon._connections[-1]) == subject
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
def test_a_certificate_that_the_daemon_does_not_take_is_told(
    why: str, version: ssl.TLSVersion, site: Site
) -> None:
    pair = REFUSED[why](site)
    context = site.context()
    context.minimum_version = context.maximum_version = version
    files = {"ca": str(site.ca.cert), "cert": str(pair.cert), "key": str(pair.key)}
    with (
        SecuredDaemon(lambda _: b"OK\r\n", context) as daemon,
        pytest.raises(Untrusted) as refused,
        Client(daemon.address, **files) as client,
    ):
        client.ping()
    told = f"the daemon at {daemon.address} does not take the certificate {pair.cert} (TASKQ_CERT): {why}"
    assert str(refused.value) == told


def test_a_daemon_that_closes_without_a_word_may_not_take_the_certificate(site: Site) -> None:
    files = {"ca": str(site.ca.cert), "cert": str(site.ana.cert), "key": str(site.ana.key)}
    with (
        site.daemon(lambda _: None) as daemon,
        Client(daemon.address, **files) as client,
        pytest.raises(Unreachable) as lost,
    ):
        client.ping()
    assert f" (it may not take the certificate {site.ana.cert}); " in str(lost.value)


def test_that_a_certificate_is_wanted_is_told(site: Site) -> None:
    context = site.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with SecuredDaemon(lambda _: b"OK\r\n", context) as daemon, pytest.raises(Unreachable) as refused:
        site.client(daemon)
    assert "set TASKQ_CERT and TASKQ_KEY" in str(refused.value) or "does not agree on TLS" in str(
        refused.value
    )


MISTAKES: dict[str, tuple[Callable[[Site], dict[str, str]], str]] = {
    "no CA file": (
        lambda _: {"ca": "/none"},
        "the CA file /none (TASKQ_CA) cannot be used: No such file or directory",
    ),
    "no CA": (
        lambda site: {"ca": str(site.ana.key)},
        "the CA file {ana.key} (TASKQ_CA) cannot be used: no certificate or crl found",
    ),
    "no certificate file": (
        lambda _: {"cert": "/none"},
        "the certificate /none (TASKQ_CERT) cannot be used: No such file or directory",
    ),
    "no key file": (
        lambda site: {"cert": str(site.ana.cert), "key": "/none"},
        "the key /none (TASKQ_KEY) cannot be used: No such file or directory",
    ),
    "no key": (
        lambda site: {"cert": str(site.ana.cert)},
        "the certificate {ana.cert} (TASKQ_CERT) cannot be used: ",
    ),
    "another key": (
        lambda site: {"cert": str(site.ana.cert), "key": str(site.ca.issue("x").key)},
        "the certificate {ana.cert} (TASKQ_CERT) cannot be used: key values mismatch",
    ),
    "a key alone": (
        lambda site: {"key": str(site.ana.key)},
        "the key {ana.key} (TASKQ_KEY) has no certificate: set TASKQ_CERT too",
    ),
    "a passphrase": (
        lambda site: {
            "cert": str(site.ana.cert),
            "key": str(write_key(site.place / "locked", ec.generate_private_key(ec.SECP256R1()), b"x")),
        },
        "the key (TASKQ_KEY) has a passphrase; `openssl pkey` makes one without",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_is_no_use_is_told_before_anything_is_sent(mistake: str, site: Site) -> None:
    papers, told = MISTAKES[mistake]
    with site.daemon() as daemon, pytest.raises(Untrusted) as untrusted:
        Client(daemon.address, **papers(site))
    assert str(untrusted.value).startswith(told.format(ana=site.ana))
    assert daemon.requests == []


# What is no TLS.


@contextmanager
def speaking(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Listen on loopback for one connection, and have it answered; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tls:localhost:{listener.getsockname()[1]}"
        thread.join()


NO_TLS = "no TLS is spoken at {}; if a daemon is there, its address begins with tcp:"


def test_a_daemon_without_tls_is_told() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"ERROR BAD_REQUEST expected UTF-8\r\n")

    with speaking(answer) as address, pytest.raises(Unreachable) as lost:
        Client(address)
    assert str(lost.value) == NO_TLS.format(address)


def test_a_daemon_that_waits_for_more_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    end = threading.Event()
    with speaking(lambda _: end.wait()) as address:
        with pytest.raises(Unreachable) as lost:
            Client(address)
        end.set()
    assert str(lost.value) == NO_TLS.format(address)


@pytest.mark.parametrize("length", [1000, 1])  # what is left unread makes a reset of the end
def test_a_connection_that_ends_in_the_handshake_is_told(length: int) -> None:
    with speaking(lambda connection: connection.recv(length)) as address, pytest.raises(Unreachable) as lost:
        Client(address)
    told = f"the daemon at {address} closed the connection before TLS was agreed on; is it one?"
    assert str(lost.value) == told


# Bytes.


def test_a_daemon_that_reads_nothing_before_it_is_read_is_read(site: Site) -> None:
    # All is more than what the sockets hold, in both directions, and the fake reads nothing while it sends.
    long = b"ERROR BAD_REQUEST " + b"x" * 100_000 + b"\r\n"
    with site.daemon(lambda _: long) as daemon, site.client(daemon) as client:
        assert len(list(client.submit_many("y" * 60_000 for _ in range(300)))) == 300


def test_a_large_block_arrives_as_it_is(site: Site) -> None:
    block = bytes(range(256)) * 80_000
    with site.daemon(lambda _: b"JOB_ID 7\r\n") as daemon, site.client(daemon) as client:
        assert client.submit("wc", stdin=block) == 7
        assert daemon.requests == [Request(f"SUBMIT --stdin={len(block)} wc", (block,))]


def test_many_submissions_give_their_ids_in_order(site: Site) -> None:
    ids = iter(range(1, 10**9))
    with (
        site.daemon(lambda _: b"JOB_ID %d\r\n" % next(ids)) as daemon,
        site.client(daemon) as client,
    ):
        assert list(client.submit_many(f"echo {number}" for number in range(20_000))) == [*range(1, 20_001)]


def test_what_openssl_has_read_and_not_given_out_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a byte at a time most of a record is within OpenSSL, where no poll of the socket sees it.
    monkeypatch.setattr("taskqd.client.tls.PIECE", 1)
    reply = data("stdout", 0, b"a" * 1000) + data("stderr", 0, b"b") + b"STATUS COMPLETED 100\r\n"
    with site.daemon(lambda _: reply) as daemon, site.client(daemon) as client:
        pieces = [piece for piece in client.follow(7) if piece.data]
    assert pieces == [("stdout", 0, b"a" * 1000), ("stderr", 0, b"b")]


def test_half_a_line_is_no_line_and_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PAUSE", 0.01)
    goes_on = threading.Event()

    def parts(_: Request) -> Iterator[bytes]:
        yield data("stdout", 0, b"a")
        yield b"STATUS"
        goes_on.wait()
        yield b" COMPLETED 100\r\n"

    with site.daemon(parts) as daemon, site.client(daemon) as client:
        pieces = client.follow(7)
        assert next(filter(lambda piece: piece.data, pieces)).data == b"a"
        assert next(pieces).data == b""
        assert next(pieces).data == b""
        goes_on.set()
        assert not [piece for piece in pieces if piece.data]


def test_a_stream_that_is_left_makes_another_connection_with_the_same_papers(site: Site) -> None:
    with site.daemon(lambda it: b"OK 4\r\n" if it.verb == "WATCH" else b"OK token admin\r\n") as daemon:
        with site.client(daemon, "secret") as client:
            stream = client.watch()
            assert next(stream) is None
            stream.close()  # type: ignore[attr-defined]
            client.ping()
        assert daemon.lines == ["AUTH secret", "WATCH", "AUTH secret", "PING"]


def test_the_answer_given_before_the_end_of_a_block_is_read(site: Site) -> None:
    """The daemon refuses and ends TLS, and reads on for as long as the client sends."""
    context = site.context()

    def refuse_and_close(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as secured:
            secured.recv(10)
            secured.sendall(b"ERROR TOO_LARGE 67108865 bytes\r\n")
            with suppress(OSError):
                secured.unwrap()

    with (
        speaking(refuse_and_close) as address,
        Client(address, ca=str(site.ca.cert)) as client,
        pytest.raises(Refused, match="TOO_LARGE"),
    ):
        client.submit("wc", stdin=bytes(20_000_000))


def test_a_lost_connection_says_what_that_leaves_open(site: Site) -> None:
    with (
        site.daemon(lambda _: None) as daemon,
        site.client(daemon) as client,
        pytest.raises(Unreachable, match="may have been done or not"),
    ):
        client.submit("a")


@pytest.mark.parametrize("ask", [Client.ping, lambda client: client._connection.line()])
def test_a_closed_client_is_unreachable(ask: Callable[[Client], object], site: Site) -> None:
    with site.daemon() as daemon, site.client(daemon) as client:
        client.ping()
        client.close()
        client.close()
        with pytest.raises(Unreachable, match="it is closed"):
            ask(client)


def test_a_client_that_closes_says_so_to_the_daemon(site: Site) -> None:
    ends: list[bytes] = []
    context = site.context()

    def serve(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as secured:
            ends.append(secured.recv(100))

    with speaking(serve) as address:
        Client(address, ca=str(site.ca.cert)).close()
    assert ends == [b""]


# What it costs where it is not used.


def test_ssl_is_loaded_only_for_an_address_of_tls(site: Site) -> None:
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
