"""Endpoint strings -> listening ports, with what Twisted leaves to us for UNIX sockets and for TLS.

A UNIX socket is for its owner alone unless the string gives another mode. A socket file that a killed daemon
left behind is removed, one on which somebody still listens is not. What secures TLS is read by ``tls``.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.paths import MAX_SOCKET_PATH_BYTES
from taskqd.errors import SettingsError, StartRefused
from taskqd.server import tls
from taskqd.server.unix_port import HandedPort, UnixPort
from taskqd.speedups import byte_socket
from taskqd.speedups.client_poller import ClientPoller

BACKLOG = tls.BACKLOG
"""As many clients may wait to be let in, or as the kernel allows (net.core.somaxconn), if that is less."""
NOT_HANDED_OVER = (
    "LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES of the environment name no such socket for this process; "
    "start the daemon by a systemd socket unit, or by systemd-socket-activate with --fdname=NAME"
)

_log = Logger()
_PARTS = re.compile(r"(?:^|(?<=:))((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)
_NAMED = re.compile(r"((?:[^=\\]|\\.)*)(=?)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TLS = [("", kind) for kind in tls.KINDS]
_UNIX = ("address", "mode", "backlog", "lockfile")
"""The arguments of ``unix:`` in the order in which they may come without a name."""
_TCP = ("port", "interface", "backlog")
"""The arguments of ``tcp:`` likewise."""
_DEFAULTS = {
    ("", "unix"): (_UNIX, {"mode": "600", "lockfile": "0", "backlog": str(BACKLOG)}),
    ("", "tcp"): (_TCP, {"backlog": str(BACKLOG)}),
    ("", "tcp4"): (_TCP, {"backlog": str(BACKLOG)}),
    ("", "tcp6"): (_TCP, {"backlog": str(BACKLOG)}),
}


def socket_path(endpoint: str) -> str | None:
    """Return the path of a ``unix:`` endpoint string, or None if it is of another kind."""
    kind, *arguments = _arguments(endpoint)
    if kind != ("", "unix"):
        return None
    return next((value for name, value in arguments if name in ("", "address")), None)


def is_local(endpoint: str) -> bool:
    """Whether the endpoint is a UNIX socket, which knows its peers; one that systemd hands over may be."""
    kind, *arguments = _arguments(endpoint)
    if kind == ("", "systemd"):
        return _named(arguments, ("domain",)).get("domain") == "UNIX"
    return kind == ("", "unix")


def has_ca(endpoint: str) -> bool:
    """Whether the endpoint takes client certificates: it speaks TLS, and has a CA to verify them by."""
    kind, *arguments = _arguments(endpoint)
    return kind in _TLS and any(name in tls.CLIENT_CA for name, _ in arguments)


def with_default_mode(endpoint: str) -> str:
    """Return the endpoint string with our defaults in place of Twisted's.

    A UNIX socket is for its owner alone and has no lock of Twisted's, unless it is behind ``haproxy:``; more
    clients may wait to be let in.
    """
    kind, *arguments = _arguments(endpoint)
    is_proxied = kind == ("", "haproxy") and bool(arguments)
    if is_proxied:
        kind, *arguments = arguments
    order, defaults = _DEFAULTS.get(kind, ((), {}))
    if is_proxied:  # Twisted listens there, and its lock tells a socket that was left behind from one in use
        defaults = {name: value for name, value in defaults.items() if name != "lockfile"}
    given = _named(arguments, order)
    if not given.get(order[0] if order else ""):
        return endpoint
    missing = [f":{name}={value}" for name, value in defaults.items() if name not in given]
    return endpoint + "".join(missing)


def _named(arguments: list[tuple[str, str]], order: tuple[str, ...]) -> dict[str, str]:
    """Return the values of arguments by name; those without one have the names of ``order``, in turn."""
    names = iter(order)
    return {name or next(names, ""): value for name, value in arguments}


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
    path = os.fsencode(socket_path(endpoint) or "")
    if len(path) > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(
            f"{source}: listen: the path {os.fsdecode(path)} has {len(path)} bytes, and that of a UNIX "
            f"socket has at most {MAX_SOCKET_PATH_BYTES}; give a shorter one with --listen unix:PATH"
        )
    try:
        _make(reactor, endpoint)
    except StartRefused as why:
        raise SettingsError(f"{source}: listen: {endpoint!r} cannot be listened on: {why}") from None
    except Exception as why:  # noqa: BLE001 - each kind of endpoint is a plugin that raises what it likes
        is_unknown = isinstance(why, LookupError) and endpoint.startswith("systemd:")
        reason = NOT_HANDED_OVER if is_unknown else why
        raise SettingsError(f"{source}: listen: {endpoint!r} is no endpoint: {reason}") from None


def _make(reactor: Any, endpoint: str) -> tuple[IStreamServerEndpoint, list[str]]:
    """Return what listens, and what an operator should know of it; reads the files of a TLS endpoint."""
    kind, *arguments = _arguments(endpoint)
    if kind == ("", "haproxy") and arguments and arguments[0] in _TLS:
        raise StartRefused("expected haproxy:tcp:...; TLS ends at the proxy, or at a port of its own")
    if kind not in _TLS:
        return serverFromString(reactor, with_default_mode(endpoint)), []
    options = tls.parse_options(arguments)
    files = tls.load_files(options)
    return tls.server(reactor, options, files), list(tls.validity_warnings(files, time.time()))


def remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on; raises StartRefused if somebody does or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartRefused(
                f"{path} is there and is no socket; remove it, or listen elsewhere with --listen"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except BlockingIOError:
        pass  # somebody listens there, and does not get to it
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


def accept_within(port: Any, room: Callable[[], int]) -> None:
    """Have a port accept no more in one turn of the reactor than there is room for: others wait their turn.

    Twisted accepts up to hundreds at once, and closes without a word those for which there is no place then.
    """
    read = port.doRead

    def accept() -> None:
        port.numberAccepts = min(port.numberAccepts, room())
        read()

    port.doRead = accept


def listen(
    reactor: Any, endpoint: str, factory: Factory, rounds: ClientPoller | None = None
) -> "Deferred[IListeningPort]":
    """Listen on an endpoint string that was checked; raises or fails with StartRefused, naming it.

    The clients of a UNIX socket are served in ``rounds``, if there are any.
    """
    path = socket_path(endpoint)
    if path is not None:
        remove_stale_socket(path)
    try:
        server, validity_warnings = _make(reactor, endpoint)
    except StartRefused as why:
        raise StartRefused(f"{endpoint} cannot be listened on: {why}") from None
    for doubt in validity_warnings:
        _log.warn("{endpoint}: {doubt}", endpoint=endpoint, doubt=doubt)

    def refused(failure: Failure) -> IListeningPort:
        raise StartRefused(f"{endpoint} cannot be listened on: {failure.value}")

    listening = _listening(reactor, endpoint, server, factory)
    return listening.addCallbacks(partial(byte_socket.use_byte_sockets, rounds=rounds), refused)


def _listening(
    reactor: Any, endpoint: str, server: IStreamServerEndpoint, factory: Factory
) -> "Deferred[IListeningPort]":
    """Listen as Twisted's endpoint does, on a UNIX socket with a port of our own."""
    if isinstance(server, AdoptedStreamServerEndpoint) and server.addressFamily == socket.AF_UNIX:
        return execute(_adopt, reactor, server.fileno, factory)
    if not is_local(endpoint):
        return server.listen(factory)
    return execute(_listen_on_unix, reactor, endpoint, factory)


def _listen_on_unix(reactor: Any, endpoint: str, factory: Factory) -> IListeningPort:
    given = _named(_arguments(with_default_mode(endpoint))[1:], _UNIX)
    port: Any = UnixPort(
        os.fsencode(given["address"]),
        factory,
        int(given["backlog"]),
        int(given["mode"], 8),
        reactor,
        wantPID=int(given["lockfile"]),
    )
    port.startListening()
    return cast("IListeningPort", port)


def _adopt(reactor: Any, descriptor: int, factory: Factory) -> IListeningPort:
    port: Any = HandedPort.adopt(reactor, descriptor, factory, BACKLOG)
    os.close(descriptor)  # the port has one of its own
    return cast("IListeningPort", port)
