"""The runner's side of its socket: one line per message, from one daemon at a time."""

import os
from collections.abc import Collection
from typing import cast

from msgspec import DecodeError
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.execution.line_receiver import LineReceiver
from taskqd.execution.messages import MAX_LINE, Hello, Message, decode_to_runner, encode
from taskqd.execution.peer_credentials import peer_uid
from taskqd.runner.interfaces import IDaemonLink
from taskqd.runner.runner import Runner


@implementer(IDaemonLink)
class DaemonConnection(LineReceiver):
    """A connection of a daemon; it must begin with a Hello that the runner welcomes.

    A line that is no message closes it: a daemon sends only what both versions know.
    """

    _log = Logger()
    MAX_LENGTH = MAX_LINE

    def __init__(self, runner: Runner, users: Collection[int]) -> None:
        self._runner = runner
        self._users = users
        self._is_welcome = False
        self._is_closing = False

    def connectionMade(self) -> None:
        uid = peer_uid(self.transport)
        if uid not in self._users:
            self._log.warn("a connection of user {uid} is refused: it is not the daemon's", uid=uid)
            self.close()

    def lineReceived(self, line: bytes) -> None:
        if self._is_closing:
            return
        try:
            message = decode_to_runner(line)
        except DecodeError as why:
            self._log.error("a line of the daemon is no message, so its connection is closed: {why}", why=why)
            self.close()
            return
        if self._is_welcome:
            self._runner.handle(message)
        elif isinstance(message, Hello):
            self._is_welcome = self._runner.welcome(self, message)
        else:
            self.close()

    def lineLengthExceeded(self, line: bytes) -> None:
        self._log.error("a line of more than {max} bytes closes the daemon's connection", max=self.MAX_LENGTH)
        self.close()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._runner.disconnected(self)

    def send(self, message: Message) -> None:
        transport = cast("ITransport", self.transport)
        transport.write(encode(message))

    def close(self) -> None:
        self._is_closing = True
        transport = cast("ITransport", self.transport)
        transport.loseConnection()


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
