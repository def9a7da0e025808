"""Turns endpoint strings into listening ports.

UNIX sockets are accessible by their owner only, unless the string gives another mode. The socket file of a
daemon that was killed is removed, one that is in use is not. The files of TLS endpoints are read by ``tls``.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IReactorUNIX, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.paths import MAX_SOCKET_PATH_BYTES
from taskqd.errors import SettingsError, StartRefused
from taskqd.server import tls
from taskqd.server.unix_port import AdoptedUnixEndpoint, UnixEndpoint

BACKLOG = tls.BACKLOG
"""Clients that may wait to be accepted; the kernel reduces it to net.core.somaxconn."""
NOT_PASSED = (
    "the variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES name no such socket for this process; start the "
    "daemon by a systemd socket unit, or by systemd-socket-activate with --fdname=NAME"
)
"""Why a ``systemd:`` endpoint is refused if its socket was not passed to the daemon."""

_log = Logger()
_PARTS = re.compile(r"(?:^|(?<=:))((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)
_NAMED = re.compile(r"((?:[^=\\]|\\.)*)(=?)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TLS = [("", kind) for kind in tls.KINDS]
_UNIX = ("address", "mode", "backlog", "lockfile")
"""The arguments of ``unix:``, in the order in which they may be given without a name."""
_TCP = ("port", "interface", "backlog")
"""The same for ``tcp:``."""
_DEFAULTS = {
    ("", "unix"): (_UNIX, {"mode": "600", "lockfile": "0", "backlog": str(BACKLOG)}),
    ("", "tcp"): (_TCP, {"backlog": str(BACKLOG)}),
    ("", "tcp4"): (_TCP, {"backlog": str(BACKLOG)}),
    ("", "tcp6"): (_TCP, {"backlog": str(BACKLOG)}),
}

Arguments = list[tuple[str, str]]
"""The (name, value) of each argument of an endpoint string; the name is empty if none is given."""


class IAcceptingPort(Protocol):
    """A port as twisted.internet.tcp.Port: ``doRead`` accepts up to ``numberAccepts`` connections."""

    numberAccepts: int

    def doRead(self) -> object:
        """Accept connections."""


def socket_path(endpoint: str) -> str | None:
    """Return the path of a ``unix:`` endpoint string, None for another kind."""
    kind, *arguments = _arguments(endpoint)
    if kind != ("", "unix"):
        return None
    return next((value for name, value in arguments if name in ("", "address")), None)


def is_local(endpoint: str) -> bool:
    """Whether the endpoint is a UNIX socket, so that the kernel identifies its peers."""
    kind, *arguments = _arguments(endpoint)
    if kind == ("", "systemd"):
        return _named(arguments, ("domain",)).get("domain") == "UNIX"
    return kind == ("", "unix")


def has_ca(endpoint: str) -> bool:
    """Whether the endpoint accepts client certificates: TLS with a CA to verify them."""
    kind, *arguments = _arguments(endpoint)
    return kind in _TLS and any(name in tls.CLIENT_CA for name, _ in arguments)


def with_default_mode(endpoint: str) -> str:
    """Return the endpoint string with our defaults in place of Twisted's.

    A UNIX socket is accessible by its owner only. It has no lock file, except behind ``haproxy:``. More
    clients may wait to be accepted.
    """
    kind, *arguments = _arguments(endpoint)
    is_proxied = kind == ("", "haproxy") and bool(arguments)
    if is_proxied:
        kind, *arguments = arguments
    order, defaults = _DEFAULTS.get(kind, ((), {}))
    if is_proxied:  # Twisted listens, and needs its lock file to recognise the socket of a killed daemon
        defaults = {name: value for name, value in defaults.items() if name != "lockfile"}
    given = _named(arguments, order)
    if not given.get(order[0] if order else ""):
        return endpoint
    missing = [f":{name}={value}" for name, value in defaults.items() if name not in given]
    return endpoint + "".join(missing)


def _named(arguments: Arguments, order: tuple[str, ...]) -> dict[str, str]:
    """Return the values of arguments by name; ``order`` has the names of those without one."""
    names = iter(order)
    return {name or next(names, ""): value for name, value in arguments}


def _arguments(endpoint: str) -> Arguments:
    """Split an endpoint string as twisted.internet.endpoints does.

    ``:`` separates arguments and ``=`` a name from its value; a backslash escapes the next character.
    """
    arguments = []
    for argument in _PARTS.findall(endpoint):
        name, equals, value = _NAMED.findall(argument)[0]
        arguments.append((_unescape(name), _unescape(value)) if equals else ("", _unescape(name)))
    return arguments


def _unescape(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def check(reactor: IReactorUNIX, endpoint: str, source: str) -> None:
    """Raise SettingsError, naming ``source``, if an endpoint string is invalid; nothing listens yet."""
    path = os.fsencode(socket_path(endpoint) or "")
    if len(path) > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(
            f"{source}: listen: the path {os.fsdecode(path)} has {len(path)} bytes; a UNIX socket's has at "
            f"most {MAX_SOCKET_PATH_BYTES}; give a shorter one with --listen unix:PATH"
        )
    try:
        _make(reactor, endpoint)
    except StartRefused as error:
        raise SettingsError(f"{source}: listen: {endpoint!r} cannot be used: {error}") from None
    except Exception as error:  # noqa: BLE001 - each kind of endpoint is a plugin with its own exceptions
        is_unknown = isinstance(error, LookupError) and endpoint.startswith("systemd:")
        reason = NOT_PASSED if is_unknown else error
        raise SettingsError(f"{source}: listen: {endpoint!r} is not a valid endpoint: {reason}") from None


def _make(reactor: IReactorUNIX, endpoint: str) -> tuple[IStreamServerEndpoint, list[str]]:
    """Return the endpoint, and warnings for the operator; reads the files of a TLS endpoint."""
    kind, *arguments = _arguments(endpoint)
    if kind == ("", "haproxy") and arguments and arguments[0] in _TLS:
        raise StartRefused("expected haproxy:tcp:...; end TLS at the proxy, or use a separate tls: port")
    if kind in _TLS:
        options = tls.parse_options(arguments)
        files = tls.load_files(options)
        return tls.server(reactor, options, files), list(tls.validity_warnings(files, time.time()))
    full = with_default_mode(endpoint)
    server = serverFromString(reactor, full)  # also checks the arguments of unix:
    if kind == ("", "unix"):
        values = _named(_arguments(full)[1:], _UNIX)
        mode, wants_lock = int(values["mode"], 8), bool(int(values["lockfile"]))
        server = UnixEndpoint(reactor, values["address"], mode, int(values["backlog"]), wants_lock)
    elif isinstance(server, AdoptedStreamServerEndpoint) and server.addressFamily == socket.AF_UNIX:
        server = AdoptedUnixEndpoint(reactor, server.fileno, BACKLOG)
    return server, []


def remove_stale_socket(path: str) -> None:
    """Remove a socket that no process listens on; raises StartRefused if it is in use or not a socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartRefused(
                f"{path} exists and is not a socket; remove it, or choose another path with --listen"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except BlockingIOError:
        pass  # a process listens, and its queue is full
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        _log.info("{path}: removed the socket that a stopped daemon left behind", path=path)
        return
    except OSError as error:
        raise StartRefused(f"cannot listen on {path}: {error}") from None
    raise StartRefused(
        f"another daemon already listens on {path}; stop it, or choose another path with --listen"
    )


def limit_accepts(port: IAcceptingPort, available: Callable[[], int]) -> None:
    """Let a port accept up to ``available()`` connections in one turn of the reactor.

    Twisted accepts up to hundreds, and closes those for which the factory makes no protocol.
    """
    read = port.doRead

    def accept() -> None:
        port.numberAccepts = min(port.numberAccepts, available())
        read()

    port.doRead = accept  # type: ignore[method-assign]


def listen(reactor: IReactorUNIX, endpoint: str, factory: Factory) -> "Deferred[IListeningPort]":
    """Listen on an endpoint string that was checked; raises or fails with StartRefused, naming it."""
    path = socket_path(endpoint)
    if path is not None:
        remove_stale_socket(path)
    try:
        server, warnings = _make(reactor, endpoint)
    except StartRefused as error:
        raise StartRefused(f"cannot listen on {endpoint}: {error}") from None
    for warning in warnings:
        _log.warn("{endpoint}: {warning}", endpoint=endpoint, warning=warning)

    def refuse(failure: Failure) -> IListeningPort:
        raise StartRefused(f"cannot listen on {endpoint}: {failure.value}")

    return server.listen(factory).addErrback(refuse)
