"""Endpoint strings -> listening ports, with what Twisted leaves to us for UNIX sockets.

A UNIX socket is for its owner alone unless the string gives another mode. A socket file that a killed daemon
left behind is removed, one on which somebody still listens is not.
"""

import os
import re
import socket
import stat
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import SettingsError, StartRefused

_log = Logger()
_PARTS = re.compile(r"(?:^|(?<=:))((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)
_NAMED = re.compile(r"((?:[^=\\]|\\.)*)(=?)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def socket_path(endpoint: str) -> str | None:
    """Return the path of a ``unix:`` endpoint string, or None if it is of another kind."""
    kind, *arguments = _arguments(endpoint)
    if kind != ("", "unix"):
        return None
    return next((value for name, value in arguments if name in ("", "address")), None)


def guarded(endpoint: str) -> str:
    """Return the endpoint string, a UNIX socket's for its owner alone unless told, without Twisted's lock."""
    if socket_path(endpoint) is None:
        return endpoint
    given = {name for name, _ in _arguments(endpoint)}
    for name, value in (("mode", "600"), ("lockfile", "0")):
        if name not in given:
            endpoint += f":{name}={value}"
    return endpoint


def _arguments(endpoint: str) -> list[tuple[str, str]]:
    """Return (name, value) of each argument, the name empty where there is none.

    As twisted.internet.endpoints reads them: ``:`` parts arguments and ``=`` a name from its value, and what
    follows a backslash stands for itself.
    """
    arguments = []
    for argument in _PARTS.findall(endpoint):
        name, equals, value = _NAMED.findall(argument)[0]
        arguments.append((_plain(name), _plain(value)) if equals else ("", _plain(name)))
    return arguments


def _plain(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def check(reactor: Any, endpoint: str, source: str) -> None:
    """Raise SettingsError, naming ``source``, if ``endpoint`` is no string that can be listened on."""
    try:
        serverFromString(reactor, guarded(endpoint))
    except Exception as why:  # noqa: BLE001 - each kind of endpoint is a plugin that raises what it likes
        raise SettingsError(f"{source}: listen: {endpoint!r} is no endpoint: {why}") from None


def clear_the_way(path: str) -> None:
    """Remove a socket that nobody listens on; raises StartRefused if somebody does or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartRefused(
                f"{path} is there and is no socket; remove it, or listen elsewhere with --listen"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        _log.info("{path}: removed the socket that a stopped daemon left behind", path=path)
        return
    except OSError as why:
        raise StartRefused(f"{path} cannot be listened on: {why}") from None
    raise StartRefused(
        f"another daemon already listens on {path}; stop it, or listen elsewhere with --listen"
    )


def listen(reactor: Any, endpoint: str, factory: Factory) -> "Deferred[IListeningPort]":
    """Listen on an endpoint string that was checked; raises or fails with StartRefused, naming it."""
    path = socket_path(endpoint)
    if path is not None:
        clear_the_way(path)

    def refused(failure: Failure) -> IListeningPort:
        raise StartRefused(f"{endpoint} cannot be listened on: {failure.value}")

    listening: Deferred[IListeningPort] = serverFromString(reactor, guarded(endpoint)).listen(factory)
    return listening.addErrback(refused)
