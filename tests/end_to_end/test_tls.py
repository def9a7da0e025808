"""The real daemon over TLS: authentication, requests, taskq as a client, and starts that are refused."""

import re
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment, free_port
from tests.end_to_end.wire import DEADLINE, Wire, until
from tests.support.certificates import CLIENT, SERVER, Authority, Pair, self_signed

TASKQ = Path(sys.executable).with_name("taskq")

LONG = "x" * 70_000
"""With this, a line exceeds the maximum length."""


class Site:
    """A CA with certificates that it has signed, and a daemon with a TLS port.

    Of those, ana may submit, root is an admin, and ben has no role.
    """

    def __init__(self, place: Path, *, has_ca: bool = True) -> None:
        self.place = place
        self.ca = Authority(place)
        self.ours = self.ca.issue("localhost", "localhost", "127.0.0.1")
        self.ana, self.ben, self.root = (self.ca.issue(who, usage=CLIENT) for who in ("ana", "ben", "root"))
        self.port = free_port()
        self.address = f"tls:localhost:{self.port}"
        self.has_ca = has_ca
        self.wires: list[Wire] = []

    def options(self, pair: Pair | None = None, *more: str) -> list[str]:
        key, cert = (pair or self.ours).key, (pair or self.ours).cert
        words = [f"tls:{self.port}:interface=127.0.0.1", f"key={key}", f"cert={cert}", *more]
        words += [f"ca={self.ca.cert}"] * self.has_ca
        return ["--listen", ":".join(words), "--role", "ana=submit", "--role", "root=admin"]

    def token(self, daemon: Daemon, name: str, role: str) -> str:
        """Make a token, and wait until the daemon accepts it."""
        command: list[str | Path] = [TASKQ, "token", "add", name, "--role", role, "--state", daemon.state]
        shown = subprocess.run(command, env=environment(), capture_output=True, timeout=DEADLINE, check=True)
        token = shown.stdout.decode().strip()

        def is_accepted() -> bool:
            with closing(self.connect()) as wire:
                return wire.ask(f"AUTH {token}").startswith("OK ")

        until(is_accepted, "the daemon to take up the token", pause=0.1)
        return token

    def secured(self, pair: Pair | None = None) -> ssl.SSLSocket:
        """Connect to localhost, with a certificate if one is given."""
        context = ssl.create_default_context(cafile=self.ca.cert)
        if pair:
            context.load_cert_chain(pair.cert, pair.key)
        plain = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        try:
            return context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise

    def connect(self, pair: Pair | None = None) -> Wire:
        self.wires.append(Wire(self.secured(pair)))
        return self.wires[-1]

    def close(self) -> None:
        for wire in self.wires:
            wire.close()

    def taskq(self, *words: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
        known = {"TASKQ_ADDRESS": self.address, "TASKQ_CA": str(self.ca.cert), **variables}
        return subprocess.run(
            [TASKQ, *words],
            cwd=self.place,
            env=environment() | known,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )

    def taskq_as(self, pair: Pair, *words: str) -> "subprocess.CompletedProcess[bytes]":
        return self.taskq(*words, TASKQ_CERT=str(pair.cert), TASKQ_KEY=str(pair.key))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Daemon]]:
    site = Site(tmp_path_factory.mktemp("certificates"))
    daemon = Daemon(tmp_path_factory.mktemp("secured"), *site.options(), tcp=True)
    try:
        daemon.start()
        yield site, daemon
    finally:
        complaints = daemon.close()
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def site(shared: tuple[Site, Daemon]) -> Iterator[Site]:
    """Return the site with its daemon running; connections of a test are closed after it."""
    yield shared[0]
    shared[0].close()


@pytest.fixture
def daemon_of_site(shared: tuple[Site, Daemon]) -> Daemon:
    return shared[1]


def own(tmp_path: Path) -> Site:
    """Return a site with a daemon for one test only."""
    place = tmp_path / "certificates"
    place.mkdir()
    return Site(place)


# Authentication.


def test_client_without_token_and_certificate_needs_auth(site: Site) -> None:
    stranger = site.connect()
    assert '"certificate"' in stranger.ask("HELLO")
    for request in ("SUBMIT true", "LIST", "STATS"):
        assert stranger.ask(request).startswith("ERROR AUTH_REQUIRED ")


def test_token_authenticates(site: Site, daemon_of_site: Daemon) -> None:
    token = site.token(daemon_of_site, "ci", "submit")
    wire = site.connect()
    assert wire.ask(f"AUTH {token}") == "OK ci submit"
    job = wire.submit("echo hi")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (b"hi\n", b"", "0")
    assert wire.show(job)["owner"] == "ci"


