"""The UNIX sockets at which a daemon is reached from its own machine: told to its jobs, and to ``taskq``.

A job finds its daemon by TASKQ_ADDRESS. For other processes of the daemon's user the address stands in a file
of the state directory, which they find whatever their environment has (client/finding.py).
"""

import os
import stat
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.address import UNIXAddress

from taskqd.config.paths import address_file

OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Somebody else than the socket's owner can connect if one of these bits of its mode is set (unix(7))."""


class Local(NamedTuple):
    """A socket: its address, and whether other users than the daemon's may connect."""

    address: str
    is_for_others: bool


class Addresses:
    """The sockets of one daemon, in the order of its settings."""

    def __init__(self) -> None:
        self._sockets: list[Local] = []

    def add(self, port: Any) -> None:
        """Take a listening port into account, if it is a UNIX socket that has a path."""
        host = port.getHost()
        if isinstance(host, UNIXAddress) and host.name:
            path = os.path.abspath(os.fsdecode(host.name))
            with suppress(OSError):
                self._sockets.append(Local(f"unix:{path}", bool(os.stat(path).st_mode & OTHERS)))

    def of_job(self, is_owners: bool) -> str | None:
        """Return the address for a job, None if there is no UNIX socket.

        A job that runs as another user, which ``is_owners``, gets the first socket that is open to others.
        """
        open_ones = [each for each in self._sockets if each.is_for_others] if is_owners else []
        return next((each.address for each in (*open_ones, *self._sockets)), None)

    def write(self, state: str) -> None:
        """Write the first address into a file of the state directory, or remove the file if there is none."""
        path = address_file(state)
        address = self.of_job(is_owners=False)
        if address is None:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        new = f"{path}.new"
        with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(os.fsencode(address) + b"\n")
        os.replace(new, path)
