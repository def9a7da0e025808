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
_SEPARATOR = re.compile(r"(?<!\\):")


def socket_path(endpoint: str) -> str | None:
    """Return the path of a ``unix:`` endpoint string, or None if it is of another kind."""
    kind, *arguments = _SEPARATOR.split(endpoint)
    if kind != "unix":
        return None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name == "address":
            return (value if equals else name).replace("\\:", ":").replace("\\\\", "\\")
    return None


def guarded(endpoint: str) -> str:
    """Return the endpoint string, a UNIX socket's for its owner alone unless told, without Twisted's lock."""
    if socket_path(endpoint) is None:
        return endpoint
    for name, value in (("mode", "600"), ("lockfile", "0")):
        if not re.search(rf":{name}=", endpoint):
            endpoint += f":{name}={value}"
    return endpoint


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
