"""The realm of twisted.cred: an avatar id from a checker -> a Principal with its role.

An avatar id begins with its kind, so that the users of a plugin cannot pass for users of another kind:
`uid:1000`, `token:9f86d081`, `name:ana`.
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


def make_avatar_id(kind: str, identity: str) -> bytes:
    """Return the avatar id of a user."""
    return f"{kind}:{identity}".encode()


class NoRole(UnauthorizedLogin):
    """The user is known but has no role here."""


@implementer(IRealm)
class Realm:
    """Makes principals. `uid` is the daemon's user; `roles` are the operator's, by name.

    The mind of a login is the origin of the client.
    """

    def __init__(self, registry: TokenRegistry, roles: Mapping[str, Role], uid: int) -> None:
        self._registry = registry
        self._roles = roles
        self._admin_uids = frozenset({0, uid})

    def requestAvatar(
        self, avatarId: Any, mind: Any, *interfaces: Any
    ) -> tuple[Any, Principal, Callable[[], None]]:
        """Return the Principal; raises NoRole if the user has no role."""
        if IPrincipal not in interfaces:
            raise NotImplementedError("this realm has avatars only for IPrincipal")
        kind, _, identity = avatarId.decode("utf-8").partition(":")
        makers = {UID: self._from_uid, TOKEN: self._from_token, NAME: self._from_name}
        return IPrincipal, makers[kind](identity, mind), _log_out

    def _from_uid(self, uid: str, origin: str | None) -> Principal:
        name = user_name(int(uid))
        is_admin = int(uid) in self._admin_uids
        role = Role.ADMIN if is_admin else self._roles.get(name, Role.SUBMIT)
        return Principal(name, role, origin, uid=int(uid))

    def _from_token(self, identity: str, origin: str | None) -> Principal:
        entry = self._registry.entries[identity]
        return Principal(entry.name, entry.role, origin, queue=entry.queue, token=entry.id)

    def _from_name(self, name: str, origin: str | None) -> Principal:
        if not is_name(name):
            raise NoRole("your name is not valid here; a name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ -")
        role = self._roles.get(name, self._roles.get(ANY_NAME))
        if role is None:
            raise NoRole(
                f"{name} has no role here; ask the server's operator to add {name} or {ANY_NAME!r} to [roles]"
            )
        return Principal(name, role, origin)


def _log_out() -> None:
    """End a login: nothing is kept for it."""