def test_certificate_alone_authenticates_and_its_subject_is_the_owner(site: Site) -> None:
    ana, root = site.connect(site.ana), site.connect(site.root)
    mine, theirs = ana.submit("echo hi"), root.submit("true")
    assert ana.wait(mine) == "COMPLETED"
    assert ana.show(mine)["owner"] == "ana"
    assert root.show(mine)["owner"] == "ana"
    assert ana.ask(f"STATUS {theirs}").startswith("ERROR FORBIDDEN ")
    assert ana.ask("DRAIN").startswith("ERROR FORBIDDEN ")
    assert '"ana"' in ana.ask("HELLO")


def test_request_sent_with_the_handshake_is_authenticated_by_the_certificate(site: Site) -> None:
    """The certificate and the first request arrive together."""
    with site.secured(site.ana) as secured:
        secured.sendall(b"LIST --limit=1\r\nQUIT\r\n")
        received = b"".join(iter(lambda: secured.recv(65536), b""))
    assert received.splitlines()[-1].startswith(b"OK")
    assert b"AUTH_REQUIRED" not in received


def test_certificate_without_a_role_may_still_use_a_token(site: Site, daemon_of_site: Daemon) -> None:
    token = site.token(daemon_of_site, "ops", "admin")
    ben = site.connect(site.ben)
    assert ben.ask("STATS").startswith("ERROR AUTH_REQUIRED ")
    assert ben.ask(f"AUTH {token}") == "OK ops admin"
    assert ben.ask("STATS").startswith("STATS {")


IMPOSTORS: dict[str, Callable[[Path, Authority], Pair]] = {
    "self-signed": lambda place, _: self_signed(place, "ana"),
    "another CA's": lambda place, _: Authority(place, "Other").issue("ana", usage=CLIENT),
    "expired": lambda _, ca: ca.issue("ana", usage=CLIENT, ends=timedelta(seconds=-60)),
    "for servers only": lambda _, ca: ca.issue("ana", usage=SERVER),
}


