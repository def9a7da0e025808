"""A connection that knows its daemon: made, authenticated, asked, and made anew where it was left."""

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from taskqd.client import requests
from taskqd.client.connection import Connection, Papers, papers_of, parse_address
from taskqd.client.finding import find_address
from taskqd.client.replies import Refused, Replies
from taskqd.errors import TaskqError

if TYPE_CHECKING:
    from typing_extensions import Self

Read = TypeVar("Read")


class Link:
    """What ``Client`` knows of its connection, whatever is asked on it.

    ``ca``, ``cert`` and ``key`` are the PEM files that TLS is spoken with; what is not given, the environment
    may name: TASKQ_CA, TASKQ_CERT and TASKQ_KEY. Without a CA those of the system are trusted. A certificate
    says who one is, as a token does; where there is no token, none is sent.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        self.address = address or find_address()
        self._where = parse_address(self.address)
        self._token = token
        self._papers = _papers(ca, cert, key)
        self._is_left = False
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
        return type(self)(self.address, self._token, **self._papers._asdict())

    def _authenticate(self) -> None:
        if self._token is not None and not self.is_local:
            try:
                self._connection.send(written(lambda: requests.auth(self._token or "")) + b"\r\n")
                self._replies.ok()
            except BaseException:
                self.close()
                raise

    def _leave(self) -> None:
        """Close the connection in the middle of a reply; the next request makes another."""
        self._connection.close()
        self._is_left = True

    def _send(self, data: bytes) -> None:
        if self._is_left:
            self._connection.open()
            self._is_left = False
            self._authenticate()
        self._connection.send(data)

    def _ask(self, line: bytes, read: Callable[[], Read]) -> Read:
        self._send(line + b"\r\n")
        return read()


def _papers(ca: str | None, cert: str | None, key: str | None) -> Papers:
    """Return the files that are given, else those of the environment; a key belongs to its certificate."""
    named = papers_of(os.environ)
    return Papers(ca or named.ca, *((cert, key) if cert or key else (named.cert, named.key)))


def written(write: Callable[[], bytes]) -> bytes:
    """Return what ``write`` returns; what cannot be written as a request is Refused as the server would."""
    try:
        return write()
    except TaskqError as why:
        raise Refused(why.code, str(why)) from None
