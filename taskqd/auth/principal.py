"""The principal of a connection: its user, role and origin. The avatar of twisted.cred."""

import pwd
from contextlib import suppress
from typing import Any, NamedTuple

from zope.interface import Attribute, Interface, classImplements

from taskqd.model.actor import Actor
from taskqd.model.roles import Role


class IPrincipal(Interface):
    """An authenticated user."""

    name = Attribute("The owner of the jobs that the user submits.")
    role = Attribute("The taskqd.model.roles.Role of the user.")


class Principal(NamedTuple):
    """An authenticated user; `name` becomes the owner of the jobs that it submits.

    `origin` is the address of the client, as in `Actor`. For a user with a token, `token` is the id of its
    entry, and `queue` the only queue for which it is valid, if there is one. For a local user, `uid` is set.
    """

    name: str
    role: Role
    origin: str | None = None
    queue: str | None = None
    uid: int | None = None
    token: str | None = None

    @property
    def actor(self) -> Actor:
        """The user as the journal records it."""
        return Actor(self.name, self.origin)


_implement: Any = classImplements  # mypy-zope does not accept a NamedTuple as a class
_implement(Principal, IPrincipal)


def user_name(uid: int) -> str:
    """Return the name of a user of this machine, or its number if it has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
