"""The addresses of the daemon's UNIX sockets, for its jobs and for the ``taskq`` command.

A job is given one in its environment (TASKQ_ADDRESS). Other processes of the daemon's user find one in a file
of the state directory, whatever their environment is (client/discovery.py).
"""

import os
import stat
from contextlib import suppress
from typing import NamedTuple

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IListeningPort

from taskqd.config.paths import address_file

OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Mode bits of a socket that let users connect who do not own it (unix(7))."""


class SocketAddress(NamedTuple):
    """The address of a UNIX socket, and whether users who do not own it may connect."""

    address: str
    is_for_others: bool


class SocketAddresses:
    """The UNIX sockets of one daemon, in the order of its settings."""

    def __init__(self) -> None:
        self._sockets: list[SocketAddress] = []

    def add(self, port: IListeningPort) -> None:
        """Add a listening port, if it is a UNIX socket with a path."""
        host = port.getHost()
        if isinstance(host, UNIXAddress) and host.name:
            path = os.path.abspath(os.fsdecode(host.name))
            with suppress(OSError):
                self._sockets.append(SocketAddress(f"unix:{path}", bool(os.stat(path).st_mode & OTHERS)))

    def for_job(self, runs_as_owner: bool) -> str | None:
        """Return the address for a job, None if there is no UNIX socket.

        A job that runs as another user than the daemon's is given the first socket that others may use.
        """
        preferred = [each for each in self._sockets if each.is_for_others] if runs_as_owner else []
        return next((each.address for each in (*preferred, *self._sockets)), None)

    def write_file(self, state: str) -> None:
        """Write the first address into a file of the state directory; remove the file if there is none."""
        path = address_file(state)
        address = self.for_job(runs_as_owner=False)
        if address is None:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        new = f"{path}.new"
        with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(os.fsencode(address) + b"\n")
        os.replace(new, path)
