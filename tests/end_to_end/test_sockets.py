"""The daemon's sockets: removed, replaced, passed by systemd, and with many clients at once."""

import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Command, Daemon
from tests.end_to_end.wire import until


def test_removed_socket_file_is_created_again_within_seconds_and_logged(
    daemon: DaemonFactory,
) -> None:
    one = daemon()
    before = one.connect()
    one.socket.unlink()
    until(one.answers, "the socket to come back", deadline=10)
    assert before.ask("PING").startswith("OK")
    assert one.log.count("made it again") == 1
    one.stop()
    assert not one.socket.exists()


def test_stop_does_not_remove_the_socket_of_another_daemon(daemon: DaemonFactory) -> None:
    one = daemon()
    one.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(one.socket))
        other.listen()
        assert one.stop() is not None
        assert one.socket.exists()
        one.socket.unlink()
    assert "Traceback" not in one.log


def test_stop_after_the_socket_was_removed_logs_no_error(daemon: DaemonFactory) -> None:
    one = daemon()
    one.socket.unlink()
    one.stop()
    assert "Traceback" not in one.log
    assert "Unhandled" not in one.log


_PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="taskq")
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_with_socket(one: Daemon, listener: socket.socket) -> "subprocess.Popen[bytes]":
    """Start a daemon as systemd does for a socket unit: the socket is descriptor 3."""
    words = [sys.executable, "-c", _PASS_SOCKET, str(listener.fileno())]
    options = one.options[:]
    options[options.index("--listen") + 1] = "systemd:domain=UNIX:index=0"
    command: Command = [*words, one.twistd, "-n", f"--pidfile={one.pid_file}", "taskq", *options]
    with one.log_file.open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=one.place,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
        )


def test_socket_passed_by_systemd_is_local_and_stays_unchanged(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(str(one.socket))
        one.socket.chmod(0o600)
        systemd.listen()
        process = start_with_socket(one, systemd)
        one.started_elsewhere(process.pid)
        until(lambda: one.answers() or process.poll() is not None, "the daemon to answer", 20)
        assert process.poll() is None, one.log
        wire = one.connect()
        assert wire.run("echo hi").stdout == b"hi\n"
        assert "there is no token yet" not in one.log
        assert stat.S_IMODE(one.socket.stat().st_mode) == 0o600
        process.terminate()
        process.wait(30)
        assert one.socket.exists()
        with socket.socket(socket.AF_UNIX) as next_client:
            next_client.connect(str(one.socket))  # it waits for the next start of the daemon
    assert "Traceback" not in one.log


def test_many_clients_that_connect_at_once_are_accepted(daemon: DaemonFactory) -> None:
    one = daemon()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(400)]
        for client in clients:
            client.setblocking(False)
            client.connect(str(one.socket))
        for client in clients:
            client.settimeout(30)
            client.sendall(b"PING\n")
        assert {client.recv(100)[:2] for client in clients} == {b"OK"}


def test_socket_path_that_is_too_long_is_refused_with_the_limit(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    path = Path("/tmp") / ("x" * 103)
    one.options[one.options.index("--listen") + 1] = f"unix:{path}"
    code, said = one.refused()
    assert code == 1
    assert f"the path {path} has 108 bytes" in said
    assert "at most 107" in said
    assert "Traceback" not in said
