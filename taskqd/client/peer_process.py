"""The process that listens at a UNIX socket, to wait for its end (unix(7), pidfd_open(2))."""

import os
import select
import socket
import struct
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_CREDENTIALS = struct.Struct("3i")
"""The ``struct ucred`` of SO_PEERCRED: pid, uid, gid."""
SOCKET_MANAGERS = frozenset({b"systemd"})
"""Names of processes that listen at a socket for a daemon that they start at the first connection."""


class PeerProcess:
    """The process that listens at the other end of a connected socket, if it can be waited for.

    It cannot if the socket is no UNIX socket, if systemd listens for the daemon, or without pidfds (Linux
    5.3).
    """

    def __init__(self, connected: socket.socket) -> None:
        self._descriptor = _open(connected)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def wait(self) -> None:
        """Wait until the process has ended; return at once if it cannot be waited for."""
        if self._descriptor is not None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            poll.poll()


def _open(connected: socket.socket) -> int | None:
    """Return a pidfd of the process, or None."""
    if connected.family != socket.AF_UNIX:
        return None
    try:
        data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(data)
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().strip()
        return None if name in SOCKET_MANAGERS else os.pidfd_open(pid)
    except OSError:  # the socket is closed, the process has ended or has no pid here, or there are no pidfds
        return None
