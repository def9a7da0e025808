"""Who may do what: the roles, and for each verb what it takes to ask for it (docs/security.md has the table).

A verb that is about jobs is asked about one's own or about somebody else's. What somebody may not do is
refused; what they may not see is left out of lists.
"""

from enum import Enum

from taskqd.errors import Forbidden


class Role(str, Enum):
    """What somebody is let do: everything, jobs of their own, or looking at all and changing nothing."""

    ADMIN = "admin"
    SUBMIT = "submit"
    READ = "read"


class Permission(Enum):
    """What a verb asks of those who use it."""

    NOTHING = "everybody, even before an AUTH"
    KNOWN = "everybody who is known"
    VIEW = "jobs that one may see"
    MODIFY = "jobs that one may change"
    SUBMIT = "being let submit jobs"
    ADMIN = "being an admin"


PERMISSIONS: dict[str, Permission] = {
    **dict.fromkeys(("HELLO", "PING", "HELP", "AUTH", "QUIT"), Permission.NOTHING),
    **dict.fromkeys(("STATS", "QUEUES", "LIST", "SCHEDULES", "WATCH"), Permission.KNOWN),
    **dict.fromkeys(
        ("STATUS", "RESULT", "SHOW", "OUTPUT", "HISTORY", "WHY", "WAIT", "FOLLOW"), Permission.VIEW
    ),
    **dict.fromkeys(("CANCEL", "RETRY", "REMOVE", "HOLD", "RELEASE", "SET", "UNSCHEDULE"), Permission.MODIFY),
    **dict.fromkeys(("SUBMIT", "SCHEDULE"), Permission.SUBMIT),
    **dict.fromkeys(("SET-QUEUE", "DRAIN"), Permission.ADMIN),
    # Of a queue or of all they take an admin, which is looked at where it is known what they are about.
    **dict.fromkeys(("PAUSE", "RESUME"), Permission.MODIFY),
}
"""Every verb, by what it needs."""

_ONLY_LOOKS = "the role read sees everything and changes nothing"


def check_verb(verb: str, role: Role) -> None:
    """Raise Forbidden if a role may not use a verb at all, whatever it is about."""
    need = PERMISSIONS[verb]
    if need is Permission.ADMIN and role is not Role.ADMIN:
        raise Forbidden(f"{verb} is for admins, and you are here with the role {role.value}")
    if need in (Permission.MODIFY, Permission.SUBMIT) and role is Role.READ:
        raise Forbidden(f"{verb} changes something, and {_ONLY_LOOKS}")


def sees_all(role: Role) -> bool:
    """Whether a role sees everybody's jobs."""
    return role is not Role.SUBMIT


def check_owner(verb: str, role: Role, name: str, owner: str, what: str) -> None:
    """Raise Forbidden if somebody of this role and name may not use a verb on what ``owner`` has.

    ``what`` names it: ``job 7``. The verb itself was let through by ``check_verb``.
    """
    if (
        role is Role.ADMIN
        or owner == name
        or (sees_all(role) and PERMISSIONS[verb] in (Permission.VIEW, Permission.KNOWN))
    ):
        return
    raise Forbidden(f"{what} is somebody else's, and {verb} takes one of your own: you are {name}")


ANYBODY = "*"
"""Among the names that have a role, it stands for those from certificates and checkers that are not there."""
