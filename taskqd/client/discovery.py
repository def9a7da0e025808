"""Finds the daemon when no address is given (docs/operations.md, "Finding the daemon").

The environments of the daemon and of the client may differ: cron, ``ssh host command`` and su do not set
XDG_RUNTIME_DIR. A daemon therefore writes its address into its state directory, and the client tries the
addresses it finds there before the default sockets.
"""

import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

from taskqd.config.paths import address_file, default_socket, default_sockets, default_state

MAX_ADDRESS_BYTES = 4096
"""Read at most this much of an address file (bytes)."""


def find_address(environ: Mapping[str, str] | None = None) -> str:
    """Return TASKQ_ADDRESS, or the first address at which a daemon of this user accepts a connection.

    If none does, return the default address of a daemon that is started in this environment.
    """
    environ = os.environ if environ is None else environ
    if configured := environ.get("TASKQ_ADDRESS"):
        return configured
    uid = os.getuid()
    existing = list(dict.fromkeys(path for path in _candidates(environ, uid) if os.path.exists(path)))
    usable = existing if len(existing) == 1 else filter(_accepts_connections, existing)
    return f"unix:{next(iter(usable), default_socket(environ, uid))}"


def _candidates(environ: Mapping[str, str], uid: int) -> Iterator[str]:
    """Yield the possible paths of the socket, in the order in which they are tried."""
    home = ""
    with suppress(KeyError):
        home = pwd.getpwuid(uid).pw_dir
    environs = [environ, {"HOME": home}] if os.path.isabs(home) else [environ]
    for each in environs:
        if path := _read_socket_path(address_file(default_state(each, uid))):
            yield path
    for each in environs:
        yield from default_sockets(each, uid)


def _read_socket_path(path: str) -> str | None:
    """Return the socket path in an address file, or None if there is none."""
    try:
        # O_NONBLOCK: opening a named pipe must not block.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            text = os.fsdecode(file.read(MAX_ADDRESS_BYTES).strip())
    except OSError:
        return None
    return text.removeprefix("unix:") if text.startswith("unix:/") else None


def _accepts_connections(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
