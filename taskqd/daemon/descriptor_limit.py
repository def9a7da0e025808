"""The limit of descriptors, RLIMIT_NOFILE: the daemon raises its own, and its jobs get what it was given.

A soft limit is low by default for the sake of programs that use select(2), which jobs may be and the daemon
is not.
"""

import resource


def raise_limit() -> int | None:
    """Raise the soft limit to the hard one; return the soft one that there was, None if it stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return None
    return soft


def limit() -> int:
    """Return how many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
