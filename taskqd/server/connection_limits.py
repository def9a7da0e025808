"""Who is in, and how many: connections in all, of a user, and of those who have not said who they are.

When there are as many as there may be, nobody is let in until somebody leaves: the others wait in the
kernel's queue. Of strangers the one who has been there longest has to go for the next one: whoever fills the
place with connections that say nothing keeps nobody out who does.
"""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import AuthRequired, QueueFull, TaskqError
from taskqd.model.roles import Role

LOOK_EVERY = 1.0
"""It is looked after connections that are idle, or whose token is not valid any more, so often at most."""
SHARE = 4
"""One user who is no admin has at most one part in so many of the memory for blocks."""
READING_SHARE = 16
"""When what one user has on the way takes one part in so many, requests are read one by one."""


class IConnection(Protocol):
    """A connection, as it is seen from the door."""

    principal: Principal | None

    def is_idle(self, since: float) -> bool:
        """Whether it waits for nothing and nothing was heard of it since a time."""

    def close_with_error(self, why: TaskqError) -> None:
        """Say why, and close."""

    def end(self) -> None:
        """Close once what was answered is written."""


class ConnectionLimits:
    """Lets connections in, up to ``most`` of them; ``is_valid`` tells whether a token still is.

    ``ports`` are the listening ports, and may be filled later.
    """

    _log = Logger()

    def __init__(
        self, limits: Limits, most: int, clock: Any, is_valid: Callable[[Principal], bool], ports: list[Any]
    ) -> None:
        self.connections: set[IConnection] = set()
        self.limits = limits
        self._most = most
        self._clock = clock
        self._is_valid = is_valid
        self._ports = ports
        self._is_full = False
        self._has_told = False
        self._strangers: dict[IConnection, Any] = {}
        self._names: dict[IConnection, str] = {}
        self._of: dict[str, int] = {}
        self._block_bytes = 0
        self._block_bytes_of: dict[str, int] = {}
        self._look: Any = None

    @property
    def room(self) -> int:
        """How many more may come in."""
        return self._most - len(self.connections)

    @property
    def has_room(self) -> bool:
        """Whether another one may come in."""
        return self.room > 0

    def opened(self, connection: IConnection) -> None:
        """Count a connection in; one that the system knows already is told by ``identified`` at once."""
        self.connections.add(connection)
        limit = self.limits.auth_time
        self._strangers[connection] = limit and self._clock.callLater(
            limit, self._has_been_silent, connection
        )
        if not self.has_room:
            self._close_the_doors()
        self._look_later()

    def evict_unidentified(self) -> None:
        """Send the stranger away who has been there longest, if there are too many of them."""
        most = self.limits.connections_before_auth
        if most is not None and len(self._strangers) > most:
            oldest = next(iter(self._strangers))
            self._know(oldest)
            oldest.close_with_error(
                AuthRequired(f"more than {most} connections have not said who they are; AUTH at once")
            )

    def identified(self, connection: IConnection, principal: Principal) -> None:
        """Take note of who somebody is; raises QueueFull for one connection too many of theirs."""
        if self._names.get(connection) == principal.name:
            return
        count, most = self._of.get(principal.name, 0), self.limits.connections_per_user
        if principal.role is not Role.ADMIN and most is not None and count >= most:
            raise QueueFull(f"{principal.name} has {count} connections, which is the most; close one of them")
        self._know(connection)
        self._forget(connection)
        self._names[connection] = principal.name
        self._of[principal.name] = count + 1

    def closed(self, connection: IConnection) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self._know(connection)
        self._forget(connection)
        if self._is_full and self.has_room:
            self._open_the_doors()
        if not self.connections:
            self.stop()

    def reserve(self, principal: Principal, size: int) -> None:
        """Set memory aside for blocks on their way in; raises QueueFull where there is no more."""
        most, name = self.limits.block_memory, principal.name
        if most is not None:
            of = self._block_bytes_of.get(name, 0)
            is_over = principal.role is not Role.ADMIN and of and of + size > most // SHARE
            if is_over or self._block_bytes + size > most:
                raise QueueFull(
                    f"scripts, stdins and requests on their way take {self._block_bytes} of {most} bytes, "
                    f"yours {of}; send this one when some have arrived"
                )
        if size:
            self._take(name, size)

    def is_used_up(self, principal: Principal) -> bool:
        """Whether what is on its way in takes all the memory that it may take, or that of one user's."""
        most, of = self.limits.block_memory, self._block_bytes_of.get(principal.name, 0)
        if most is None:
            return False
        return self._block_bytes > most or (principal.role is not Role.ADMIN and of > most // READING_SHARE)

    def take(self, principal: Principal, size: int) -> None:
        """Count memory for requests that are not answered yet, or with a negative size less of it."""
        self._take(principal.name, size)

    def _take(self, name: str, size: int) -> None:
        self._block_bytes += size
        closed = self._block_bytes_of.get(name, 0) + size
        if closed:
            self._block_bytes_of[name] = closed
        else:
            self._block_bytes_of.pop(name, None)

    def give_back(self, principal: Principal, size: int) -> None:
        """Give back what was set aside."""
        if size:
            self._take(principal.name, -size)

    def stop(self) -> None:
        """Look after nobody any more: the daemon stops."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _know(self, connection: IConnection) -> None:
        """Count somebody among the strangers no longer."""
        timer = self._strangers.pop(connection, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _forget(self, connection: IConnection) -> None:
        name = self._names.pop(connection, None)
        if name is not None:
            self._of[name] -= 1
            if not self._of[name]:
                del self._of[name]

    def _has_been_silent(self, connection: IConnection) -> None:
        del self._strangers[connection]
        connection.close_with_error(
            AuthRequired(f"nobody said who they are within {self.limits.auth_time:g} s; AUTH at once")
        )

    def _close_the_doors(self) -> None:
        self._is_full = True
        for port in self._ports:
            port.pauseProducing()
        if not self._has_told:
            self._has_told = True
            self._log.warn(
                "{count} connections are all that there may be: nobody else is let in until one closes",
                count=len(self.connections),
            )

    def _open_the_doors(self) -> None:
        self._is_full = False
        for port in self._ports:
            port.resumeProducing()

    def _look_later(self) -> None:
        if self._look is None and self.connections:
            idle = self.limits.idle_time
            wait = LOOK_EVERY if idle is None else min(LOOK_EVERY, idle / 4)
            self._look = self._clock.callLater(wait, self._look_again)

    def close_expired(self) -> None:
        """Close what is idle, and what came by a token that is not valid any more."""
        idle = self.limits.idle_time
        since = None if idle is None else self._clock.seconds() - idle
        for connection in list(self.connections):
            who = connection.principal
            if who is not None and who.token is not None and not self._is_valid(who):
                connection.close_with_error(
                    AuthRequired(
                        f"the token of {who.name} was revoked or changed, or has expired; AUTH with another"
                    )
                )
            elif since is not None and connection.is_idle(since):
                connection.end()

    def _look_again(self) -> None:
        self._look = None
        self.close_expired()
        self._look_later()


class RequestMemory:
    """Memory that the unanswered requests of one connection take.

    Of a stranger nothing is counted: of those there are few, and what they may ask is answered at once.
    """

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self._connection_limits = connection_limits
        self._of: Principal | None = None
        self._size = 0

    @property
    def is_used_up(self) -> bool:
        """Whether the user, or all users together, have no memory left for more requests."""
        return self._of is not None and self._connection_limits.is_used_up(self._of)

    def is_used_up_for(self, principal: Principal) -> bool:
        """Whether a user, or all users together, have no memory left, though nothing is counted here yet."""
        return self._connection_limits.is_used_up(principal)

    def take(self, principal: Principal | None, size: int) -> None:
        """Count ``size`` bytes in all, in place of what was counted before, for who asks now."""
        if size == self._size and (not size or principal is self._of):
            return
        if self._of is not None and self._size:
            self._connection_limits.take(self._of, -self._size)
        self._of, self._size = principal, size
        if principal is not None and size:
            self._connection_limits.take(principal, size)
