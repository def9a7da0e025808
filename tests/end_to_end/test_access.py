"""Authentication over a UNIX socket and over TCP (docs/protocol.md §6)."""

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, TWISTD, Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until
from tests.support import checker_plugin, other_users

GUARDED = [
    "SUBMIT true",
    "STATUS 1",
    "RESULT 1",
    "SHOW 1",
    "LIST",
    "OUTPUT 1 stdout",
    "WAIT 1",
    "CANCEL 1",
    "RETRY 1",
    "STATS",
]


@pytest.fixture
def stranger(running: Daemon) -> Wire:
    """Return a TCP connection that has not authenticated."""
    return running.connect_tcp(authenticate=False)


@pytest.mark.parametrize("request_line", GUARDED)
def test_request_over_tcp_needs_auth(stranger: Wire, request_line: str) -> None:
    for text in (request_line, request_line.lower()):
        assert stranger.ask(text).startswith("ERROR AUTH_REQUIRED ")


def test_hello_ping_help_and_quit_need_no_auth(stranger: Wire) -> None:
    assert stranger.ask("HELLO").startswith("TASKQ 1 {")
    assert stranger.ask("PING").startswith("OK")
    reply = stranger.ask("HELP")
    while reply != "END":
        assert reply.startswith("OK ")
        reply = stranger.line()
    assert stranger.ask("QUIT").startswith("OK")
    assert stranger.rest() == b""


def test_admin_token_allows_everything(running: Daemon, stranger: Wire) -> None:
    reply = stranger.ask(f"AUTH {running.token}").split(" ")
    assert reply[0] == "OK"
    assert reply[2] == "admin"
    job = stranger.submit("echo hi")
    assert stranger.wait(job) == "COMPLETED"
    assert stranger.show(job)["owner"] == "token"
    assert stranger.ask("STATS").startswith("STATS {")


def test_auth_applies_to_later_requests_of_its_connection_only(running: Daemon, stranger: Wire) -> None:
    stranger.send(f"LIST --limit=1\r\nAUTH {running.token}\r\nSUBMIT true\r\n".encode())
    refusal, granted, accepted = stranger.lines(3)
    assert refusal.startswith("ERROR AUTH_REQUIRED ")
    assert granted.startswith("OK ")
    assert accepted.startswith("JOB_ID ")
    assert running.connect_tcp(authenticate=False).ask("STATS").startswith("ERROR AUTH_REQUIRED ")


def test_three_failed_auths_close_the_connection(running: Daemon, stranger: Wire) -> None:
    stranger.send(b"AUTH wrong\r\nPING\r\nAUTH wrong\r\n")
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    assert stranger.line().startswith("OK")
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    stranger.send(f"AUTH {running.token[:-1]}\r\nAUTH {running.token}\r\nSUBMIT true\r\n".encode())
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    assert stranger.rest() == b""


@pytest.mark.parametrize("token", ["x", "x" * 60_000, "é", "tokén", '"x"'])
def test_wrong_token_is_refused(stranger: Wire, token: str) -> None:
    assert stranger.ask(f"AUTH {token}").split(" ")[:2] in (
        ["ERROR", "AUTH_FAILED"],
        ["ERROR", "BAD_REQUEST"],
    )
    assert stranger.ask("STATS").startswith("ERROR AUTH_REQUIRED ")


def test_blocks_before_auth_are_discarded(running: Daemon, stranger: Wire) -> None:
    block = f"AUTH {running.token}\r\nSUBMIT true\r\n".encode()
    stranger.send(b"SUBMIT --stdin=%d cat\r\n%b\r\nPING\r\nSTATS\r\n" % (len(block), block))
    assert stranger.line().startswith("ERROR AUTH_REQUIRED ")
    assert stranger.line().startswith("OK")
    assert stranger.line().startswith("ERROR AUTH_REQUIRED ")


def test_owner_of_a_job_is_the_peer_of_the_unix_socket(running: Daemon, wire: Wire) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    assert wire.show(wire.submit("true"))["owner"] == me
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600


