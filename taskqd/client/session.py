"""A connection that knows its daemon: made, authenticated, asked, and made anew where it was left."""

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from taskqd.client import encoder
from taskqd.client.address import TlsFiles, papers_of, parse_address
from taskqd.client.connection import Connection, Lost
from taskqd.client.decoder import Refused, Replies
from taskqd.client.discovery import find_address
from taskqd.client.reconnect import BACK, LOST, come_back, reconnect_timeout
from taskqd.errors import TaskqError

if TYPE_CHECKING:
    from typing_extensions import Self

Read = TypeVar("Read")


class Link:
    """What ``Client`` knows of its connection, whatever is asked on it.

    ``ca``, ``cert`` and ``key`` are the PEM files that TLS is spoken with; what is not given, the environment
    may name: TASKQ_CA, TASKQ_CERT and TASKQ_KEY. Without a CA those of the system are trusted. A certificate
    says who one is, as a token does; where there is no token, none is sent.

    If the daemon goes, it may take ``reconnect`` seconds to come back (or TASKQ_RECONNECT, or 60): a
    request that changes nothing is then asked again, and every other one is sent if nothing of it was sent
    before. 0 waits for no daemon. ``on_news`` is called with a sentence when it has gone and when it is back.
    """

    on_news: Callable[[str], object] = staticmethod(lambda _: None)

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        reconnect: float | str | None = None,
    ) -> None:
        self.address = address or find_address()
        self._where = parse_address(self.address)
        self._token = token
        self._papers = _papers(ca, cert, key)
        self._is_left = False
        self._is_fresh = True
        self._reconnect = reconnect_timeout(reconnect)
        self._connection = Connection(self._where, self._papers)
        self._replies = Replies(self._connection)
        self._authenticate()

    @property
    def is_local(self) -> bool:
        """Whether it is a UNIX socket, so that client and daemon see the same files."""
        return self._where.is_local

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Jobs do not mind."""
        self._is_left = False
        self._connection.close()

    def another(self) -> "Self":
        """Return a second client of the same daemon, for what is to be asked while this one is busy."""
        return type(self)(self.address, self._token, **self._papers._asdict(), reconnect=self._reconnect)

    def _authenticate(self) -> None:
        if self._token is not None and not self.is_local:
            try:
                self._connection.send(written(lambda: encoder.auth(self._token or "")) + b"\r\n")
                self._replies.ok()
            except BaseException:
                self.close()
                raise

    def _leave(self) -> None:
        """Close the connection in the middle of a reply; the next request makes another."""
        self._connection.close()
        self._is_left = True

    def _open(self) -> None:
        """Make the connection anew."""
        self._connection.open()
        self._is_left = False
        self._is_fresh = True
        self._authenticate()

    def _send(self, data: bytes) -> None:
        if self._is_left:
            self._open()
        elif self._reconnect and not self._is_fresh and self._connection.is_gone():
            self.on_news(LOST)
            self._come_back(self._reconnect)
            self.on_news(BACK)
        self._is_fresh = False
        self._connection.send(data)

    def _ask(self, line: bytes, read: Callable[[], Read]) -> Read:
        self._send(line + b"\r\n")
        return read()

    def _look(self, line: bytes, read: Callable[[], Read]) -> Read:
        """Ask for something that changes nothing, again if the daemon goes meanwhile."""
        return self._again(lambda: self._ask(line, read))

    def _again(self, ask: Callable[[], Read]) -> Read:
        """Return what ``ask`` returns; ask again after a restart of the daemon, as long as that may take."""
        deadline: float | None = None
        losses = 0
        while True:
            try:
                answer = ask()
            except Lost:
                losses += 1
                if self._connection.is_mute or not self._reconnect:
                    raise
                if deadline is None:
                    deadline = time.monotonic() + self._reconnect
                    self.on_news(LOST)
                if deadline < time.monotonic():
                    raise
                self._come_back(deadline - time.monotonic(), losses)
            else:
                if deadline is not None:
                    self.on_news(BACK)
                return answer

    def _come_back(self, timeout: float, losses: int = 1) -> None:
        self._connection.close()
        come_back(self._open, timeout, losses=losses)


def _papers(ca: str | None, cert: str | None, key: str | None) -> TlsFiles:
    """Return the files that are given, else those of the environment; a key belongs to its certificate."""
    named = papers_of(os.environ)
    return TlsFiles(ca or named.ca, *((cert, key) if cert or key else (named.cert, named.key)))


def written(write: Callable[[], bytes]) -> bytes:
    """Return what ``write`` returns; what cannot be written as a request is Refused as the server would."""
    try:
        return write()
    except TaskqError as why:
        raise Refused(why.code, str(why)) from None
