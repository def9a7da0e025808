"""The addresses of the daemon's sockets, as its jobs and ``taskq`` find them."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from taskqd.daemon.address_files import SocketAddresses


class Port:
    """A listening port that has only an address."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def getHost(self) -> Any:
        return self._host


def unix(path: Path, mode: int) -> Any:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    path.chmod(mode)
    return Port(UNIXAddress(os.fsencode(path)))


def addresses(*ports: Any) -> SocketAddresses:
    found = SocketAddresses()
    for port in ports:
        found.add(port)
    return found


TCP: Any = Port(IPv4Address("TCP", "127.0.0.1", 9500))


def test_job_of_the_daemon_s_user_gets_the_first_socket(tmp_path: Path) -> None:
    found = addresses(TCP, unix(tmp_path / "a", 0o600), unix(tmp_path / "b", 0o666))
    assert found.for_job(runs_as_owner=False) == f"unix:{tmp_path}/a"


@pytest.mark.parametrize("mode, name", [(0o660, "b"), (0o606, "b"), (0o600, "a")])
def test_job_of_another_user_gets_the_first_socket_that_others_may_use(
    tmp_path: Path, mode: int, name: str
) -> None:
    found = addresses(unix(tmp_path / "a", 0o600), unix(tmp_path / "b", mode))
    assert found.for_job(runs_as_owner=True) == f"unix:{tmp_path}/{name}"


@pytest.mark.parametrize("host", [UNIXAddress(None), UNIXAddress(b""), UNIXAddress(b"/nowhere/x")])
def test_socket_without_a_file_has_no_address(host: UNIXAddress) -> None:
    assert addresses(TCP, Port(host)).for_job(runs_as_owner=False) is None


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unix(tmp_path / "a", 0o600)
    assert addresses(Port(UNIXAddress(b"a"))).for_job(runs_as_owner=False) == f"unix:{tmp_path}/a"


def test_address_file_is_written_and_removed_when_there_is_no_socket(tmp_path: Path) -> None:
    file = tmp_path / "address"
    addresses(TCP).write_file(str(tmp_path))
    assert not file.exists()
    addresses(TCP, unix(tmp_path / "a", 0o600)).write_file(str(tmp_path))
    assert file.read_text() == f"unix:{tmp_path}/a\n"
    assert file.stat().st_mode & 0o777 == 0o600
    addresses(TCP).write_file(str(tmp_path))
    assert os.listdir(tmp_path) == ["a"]
