"""The users of this machine and their groups (getpwnam(3)).

A lookup may query a server, so results are cached for a moment. If passwd has several names for one uid, a
job of any of them gets the groups of the first, as ``setpriv --init-groups`` does it.
"""

import grp
import os
import pwd
from collections.abc import Callable
from typing import NamedTuple

CACHE_TIME = 5.0
"""Seconds for which a lookup is cached: after that, added and removed users are noticed."""
MAX_CACHED = 1000
"""Users that are cached at a time, so that requests with invented names take no memory."""


class User(NamedTuple):
    """A user as passwd has them."""

    name: str
    uid: int
    gid: int
    home: str


class Users:
    """Looks users up; ``clock`` returns the time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cache: dict[str, tuple[float, User | None]] = {}

    def find(self, name: str) -> User | None:
        """Return the user of a name, None if this machine has none.

        A name of digits only has no user: uids without a name are written so. Raises OSError if the users
        cannot be looked up because this process may open no file.
        """
        now = self._clock()
        cached = self._cache.get(name)
        if cached is not None and now < cached[0] + CACHE_TIME:
            return cached[1]
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        user = None if name.isdigit() else _look_up(name)
        self._cache[name] = now, user
        return user


def _look_up(name: str) -> User | None:
    try:
        entry = pwd.getpwnam(name)
    except ValueError:  # a NUL, or a character that the system's encoding lacks
        return None
    except KeyError:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # raises if the lookup could open no file
        return None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def groups_of(user: User) -> frozenset[int]:
    """Return the groups of a user, the primary one included."""
    return frozenset(os.getgrouplist(user.name, user.gid))


def group_id(name: str) -> int | None:
    """Return the gid of a group, None if this machine has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
