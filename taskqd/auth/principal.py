"""Somebody who may ask for something: the avatar of twisted.cred."""

import pwd
from contextlib import suppress
from typing import Any, NamedTuple

from zope.interface import Attribute, Interface, classImplements

from taskqd.model.actor import Actor
from taskqd.model.roles import Role


class IPrincipal(Interface):
    """Somebody who may ask for something."""

    name = Attribute("Whose name the jobs carry that they submit.")
    role = Attribute("The taskqd.model.roles.Role that says what they may do.")


class Principal(NamedTuple):
    """Somebody who may ask for something; ``name`` becomes the owner of the jobs that they submit.

    ``origin`` is where from, as in ``actors``. ``queue`` is the only one whose jobs a token is good for,
    ``token`` the id of its entry; ``uid`` is that of a user of this machine.
    """

    name: str
    role: Role
    origin: str | None = None
    queue: str | None = None
    uid: int | None = None
    token: str | None = None

    @property
    def actor(self) -> Actor:
        """As the journal keeps it."""
        return Actor(self.name, self.origin)


_implement: Any = classImplements  # mypy-zope does not take a NamedTuple for a class
_implement(Principal, IPrincipal)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where it has none."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
