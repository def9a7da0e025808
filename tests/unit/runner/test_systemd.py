"""Datagrams to systemd, received by a real socket."""

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.runner.systemd import notify


@pytest.fixture(name="receiver")
def a_receiver() -> Iterator[socket.socket]:
    """Return a datagram socket that is not bound yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        yield receiver


def test_notify_sends_the_state_to_a_socket_in_the_file_system(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tmp_path may be longer than the address of a socket may be.
    monkeypatch.chdir(tmp_path)
    receiver.bind("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    assert notify("READY=1")
    assert notify("READY=1\nMAINPID=4711")
    assert receiver.recv(4096) == b"READY=1"
    assert receiver.recv(4096) == b"READY=1\nMAINPID=4711"


def test_notify_sends_the_state_to_an_abstract_socket(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"taskqd-test-{secrets.token_hex(8)}"
    receiver.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    assert notify("MAINPID=1")
    assert receiver.recv(4096) == b"MAINPID=1"


def test_notify_without_systemd_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_notify_to_a_missing_socket_raises_and_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sockets() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
        return found

    before = sockets()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "missing")
    with pytest.raises(FileNotFoundError):
        notify("READY=1")
    assert sockets() == before
