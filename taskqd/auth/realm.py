"""The Realm: what the checkers found -> a Principal with its role.

An avatar id has its kind before a colon, so that whatever a plugin calls its users, none passes for another
kind: ``uid:1000``, ``token:9f86d081``, ``name:ana``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from zope.interface import implementer

from taskqd.auth.principal import IPrincipal, Principal, user_name
from taskqd.auth.token_registry import TokenRegistry
from taskqd.model.roles import ANY_NAME, Role
from taskqd.protocol.values import is_name

UID, TOKEN, NAME = "uid", "token", "name"


def avatar_id(kind: str, rest: str) -> bytes:
    """Return what a checker answers with."""
    return f"{kind}:{rest}".encode()


class NoRole(UnauthorizedLogin):
    """Somebody is who they say, and is not let in by that; the text says why."""


@implementer(IRealm)
class Realm:
    """Makes principals; ``uid`` is the daemon's own user, ``roles`` the operator's by name.

    The mind of a login is its origin, from where somebody asks.
    """

    def __init__(self, registry: TokenRegistry, roles: Mapping[str, Role], uid: int) -> None:
        self._registry = registry
        self._roles = roles
        self._admins = frozenset({0, uid})

    def requestAvatar(
        self, avatarId: Any, mind: Any, *interfaces: Any
    ) -> tuple[Any, Principal, Callable[[], None]]:
        """Return the Principal; raises NoRole for whom there is no role."""
        if IPrincipal not in interfaces:
            raise NotImplementedError("there are no avatars here but IPrincipal")
        kind, _, rest = avatarId.decode("utf-8").partition(":")
        makers = {UID: self._user, TOKEN: self._holder, NAME: self._named}
        return IPrincipal, makers[kind](rest, mind), _leave

    def _user(self, uid: str, origin: str | None) -> Principal:
        name = user_name(int(uid))
        role = Role.ADMIN if int(uid) in self._admins else self._roles.get(name, Role.SUBMIT)
        return Principal(name, role, origin, uid=int(uid))

    def _holder(self, identity: str, origin: str | None) -> Principal:
        entry = self._registry.entries[identity]
        return Principal(entry.name, entry.role, origin, queue=entry.queue, token=entry.id)

    def _named(self, name: str, origin: str | None) -> Principal:
        if not is_name(name):
            raise NoRole("a name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ -, and yours is none")
        role = self._roles.get(name, self._roles.get(ANY_NAME))
        if role is None:
            raise NoRole(f"{name} has no role here: the daemon's [roles] has neither {name} nor {ANY_NAME!r}")
        return Principal(name, role, origin)


def _leave() -> None:
    """End a login: nobody keeps anything of it."""
