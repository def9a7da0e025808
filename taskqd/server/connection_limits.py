"""Limits how many connections there are: in all, of one user, and of clients that are not identified yet.

When the total limit is reached, the ports stop accepting and further clients wait in the kernel's queue. When
too many connections are unidentified, in all or of one address, the oldest of them is closed. An attacker who
opens idle connections therefore cannot lock out clients that authenticate, and from one address not even
those that have not authenticated yet.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import AuthRequired, QueueFull, TaskqError
from taskqd.model.roles import Role
from taskqd.server.request_memory import RequestMemory

CHECK_INTERVAL = 1.0
"""Seconds between two checks for idle connections, less if the idle time is short."""
CHECKS_PER_IDLE_TIME = 16
"""Checks of each connection during the idle time. An idle one is closed later by up to such a period."""


class IPausablePort(Protocol):
    """A listening port that can stop accepting for a while."""

    def pauseProducing(self) -> object:
        """Accept no connections until ``resumeProducing``."""

    def resumeProducing(self) -> object:
        """Accept connections again."""


class IConnection(Protocol):
    """A connection, as ConnectionLimits sees it."""

    principal: Principal | None

    @property
    def host(self) -> str:
        """The address of the peer without its port."""

    def is_idle(self, since: float) -> bool:
        """Whether no request is in progress and nothing was received since a time."""

    def close_with_error(self, error: TaskqError) -> None:
        """Send an error in place of all outstanding replies, and close."""

    def close(self) -> None:
        """Close once everything that was answered is written."""


class _Unidentified(NamedTuple):
    """A connection whose user is not known: the peer's address, and the timer of ``auth_time``."""

    host: str
    auth_timer: IDelayedCall | None


