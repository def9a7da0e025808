"""Who is at the other end: a user of this machine by the socket, or whoever has the token."""

import hmac
import os
import pwd
import secrets
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple

from taskqd.errors import AuthFailed, StartRefused

_CREDENTIALS = struct.Struct("3i")
_TOKEN_BYTES = 32


class Principal(NamedTuple):
    """Somebody who may ask for something; ``name`` becomes the owner of the jobs that they submit."""

    name: str
    role: str


class Access:
    """Tells who a peer is; ``token`` is the one that makes a peer without a name of its own an admin."""

    def __init__(self, token: str) -> None:
        self._token = token.encode("utf-8")

    def peer(self, connection: Any) -> Principal | None:
        """Return who is behind a socket, or None if the socket does not tell.

        A UNIX socket does (SO_PEERCRED, unix(7)); its mode guards it, so whoever got through is an admin.
        """
        if connection.family != socket.AF_UNIX:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        return Principal(user_name(uid), "admin")

    def authenticate(self, token: str) -> Principal:
        """Return who has this token; raises AuthFailed."""
        if not hmac.compare_digest(token.encode("utf-8"), self._token):
            raise AuthFailed(
                "that is not the token; the daemon keeps it in the file token of its state directory"
            )
        return Principal("token", "admin")


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where it has none."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def read_token(directory: str) -> str:
    """Return the token of a state directory; one is made, for its owner alone, if there is none.

    Raises StartRefused if it can't be read, is empty, or may be read by others.
    """
    path = os.path.join(directory, "token")
    try:
        if not os.path.exists(path):
            _write_token(path)
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StartRefused(f"{path} may be read by others than its owner: chmod 600 {path}")
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as why:
        raise StartRefused(f"the token in {path} cannot be read: {why}") from None
    if not token:
        raise StartRefused(f"{path} is empty: remove it, and the next start makes a new one")
    return token


def _write_token(path: str) -> None:
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
