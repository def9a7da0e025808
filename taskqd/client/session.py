"""An authenticated connection that is opened again when the daemon is restarted."""

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from taskqd.client import encoder
from taskqd.client.address import TlsFiles, parse_address, tls_files_from_environ
from taskqd.client.connection import Connection, ConnectionLost
from taskqd.client.decoder import Refused, ReplyReader
from taskqd.client.discovery import find_address
from taskqd.client.encoder import Options
from taskqd.client.environment import EnvironmentBlock, encode_environment, inheritable
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECTED, parse_reconnect_timeout, reconnect
from taskqd.errors import TaskqError

if TYPE_CHECKING:
    from typing_extensions import Self

Reply = TypeVar("Reply")
Encoded = TypeVar("Encoded")


class ClientSession:
    """The connection of a ``Client``: authentication, requests and reconnects, for any verb.

    ``ca``, ``cert`` and ``key`` are the PEM files for TLS; TASKQ_CA, TASKQ_CERT and TASKQ_KEY are used for
    those that are not given. Without a CA, those of the system are trusted. A certificate authenticates the
    client as a token does; no token is sent if there is none.

    If the daemon is restarted, the client tries to reconnect for ``reconnect`` seconds (default:
    TASKQ_RECONNECT, else 60; 0 disables it). Requests that change nothing are then sent again; others only
    if no part of them had been sent. ``on_news`` is called with a message when the connection is lost and
    when it is back.
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
        self._parsed_address = parse_address(self.address)
        self._token = token
        self._tls_files = _choose_tls_files(ca, cert, key)
        self._is_abandoned = False  # see _abandon
        self._is_unused = True  # no request was sent since the connection was opened
        self._environment_obstacle: str | None = ""  # unknown
        self._reconnect_timeout = parse_reconnect_timeout(reconnect)
        self._connection = Connection(self._parsed_address, self._tls_files)
        self._reader = ReplyReader(self._connection)
        self._authenticate()

    @property
    def is_local(self) -> bool:
        """Whether this is a UNIX socket, so that client and daemon share a file system."""
        return self._parsed_address.is_local

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Jobs are not affected."""
        self._is_abandoned = False
        self._connection.close()

    def another(self) -> "Self":
        """Return a second client of the same daemon, for requests while this one is busy."""
        return type(self)(
            self.address, self._token, **self._tls_files._asdict(), reconnect=self._reconnect_timeout
        )

    def environment_obstacle(self) -> str | None:
        """Return why this daemon is not sent the environment of its client; None if it may be."""
        if not self.is_local:
            return (
                "the environment is sent only to a daemon on this machine, over its UNIX socket, not to "
                f"{self.address}"
            )
        if self._environment_obstacle == "":
            hello = self._query(b"HELLO", self._reader.read_hello)
            is_new = "--environment" in hello.get("options", ())
            self._environment_obstacle = (
                None  # an older daemon would take the variables for requests
                if is_new
                else f"the daemon is release {hello.get('version')}, and an environment needs 0.10 or later"
            )
        return self._environment_obstacle

    def _encode_environment(self, options: Options) -> EnvironmentBlock | None:
        """Return the environment of a submission, None if it has none; raises Refused."""
        variables: Mapping[Any, str | bytes] | None = options.get("environment")
        if options.get("inherit_env"):
            if variables is not None:
                raise TypeError("expected either environment or inherit_env")
            variables = inheritable(os.environb)
        if variables is None:
            return None
        obstacle = self.environment_obstacle()
        if obstacle is not None:
            raise Refused("FORBIDDEN", obstacle)
        return encode_request(lambda: encode_environment(variables))

    def _authenticate(self) -> None:
        if self._token is not None and not self.is_local:
            try:
                self._connection.send(encode_request(lambda: encoder.auth(self._token or "")) + b"\r\n")
                self._reader.read_ok()
            except BaseException:
                self.close()
                raise

    def _abandon(self) -> None:
        """Close the connection while replies are outstanding; the next request opens another."""
        self._connection.close()
        self._is_abandoned = True

    def _reopen(self) -> None:
        """Open the connection again and authenticate."""
        self._connection.open()
        self._is_abandoned = False
        self._is_unused = True
        self._environment_obstacle = ""
        self._authenticate()

    def _send(self, data: bytes) -> None:
        if self._is_abandoned:
            self._reopen()
        elif self._reconnect_timeout and not self._is_unused and self._connection.is_closed_by_peer():
            self.on_news(CONNECTION_LOST)
            self._reconnect(self._reconnect_timeout)
            self.on_news(RECONNECTED)
        self._is_unused = False
        self._connection.send(data)

    def _request(self, line: bytes, read: Callable[[], Reply]) -> Reply:
        """Send a request and read its reply; it is not repeated if the connection is lost."""
        self._send(line + b"\r\n")
        return read()

    def _query(self, line: bytes, read: Callable[[], Reply]) -> Reply:
        """Send a request that changes nothing, and repeat it if the daemon is restarted meanwhile."""
        return self._repeat_after_restart(lambda: self._request(line, read))

    def _repeat_after_restart(self, request: Callable[[], Reply]) -> Reply:
        """Return the result of ``request``; reconnect and call it again if the connection is lost."""
        deadline: float | None = None
        losses = 0
        while True:
            try:
                reply = request()
            except ConnectionLost:
                losses += 1
                if self._connection.closed_without_reply or not self._reconnect_timeout:
                    raise
                if deadline is None:
                    deadline = time.monotonic() + self._reconnect_timeout
                    self.on_news(CONNECTION_LOST)
                if deadline < time.monotonic():
                    raise
                self._reconnect(deadline - time.monotonic(), losses)
            else:
                if deadline is not None:
                    self.on_news(RECONNECTED)
                return reply

    def _reconnect(self, timeout: float, losses: int = 1) -> None:
        self._connection.close()
        reconnect(self._reopen, timeout, losses=losses)


def _choose_tls_files(ca: str | None, cert: str | None, key: str | None) -> TlsFiles:
    """Return the given files, else those of the environment; certificate and key have the same source."""
    default = tls_files_from_environ(os.environ)
    return TlsFiles(ca or default.ca, *((cert, key) if cert or key else (default.cert, default.key)))


def encode_request(encode: Callable[[], Encoded]) -> Encoded:
    """Return the result of ``encode``; a value that cannot be encoded is Refused with the server's code."""
    try:
        return encode()
    except TaskqError as why:
        raise Refused(why.code, str(why)) from None
