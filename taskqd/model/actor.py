"""Who asks for something, as the journal keeps it: a name, and where they asked from."""

from typing import NamedTuple


class Actor(NamedTuple):
    """Somebody who decides something about a job; their ``name`` owns the jobs that they submit.

    ``origin`` is a process of this machine, ``pid 1234``, or an address, ``10.0.0.5:4242``; None where the
    daemon itself decides.
    """

    name: str
    origin: str | None = None
