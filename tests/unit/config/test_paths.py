"""Default paths of the state directory and the socket."""

import pytest

from taskqd.config.paths import address_file, default_socket, default_sockets, default_state

HOME = {"HOME": "/home/ann"}
STATES = [
    (0, {}, "/var/lib/taskqd"),
    (0, {**HOME, "XDG_STATE_HOME": "/s"}, "/var/lib/taskqd"),
    (1000, {**HOME, "XDG_STATE_HOME": "/s"}, "/s/taskqd"),
    (1000, HOME, "/home/ann/.local/state/taskqd"),
    (1000, {**HOME, "XDG_STATE_HOME": ""}, "/home/ann/.local/state/taskqd"),
    (1000, {**HOME, "XDG_STATE_HOME": "relative"}, "/home/ann/.local/state/taskqd"),
    (1000, {}, "/home/own/.local/state/taskqd"),
    (1000, {"HOME": ""}, "/home/own/.local/state/taskqd"),
]
SOCKETS = [
    (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/s", "/run/taskqd/taskq.sock"),
    (1000, {**HOME, "XDG_RUNTIME_DIR": "/run/user/1000"}, "/s", "/run/user/1000/taskqd/taskq.sock"),
    (1000, {**HOME, "XDG_RUNTIME_DIR": "/run/user/1000"}, None, "/run/user/1000/taskqd/taskq.sock"),
    (1000, HOME, "/s", "/s/taskq.sock"),
    (1000, {**HOME, "XDG_RUNTIME_DIR": ""}, "/s", "/s/taskq.sock"),
    (1000, {**HOME, "XDG_RUNTIME_DIR": "relative"}, "/s", "/s/taskq.sock"),
    (1000, HOME, None, "/home/ann/.local/state/taskqd/taskq.sock"),
]


@pytest.mark.parametrize("uid, environ, state", STATES)
def test_default_state_is_in_var_for_root_and_in_the_home_for_others(
    uid: int, environ: dict[str, str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/own")
    assert default_state(environ, uid) == state


@pytest.mark.parametrize("uid, environ, state, socket", SOCKETS)
def test_default_socket_is_in_the_runtime_directory_or_else_in_the_state(
    uid: int, environ: dict[str, str], state: str | None, socket: str
) -> None:
    assert default_socket(environ, uid, state) == socket


@pytest.mark.parametrize(
    "uid, environ, sockets",
    [
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, ["/run/taskqd/taskq.sock"]),
        (
            1000,
            HOME,
            ["/home/ann/.local/state/taskqd/taskq.sock", "/run/user/1000/taskqd/taskq.sock"],
        ),
        (
            1000,
            {**HOME, "XDG_RUNTIME_DIR": "/r"},
            [
                *("/r/taskqd/taskq.sock", "/run/user/1000/taskqd/taskq.sock"),
                "/home/ann/.local/state/taskqd/taskq.sock",
            ],
        ),
    ],
)
def test_default_sockets_include_those_of_other_environments(
    uid: int, environ: dict[str, str], sockets: list[str]
) -> None:
    assert default_sockets(environ, uid) == sockets


def test_address_file_is_in_the_state_directory() -> None:
    assert address_file("/s") == "/s/address"
