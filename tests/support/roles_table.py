"""The table of roles in docs/security.md; `python -m tests.support.roles_table` prints it."""

from taskqd.model.roles import Permission
from taskqd.protocol.verbs import VERBS

BEGIN, END = "<!-- roles:begin -->", "<!-- roles:end -->"

_CELLS = {
    Permission.NOTHING: ("yes", "yes", "yes", "yes", "yes"),
    Permission.KNOWN: ("no", "yes", "yes", "yes: of lists, what is their own", "yes"),
    Permission.VIEW: ("no", "yes", "yes", "their own", "yes"),
    Permission.MODIFY: ("no", "no", "no", "their own", "yes"),
    Permission.OWN: ("no", "no", "no", "their own", "their own"),
    Permission.SUBMIT: ("no", "no", "no", "yes", "yes"),
    Permission.ADMIN: ("no", "no", "no", "no", "yes"),
}
"""Per permission: clients that are not authenticated, `read` for own and other jobs, `submit`, `admin`."""


def table() -> str:
    """Return the table, with a row for all verbs that require the same permission."""
    rows = ["| verbs | strangers | read: own | read: others' | submit | admin |", "| --- " * 6 + "|"]
    for need, cells in _CELLS.items():
        verbs = " ".join(f"`{name}`" for name, verb in VERBS.items() if verb.permission is need)
        rows.append(f"| {verbs} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
