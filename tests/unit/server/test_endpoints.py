"""Endpoint strings: defaults, stale sockets, and strings that are invalid or cannot be listened on."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory

from taskqd.errors import SettingsError, StartRefused
from taskqd.server import endpoints
from taskqd.server.endpoints import (
    check,
    has_ca,
    is_local,
    remove_stale_socket,
    socket_path,
    with_default_mode,
)

PATHS = [
    ("unix:/run/taskq.sock", "/run/taskq.sock"),
    ("unix:/run/taskq.sock:mode=660", "/run/taskq.sock"),
    ("unix:mode=660:/run/taskq.sock", "/run/taskq.sock"),
    ("unix:address=/run/taskq.sock", "/run/taskq.sock"),
    ("unix:mode=660:address=/run/taskq.sock:backlog=5", "/run/taskq.sock"),
    (r"unix:/run/a\:b.sock:mode=660", "/run/a:b.sock"),
    (r"unix:/run/a\=b\\c.sock", r"/run/a=b\c.sock"),
    (r"unix:address=/run/a\=b.sock", "/run/a=b.sock"),
    (r"unix:/run/a\\:mode=660", "/run/a\\"),
    ("unix:taskq.sock", "taskq.sock"),
    ("unix:mode=660", None),
    ("tcp:9500", None),
    ("tcp:9500:interface=127.0.0.1", None),
    ("ssl:9500", None),
    ("unixoid:/run/taskq.sock", None),
    ("", None),
]
WITH_DEFAULTS = [
    ("unix:/a", "unix:/a:mode=600:lockfile=0:backlog=4096"),
    ("unix:/a:mode=660", "unix:/a:mode=660:lockfile=0:backlog=4096"),
    ("unix:/a:660", "unix:/a:660:lockfile=0:backlog=4096"),
    ("unix:/a:660:9", "unix:/a:660:9:lockfile=0"),
    ("unix:/a:lockfile=1", "unix:/a:lockfile=1:mode=600:backlog=4096"),
    ("unix:/a:lockfile=0:mode=666", "unix:/a:lockfile=0:mode=666:backlog=4096"),
    ("unix:/a:backlog=5", "unix:/a:backlog=5:mode=600:lockfile=0"),
    (r"unix:/a\:mode\=660", r"unix:/a\:mode\=660:mode=600:lockfile=0:backlog=4096"),
    ("unix", "unix"),
    ("unix:mode=660", "unix:mode=660"),
    ("tcp:9500", "tcp:9500:backlog=4096"),
    ("tcp:9500:interface=127.0.0.1", "tcp:9500:interface=127.0.0.1:backlog=4096"),
    ("tcp:9500:127.0.0.1:5", "tcp:9500:127.0.0.1:5"),
    ("tcp6:port=9500", "tcp6:port=9500:backlog=4096"),
    ("tcp", "tcp"),
    ("haproxy:tcp:9500", "haproxy:tcp:9500:backlog=4096"),
    ("haproxy:unix:/a", "haproxy:unix:/a:mode=600:backlog=4096"),
    ("haproxy:unix:/a:mode=660", "haproxy:unix:/a:mode=660:backlog=4096"),
    ("haproxy:unix:address=/a:lockfile=0", "haproxy:unix:address=/a:lockfile=0:mode=600:backlog=4096"),
    ("haproxy:unix", "haproxy:unix"),
    ("haproxy", "haproxy"),
    ("systemd:domain=UNIX:index=0", "systemd:domain=UNIX:index=0"),
]


@pytest.mark.parametrize("endpoint, path", PATHS)
def test_socket_path_of_endpoint(endpoint: str, path: str | None) -> None:
    assert socket_path(endpoint) == path


@pytest.mark.parametrize("endpoint, result", WITH_DEFAULTS)
def test_unix_socket_is_accessible_by_its_owner_unless_a_mode_is_given(endpoint: str, result: str) -> None:
    assert with_default_mode(endpoint) == result


@pytest.mark.parametrize(
    "endpoint, expected",
    [
        ("unix:/run/x", True),
        ("unix:mode=660:address=/run/x", True),
        ("tcp:9500", False),
        ("tls:9501:key=k:cert=c", False),
        ("unixoid:/run/x", False),
        ("systemd:domain=INET:index=0", False),
        ("systemd:domain=UNIX:index=0", True),
        ("systemd:UNIX:0", True),
        ("systemd:name=taskq:domain=UNIX", True),
        ("", False),
    ],
)
def test_only_unix_sockets_are_local(endpoint: str, expected: bool) -> None:
    assert is_local(endpoint) is expected


@pytest.mark.parametrize(
    "endpoint, expected",
    [
        ("tls:9501:key=k:cert=c:ca=/etc/ca.pem", True),
        ("tls:ca=/etc/ca.pem:port=9501:key=k:cert=c", True),
        ("ssl:9501:privateKey=k:certKey=c:ca=a", True),
        ("ssl:9501:privateKey=k:certKey=c:caCertsDir=/etc/ca", True),
        ("tls:9501:key=k:cert=c", False),
        (r"tls:9501:key=k\:ca=x:cert=c", False),
        ("tls:9501:key=ca:cert=c", False),
        ("tcp:9500:ca=/etc/ca.pem", False),
        ("unix:/run/x:ca=/etc/ca.pem", False),
        ("", False),
    ],
)
def test_only_tls_endpoints_with_a_ca_accept_client_certificates(endpoint: str, expected: bool) -> None:
    assert has_ca(endpoint) is expected


@pytest.mark.parametrize(
    "endpoint", ["unix:/run/x", "unix:/run/x:mode=660", "tcp:9500", "tcp:0:interface=127.0.0.1"]
)
def test_valid_endpoint_passes_the_check(endpoint: str, reactor: Any) -> None:
    check(reactor, endpoint, "here")


@pytest.mark.parametrize("which", ["index=0", "name=q"])
def test_systemd_socket_that_was_not_passed_is_refused(which: str, reactor: Any) -> None:
    with pytest.raises(SettingsError, match="LISTEN_FDNAMES name no such socket"):
        check(reactor, f"systemd:domain=UNIX:{which}", "twistd taskq")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "x",
        "/run/taskq.sock",
        "tcp",
        "tcp:port",
        "tcp:9500:colour=red",
        "unix",
        "unix:/x:mode=rw",
        "foo:1",
        "tls",
        "tls:port",
        "tls:9501:key",
        "ssl:9501:privateKey=/none/k:sslmethod=TLSv1_METHOD",
    ],
)
def test_invalid_endpoint_is_refused_with_its_source(endpoint: str, reactor: Any) -> None:
    with pytest.raises(SettingsError) as refusal:
        check(reactor, endpoint, "/etc/taskqd.toml")
    assert str(refusal.value).startswith(f"/etc/taskqd.toml: listen: {endpoint!r} is not a valid endpoint")
    assert "\n" not in str(refusal.value)


# Stale sockets.


def make_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


def test_socket_of_a_killed_daemon_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s"
    make_stale_socket(path)
    remove_stale_socket(str(path))
    assert not path.exists()
    [record] = caplog.records
    assert f"{path}: removed the socket" in record.getMessage()


def test_missing_socket_is_not_an_error(tmp_path: Path) -> None:
    remove_stale_socket(str(tmp_path / "s"))


def test_socket_in_use_is_refused_and_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StartRefused, match=f"another daemon already listens on {path}"):
            remove_stale_socket(str(path))
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_file_that_is_not_a_socket_is_refused_and_not_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_bytes(b"precious")
    elif kind == "directory":
        path.mkdir()
    else:
        make_stale_socket(tmp_path / "target")
        path.symlink_to(tmp_path / "target")
    with pytest.raises(StartRefused, match=f"{path} exists and is not a socket"):
        remove_stale_socket(str(path))
    assert os.path.lexists(path)


def test_socket_that_cannot_be_examined_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    make_stale_socket(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(StartRefused, match=f"cannot listen on {path}: .*Permission denied"):
        remove_stale_socket(str(path))


# Listening.


async def listen(reactor: Any, endpoint: str) -> Any:
    return await endpoints.listen(reactor, endpoint, Factory())


async def test_unix_socket_has_its_mode_and_is_removed_with_its_port(reactor: Any, tmp_path: Path) -> None:
    for words, mode in (("", 0o600), (":mode=660", 0o660)):
        path = tmp_path / "s"
        make_stale_socket(path)
        port = await listen(reactor, f"unix:{path}{words}")
        found = path.stat().st_mode
        assert stat.S_ISSOCK(found)
        assert stat.S_IMODE(found) == mode
        assert os.listdir(tmp_path) == ["s"]
        await port.stopListening()
        assert not path.exists()


async def test_unix_socket_behind_a_proxy_has_its_mode_and_replaces_a_stale_one(
    reactor: Any, tmp_path: Path
) -> None:
    for words, mode in (("", 0o600), (":mode=660", 0o660)):
        path = tmp_path / "s"
        make_stale_socket(path)
        (tmp_path / "s.lock").symlink_to(str(2**22 + 1))  # more than any pid
        port = await listen(reactor, f"haproxy:unix:{path}{words}")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        await port.stopListening()
        assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Twisted before 26.10 does not close it
async def test_tcp_port_in_use_is_refused(reactor: Any) -> None:
    first = await listen(reactor, "tcp:0:interface=127.0.0.1")
    endpoint = f"tcp:{first.getHost().port}:interface=127.0.0.1"
    with pytest.raises(StartRefused, match=f"cannot listen on {endpoint}: .*in use"):
        await listen(reactor, endpoint)
    await first.stopListening()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Twisted does not close it
async def test_socket_in_a_missing_directory_is_refused(reactor: Any, tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"cannot listen on .*: .*No such file"):
        await listen(reactor, f"unix:{tmp_path}/missing/s")


# The limit of connections.


class CrowdedPort:
    """A port with many waiting clients, which accepts as many per turn as Twisted's."""

    def __init__(self) -> None:
        self.numberAccepts = 100
        self.accepted: list[int] = []

    def doRead(self) -> None:
        self.accepted.append(self.numberAccepts)
        self.numberAccepts += 20


def test_port_accepts_no_more_connections_than_are_available() -> None:
    port, available = CrowdedPort(), [3, 1, 1000]
    endpoints.limit_accepts(port, lambda: available.pop(0))
    for _ in range(3):
        port.doRead()
    assert port.accepted == [3, 1, 21]
