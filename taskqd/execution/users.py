"""The users of this machine, by name: what passwd has of them, and the groups that they are in (getpwnam(3)).

A lookup may ask a server, so what it found is remembered for a moment. Where passwd has several names for one
uid, the groups that a job of any of them gets are those of the first, as ``setpriv --init-groups`` does it.
"""

import grp
import os
import pwd
from collections.abc import Callable
from typing import NamedTuple

REMEMBERED = 5.0
"""What was looked up holds for so many seconds: a user who was added or removed is noticed after that."""
MOST_REMEMBERED = 1000
"""No more users than that are remembered at a time."""


class User(NamedTuple):
    """A user as passwd has them."""

    name: str
    uid: int
    gid: int
    home: str


class Users:
    """Looks users up; ``clock`` tells the time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, User | None]] = {}

    def find(self, name: str) -> User | None:
        """Return the user of that name, or None if this machine has none.

        A name that is all digits is nobody's: it is how a uid is written that has no name. Raises OSError
        where this process may open no file, so the users cannot be looked up.
        """
        now = self._clock()
        known = self._known.get(name)
        if known is not None and now < known[0] + REMEMBERED:
            return known[1]
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        user = None if name.isdigit() else _look_up(name)
        self._known[name] = now, user
        return user


def _look_up(name: str) -> User | None:
    try:
        found = pwd.getpwnam(name)
    except ValueError:  # a NUL, or what the system's encoding cannot write
        return None
    except KeyError:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # else it is not known that there is none
        return None
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def groups_of(user: User) -> frozenset[int]:
    """Return the groups that a user is in, the primary one among them."""
    return frozenset(os.getgrouplist(user.name, user.gid))


def group_id(name: str) -> int | None:
    """Return the gid of a group, or None if this machine has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
