"""``Client.shutdown``: waiting for the end of the daemon's process."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.client import Client, Refused, Unreachable, peer_process
from taskqd.client.peer_process import PeerProcess
from tests.fakes.daemon import FakeDaemon, Request, refused

DAEMON = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    connection = listener.accept()[0]
connection.makefile("rb").readline()
connection.sendall(b"OK 1 ended\\r\\n")
connection.close()
sys.stdin.readline()
"""
"""A daemon that closes its socket and then its connection, and ends when its stdin does."""


@pytest.fixture(name="daemon")
def a_process(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", DAEMON, str(tmp_path / "socket")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"listening\n"
        yield process
        process.kill()


def test_shutdown_with_wait_returns_when_the_process_has_ended(
    daemon: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    returned = threading.Event()

    def shut_down() -> None:
        with Client(f"unix:{tmp_path}/socket") as client:
            assert client.shutdown(end=True, wait=True) == (1, "ended")
        returned.set()

    thread = threading.Thread(target=shut_down)
    thread.start()
    assert not returned.wait(0.3)
    assert daemon.stdin
    daemon.stdin.close()
    thread.join()
    assert returned.is_set()


def test_shutdown_without_wait_returns_at_the_reply(
    daemon: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    with Client(f"unix:{tmp_path}/socket") as client:
        assert client.shutdown() == (1, "ended")
    assert daemon.poll() is None


def test_shutdown_with_wait_over_tcp_returns_when_the_connection_is_closed() -> None:
    def answer(request: Request) -> Iterator[bytes]:
        yield b"OK 0 left\r\n"
        assert request.line == "SHUTDOWN --wait"
        raise OSError

    with FakeDaemon(answer) as daemon, Client(daemon.address) as client:
        assert client.shutdown(wait=True) == (0, "left")


def test_process_that_listens_for_another_is_not_waited_for(
    daemon: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(f"/proc/{daemon.pid}/comm").read_bytes().strip()
    monkeypatch.setattr(peer_process, "SOCKET_MANAGERS", {name})
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(tmp_path / "socket"))
        with PeerProcess(connected) as process:
            process.wait()
    assert daemon.poll() is None


@pytest.mark.parametrize("wait", [False, True])
def test_refused_shutdown_leaves_client_usable(tmp_path: Path, wait: bool) -> None:
    def answer(request: Request) -> bytes:
        return b"OK\r\n" if request.line == "PING" else refused("FORBIDDEN", "no")

    with FakeDaemon(answer, tmp_path) as daemon, Client(daemon.address) as client:
        with pytest.raises(Refused, match="FORBIDDEN"):
            client.shutdown(wait=wait)
        client.ping()


def test_shutdown_is_not_repeated_after_a_lost_connection(tmp_path: Path) -> None:
    with FakeDaemon(lambda _: None, tmp_path) as daemon, Client(daemon.address) as client:
        with pytest.raises(Unreachable, match="may or may not have been carried out"):
            client.shutdown(wait=True)
        assert daemon.lines == ["SHUTDOWN --wait"]


def test_shutdown_of_a_closed_client_is_unreachable(tmp_path: Path) -> None:
    with FakeDaemon(lambda _: None, tmp_path) as daemon, Client(daemon.address) as client:
        client.close()
        with pytest.raises(Unreachable, match="the client is closed"):
            client.shutdown()
