"""How much one user, one connection and all of them together may take: the limits of the settings.

``[limits]`` of etc/taskqd.toml has each by its name here. Nothing here counts anything: whoever is held to a
limit is held to it where it is met. What no setting changes, such as how many tasks an array may have, is a
constant of ``submission``, ``requests`` or ``replies``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict

from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration, parse_integer, parse_size

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

NONE = "none"
"""How it is written that there is no limit."""
BURST = 10
"""So many seconds' worth of submissions may come at once from a user who sent none for as long."""
DESCRIPTORS_A_SLOT = 5
"""What a job takes as it starts: both ends of two pipes and its stdin; later two pipes and two files."""
DESCRIPTORS_RESERVED = 64
"""What neither jobs nor connections get: the journal, the listeners and the rest."""
CONNECTIONS_RESERVED = 16
"""This many connections there must be room for, however many slots there are to be."""


class PendingLimit(NamedTuple):
    """How much may be pending: jobs, and bytes of memory that they take (footprint.py); None for no limit."""

    jobs: int | None = None
    bytes: int | None = None


UNBOUNDED = PendingLimit()


class Limits(Struct, frozen=True, kw_only=True):
    """Every limit: times in seconds, sizes in bytes, None where there is none.

    Those of one user (``connections_per_user``, ``pending_per_user``, ``pending_bytes_per_user``,
    ``schedules_per_user``, ``submissions``, ``priority``) do not hold for admins, who can do worse anyway.
    """

    connections: int | None = 10_000
    """All connections; each takes a descriptor, and memory for what it has sent and not read."""
    connections_per_user: int | None = 1_000
    """One user's connections, so that one who leaks them does not shut the others out."""
    connections_before_auth: int | None = 100
    """Connections of which nobody knows whose they are: those are the ones that strangers can open."""
    auth_time: float | None = 10.0
    """How long a connection may take to say whose it is; a program does it at once."""
    idle_time: float | None = 86400.0
    """How long one that waits for nothing may be silent; a peer that vanished is never heard of otherwise."""
    line: int = 65_536
    """A request line without its end; it is in memory before anybody can tell what it asks for."""
    block: int = 16 * 1024**2
    """A script or a stdin block; it is in memory, then on disk for as long as its job is kept."""
    command: int = 65_536
    """A job's command, which stays in memory for as long as its job is kept."""
    environment: int = 65_536
    """Names and values of --env and --secret together, which stay in memory as well."""
    label: int = 1000
    """Characters of a label, which is shown in every LIST."""
    pending: int | None = 2_000_000
    """All jobs that are PENDING; a kilobyte or two of memory each."""
    pending_per_user: int | None = 100_000
    """One user's jobs that are PENDING, so that nobody fills the queue alone; the largest array fits."""
    pending_bytes: int | None = 2 * 1024**3
    """Commands, environments, labels and dependencies of all PENDING jobs, which are in memory."""
    pending_bytes_per_user: int | None = 256 * 1024**2
    """The same of one user: 100,000 jobs with 2,600 bytes each, or 83 dependencies each."""
    schedules_per_user: int | None = 1000
    """One user's schedules, each of which submits for ever."""
    submissions: float | None = 1000.0
    """One user's submissions and acts on jobs a second, over ``BURST`` seconds; the disk is everybody's."""
    replies: int = 65_536
    """What one connection has not read of its replies before no more is read of it."""
    output: int | None = 16 * 1024**3
    """What a job may ask for by --max-output, for each stream; without that option it gets no more either."""
    block_memory: int | None = 256 * 1024**2
    """All blocks that are on their way in, whoever sends them: they are in memory until they are whole."""
    priority: int | None = 0
    """The highest that a job may have; lower is always free, as with nice(1)."""

    @property
    def most_pending(self) -> PendingLimit:
        """How much may be pending in all."""
        return PendingLimit(self.pending, self.pending_bytes)

    @property
    def most_pending_per_user(self) -> PendingLimit:
        """How much of one user's may be pending."""
        return PendingLimit(self.pending_per_user, self.pending_bytes_per_user)


class Limit(NamedTuple):
    """What one limit may be: in words for a person, the reader of its text, and whether there may be none.

    The reader raises BadRequest.
    """

    form: str
    read: Callable[[str], float]
    may_be_none: bool = True

    @property
    def expected(self) -> str:
        """What the limit must be, for a person."""
        return f'{self.form}, or "{NONE}"' if self.may_be_none else self.form


