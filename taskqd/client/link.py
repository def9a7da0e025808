"""A connection that knows its daemon: made, authenticated, asked, and made anew where it was left."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from taskqd.client import requests
from taskqd.client.connection import Connection, parse_address
from taskqd.client.replies import Refused, Replies
from taskqd.errors import TaskqError

if TYPE_CHECKING:
    from typing_extensions import Self

Read = TypeVar("Read")


class Link:
    """What ``Client`` knows of its connection, whatever is asked on it."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address
        self._where = parse_address(address)
        self._token = token
        self._is_left = False
        self._connection = Connection(self._where)
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
        return type(self)(self.address, self._token)

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


def written(write: Callable[[], bytes]) -> bytes:
    """Return what ``write`` returns; what cannot be written as a request is Refused as the server would."""
    try:
        return write()
    except TaskqError as why:
        raise Refused(why.code, str(why)) from None
