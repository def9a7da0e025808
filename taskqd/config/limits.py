"""The limits of the settings: how much one user, one connection and all of them together may use.

``[limits]`` of etc/taskqd.toml has each by its name here. The limits are enforced where they apply; nothing
here counts anything. Limits that no setting changes, such as the size of an array, are constants elsewhere.
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
"""The value of a setting that means no limit."""
BURST = 10
"""Seconds of a user's submission rate that the user may submit at once, after as long without any."""
DESCRIPTORS_PER_SLOT = 5
"""Descriptors of a starting job: two pipes with both ends, and stdin; later two pipes and two files."""
DESCRIPTORS_RESERVED = 64
"""Descriptors kept for the journal, the listening ports and the rest of the daemon."""
CONNECTIONS_RESERVED = 16
"""Connections for which descriptors are kept, however many slots there are."""


class PendingLimit(NamedTuple):
    """The limits of pending jobs: number, and bytes of memory (footprint.py); None is no limit."""

    jobs: int | None = None
    bytes: int | None = None


UNBOUNDED = PendingLimit()


class Limits(Struct, frozen=True, kw_only=True):
    """Every limit: times in seconds, sizes in bytes, None for no limit.

    Those of one user (``connections_per_user``, ``pending_per_user``, ``pending_bytes_per_user``,
    ``schedules_per_user``, ``submissions``, ``acts``, ``priority``) do not apply to admins, who can stop the
    daemon anyway. ``slots_per_user`` applies to admins too: it shares out the machine.
    """

    connections: int | None = 10_000
    """All connections: each takes a descriptor, and memory for requests and unread replies."""
    connections_per_user: int | None = 1_000
    """Connections of one user, so that a program that leaks them does not lock out other users."""
    connections_before_auth: int | None = 100
    """Connections that have not authenticated, which anyone who reaches the port can open."""
    connections_before_auth_per_address: int | None = 10
    """The same of one address, so that a host which opens many of them takes no place from other hosts."""
    auth_time: float | None = 60.0
    """Time that a connection has to authenticate: programs do so at once, people look for their token."""
    idle_time: float | None = 86400.0
    """Silence after which a connection without open requests is closed: its peer may be gone."""
    line: int = 65_536
    """Size of a request line without its end, which is in memory before it is parsed."""
    block: int = 16 * 1024**2
    """Size of a script or stdin, which is in memory at first, and on disk as long as its job is kept."""
    command: int = 65_536
    """Size of a job's command, which is in memory as long as the job is kept."""
    environment: int = 65_536
    """Size of names and values of --env and --secret together, which are in memory as well."""
    label: int = 1000
    """Characters of a label, which every LIST shows."""
    pending: int | None = 2_000_000
    """PENDING jobs of all users; each takes 1 to 2 kB of memory."""
    pending_per_user: int | None = 100_000
    """PENDING jobs of one user, so that no user fills the queue alone; the largest array fits."""
    pending_bytes: int | None = 2 * 1024**3
    """Memory of the PENDING jobs of all users: commands, environments, labels and dependencies."""
    pending_bytes_per_user: int | None = 256 * 1024**2
    """Memory of the PENDING jobs of one user: 100,000 jobs with 2,600 bytes or 83 dependencies each."""
    schedules_per_user: int | None = 1000
    """Schedules of one user, each of which submits jobs until it is ended."""
    slots_per_user: int | None = None
    """Slots on which the jobs of one user run, so that no user keeps all others waiting."""
    submissions: float | None = 1000.0
    """Submissions and commands of one user per second, over ``BURST`` seconds: all users share the disk."""
    acts: float | None = 5000.0
    """Jobs per second that the commands of one user for many jobs change; they wait and are not refused."""
    replies: int = 65_536
    """Unread replies of a connection above which no more requests are read from it."""
    output: int | None = 16 * 1024**3
    """Largest --max-output of a job, per stream; it also limits jobs without that option."""
    block_memory: int | None = 256 * 1024**2
    """Blocks of all connections that are being received: they are in memory until they are complete."""
    priority: int | None = 0
    """Highest priority that a user may give a job; lower ones are always allowed, as with nice(1)."""
    remote_control: bool = False
    """Whether admins may SHUTDOWN the daemon over TCP and TLS: a lost token must not stop it by default."""

    @property
    def pending_limit(self) -> PendingLimit:
        """The limits of the pending jobs of all users."""
        return PendingLimit(self.pending, self.pending_bytes)

    @property
    def pending_limit_per_user(self) -> PendingLimit:
        """The limits of the pending jobs of one user."""
        return PendingLimit(self.pending_per_user, self.pending_bytes_per_user)