class ConnectionLimits:
    """Counts the open connections and closes those that exceed a limit.

    ``is_valid`` tells whether the token of a principal can still be used. ``ports`` are the listening ports;
    the caller may add to them later. ``memory`` is what the requests of all connections take.
    """

    _log = Logger()

    def __init__(
        self,
        limits: Limits,
        max_connections: int,
        clock: IReactorTime,
        is_valid: Callable[[Principal], bool],
        ports: Iterable[IPausablePort],
    ) -> None:
        self.connections: set[IConnection] = set()
        self.limits = limits
        self.memory = RequestMemory(limits.block_memory)
        self._max_connections = max_connections
        self._clock = clock
        self._is_valid = is_valid
        self._ports = ports
        self._is_accepting = True
        self._has_logged = False
        self._unidentified: dict[IConnection, _Unidentified] = {}  # oldest first
        self._users: dict[IConnection, str] = {}
        self._count_by_user: dict[str, int] = {}
        self._check_timer: IDelayedCall | None = None
        self._next_checks: dict[IConnection, float] = {}  # when to check for idleness, the earliest first
        self._interval = CHECK_INTERVAL
        if limits.idle_time is not None:
            self._interval = min(CHECK_INTERVAL, limits.idle_time / 4)

    @property
    def available(self) -> int:
        """The number of connections that may still be opened."""
        return self._max_connections - len(self.connections)

    def set_max_connections(self, max_connections: int) -> None:
        """Change how many connections may be open; those above the limit stay open."""
        self._max_connections = max_connections
        if self._is_accepting and self.available <= 0:
            self._stop_accepting()
        elif not self._is_accepting and self.available > 0:
            self._resume_accepting()

    @property
    def unidentified(self) -> list[IConnection]:
        """The connections whose user is not known yet, oldest first."""
        return list(self._unidentified)

    @property
    def users(self) -> dict[IConnection, str]:
        """The identified connections, with the name of the user of each."""
        return self._users.copy()

    @property
    def count_by_user(self) -> dict[str, int]:
        """The number of identified connections of each user."""
        return self._count_by_user.copy()

    def opened(self, connection: IConnection) -> None:
        """Count a new connection; ``identified`` or ``evict_unidentified`` must follow."""
        self.connections.add(connection)
        timeout = self.limits.auth_time
        timer = self._clock.callLater(timeout, self._on_auth_timeout, connection) if timeout else None
        self._unidentified[connection] = _Unidentified(connection.host, timer)
        if self.available <= 0:
            self._stop_accepting()
        self._schedule_idle_check(connection)

    def evict_unidentified(self) -> None:
        """Close the oldest unidentified connection if there are too many, in all or of the latest address."""
        limits = self.limits
        host = next(reversed(self._unidentified.values())).host
        of_host = [connection for connection, each in self._unidentified.items() if each.host == host]
        for connections, limit, of in (
            (of_host, limits.connections_before_auth_per_address, f" of {host}"),
            (self._unidentified, limits.connections_before_auth, ""),
        ):
            if limit is not None and len(connections) > limit:
                oldest = next(iter(connections))
                self._remove_unidentified(oldest)
                oldest.close_with_error(
                    AuthRequired(f"more than {limit} connections{of} are not authenticated; send AUTH first")
                )
                return

    def identified(self, connection: IConnection, principal: Principal) -> None:
        """Count a connection for its user; raises QueueFull if the user has too many."""
        name = principal.name
        if self._users.get(connection) == name:
            return
        count, limit = self._count_by_user.get(name, 0), self.limits.connections_per_user
        if principal.role is not Role.ADMIN and limit is not None and count >= limit:
            raise QueueFull(f"{name} has {count} connections, the limit for one user; close one of them")
        self._remove_unidentified(connection)
        self._remove_user(connection)
        self._users[connection] = name
        self._count_by_user[name] = count + 1

    def closed(self, connection: IConnection) -> None:
        """Stop counting a connection."""
        self.connections.discard(connection)
        self._next_checks.pop(connection, None)
        self._remove_unidentified(connection)
        self._remove_user(connection)
        if not self._is_accepting and self.available > 0:
            self._resume_accepting()
        if not self.connections:
            self.stop()

    def stop(self) -> None:
        """Stop checking for idle connections."""
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None

    def close_expired(self) -> None:
        """Close the connections whose token is no longer valid; to be called when tokens have changed."""
        for connection in list(self.connections):
            user = connection.principal
            if user is not None and user.token is not None and not self._is_valid(user):
                connection.close_with_error(
                    AuthRequired(
                        f"the token of {user.name} was revoked or changed, or has expired; AUTH with another"
                    )
                )

    def _close_idle(self) -> None:
        """Close the connections that are idle, of those whose check is due."""
        now, idle_time = self._clock.seconds(), self.limits.idle_time or 0
        while self._next_checks:
            connection, due = next(iter(self._next_checks.items()))
            if due > now:
                break
            del self._next_checks[connection]
            if connection.is_idle(now - idle_time):
                connection.close()
            else:
                self._schedule_idle_check(connection)

    def _remove_unidentified(self, connection: IConnection) -> None:
        unidentified = self._unidentified.pop(connection, None)
        timer = None if unidentified is None else unidentified.auth_timer
        if timer is not None and timer.active():
            timer.cancel()

    def _remove_user(self, connection: IConnection) -> None:
        name = self._users.pop(connection, None)
        if name is not None:
            self._count_by_user[name] -= 1
            if not self._count_by_user[name]:
                del self._count_by_user[name]

    def _on_auth_timeout(self, connection: IConnection) -> None:
        del self._unidentified[connection]
        timeout = self.limits.auth_time
        connection.close_with_error(AuthRequired(f"not authenticated within {timeout:g} s; send AUTH first"))

    def _stop_accepting(self) -> None:
        self._is_accepting = False
        for port in self._ports:
            port.pauseProducing()
        if not self._has_logged:
            self._has_logged = True
            self._log.warn(
                "{count} connections are open, which is the limit; new clients wait until one is closed",
                count=len(self.connections),
            )

    def _resume_accepting(self) -> None:
        self._is_accepting = True
        for port in self._ports:
            port.resumeProducing()

    def _schedule_idle_check(self, connection: IConnection) -> None:
        """Check a connection after the period that is the same for all, so that they stay in order."""
        idle_time = self.limits.idle_time
        if idle_time is not None:
            period = max(self._interval, idle_time / CHECKS_PER_IDLE_TIME)
            self._next_checks[connection] = self._clock.seconds() + period
            if self._check_timer is None:
                self._check_timer = self._clock.callLater(self._interval, self._check)

    def _check(self) -> None:
        self._check_timer = None
        self._close_idle()
        if self._next_checks and self._check_timer is None:
            self._check_timer = self._clock.callLater(self._interval, self._check)
