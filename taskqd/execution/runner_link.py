"""The daemon's connection to one runner."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

from msgspec import DecodeError
from msgspec.structs import replace
from twisted.internet.interfaces import ITransport, IUNIXTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution.file_sender import FileSender
from taskqd.execution.line_receiver import LineReceiver
from taskqd.execution.messages import (
    MAX_LINE,
    MIN_START_VERSION,
    Ack,
    Cleared,
    Ended,
    File,
    Hello,
    Measured,
    Message,
    Printed,
    Refused,
    Sent,
    Spawned,
    Start,
    Swept,
    Welcome,
    decode_to_daemon,
    encode,
)
from taskqd.execution.peer_credentials import peer_uid


class LinkObserver(Protocol):
    """Hears what a runner says."""

    def on_welcome(self, link: "RunnerLink", welcome: Welcome) -> None: ...

    def on_ended(self, link: "RunnerLink", ended: Ended) -> None: ...

    def on_spawned(self, spawned: Spawned) -> None: ...

    def on_printed(self, printed: Printed) -> None: ...

    def on_sent(self, sent: Sent) -> None: ...

    def on_measured(self, measured: Measured) -> None: ...

    def on_cleared(self, cleared: Cleared) -> None: ...

    def on_swept(self, swept: Swept) -> None: ...

    def on_link_lost(self, link: "RunnerLink") -> None: ...


class RunnerLink(LineReceiver):
    """A connection to the runner ``name``, which begins with ``hello``.

    ``batch()`` returns a context for all that one read brings. ``user`` is the uid that the runner may have
    besides root. With ``changes_users`` only a runner that does so gets starts.
    """

    _log = Logger()
    MAX_LENGTH = MAX_LINE

    def __init__(
        self,
        name: str,
        hello: Hello,
        observer: LinkObserver,
        batch: "Callable[[], AbstractContextManager[Any]]" = nullcontext,
        user: int | None = None,
        *,
        changes_users: bool = False,
    ) -> None:
        self.name = name
        self.welcome: Welcome | None = None
        self.refusal: Refused | None = None
        self.is_lost = False
        self._is_closing = False
        self._hello = hello
        self._observer = observer
        self._batch = batch
        self._changes_users = changes_users
        self._file_sender: FileSender | None = None
        self._held: list[bytes] = []  # lines
        self._users = {0, os.geteuid() if user is None else user}

    def connectionMade(self) -> None:
        uid = peer_uid(self.transport)
        if uid not in self._users:
            self._log.error("the socket of runner {name} belongs to user {uid}", name=self.name, uid=uid)
            self.close()
            return
        self.send(self._hello)

    def dataReceived(self, data: bytes) -> None:
        with self._batch():
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:  # noqa: C901 - a case for each message
        if self._is_closing:
            return
        try:
            message = decode_to_daemon(line)
        except DecodeError as why:
            self._log.error("runner {name} sent a line that is no message: {why}", name=self.name, why=why)
            self.close()
            return
        match message:
            case Ended():
                self._observer.on_ended(self, message)
            case Spawned():
                self._observer.on_spawned(message)
            case Printed():
                self._observer.on_printed(message)
            case Sent():
                self._observer.on_sent(message)
            case Measured():
                self._observer.on_measured(message)
            case Cleared():
                self._observer.on_cleared(message)
            case Swept():
                self._observer.on_swept(message)
            case Welcome():
                self.welcome = message
                self._observer.on_welcome(self, message)
            case Refused():
                self.refusal = message

    def lineLengthExceeded(self, line: bytes) -> None:
        self._log.error("runner {name} sent a line of over {max} bytes", name=self.name, max=self.MAX_LENGTH)
        self.close()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.is_lost = True
        self._observer.on_link_lost(self)

    @property
    def accepts_starts(self) -> bool:
        """Whether the runner is connected, speaks a version that starts need, and does not retire."""
        return (
            not self.is_lost
            and self.welcome is not None
            and self.welcome.version >= MIN_START_VERSION
            and not self.welcome.is_retiring
            and self.welcome.changes_users == self._changes_users
        )

    def send(self, message: Message) -> None:
        """Send a message now, with the Acks that are held."""
        self._held.append(encode(message))
        self.flush()

    def hold(self, ack: Ack) -> None:
        """Send an Ack with the next message, or at ``flush``."""
        self._held.append(encode(ack))

    def flush(self) -> None:
        """Send the Acks that are held."""
        held, self._held = self._held, []
        if held and not self.is_lost:
            cast("ITransport", self.transport).write(held[0] if len(held) == 1 else b"".join(held))

    def send_with_files(self, start: Start, descriptors: Sequence[int]) -> None:
        """Send a Start with the descriptors of its ``files``, which are closed when they are sent."""
        self.flush()
        if self._file_sender is None:
            self._file_sender = FileSender(IUNIXTransport(self.transport))
        statuses = map(os.fstat, descriptors)
        files = [
            File(file.kind, status.st_dev, status.st_ino)
            for file, status in zip(start.files, statuses, strict=True)
        ]
        self._file_sender.send(encode(replace(start, files=files)), descriptors)

    def close(self) -> None:
        """Close the connection after what was sent."""
        self._is_closing = True
        self.flush()
        if self._file_sender is not None:
            self._file_sender.close()
        transport = cast("ITransport", self.transport)
        transport.loseConnection()
