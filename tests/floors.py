"""Which module of taskqd lives on which floor (docs/architecture.md): the one table of it.

``test_architecture.py`` holds the imports to it; ``python -m tests.floors`` prints the files of floor 0, all
of whose branches ``bin/test`` wants covered by the tests of floor 0, and ``--tests`` those of these tests. A
new module is added here, where it belongs. A package stands under its own name, with all that is in it.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]

FLOORS = (
    # 0, pure: no Twisted, no clock, no files
    (
        "errors",
        "actors",
        "roles",
        "words",
        "places",
        "zones",
        "options",
        "job",
        "specs",
        "footprint",
        "events",
        "retrying",
        "shortage",
        "scripts",
        "moves",
        "refs",
        "secret",
        "submission",
        "plain",
        "capacity",
        "reservation",
        "minima",
        "line",
        "queues",
        "schedules",
        "dependencies",
        "arrays",
        "expiry",
        "backlog",
        "why",
        "admission",
        "quotas",
        "intake",
        "buckets",
        "telnet",
        "requests",
        "wire",
        "blocks",
        "replies",
        "superseded",
        "journal",
        "replay",
        "tokens",
        "readers",
        "settings",
    ),
    # 1, the doors to the world
    (
        "interfaces",
        "clocks",
        "disk",
        "committer",
        "lock",
        "pid_file",
        "log_output",
        "addresses",
        "private",
        "token_file",
        "segments",
        "tail",
        "store",
        "snapshot",
        "users",
        "user_limits",
        "handover",
        "recording",
        "spool",
        "processes",
        "launch",
        "run_as",
        "together",
        "pipes",
        "children",
        "own_table",
        "posix_spawn",
        "orphans",
        "descriptors",
        "signals",
        "workers",
        "spawn",
        "scanner",
        "sweep",
        "executor",
        "tls",
        "rounds",
        "sockets",
        "unix_port",
        "listeners",
    ),
    # 2, the one writer
    (
        "turns",
        "runs",
        "results",
        "recorder",
        "slots",
        "skipping",
        "changes",
        "controls",
        "jumps",
        "reception",
        "dispatcher",
        "scheduler",
        "notices",
        "audit",
        "feed",
        "follow",
        "housekeeping",
    ),
    # 3, who asks, and what they get
    (
        "access",
        "verbs",
        "handshakes",
        "doorkeeper",
        "asked",
        "gathering",
        "pacing",
        "slices",
        "sending",
        "exchange",
        "reading",
        "protocol",
        "factory",
    ),
    # 4, where it is put together
    ("daemon", "service"),
)

BESIDE = ("client", "cli")
"""The client's packages: quick to start, so without Twisted and msgspec, and nobody's floor."""

LATE = ("cli/journal", "cli/tokens")
"""Theirs, but loaded only by the commands that need them: they read the daemon's files as the daemon does."""

DOORS = (
    ("store", "committer", "tail", "lock", "segments", "snapshot"),
    ("spool", "recording", "handover"),
    ("executor", "scanner", "sweep", "spawn", "posix_spawn", "workers", "children", "pipes", "launch"),
    FLOORS[3],
)
"""Behind each a few modules that know those behind the others only by ``interfaces``."""


def floor(module: str) -> int | None:
    """Return the floor of a module of the table, None if it is beside the house or not listed."""
    return next((number for number, modules in enumerate(FLOORS) if module in modules), None)


def tests_of(modules: tuple[str, ...]) -> list[str]:
    """Return the files of tests that have the names of these modules, from the checkout on."""
    files = (Path("tests", f"test_{module}.py") for module in modules)
    return [str(file) for file in files if (CHECKOUT / file).exists()]


def main(only_tests: bool) -> None:
    """Print the files of floor 0, as coverage takes them, or those of its tests, as pytest does."""
    if only_tests:
        print(*tests_of(FLOORS[0]))
    else:
        print(",".join(f"taskqd/{module}.py,taskqd/{module}/*" for module in FLOORS[0]))


if __name__ == "__main__":
    main("--tests" in sys.argv[1:])
