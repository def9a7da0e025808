"""The user or part of the daemon that makes a decision, as the journal records it."""

from typing import NamedTuple

DAEMON_NAME = "taskqd"
"""The user in the records of what the daemon itself decides."""


class Actor(NamedTuple):
    """A user who submits or changes jobs; ``name`` is the owner of the jobs that they submit.

    ``origin`` is where the user connected from: a process of this machine, ``pid 1234``, or an address,
    ``10.0.0.5:4242``; None for the daemon itself.
    """

    name: str
    origin: str | None = None


END_HOOK = Actor("[on_end]")
"""The owner of the jobs that run the ``on_end`` command; users cannot have a name with brackets."""
