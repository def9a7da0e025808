"""A request of every verb, and which of six clients may make it.

This is the table of docs/security.md again, written by hand. It is tested in memory
(unit/auth/test_authorization.py) and over sockets (end_to_end/test_roles.py).
"""

LINES = {
    **{verb: verb for verb in ("HELLO", "PING", "STATS", "QUEUES", "LIST", "SCHEDULES")},
    **{verb: f"{verb} {{job}}" for verb in ("STATUS", "SHOW", "HISTORY", "WHY", "HOLD", "RELEASE")},
    "SUSPEND": "SUSPEND {job}",
    "CONTINUE": "CONTINUE {job}",
    "HELP": "HELP PING",
    "AUTH": "AUTH wrong",
    "QUIT": "QUIT",
    "RESULT": "RESULT {ended}",
    "OUTPUT": "OUTPUT {ended} stdout",
    "LOG": "LOG {ended}",
    "WAIT": "WAIT {ended}",
    "FOLLOW": "FOLLOW {ended}",
    "WATCH": "WATCH --job={job}",
    "SET": "SET {job} --label=x",
    "CANCEL": "CANCEL {job}",
    "RETRY": "RETRY {ended}",
    "REMOVE": "REMOVE {ended}",
    "SEND": "SEND {job} --eof",
    "UNSCHEDULE": "UNSCHEDULE {schedule}",
    "PAUSE": "PAUSE --schedule={schedule}",
    "RESUME": "RESUME --schedule={schedule}",
    "SUBMIT": "SUBMIT --hold true",
    "SCHEDULE": "SCHEDULE --every=1h true",
    "SET-QUEUE": "SET-QUEUE q --slots=2",
    "SET-SLOTS": "SET-SLOTS 3",
    "DRAIN": "DRAIN",
    "SHUTDOWN": "SHUTDOWN",
}
"""Requests by verb, with placeholders for a pending job, an ended job and a schedule."""

EVERYBODY = ("HELLO", "PING", "HELP", "AUTH", "QUIT")
LISTS = ("STATS", "QUEUES", "LIST", "SCHEDULES")
LOOKS = ("STATUS", "SHOW", "HISTORY", "WHY", "RESULT", "OUTPUT", "LOG", "WAIT", "FOLLOW", "WATCH")
ACTS = (
    *("SET", "CANCEL", "RETRY", "REMOVE", "HOLD", "RELEASE", "SUSPEND", "CONTINUE"),
    *("UNSCHEDULE", "PAUSE", "RESUME"),
)
NEW = ("SUBMIT", "SCHEDULE")
RULES = ("SET-QUEUE", "SET-SLOTS", "DRAIN", "SHUTDOWN")

WHO = ("a stranger", "a reader", "an owner who may only read", "another", "the owner", "an admin")
"""`another` has the role submit too; the second reader has a `read` token with the owner's name."""

_LET = {
    **dict.fromkeys(EVERYBODY, WHO),
    **dict.fromkeys(LISTS, WHO[1:]),
    **dict.fromkeys(LOOKS, ("a reader", "an owner who may only read", "the owner", "an admin")),
    **dict.fromkeys(ACTS, ("the owner", "an admin")),
    "SEND": ("the owner",),
    **dict.fromkeys(NEW, ("another", "the owner", "an admin")),
    **dict.fromkeys(RULES, ("an admin",)),
}


def code_for(verb: str, who: str) -> str | None:
    """Return the code with which a verb is refused to a client, None if it is allowed."""
    if who in _LET[verb]:
        return None
    return "AUTH_REQUIRED" if who == "a stranger" else "FORBIDDEN"