def _count(least: int, most: int, *, may_be_none: bool = True) -> Limit:
    return Limit(
        f"a whole number from {least} to {most}", lambda text: parse_integer(text, least, most), may_be_none
    )


def _size(least: str, most: str, *, may_be_none: bool = True) -> Limit:
    low, high = parse_size(least), parse_size(most)

    def read(text: str) -> int:
        size = parse_size(text)
        if not low <= size <= high:
            raise BadRequest(f"expected a size from {least} to {most}, not {text}")
        return size

    return Limit(f'a size from {least} to {most}, such as 5000 for bytes or "{most}"', read, may_be_none)


def _time(example: str) -> Limit:
    def read(text: str) -> float:
        seconds = parse_duration(text)
        if seconds <= 0:
            raise BadRequest(f"expected a duration above 0, not {text}")
        return seconds

    return Limit(f'a duration above 0, such as "{example}"', read)


def _rate(least: float, most: int) -> Limit:
    def read(text: str) -> float:
        rate = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not least <= rate <= most:
            raise BadRequest(f"expected a number from {least} to {most}, not {text[:60]!r}")
        return rate

    return Limit(f"a number from {least} to {most}, so many a second", read)


LIMITS: dict[str, Limit] = {
    "connections": _count(1, 1_000_000),
    "connections-per-user": _count(1, 1_000_000),
    "connections-before-auth": _count(1, 1_000_000),
    "auth-time": _time("10s"),
    "idle-time": _time("1d"),
    "line": _size("1k", "64k", may_be_none=False),
    "block": _size("0", "16M", may_be_none=False),
    "command": _size("1", "64k", may_be_none=False),
    "environment": _size("0", "64k", may_be_none=False),
    "label": _count(1, 1000, may_be_none=False),
    "pending": _count(1, 100_000_000),
    "pending-per-user": _count(1, 100_000_000),
    "pending-bytes": _size("1M", "100000G"),
    "pending-bytes-per-user": _size("1M", "100000G"),
    "schedules-per-user": _count(1, 1_000_000),
    # A burst is one submission at least.
    "submissions": _rate(1 / BURST, 1_000_000),
    "replies": _size("4k", "16M", may_be_none=False),
    "output": _size("0", "100000G"),
    "block-memory": _size("64k", "100000G"),
    "priority": _count(-1_000_000, 1_000_000),
}
"""Every limit, by its name in the settings."""


def read_limit(name: str, value: Any) -> float | None:
    """Return a limit of LIMITS as a file or a command line has it: a number, or text such as ``64k``.

    None means that there is no limit. Raises BadRequest if it is not what its ``expected`` tells.
    """
    limit = LIMITS[name]
    if value == NONE and limit.may_be_none:
        return None
    if type(value) not in (int, float, str):
        raise BadRequest(f"expected {limit.expected}")
    return limit.read(f"{value}")


def quotas_of(limits: Mapping[str, float | None]) -> Limits:
    """Return the quotas in which these limits, by their names in LIMITS, are not the default.

    Raises BadRequest if there is one beside which another one cannot be.
    """
    values: dict[str, Any] = {name.replace("-", "_"): limit for name, limit in limits.items()}
    quotas = Limits(**values)
    if quotas.block_memory is not None and quotas.block_memory < quotas.block:
        raise BadRequest(
            f"limit block-memory must be at least limit block, which is {quotas.block} bytes, "
            f"not {quotas.block_memory}: else no such block could ever arrive"
        )
    return quotas


def describe(quotas: Limits) -> dict[str, float | None]:
    """Return the limits for HELLO and STATS, where ``output`` is what one OUTPUT sends already."""
    described: dict[str, float | None] = asdict(quotas)
    described["max_output"] = described.pop("output")
    return described


def slots_within(descriptors: int) -> int:
    """Return how many slots there may be in a process that may have this many descriptors, at least one."""
    return max(1, (descriptors - DESCRIPTORS_RESERVED - CONNECTIONS_RESERVED) // DESCRIPTORS_A_SLOT)


def max_connections(quotas: Limits, descriptors: int, slots: int) -> int:
    """Return how many connections there may be in a process that may have so many descriptors.

    What jobs, the journal and the listeners need is kept back; one connection there always is.
    """
    room = max(1, descriptors - DESCRIPTORS_A_SLOT * slots - DESCRIPTORS_RESERVED)
    return room if quotas.connections is None else min(quotas.connections, room)
