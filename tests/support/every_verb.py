"""A request of every verb about something that somebody has, and who of six may make it.

The table of docs/security.md once more, written by hand: what ``roles`` says must be the same, in memory
(test_gate.py) and over real sockets (end_to_end/test_roles.py).
"""

LINES = {
    **{verb: verb for verb in ("HELLO", "PING", "STATS", "QUEUES", "LIST", "SCHEDULES")},
    **{verb: f"{verb} {{job}}" for verb in ("STATUS", "SHOW", "HISTORY", "WHY", "HOLD", "RELEASE")},
    "HELP": "HELP PING",
    "AUTH": "AUTH wrong",
    "QUIT": "QUIT",
    "RESULT": "RESULT {ended}",
    "OUTPUT": "OUTPUT {ended} stdout",
    "WAIT": "WAIT {ended}",
    "FOLLOW": "FOLLOW {ended}",
    "WATCH": "WATCH --job={job}",
    "SET": "SET {job} --label=x",
    "CANCEL": "CANCEL {job}",
    "RETRY": "RETRY {ended}",
    "REMOVE": "REMOVE {ended}",
    "UNSCHEDULE": "UNSCHEDULE {schedule}",
    "PAUSE": "PAUSE --schedule={schedule}",
    "RESUME": "RESUME --schedule={schedule}",
    "SUBMIT": "SUBMIT --hold true",
    "SCHEDULE": "SCHEDULE --every=1h true",
    "SET-QUEUE": "SET-QUEUE q --slots=2",
    "DRAIN": "DRAIN",
}
"""By verb, about a pending job, an ended job or a schedule."""

EVERYBODY = ("HELLO", "PING", "HELP", "AUTH", "QUIT")
LISTS = ("STATS", "QUEUES", "LIST", "SCHEDULES")
LOOKS = ("STATUS", "SHOW", "HISTORY", "WHY", "RESULT", "OUTPUT", "WAIT", "FOLLOW", "WATCH")
ACTS = ("SET", "CANCEL", "RETRY", "REMOVE", "HOLD", "RELEASE", "UNSCHEDULE", "PAUSE", "RESUME")
NEW = ("SUBMIT", "SCHEDULE")
RULES = ("SET-QUEUE", "DRAIN")

WHO = ("a stranger", "a reader", "an owner who may only read", "another", "the owner", "an admin")
"""``another`` submits too; the reader of its own has a ``read`` token that carries the owner's name."""

_LET = {
    **dict.fromkeys(EVERYBODY, WHO),
    **dict.fromkeys(LISTS, WHO[1:]),
    **dict.fromkeys(LOOKS, ("a reader", "an owner who may only read", "the owner", "an admin")),
    **dict.fromkeys(ACTS, ("the owner", "an admin")),
    **dict.fromkeys(NEW, ("another", "the owner", "an admin")),
    **dict.fromkeys(RULES, ("an admin",)),
}


def code_for(verb: str, who: str) -> str | None:
    """Return the code with which a verb is refused, None for who is let."""
    if who in _LET[verb]:
        return None
    return "AUTH_REQUIRED" if who == "a stranger" else "FORBIDDEN"
