"""Roles, permissions, and the rules that connect them (docs/security.md has the table).

Each verb requires one permission (protocol/verbs.py). A request that the rules do not allow is refused; jobs
that a client may not see are left out of lists.
"""

from enum import Enum

from taskqd.errors import Forbidden


class Role(str, Enum):
    """ADMIN may do everything, SUBMIT only with its own jobs, READ sees everything and changes nothing."""

    ADMIN = "admin"
    SUBMIT = "submit"
    READ = "read"


class Permission(Enum):
    """A permission that a verb requires of the client."""

    NOTHING = "no authentication"
    KNOWN = "authentication"
    VIEW = "to see the jobs that are named"
    MODIFY = "to change the jobs or the schedule that are named"
    OWN = "to own the jobs that are named"
    SUBMIT = "to submit jobs"
    ADMIN = "to change the daemon"


_CHANGES = (Permission.MODIFY, Permission.OWN, Permission.SUBMIT)


def check_verb(verb: str, permission: Permission, role: Role) -> None:
    """Raise Forbidden if a role may not use a verb at all, independent of what the request is about."""
    if permission is Permission.ADMIN and role is not Role.ADMIN:
        raise Forbidden(f"permission denied: {verb} needs the role admin, and you have the role {role.value}")
    if permission in _CHANGES and role is Role.READ:
        raise Forbidden(
            f"permission denied: {verb} needs the role submit or admin, and you have the role read, which "
            "changes nothing"
        )


def sees_all(role: Role) -> bool:
    """Whether a role sees the jobs of all users."""
    return role is not Role.SUBMIT


def check_owner(verb: str, permission: Permission, role: Role, name: str, owner: str, subject: str) -> None:
    """Raise Forbidden if a user with this role and name may not use a verb on something that `owner` has.

    `subject` names it for the error: `job 7`. The caller has checked the verb with `check_verb`. The jobs of
    a user run as that user, so an admin who could decide what they execute would be any user.
    """
    only_views = permission in (Permission.VIEW, Permission.KNOWN)
    is_unlimited = role is Role.ADMIN and permission is not Permission.OWN
    if is_unlimited or owner == name or (only_views and sees_all(role)):
        return
    if role is Role.ADMIN:
        raise Forbidden(
            f"permission denied: {subject} belongs to another user, who alone may {verb}; you ({name}) may "
            "not, also as an admin"
        )
    kind = subject.partition(" ")[0]
    raise Forbidden(
        f"permission denied: {subject} belongs to another user; you ({name}) may {verb} only your own {kind}s"
    )


ANY_NAME = "*"
"""The entry of the setting `roles` for users of certificates and checkers without an entry."""
