"""Where the daemon is when nobody says so (docs/operations.md, "Finding the daemon").

The daemon's environment and ours may differ: cron, ``ssh host command`` and su set no XDG_RUNTIME_DIR. So a
daemon writes its address into its state directory, and the places of its default socket are tried in order.
"""

import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

from taskqd.config.paths import address_file, default_socket, default_sockets, default_state

MAX_ADDRESS_BYTES = 4096
"""Of the file with the address this many bytes are read."""


def find_address(environ: Mapping[str, str] | None = None) -> str:
    """Return TASKQ_ADDRESS, or the first address at which a daemon of this user answers.

    If none does, return the one that a daemon started in this environment would have.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("TASKQ_ADDRESS"):
        return named
    uid = os.getuid()
    found = list(dict.fromkeys(path for path in _paths(environ, uid) if os.path.exists(path)))
    answering = found if len(found) == 1 else filter(_answers, found)
    return f"unix:{next(iter(answering), default_socket(environ, uid))}"


def _paths(environ: Mapping[str, str], uid: int) -> Iterator[str]:
    """Yield the paths where the socket may be, in the order in which they are tried."""
    home = ""
    with suppress(KeyError):
        home = pwd.getpwuid(uid).pw_dir
    environs = [environ, {"HOME": home}] if os.path.isabs(home) else [environ]
    for each in environs:
        if path := _written(address_file(default_state(each, uid))):
            yield path
    for each in environs:
        yield from default_sockets(each, uid)


def _written(path: str) -> str | None:
    """Return the socket's path that a daemon has written into a file, None if there is none."""
    try:
        # What is no file, such as a pipe, is not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            text = os.fsdecode(file.read(MAX_ADDRESS_BYTES).strip())
    except OSError:
        return None
    return text.removeprefix("unix:") if text.startswith("unix:/") else None


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