def submit_unseen(site: Site, pair: Pair) -> None:
    with site.secured(pair) as secured:
        secured.sendall(b"SUBMIT true\r\n")
        secured.recv(100)


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_invalid_certificate_ends_the_connection(impostor: str, site: Site, tmp_path: Path) -> None:
    pair = IMPOSTORS[impostor](tmp_path, site.ca)
    root = site.connect(site.root)
    own = root.submit("true")
    with pytest.raises(ssl.SSLError) as refused:
        submit_unseen(site, pair)
    assert "_ALERT_" in refused.value.reason
    assert [job["id"] for job in root.list(f"--from={own}")] == [own]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_tls_versions_are_refused(version: ssl.TLSVersion, site: Site) -> None:
    context = ssl.create_default_context(cafile=site.ca.cert)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", site.port)) as plain,
        pytest.raises(ssl.SSLError) as refused,
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version, is_accepted", [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_openssl_s_client_connects_with_supported_versions(
    version: str, is_accepted: bool, site: Site
) -> None:
    command = ["openssl", "s_client", "-quiet", "-connect", f"localhost:{site.port}", version]
    command += ["-CAfile", str(site.ca.cert), "-verify_return_error", "-verify_hostname", "localhost"]
    command += ["-cert", str(site.ana.cert), "-key", str(site.ana.key), "-cipher", "DEFAULT:@SECLEVEL=0"]
    shown = subprocess.run(
        command,
        input=b"SUBMIT true\nSTATS\nQUIT\n",
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    lines = shown.stdout.splitlines()
    if is_accepted:
        assert [line.split(b" ")[0] for line in lines] == [b"JOB_ID", b"STATS", b"OK"], shown
    else:
        assert (lines, shown.returncode) == ([], 1), shown


def test_no_certificate_is_requested_without_a_ca(daemon: DaemonFactory, tmp_path: Path) -> None:
    site = own(tmp_path)
    site.has_ca = False
    daemon(*site.options())
    try:
        for pair in (site.ana, self_signed(site.place, "eve"), None):
            wire = site.connect(pair)
            assert '"certificate"' not in wire.ask("HELLO")
            assert wire.ask("STATS").startswith("ERROR AUTH_REQUIRED ")
    finally:
        site.close()


# Requests and replies.


def test_requests_blocks_and_large_replies_arrive_unchanged(site: Site) -> None:
    ana = site.connect(site.ana)
    block = bytes(range(256)) * 8000
    job = ana.submit(f"--stdin={len(block)} cat", block)
    assert ana.wait(job) == "COMPLETED"
    assert ana.output(job, "stdout", "--limit=16M").data == block


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    ana = site.connect(site.ana)
    ana.send(b"SUBMIT true\r\nPING\r\n" * 2000)
    replies = ana.lines(4000)
    ids = [int(reply.split(" ")[1]) for reply in replies[::2]]
    assert ids == sorted(set(ids))
    assert {reply.split(" ")[0] for reply in replies[1::2]} == {"OK"}


def test_client_that_does_not_read_is_not_read_from_and_loses_nothing(
    site: Site, daemon_of_site: Daemon
) -> None:
    root = site.connect(site.root)
    job = root.submit("head -c 1000000 /dev/zero | tr '\\0' x")
    root.wait(job)
    before = daemon_of_site.memory()["VmRSS"]
    with site.secured(site.root) as secured:
        secured.settimeout(0.0)
        # More than the sockets buffer, in both directions.
        asked = (b"RESULT %d\r\n" % job) * 12 + (b"NO %b\r\n" % (b"x" * 60_000)) * 300
        requests, sent = memoryview(asked), 0
        moved_at = time.monotonic()
        while sent < len(requests) and time.monotonic() < moved_at + 1.0:
            try:
                sent += secured.send(requests[sent : sent + 16384])
                moved_at = time.monotonic()
            except ssl.SSLWantWriteError:
                time.sleep(0.01)
        assert sent < len(requests), "the daemon reads on though the client does not read its replies"
        assert daemon_of_site.memory()["VmRSS"] - before < 30 * 1024**2
        assert root.ask("PING").startswith("OK")
        secured.settimeout(DEADLINE)
        with secured.makefile("rb") as replies:
            assert {replies.readline() for _ in range(12)} == {b'RESULT "%b" "" 0\r\n' % (b"x" * 1_000_000)}
            assert replies.readline().startswith(b"ERROR UNKNOWN_COMMAND ")


def test_follow_and_watch_work_over_tls(site: Site) -> None:
    ana, watcher = site.connect(site.ana), site.connect(site.ana)
    assert watcher.ask("WATCH").startswith("OK ")
    job = ana.submit("echo one; sleep 0.3; echo two")
    ana.send(f"FOLLOW {job}\r\n".encode())
    assert ana.block() == ("stdout", 0, b"one\n")
    assert ana.block() == ("stdout", 4, b"two\n")
    assert ana.line() == "STATUS COMPLETED 100"
    until(lambda: watcher.event().get("id") == job, "an event of the job")


def test_line_too_long_is_answered_even_if_the_client_continues_to_send(site: Site) -> None:
    with site.secured(site.ana) as secured:
        received = b""
        for _ in range(40):
            try:
                secured.sendall(LONG.encode())
            except OSError:  # the connection is closed; the error can still be read
                break
        while piece := secured.recv(65536):
            received += piece
    assert received.startswith(b"ERROR LINE_TOO_LONG ")
    assert received.count(b"\r\n") == 1


def test_client_that_does_not_close_after_its_last_reply_is_aborted(site: Site) -> None:
    """It neither answers the daemon's close_notify nor closes its half."""
    with site.secured(site.ana) as secured:
        secured.sendall(b"QUIT\r\n")
        assert secured.recv(100).startswith(b"OK")
        assert secured.recv(100) == b""  # the close_notify, which the client does not answer
        with socket.socket(fileno=socket.dup(secured.fileno())) as below:
            below.settimeout(DEADLINE)
            with suppress(ConnectionResetError):
                assert below.recv(100) == b""


def test_incomplete_handshake_times_out(daemon: DaemonFactory, tmp_path: Path) -> None:
    site = own(tmp_path)
    daemon(*site.options(), "--limit", "auth-time=500ms")
    with socket.create_connection(("127.0.0.1", site.port), DEADLINE) as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00")  # half a hello
        with suppress(ConnectionResetError):
            assert plain.recv(100) == b""


def test_failed_handshakes_are_logged_with_address_and_reason_at_a_limited_rate(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    site = own(tmp_path)
    one = daemon(*site.options())
    address = ""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", site.port), DEADLINE) as plain:
            address = f"127.0.0.1:{plain.getsockname()[1]}"
            plain.sendall(b"PING\r\n" * 10)
            with suppress(ConnectionResetError):
                while plain.recv(100):
                    pass
    one.stop()
    lines = [line for line in one.log.splitlines() if "#warn] TLS with " in line]
    assert len(lines) <= 3, lines
    assert "TLS with 127.0.0.1:" in lines[0]
    assert f"the last one {address}: " in lines[-1]
    assert lines[-1].rpartition(": ")[2].strip()


def test_stop_answers_waiting_clients(daemon: DaemonFactory, tmp_path: Path) -> None:
    site = own(tmp_path)
    one = daemon(*site.options())
    try:
        ana = site.connect(site.ana)
        job = ana.submit("sleep 300")
        ana.wait_running(job)
        ana.send(f"WAIT {job}\r\n".encode())
        started = time.monotonic()
        one.stop()
        assert time.monotonic() - started < 20.0
        assert ana.line() == "STATUS FAILED 0"
        assert ana.rest() == b""
    finally:
        site.close()


# taskq.


def test_taskq_connects_over_tls(site: Site) -> None:
    shown = site.taskq_as(site.ana, "submit", "echo", "hi")
    assert (shown.returncode, shown.stderr) == (0, b"")
    job = shown.stdout.decode().strip()
    shown = site.taskq_as(site.ana, "wait", job)
    assert shown.returncode == 0, shown
    assert site.taskq_as(site.ana, "result", job).stdout == b"hi\n"
    shown = site.taskq_as(site.ana, "run", "seq 200000; exit 3")
    assert shown.stdout.splitlines() == [b"%d" % number for number in range(1, 200001)]
    assert shown.returncode == 3
    shown = site.taskq_as(site.ana, "--address", site.address.replace("tls", "ssl"), "list")
    assert shown.returncode == 0, shown


def test_taskq_sends_its_token_over_tls(site: Site, daemon_of_site: Daemon) -> None:
    token = site.token(daemon_of_site, "cd", "submit")
    shown = site.taskq("run", "echo hi", TASKQ_TOKEN=token)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, b"hi\n", b"")


def test_taskq_imports_ssl_only_for_tls_addresses(site: Site, daemon_of_site: Daemon) -> None:
    for address, is_loaded in ((f"unix:{daemon_of_site.socket}", False), (site.address, True)):
        shown = subprocess.run(
            [sys.executable, "-X", "importtime", TASKQ, "--address", address, "hello"],
            env=environment() | {"TASKQ_CA": str(site.ca.cert)},
            capture_output=True,
            timeout=DEADLINE,
            check=True,
        )
        loaded = {line.rpartition(b"|")[2].strip() for line in shown.stderr.splitlines()}
        assert b"taskqd.client.client" in loaded
        assert (b"ssl" in loaded) is is_loaded


def test_taskq_reports_tls_errors_with_a_remedy(site: Site, daemon_of_site: Daemon, tmp_path: Path) -> None:
    def complaint(shown: "subprocess.CompletedProcess[bytes]", code: int = 69) -> str:
        assert (shown.returncode, shown.stdout) == (code, b""), shown
        text = shown.stderr.decode()
        assert text.count("\n") == 1
        return text

    assert "AUTH_REQUIRED" in complaint(site.taskq("submit", "true"), 1)
    assert "not trusted: self-signed certificate in certificate chain; set TASKQ_CA" in complaint(
        site.taskq("submit", "true", TASKQ_CA="")
    )
    assert "cannot use the CA file /none (TASKQ_CA)" in complaint(
        site.taskq("submit", "true", TASKQ_CA="/none")
    )
    eve = self_signed(tmp_path, "eve")
    assert f"rejected the certificate {eve.cert} (TASKQ_CERT): unknown ca" in complaint(
        site.taskq_as(eve, "submit", "true")
    )
    plain = f"tls:localhost:{daemon_of_site.port}"
    assert "does not use TLS" in complaint(site.taskq("--address", plain, "submit", "true"))
    secured = f"tcp:localhost:{site.port}"
    assert "its address begins with tls:" in complaint(site.taskq("--address", secured, "submit", "true"))


# Starting.


@pytest.mark.parametrize("trouble", ["missing", "open to others", "another's", "no key", "an old TLS"])
def test_invalid_tls_files_refuse_the_start_in_one_line(
    trouble: str, daemon: DaemonFactory, tmp_path: Path
) -> None:
    site = own(tmp_path)
    key, more = site.ours.key, []
    if trouble == "missing":
        key.unlink()
        expected_text = f"{key} cannot be read: No such file or directory"
    elif trouble == "open to others":
        key.chmod(0o644)
        expected_text = f"others can read the key {key} (mode 644): chmod 600 {key}"
    elif trouble == "another's":
        key.write_bytes(site.ana.key.read_bytes())
        expected_text = f"does not belong to the key in {key}"
    elif trouble == "no key":
        key.write_text("x")
        expected_text = f"{key} has no key in PEM format"
    else:
        more = ["sslmethod=TLSv1_METHOD"]
        expected_text = "both sides use the newest version"
    code, said = daemon(*site.options(None, *more), start=False).refused()
    assert code == 1
    [line] = said.splitlines()
    assert line.startswith(f"taskqd: twistd taskq: listen: 'tls:{site.port}:")
    assert expected_text in line


def test_expired_certificate_causes_a_warning(daemon: DaemonFactory, tmp_path: Path) -> None:
    site = own(tmp_path)
    old = site.ca.issue("old", "localhost", ends=timedelta(hours=-1))
    one = daemon(*site.options(old))
    assert "the certificate CN=old has expired at " in one.log
    shown = site.taskq("submit", "true")
    assert re.search(rb" is not trusted: .*; the daemon needs a new one", shown.stderr)
