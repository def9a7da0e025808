"""Default paths of the state directory and the socket, for the daemon and for the client.

client/discovery.py says in which order the client tries them.
"""

from collections.abc import Mapping
from os import path

MAX_SOCKET_PATH_BYTES = 107
"""Maximum length of the path of a UNIX socket, in bytes (unix(7))."""
NO_HOME = (
    "the user {uid} has no home directory: HOME is not an absolute path, and the user database has none; "
    "give the state directory with --state"
)
"""The error text if ``default_state`` is not absolute."""

PRIVILEGED_RUNNER = "/var/lib/taskqd-runner"
"""The default directory of root's runner for an unprivileged daemon."""


def default_state(environ: Mapping[str, str], uid: int) -> str:
    """Return the default state directory of a daemon run by ``uid`` with these environment variables.

    It is not absolute, and must not be used, if the user has no home directory.
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
    """Return the possible paths of the socket of ``uid``'s daemon, whatever environment it was started in.

    The first is that of a daemon in this environment. The usual runtime directory of a session comes before
    the state directory.
    """
    here = default_socket(environ, uid)
    if uid == 0:
        return [here]
    session = default_socket({"XDG_RUNTIME_DIR": f"/run/user/{uid}"}, uid)
    return list(dict.fromkeys((here, session, path.join(default_state(environ, uid), "taskq.sock"))))


def address_file(state: str) -> str:
    """Return the path of the file in a state directory to which the daemon writes its address."""
    return path.join(state, "address")


def _xdg(environ: Mapping[str, str], name: str) -> str:
    """Return the directory of an XDG variable, or "": a path that is not absolute must be ignored."""
    directory = environ.get(name, "")
    return directory if path.isabs(directory) else ""
