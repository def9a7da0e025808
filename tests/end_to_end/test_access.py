"""docs/protocol.md §6: who may ask, over a UNIX socket and over TCP."""

import os
import pwd
import stat
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TWISTD, Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

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
    """Return a connection over TCP that has not said who it is."""
    return running.connect_tcp(authenticate=False)


@pytest.mark.parametrize("request_line", GUARDED)
def test_every_request_over_tcp_needs_auth(stranger: Wire, request_line: str) -> None:
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


def test_a_token_opens_everything(running: Daemon, stranger: Wire) -> None:
    reply = stranger.ask(f"AUTH {running.token}").split(" ")
    assert reply[0] == "OK"
    assert reply[2] == "admin"
    job = stranger.submit("echo hi")
    assert stranger.wait(job) == "COMPLETED"
    assert stranger.show(job)["owner"] == "token"
    assert stranger.ask("STATS").startswith("STATS {")


def test_auth_is_seen_by_the_requests_behind_it_and_by_its_connection_alone(
    running: Daemon, stranger: Wire
) -> None:
    stranger.send(f"LIST --limit=1\r\nAUTH {running.token}\r\nSUBMIT true\r\n".encode())
    refusal, granted, accepted = stranger.lines(3)
    assert refusal.startswith("ERROR AUTH_REQUIRED ")
    assert granted.startswith("OK ")
    assert accepted.startswith("JOB_ID ")
    assert running.connect_tcp(authenticate=False).ask("STATS").startswith("ERROR AUTH_REQUIRED ")


def test_three_failures_close_the_connection(running: Daemon, stranger: Wire) -> None:
    stranger.send(b"AUTH wrong\r\nPING\r\nAUTH wrong\r\n")
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    assert stranger.line().startswith("OK")
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    stranger.send(f"AUTH {running.token[:-1]}\r\nAUTH {running.token}\r\nSUBMIT true\r\n".encode())
    assert stranger.line().startswith("ERROR AUTH_FAILED ")
    assert stranger.rest() == b""


@pytest.mark.parametrize("token", ["x", "x" * 60_000, "é", "tokén", '"x"'])
def test_a_wrong_token_is_refused(stranger: Wire, token: str) -> None:
    assert stranger.ask(f"AUTH {token}").split(" ")[:2] in (
        ["ERROR", "AUTH_FAILED"],
        ["ERROR", "BAD_REQUEST"],
    )
    assert stranger.ask("STATS").startswith("ERROR AUTH_REQUIRED ")


def test_the_blocks_of_a_stranger_are_thrown_away(running: Daemon, stranger: Wire) -> None:
    block = f"AUTH {running.token}\r\nSUBMIT true\r\n".encode()
    stranger.send(b"SUBMIT --stdin=%d cat\r\n%b\r\nPING\r\nSTATS\r\n" % (len(block), block))
    assert stranger.line().startswith("ERROR AUTH_REQUIRED ")
    assert stranger.line().startswith("OK")
    assert stranger.line().startswith("ERROR AUTH_REQUIRED ")


def test_a_unix_socket_knows_its_peer(running: Daemon, wire: Wire) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    assert wire.show(wire.submit("true"))["owner"] == me
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600


def test_the_token_is_private_and_stays(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    token = one.token
    assert len(token) >= 16
    assert stat.S_IMODE((one.state / "token").stat().st_mode) == 0o600
    one.restart()
    assert one.token == token
    assert one.connect_tcp().ask("STATS").startswith("STATS ")
    assert daemon(tcp=True).token != token


@pytest.fixture
def ordinary() -> list[str]:
    """Return what makes an ordinary user of a command's: nothing, or for root a user namespace."""
    if os.getuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may not make a user namespace here, so cannot be somebody else")
    return prefix


@pytest.mark.needs("setsid")  # which comes with unshare
def test_a_daemon_without_options_works_for_any_user(ordinary: list[str], tmp_path: Path) -> None:
    """State and socket are below the home directory, private, and found by a client without options too."""
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
