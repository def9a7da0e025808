"""Where the daemon keeps its state and listens when nobody says so; the client looks in the same places.

How the client chooses between them is in client/finding.py.
"""

from collections.abc import Mapping
from os import path

MAX_SOCKET_PATH_BYTES = 107
"""The path of a UNIX socket has at most this many bytes (unix(7))."""
NO_HOME = (
    "the user {uid} has no home directory: HOME is not an absolute path, and the user database has none; "
    "give the state directory with --state"
)
"""What is said where ``default_state`` is not absolute."""


def default_state(environ: Mapping[str, str], uid: int) -> str:
    """Return the default state directory of a daemon run by ``uid`` with these environment variables.

    It is not absolute where the user has no home directory: such a path is not to be used.
    """
    if uid == 0:
        return "/var/lib/taskqd"
    home = environ.get("HOME") or path.expanduser("~")
    return path.join(_xdg(environ, "XDG_STATE_HOME") or path.join(home, ".local", "state"), "taskqd")


def default_socket(environ: Mapping[str, str], uid: int, state: str | None = None) -> str:
    """Return the path of the default UNIX socket of a daemon run by ``uid``, whose state is in ``state``."""
    if uid == 0:
        return "/run/taskqd/taskq.sock"
    runtime = _xdg(environ, "XDG_RUNTIME_DIR")
    if runtime:
        return path.join(runtime, "taskqd", "taskq.sock")
    return path.join(state or default_state(environ, uid), "taskq.sock")


def default_sockets(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the paths of the default socket of ``uid``'s daemon, whichever environment it was started in.

    The first is that of a daemon in this environment; the usual runtime directory of a session, which
    XDG_RUNTIME_DIR names there, comes before the state directory.
    """
    here = default_socket(environ, uid)
    if uid == 0:
        return [here]
    session = default_socket({"XDG_RUNTIME_DIR": f"/run/user/{uid}"}, uid)
    return list(dict.fromkeys((here, session, path.join(default_state(environ, uid), "taskq.sock"))))


def address_file(state: str) -> str:
    """Return the path of the file in which a daemon whose state is in ``state`` writes its address."""
    return path.join(state, "address")


def _xdg(environ: Mapping[str, str], name: str) -> str:
    """Return the directory of an XDG variable, or nothing: one that is not absolute is to be ignored."""
    directory = environ.get(name, "")
    return directory if path.isabs(directory) else ""
