"""The user at the other end of a UNIX connection (unix(7), SO_PEERCRED)."""

import socket
import struct
from typing import cast

from twisted.internet.interfaces import ISystemHandle

_CREDENTIALS = struct.Struct("3i")


def peer_uid(transport: object) -> int:
    """Return the uid of the process that has opened the other end of a connection."""
    handle = cast("socket.socket", ISystemHandle(transport).getHandle())
    data = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid
