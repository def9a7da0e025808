"""Memory that requests take until they are answered, limited by the setting ``block_memory``.

Blocks (scripts and stdins) are reserved before they arrive, so one that does not fit is refused. Request
lines and replies are counted as they come; when they exceed a user's share, the user's connections are read
slowly.
"""

from taskqd.auth.principal import Principal
from taskqd.errors import QueueFull
from taskqd.model.roles import Role

MAX_BLOCK_SHARE = 4
"""Blocks of one user may take 1/4 of the memory; admins have no share."""
MAX_REQUEST_SHARE = 16
"""When one user takes more than 1/16 of the memory, the user's requests are read one by one."""


class RequestMemory:
    """The memory of all connections; ``limit`` is in bytes, None for no limit."""

    def __init__(self, limit: int | None) -> None:
        self.total = 0
        self._limit = limit
        self._by_user: dict[str, int] = {}

    @property
    def by_user(self) -> dict[str, int]:
        """The bytes of each user who takes any."""
        return self._by_user.copy()

    def reserve(self, principal: Principal, size: int) -> None:
        """Reserve bytes for blocks; raises QueueFull if they are not available."""
        if self._limit is not None:
            used = self._by_user.get(principal.name, 0)
            # A user's only request may exceed the share: a block of any permitted size must be possible.
            exceeds_share = used and used + size > self._limit // MAX_BLOCK_SHARE
            if (exceeds_share and principal.role is not Role.ADMIN) or self.total + size > self._limit:
                raise QueueFull(
                    f"requests in progress take {self.total} of {self._limit} bytes, yours {used}; "
                    "retry when some of them are answered"
                )
        self.add(principal, size)

    def add(self, principal: Principal, size: int) -> None:
        """Count more bytes of a user, or fewer if ``size`` is negative."""
        if not size:
            return
        self.total += size
        used = self._by_user.get(principal.name, 0) + size
        if used:
            self._by_user[principal.name] = used
        else:
            self._by_user.pop(principal.name, None)

    def release(self, principal: Principal, size: int) -> None:
        """Release bytes that were reserved."""
        self.add(principal, -size)

    def is_used_up(self, principal: Principal) -> bool:
        """Whether all users together, or this one, take as much as they may."""
        if self._limit is None:
            return False
        share = self._limit // MAX_REQUEST_SHARE
        if self.total <= share:
            return False
        if self.total > self._limit:
            return True
        return principal.role is not Role.ADMIN and self._by_user.get(principal.name, 0) > share


class ConnectionMemory:
    """The part of one connection in the memory that all requests take.

    Bytes of clients that are not identified are not counted: those clients are few, and the requests that
    they may send are answered at once.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._principal: Principal | None = None
        self._size = 0

    @property
    def is_used_up(self) -> bool:
        """Whether the user whose bytes were counted last has no memory left for more requests."""
        return self._principal is not None and self._memory.is_used_up(self._principal)

    def is_used_up_for(self, principal: Principal | None) -> bool:
        """Whether a user has no memory left, even if nothing of this connection is counted for them yet."""
        return principal is not None and self._memory.is_used_up(principal)

    def update(self, principal: Principal | None, size: int) -> None:
        """Replace the bytes counted before by ``size`` bytes of ``principal``."""
        if size == self._size and (not size or principal is self._principal):
            return
        if self._principal is not None:
            self._memory.add(self._principal, -self._size)
        self._principal, self._size = principal, size
        if principal is not None:
            self._memory.add(principal, size)