def test_client_behind_a_proxy_is_not_identified_as_the_proxy(daemon: DaemonFactory, tmp_path: Path) -> None:
    with other_users.open_place() as place:
        one = daemon("--listen", f"haproxy:unix:{place}/proxied")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{place}/proxied")
            wire = Wire(connection)
            wire.send(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n")
            assert wire.ask("STATS").startswith("ERROR AUTH_REQUIRED ")
            assert wire.ask(f"AUTH {one.token}") == "OK token admin"
            you = json.loads(wire.ask("HELLO").removeprefix("TASKQ 1 "))["you"]
            assert you == {"name": "token", "role": "admin", "from": "203.0.113.9:4711"}


def test_daemon_with_a_port_makes_no_token_and_logs_how_to_make_one(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    assert not (one.state / "token").exists()
    assert not (one.state / "tokens").exists()
    assert "there is no token yet" in one.log
    assert f"taskq token add NAME --role submit --state {one.state}`" in one.log
    assert "there is no token yet" not in daemon().log


def test_tokens_are_private_and_survive_a_restart(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    assert one.connect_tcp().ask("STATS").startswith("STATS ")
    assert stat.S_IMODE((one.state / "tokens").stat().st_mode) == 0o600
    one.restart()
    assert one.connect_tcp().ask("STATS").startswith("STATS ")
    secret = one.token.partition(".")[2].encode()
    assert [path for path in one.state.rglob("*") if path.is_file() and secret in path.read_bytes()] == []
    assert secret.decode() not in one.log


@pytest.mark.parametrize("role", ["admin", "submit", "read"])
def test_hello_has_name_role_and_queue_of_the_token(running: Daemon, role: str) -> None:
    wire = running.connect_tcp(authenticate=False)
    queue = ["--queue", "builds"] if role == "submit" else []
    token = running.make_token(f"the-{role}", "--role", role, *queue)
    assert wire.ask(f"AUTH {token}") == f"OK the-{role} {role}"
    hello = json.loads(wire.ask("HELLO").removeprefix("TASKQ 1 "))
    assert hello["you"].items() >= {"name": f"the-{role}", "role": role}.items()
    assert hello["you"]["from"].startswith("127.0.0.1:")
    assert hello["you"].get("queue") == ("builds" if queue else None)
    assert hello["auth"] == ["token"]


def test_token_is_valid_at_once_until_it_is_revoked(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    token = one.make_token("ci", "--role", "submit")
    wire, watcher = one.connect_tcp(authenticate=False), one.connect_tcp(authenticate=False)
    for each in (wire, watcher):
        assert each.ask(f"AUTH {token}") == "OK ci submit"
    watcher.send(b"WATCH\r\n")
    assert watcher.line().startswith("OK ")
    job = wire.submit("true")
    assert wire.wait(job) == "COMPLETED"
    subprocess.run([TASKQ, "token", "revoke", "ci", "--state", one.state], check=True, capture_output=True)
    stranger = one.connect_tcp(authenticate=False)
    assert stranger.ask(f"AUTH {token}").startswith("ERROR AUTH_FAILED ")
    wire.send(b"SHOW %d\r\n" % job)
    assert wire.line().startswith("ERROR AUTH_REQUIRED ")
    assert b"AUTH_REQUIRED" in watcher.rest()


def test_token_expires(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    wire = one.connect_tcp(authenticate=False)
    token = one.make_token("ci", "--role", "submit", "--expires", "5s")
    assert wire.ask(f"AUTH {token}") == "OK ci submit"
    assert b"AUTH_REQUIRED" in wire.rest()
    assert (
        one.connect_tcp(authenticate=False)
        .ask(f"AUTH {token}")
        .startswith("ERROR AUTH_FAILED the token has expired")
    )


def test_token_of_an_older_version_is_imported(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True, start=False)
    one.state.mkdir(mode=0o700)
    (one.state / "token").write_text("an-old-token\n")
    (one.state / "token").chmod(0o600)
    one.start()
    assert one.connect_tcp(authenticate=False).ask("AUTH an-old-token") == "OK token admin"
    assert (one.state / "token").read_text() == "an-old-token\n"
    one.restart()
    assert one.connect_tcp(authenticate=False).ask("AUTH an-old-token") == "OK token admin"
    assert one.log.count("may be removed once no") == 1
    subprocess.run([TASKQ, "token", "revoke", "token", "--state", one.state], check=True, capture_output=True)
    one.restart()
    assert one.connect_tcp(authenticate=False).ask("AUTH an-old-token").startswith("ERROR AUTH_FAILED ")


def test_address_with_many_failed_auths_is_refused_and_logged_once(
    daemon: DaemonFactory,
) -> None:
    one = daemon(tcp=True)
    token = one.make_token("ci", "--role", "submit")
    replies: list[str] = []
    for _ in range(10):
        wire = one.connect_tcp(authenticate=False)
        replies += [wire.ask("AUTH wrong") for _ in range(3)]
    assert all(reply.startswith("ERROR AUTH_FAILED ") for reply in replies)
    assert ["try again in" in reply for reply in replies] == [False] * 10 + [True] * 20
    unknown = f"{'0' * 8}.{'x' * 43}"
    wire = one.connect_tcp(authenticate=False)
    assert wire.ask(f"AUTH {unknown}").startswith("ERROR AUTH_FAILED too many")
    assert wire.ask(f"AUTH {token}") == "OK ci submit", "a fresh token is not locked out by others"
    assert one.log.count("AUTH from 127.0.0.1:") == 1
    one.stop()
    assert "30 more AUTHs from 127.0.0.1 failed" in one.log
    assert "wrong" not in one.log


@pytest.mark.parametrize("what", ["state", "tokens", "token"])
def test_start_is_refused_if_others_can_read_the_state(daemon: DaemonFactory, what: str) -> None:
    one = daemon(start=False)
    one.state.mkdir(mode=0o700)
    path = one.state if what == "state" else one.state / what
    if what != "state":
        path.write_text("")
    path.chmod(0o750 if what == "state" else 0o640)
    code, output = one.refused()
    assert code == 1
    mode = "700" if what == "state" else "600"
    assert f"taskqd: {path} can be accessed by other users " in output
    assert f"chmod {mode} {path}" in output.splitlines()[-1]
    assert "Traceback" not in output


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_start_is_refused_if_another_user_owns_the_state(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    one.state.mkdir(mode=0o700)
    os.chown(one.state, 12345, 12345)
    code, output = one.refused()
    assert code == 1
    assert f"taskqd: {one.state} belongs to uid 12345, and the daemon runs as uid 0: " in output


def test_plugin_of_twisted_checks_names_and_passwords(daemon: DaemonFactory, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ana:sesame\neve:evil\n")
    one = daemon("--auth", f"file:{users}", "--role", "ana=submit", tcp=True)
    wire = one.connect_tcp(authenticate=False)
    assert json.loads(wire.ask("HELLO").removeprefix("TASKQ 1 "))["auth"] == ["token", "file"]
    assert wire.ask("AUTH ana:wrong").startswith("ERROR AUTH_FAILED ")
    assert wire.ask("AUTH eve:evil").startswith("ERROR AUTH_FAILED eve has no role here")
    assert wire.ask("AUTH ana:sesame") == "OK ana submit"
    assert wire.show(wire.submit("true"))["owner"] == "ana"
    assert "there is no token yet" not in one.log


def test_custom_plugin_checks_its_credentials(
    daemon: DaemonFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "plugin" / "twisted" / "plugins"
    place.mkdir(parents=True)
    shutil.copy(checker_plugin.__file__, place / "ticket_plugin.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugin"))
    key = tmp_path / "key"
    key.write_bytes(b"key")
    one = daemon("--auth", f"ticket:{key}", "--role", "*=read", tcp=True)
    wire = one.connect_tcp(authenticate=False)
    assert wire.ask(f"AUTH {checker_plugin.ticket(b'another', 'ana')}").startswith("ERROR AUTH_FAILED ")
    assert wire.ask(f"AUTH {checker_plugin.ticket(b'key', 'ana')}") == "OK ana read"


def test_start_is_refused_for_unknown_checker(daemon: DaemonFactory) -> None:
    code, said = daemon("--auth", "nonesuch:secret", start=False).refused()
    assert code == 1
    assert "taskqd: auth: twisted.cred has no plugin 'nonesuch'; the plugins that can be used are " in said
    assert "secret" not in said


@pytest.fixture
def ordinary() -> list[str]:
    """Return a prefix that runs a command as an ordinary user: empty, or for root a user namespace."""
    if os.getuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may not make a user namespace here, so it cannot become an ordinary user")
    return prefix


@pytest.mark.needs("setsid")  # which comes with unshare
def test_daemon_without_options_works_for_any_user(ordinary: list[str], tmp_path: Path) -> None:
    # State and socket are private, below the home directory, and found by a client without options.
    variables = environment() | {"HOME": str(tmp_path), "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": ""}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*ordinary, TWISTD, "-n", f"--pidfile={tmp_path}/pid", "taskq"],
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        socket = tmp_path / ".local/state/taskqd/taskq.sock"
        until(lambda: socket.exists() or process.poll() is not None, "the socket")
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) & 0o077 == 0
        shown = subprocess.run(
            [*ordinary, TWISTD.with_name("taskq"), "run", "id -u; echo done"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout == f"{'12345' if ordinary else os.getuid()}\ndone\n"
    finally:
        process.terminate()
        process.wait(DEADLINE)
    assert "Traceback" not in (tmp_path / "log").read_text()
