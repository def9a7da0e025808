"""Finding the daemon without an address: every environment finds the same one."""

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from taskqd.client import Client, find_address
from tests.fakes.daemon import FakeDaemon

UID = 4_000_000


class Home(NamedTuple):
    """A user's home and runtime directory with sockets in them."""

    path: Path
    sockets: list[socket.socket]

    @property
    def plain(self) -> dict[str, str]:
        return {"HOME": str(self.path)}

    @property
    def session(self) -> dict[str, str]:
        return {**self.plain, "XDG_RUNTIME_DIR": f"{self.path}/run"}

    @property
    def state(self) -> Path:
        return self.path / ".local/state/taskqd"

    def listen(self, path: Path, *, is_dead: bool = False) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        if not is_dead:
            listening.listen()
        self.sockets.append(listening)
        return f"unix:{path}"

    def write(self, text: str) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "address").write_text(text)


@pytest.fixture(name="home")
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(os, "getuid", lambda: UID)
    home = Home(tmp_path, [])
    yield home
    for each in home.sockets:
        each.close()


def test_find_address_prefers_taskq_address(home: Home) -> None:
    home.listen(home.state / "taskq.sock")
    assert find_address({**home.plain, "TASKQ_ADDRESS": "tcp:h:1"}) == "tcp:h:1"


def test_daemon_started_in_a_session_is_found_outside_of_it(home: Home) -> None:
    address = home.listen(home.path / "run/taskqd/taskq.sock")
    home.write(f"{address}\n")
    assert find_address(home.plain) == find_address(home.session) == address


def test_daemon_started_outside_of_a_session_is_found_in_it(home: Home) -> None:
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.plain) == find_address(home.session) == address


def test_socket_of_a_dead_daemon_is_skipped(home: Home) -> None:
    dead = home.listen(home.path / "run/taskqd/taskq.sock", is_dead=True)
    home.write(f"{dead}\n")
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.session) == address


@pytest.mark.parametrize("text", ["", "taskq.sock", "unix:relative", "tcp:h:1", "\0"])
def test_address_file_without_socket_path_is_skipped(home: Home, text: str) -> None:
    home.write(text)
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.session) == address


def test_address_file_that_is_a_pipe_is_skipped_without_blocking(home: Home) -> None:
    address = home.listen(home.state / "taskq.sock")
    os.mkfifo(home.state / "address")
    assert find_address(home.plain) == address


def test_home_of_the_passwd_entry_is_searched_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    address = home.listen(home.state / "taskq.sock")
    user = pwd.struct_passwd(("ann", "x", UID, UID, "", str(home.path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    assert find_address({"HOME": "/nowhere"}) == address


def test_find_address_returns_default_socket_without_daemon(home: Home) -> None:
    assert find_address(home.session) == f"unix:{home.path}/run/taskqd/taskq.sock"
    home.listen(home.path / "run/taskqd/taskq.sock", is_dead=True)
    home.listen(home.state / "taskq.sock", is_dead=True)
    assert find_address(home.session) == f"unix:{home.path}/run/taskqd/taskq.sock"


def test_client_without_address_finds_the_daemon(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.state.mkdir(parents=True)
    for name in ("TASKQ_ADDRESS", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    with FakeDaemon(lambda _: b"OK\r\n", home.state) as daemon, Client() as client:
        client.ping()
        assert client.address == daemon.address
