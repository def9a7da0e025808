"""The table of docs/security.md, made from ``roles``: ``python -m tests.support.roles_table`` prints it."""

from taskqd.model.roles import NEEDS, Need

BEGIN, END = "<!-- roles:begin -->", "<!-- roles:end -->"

_CELLS = {
    Need.NOTHING: ("yes", "yes", "yes", "yes", "yes"),
    Need.KNOWN: ("no", "yes", "yes", "yes: of lists, what is their own", "yes"),
    Need.SEE: ("no", "yes", "yes", "their own", "yes"),
    Need.CHANGE: ("no", "no", "no", "their own", "yes"),
    Need.SUBMIT: ("no", "no", "no", "yes", "yes"),
    Need.RULE: ("no", "no", "no", "no", "yes"),
}
"""What is let ask: strangers, ``read`` about their own and about others', ``submit``, ``admin``."""


def table() -> str:
    """Return the table, a row for all verbs with the same need."""
    rows = ["| verbs | strangers | read: own | read: others' | submit | admin |", "| --- " * 6 + "|"]
    for need, cells in _CELLS.items():
        verbs = " ".join(f"`{verb}`" for verb, its in NEEDS.items() if its is need)
        rows.append(f"| {verbs} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
