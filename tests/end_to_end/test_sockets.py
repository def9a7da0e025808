"""The daemon's sockets among those who remove them, replace them, hand them over, or come in a crowd."""

import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Command, Daemon
from tests.end_to_end.wire import until


def test_socket_file_that_is_removed_comes_back_within_seconds_and_the_log_says_so(
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


def test_stop_leaves_the_socket_of_another_daemon_alone(daemon: DaemonFactory) -> None:
    one = daemon()
    one.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(one.socket))
        other.listen()
        assert one.stop() is not None
        assert one.socket.exists()
        one.socket.unlink()
    assert "Traceback" not in one.log


def test_stop_after_the_socket_was_removed_says_nothing_of_it(daemon: DaemonFactory) -> None:
    one = daemon()
    one.socket.unlink()
    one.stop()
    assert "Traceback" not in one.log
    assert "Unhandled" not in one.log


_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="taskq")
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(one: Daemon, listener: socket.socket) -> "subprocess.Popen[bytes]":
    """Start a daemon as systemd does that hands a socket over: as descriptor 3, with the pid beside it."""
    words = [sys.executable, "-c", _HAND_OVER, str(listener.fileno())]
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


def test_socket_that_systemd_hands_over_is_local_and_stays_as_it_is(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(str(one.socket))
        one.socket.chmod(0o600)
        systemd.listen()
        process = handed_over(one, systemd)
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
            next_client.connect(str(one.socket))  # it waits for the next start, in systemd's hands
    assert "Traceback" not in one.log


def test_crowd_of_clients_at_once_is_let_in(daemon: DaemonFactory) -> None:
    one = daemon()
    with ExitStack() as crowd:
        clients = [crowd.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(400)]
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
