"""Listening UNIX sockets: a removed file is created again, and a stop removes only the daemon's own."""

import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from taskqd.errors import StartRefused
from taskqd.server import endpoints
from taskqd.server.unix_port import AdoptedPort, SocketWatch, UnixPort
from tests.fakes.clocks import in_thread


class Hello(Protocol):
    """Says hello and closes."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"hello")
        self.transport.loseConnection()


async def listen(reactor: Any, endpoint: str) -> Any:
    return await endpoints.listen(reactor, endpoint, Factory.forProtocol(Hello))


def greeting_at(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        return client.recv(100)


async def answer(path: Path) -> bytes:
    talking: Deferred[bytes] = deferToThread(greeting_at, path)
    return await talking


def watch(*ports: Any) -> SocketWatch:
    return SocketWatch(ports, in_thread, endpoints.remove_stale_socket)


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def max_backlog() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def replace_by_stale_socket(path: Path) -> None:
    path.unlink()
    listening(path).close()


@pytest.mark.parametrize(
    "remove",
    [
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("other")),
        replace_by_stale_socket,
        lambda path: shutil.rmtree(path.parent),
        lambda path: shutil.rmtree(path.parent.parent),
    ],
    ids=["removed", "renamed", "replaced by a stale socket", "directory removed", "two directories removed"],
)
async def test_socket_whose_file_is_removed_is_created_again_with_its_mode(
    reactor: Any, tmp_path: Path, remove: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "taskqd" / "s"
    path.parent.mkdir(parents=True)
    port = await listen(reactor, f"unix:{path}:mode=660")
    looking = watch(port, object())
    await looking.check()
    assert not [record for record in caplog.records if "made it again" in record.getMessage()]
    remove(path)
    for _ in range(2):
        await looking.check()
    assert len([record for record in caplog.records if "made it again" in record.getMessage()]) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert await answer(path) == b"hello"
    await port.stopListening()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["another daemon", "a file", "a directory that cannot be made"])
async def test_failure_to_create_a_socket_again_is_logged_once_and_tried_again(
    reactor: Any, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    port = await listen(reactor, f"unix:{path}")
    looking = watch(port)
    path.unlink()
    other = None
    if kind == "another daemon":
        other = listening(path)
    elif kind == "a file":
        path.write_text("precious")
    else:
        path.parent.rmdir()
        path.parent.write_text("a file")
    for _ in range(3):
        await looking.check()
    assert (
        len([record for record in caplog.records if "cannot be made again yet" in record.getMessage()]) == 1
    )
    if other is not None:
        other.close()
    elif kind == "a file":
        path.unlink()
    else:
        path.parent.unlink()
    await looking.check()
    assert await answer(path) == b"hello"
    await port.stopListening()


async def test_socket_created_again_does_not_accept_while_the_port_is_paused(
    reactor: Any, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    port = await listen(reactor, f"unix:{path}")
    port.pauseProducing()
    path.unlink()
    await watch(port).check()
    assert port not in reactor.getReaders()
    port.resumeProducing()
    assert await answer(path) == b"hello"
    await port.stopListening()


@pytest.mark.parametrize("replacement", ["nothing", "another daemon", "a file"])
async def test_stop_removes_only_its_own_file(reactor: Any, tmp_path: Path, replacement: str) -> None:
    path = tmp_path / "s"
    port = await listen(reactor, f"unix:{path}")
    path.unlink()
    other = None
    if replacement == "another daemon":
        other = listening(path)
    elif replacement == "a file":
        path.write_text("precious")
    await port.stopListening()
    assert path.exists() is (replacement != "nothing")
    if other is not None:
        other.close()
    await watch(port).check()
    assert path.exists() is (replacement != "nothing"), "a port that does not listen is not checked"


async def test_stop_removes_a_socket_whose_mode_was_changed(reactor: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    port = await listen(reactor, f"unix:{path}")
    path.chmod(0o666)
    assert port.is_in_place()
    await port.stopListening()
    assert not path.exists()


async def test_stop_removes_the_lock_file(reactor: Any, tmp_path: Path) -> None:
    port = await listen(reactor, f"unix:{tmp_path}/s:lockfile=1")
    assert sorted(os.listdir(tmp_path)) == ["s", "s.lock"]
    await port.stopListening()
    assert os.listdir(tmp_path) == []


async def test_failure_to_create_a_socket_again_leaks_no_descriptor(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    port = await listen(reactor, f"unix:{path}")
    path.unlink()
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "chmod", refuse)
    port.recreate(lambda _: None)
    assert len(os.listdir("/proc/self/fd")) == before
    await port.stopListening()


async def test_adopted_socket_keeps_its_file_its_mode_and_its_listener(reactor: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path) as systemd:
        path.chmod(0o600)
        port: Any = AdoptedPort.adopt(reactor, systemd.fileno(), Factory.forProtocol(Hello), 4096)
        assert await answer(path) == b"hello"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await watch(port).check()
        await port.stopListening()
        assert path.exists()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            systemd.accept()[0].close()


async def test_backlog_is_what_the_kernel_allows(reactor: Any, tmp_path: Path) -> None:
    port: UnixPort = await listen(reactor, f"unix:{tmp_path}/s")
    port.pauseProducing()  # type: ignore[no-untyped-call]
    clients = [socket.socket(socket.AF_UNIX) for _ in range(min(400, max_backlog()))]
    for client in clients:
        client.setblocking(False)
        client.connect(f"{tmp_path}/s")
    for client in clients:
        client.close()
    await port.stopListening()  # type: ignore[no-untyped-call]


def test_socket_with_a_full_queue_is_in_use(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as other:
        other.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for client in clients:
            client.setblocking(False)
            try:
                client.connect(f"{tmp_path}/s")
            except BlockingIOError:
                break
        with pytest.raises(StartRefused, match="another daemon already listens"):
            endpoints.remove_stale_socket(f"{tmp_path}/s")
        for client in clients:
            client.close()