class Limit(NamedTuple):
    """The form of a limit: a description, the parser of its text, and whether "none" is allowed.

    The parser raises BadRequest. TOML may have a value of one of `types`.
    """

    form: str
    parse: Callable[[str], float]
    may_be_none: bool = True
    types: tuple[type, ...] = (int, float, str)

    @property
    def expected(self) -> str:
        """Description of the allowed values, for errors."""
        return f'{self.form}, or "{NONE}"' if self.may_be_none else self.form


def _count(low: int, high: int, *, may_be_none: bool = True) -> Limit:
    return Limit(
        f"a whole number from {low} to {high}", lambda text: parse_integer(text, low, high), may_be_none
    )


def _size(low: str, high: str, *, may_be_none: bool = True) -> Limit:
    low_bytes, high_bytes = parse_size(low), parse_size(high)

    def parse(text: str) -> int:
        size = parse_size(text)
        if not low_bytes <= size <= high_bytes:
            raise BadRequest(f"expected a size from {low} to {high}, not {text}")
        return size

    return Limit(f'a size from {low} to {high}, such as 5000 for bytes or "{high}"', parse, may_be_none)


def _time(example: str) -> Limit:
    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if seconds <= 0:
            raise BadRequest(f"expected a duration above 0, not {text}")
        return seconds

    return Limit(f'a duration above 0, such as "{example}"', parse)


def _rate(low: float, high: int) -> Limit:
    def parse(text: str) -> float:
        rate = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not low <= rate <= high:
            raise BadRequest(f"expected a number from {low} to {high}, not {text[:60]!r}")
        return rate

    return Limit(f"a number per second from {low} to {high}", parse)


def _switch() -> Limit:
    form = "true or false"

    def parse(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise BadRequest(f"expected {form}, not {text[:60]!r}")
        return text.lower() == "true"

    return Limit(form, parse, may_be_none=False, types=(bool, str))


LIMITS: dict[str, Limit] = {
    "connections": _count(1, 1_000_000),
    "connections-per-user": _count(1, 1_000_000),
    "connections-before-auth": _count(1, 1_000_000),
    "connections-before-auth-per-address": _count(1, 1_000_000),
    "auth-time": _time("1m"),
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
    "slots-per-user": _count(1, 10_000),
    # At least one submission per burst.
    "submissions": _rate(1 / BURST, 1_000_000),
    "acts": _rate(1, 1_000_000),
    "replies": _size("4k", "16M", may_be_none=False),
    "output": _size("0", "100000G"),
    "block-memory": _size("64k", "100000G"),
    "priority": _count(-1_000_000, 1_000_000),
    "remote-control": _switch(),
}
"""Every limit by its name in the settings."""


def parse_limit(name: str, value: Any) -> float | None:
    """Return the value of a limit from TOML or the command line: a number, or a text such as ``64k``.

    None is no limit. Raises BadRequest if the value is not as ``expected``.
    """
    limit = LIMITS[name]
    if value == NONE and limit.may_be_none:
        return None
    if type(value) not in limit.types:
        raise BadRequest(f"expected {limit.expected}")
    return limit.parse(f"{value}")


def make_limits(limits: Mapping[str, float | None]) -> Limits:
    """Return the default limits with these, by their names in LIMITS, in place of some.

    Raises BadRequest if two of them contradict each other.
    """
    values: dict[str, Any] = {name.replace("-", "_"): limit for name, limit in limits.items()}
    made = Limits(**values)
    if made.block_memory is not None and made.block_memory < made.block:
        raise BadRequest(
            f"limit block-memory must be at least limit block, which is {made.block} bytes, "
            f"not {made.block_memory}: the largest block could never be received"
        )
    return made


def describe(limits: Limits) -> dict[str, float | None]:
    """Return the limits for HELLO and STATS, in which ``output`` has another meaning: that of one OUTPUT."""
    described: dict[str, float | None] = asdict(limits)
    described["max_output"] = described.pop("output")
    return described


def max_slots(descriptors: int) -> int:
    """Return the number of slots, at least 1, that a process with this limit of descriptors can have."""
    return max(1, (descriptors - DESCRIPTORS_RESERVED - CONNECTIONS_RESERVED) // DESCRIPTORS_PER_SLOT)


def max_connections(limits: Limits, descriptors: int, slots: int) -> int:
    """Return the number of connections, at least 1, that a process with this limit of descriptors can have.

    The descriptors that jobs, the journal and the listening ports need are subtracted first.
    """
    available = max(1, descriptors - DESCRIPTORS_PER_SLOT * slots - DESCRIPTORS_RESERVED)
    return available if limits.connections is None else min(limits.connections, available)
