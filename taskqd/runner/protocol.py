"""The runner's side of its socket: one line per message, from one daemon at a time."""

import os
from collections import deque
from collections.abc import Collection
from typing import cast

from msgspec import DecodeError
from twisted.internet.interfaces import IFileDescriptorReceiver, ITransport
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.execution.line_receiver import LineReceiver
from taskqd.execution.messages import MAX_LINE, File, Hello, Message, Start, decode_to_runner, encode
from taskqd.execution.peer_credentials import peer_uid
from taskqd.runner.admission import close_all
from taskqd.runner.interfaces import IDaemonLink
from taskqd.runner.runner import Runner


@implementer(IDaemonLink, IFileDescriptorReceiver)
class DaemonConnection(LineReceiver):
    """A connection of a daemon; it must begin with a Hello that the runner welcomes.

    A line that is no message closes it: a daemon sends only what both versions know. A descriptor arrives
    before the end of the line of its Start, and in the order of ``files``.
    """

    _log = Logger()
    MAX_LENGTH = MAX_LINE

    def __init__(self, runner: Runner, users: Collection[int]) -> None:
        self._runner = runner
        self._users = users
        self._is_welcome = False
        self._is_closing = False
        self._descriptors: deque[int] = deque()
        self._held: list[bytes] | None = None  # lines, while exits are handled

    def connectionMade(self) -> None:
        uid = peer_uid(self.transport)
        if uid not in self._users:
            self._log.warn("a connection of user {uid} is refused: it is not the daemon's", uid=uid)
            self.close()

    def fileDescriptorReceived(self, descriptor: int) -> None:  # noqa: N802 - Twisted's name
        """Keep a descriptor for the Start that it belongs to."""
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        if self._is_closing:
            return
        try:
            message = decode_to_runner(line)
        except DecodeError as why:
            self._log.error("a line of the daemon is no message, so its connection is closed: {why}", why=why)
            self.close()
            return
        if self._is_welcome and isinstance(message, Start) and message.files:
            files = self._claim(message.files)
            if files is not None:
                self._runner.handle(message, files)
        elif self._is_welcome:
            self._runner.handle(message)
        elif isinstance(message, Hello):
            self._is_welcome = self._runner.welcome(self, message)
        else:
            self.close()

    def _claim(self, files: list[File]) -> list[int] | None:
        """Return the descriptors of a Start; close the connection if they are not those that it names.

        The kernel drops a descriptor if this process may open no more; the next ones belong to other files.
        """
        claimed = [self._descriptors.popleft() for _ in files[: len(self._descriptors)]]
        if [_identity(each) for each in claimed] == [(file.device, file.inode) for file in files]:
            return claimed
        self._log.error("the descriptors of the daemon are not those of its Start: its connection is closed")
        close_all(claimed)
        self.close()
        return None

    def lineLengthExceeded(self, line: bytes) -> None:
        self._log.error("a line of more than {max} bytes closes the daemon's connection", max=self.MAX_LENGTH)
        self.close()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        close_all(self._descriptors)
        self._descriptors.clear()
        self._runner.disconnected(self)

    def send(self, message: Message) -> None:
        if self._held is not None:
            self._held.append(encode(message))
        else:
            cast("ITransport", self.transport).write(encode(message))

    def hold(self) -> None:
        self._held = []

    def flush(self) -> None:
        held, self._held = self._held, None
        if held:
            cast("ITransport", self.transport).write(b"".join(held))

    def close(self) -> None:
        self._is_closing = True
        self.flush()
        cast("ITransport", self.transport).loseConnection()


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class DaemonFactory(Factory):
    """Makes the connections of daemons, which must run as one of ``users``."""

    noisy = False

    def __init__(self, runner: Runner, users: Collection[int]) -> None:
        self._runner = runner
        self._users = users

    def buildProtocol(self, addr: object) -> DaemonConnection:
        return DaemonConnection(self._runner, self._users)


def default_users() -> frozenset[int]:
    """Return the users whose daemons may connect: this process's own, and root."""
    return frozenset((os.geteuid(), 0))
