"""Which daemon is found when no address is given: the same one in every environment."""

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
    """A user's home and a runtime directory, and listening sockets in them."""

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


def test_a_named_address_wins(home: Home) -> None:
    home.listen(home.state / "taskq.sock")
    assert find_address({**home.plain, "TASKQ_ADDRESS": "tcp:h:1"}) == "tcp:h:1"


def test_a_daemon_started_in_a_session_is_found_outside_of_it(home: Home) -> None:
    address = home.listen(home.path / "run/taskqd/taskq.sock")
    home.write(f"{address}\n")
    assert find_address(home.plain) == find_address(home.session) == address


def test_a_daemon_started_outside_of_a_session_is_found_in_it(home: Home) -> None:
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.plain) == find_address(home.session) == address


def test_a_socket_left_by_a_dead_daemon_is_passed_over(home: Home) -> None:
    dead = home.listen(home.path / "run/taskqd/taskq.sock", is_dead=True)
    home.write(f"{dead}\n")
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.session) == address


@pytest.mark.parametrize("text", ["", "taskq.sock", "unix:relative", "tcp:h:1", "\0"])
def test_a_file_without_the_path_of_a_socket_is_passed_over(home: Home, text: str) -> None:
    home.write(text)
    address = home.listen(home.state / "taskq.sock")
    assert find_address(home.session) == address


def test_pipe_in_the_place_of_the_file_is_passed_over_and_not_waited_for(home: Home) -> None:
    address = home.listen(home.state / "taskq.sock")
    os.mkfifo(home.state / "address")
    assert find_address(home.plain) == address


def test_the_home_of_passwd_counts_where_another_is_set(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    address = home.listen(home.state / "taskq.sock")
    user = pwd.struct_passwd(("ann", "x", UID, UID, "", str(home.path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    assert find_address({"HOME": "/nowhere"}) == address


def test_where_no_daemon_is_the_address_is_that_of_this_environment(home: Home) -> None:
    assert find_address(home.session) == f"unix:{home.path}/run/taskqd/taskq.sock"
    home.listen(home.path / "run/taskqd/taskq.sock", is_dead=True)
    home.listen(home.state / "taskq.sock", is_dead=True)
    assert find_address(home.session) == f"unix:{home.path}/run/taskqd/taskq.sock"


def test_a_client_without_an_address_finds_the_daemon(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.state.mkdir(parents=True)
    for name in ("TASKQ_ADDRESS", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    with FakeDaemon(lambda _: b"OK\r\n", home.state) as daemon, Client() as client:
        client.ping()
        assert client.address == daemon.address
