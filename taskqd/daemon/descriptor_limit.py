"""The limit of open descriptors (RLIMIT_NOFILE), and how many slots and connections it allows.

The daemon raises its own soft limit; its jobs get the one that the daemon was started with. That one is low
by default because of programs that use select(2): a job may be such a program, the daemon is not.
"""

import resource

from twisted.logger import Logger

from taskqd.config.limits import DESCRIPTORS_PER_SLOT, Limits, max_connections, max_slots
from taskqd.config.settings import MAX_SLOTS

_log = Logger()


def raise_limit() -> int | None:
    """Raise the soft limit to the hard limit; return the old soft limit, None if it has not changed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return None
    return soft


def limit() -> int:
    """Return how many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_usable_slots() -> int:
    """Return how many slots the descriptors allow, at most MAX_SLOTS."""
    return min(MAX_SLOTS, max_slots(limit()))


def usable_slots(slots: int) -> int:
    """Return the slots of the settings, or the number that the descriptors allow if that is lower."""
    allowed = max_slots(limit())
    if slots <= allowed:
        return slots
    _log.warn(
        "{most} slots in place of slots = {slots}: each takes up to {each} descriptors, and this "
        "process may have {limit} (ulimit -Hn, or LimitNOFILE of the unit); raise that",
        most=allowed,
        slots=slots,
        each=DESCRIPTORS_PER_SLOT,
        limit=limit(),
    )
    return allowed


def usable_connections(limits: Limits, slots: int) -> int:
    """Return how many connections the settings and the descriptors allow."""
    allowed = max_connections(limits, limit(), slots)
    if limits.connections is None or allowed < limits.connections:
        _log.info(
            "at most {most} connections, since this process may open {descriptors} files (ulimit -n)",
            most=allowed,
            descriptors=limit(),
        )
    return allowed
