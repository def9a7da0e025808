"""The listening socket of this runner, whose file may be removed."""

import os
from contextlib import suppress

from twisted.internet import tcp, unix

from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.runner.interfaces import IRunnerReactor
from taskqd.runner.protocol import DaemonFactory
from taskqd.speedups.byte_socket import ByteSocket


class RunnerSocket:
    """Listens for daemons at NAME.sock in the directory of the runners.

    With ``receives_files`` descriptors can be received.
    """

    def __init__(
        self,
        directory: RunnerDirectory,
        name: str,
        factory: DaemonFactory,
        reactor: IRunnerReactor,
        *,
        receives_files: bool = False,
    ) -> None:
        self._address = directory.socket_address(name)
        self._mode = directory.access.socket
        self._receives_files = receives_files
        self._factory = factory
        self._reactor = reactor
        self._port: unix.Port | None = None

    def open(self) -> None:
        """Listen; the file is accessible to the users of the directory only."""
        self._port = unix.Port(self._address.encode(), self._factory, 5, self._mode, self._reactor)
        if not self._receives_files:
            self._port.transport = ByteSocket
        self._port.startListening()

    def reopen(self) -> None:
        """Listen on a new socket: the file of the old one was removed."""
        self.remove()
        self.open()

    def remove(self) -> None:
        """Stop listening, and remove the file."""
        port, self._port = self._port, None
        if port is not None:
            port.stopReading()
            try:
                port.connectionLost(None)
            except FileNotFoundError:  # it unlinks the file before it closes the socket
                tcp.Port.connectionLost(port, None)
        with suppress(FileNotFoundError):
            os.unlink(self._address)
