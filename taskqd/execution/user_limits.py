"""What limits a machine sets its users: /etc/security/limits.conf and limits.d, as pam_limits(8) has them.

Taken are the items that setrlimit(2) knows, for a user, a group, ranges of uids and gids, or ``*``. A more
particular line stands over a more general one, of two alike the later one, and a line ``<domain> -`` leaves
whom it is about without any. What is about logins, and ``priority`` and ``nonewprivs``, is not: a job is no
login.
"""

import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

from taskqd.execution.users import User, group_id, groups_of

DIRECTORY = "/etc/security"
NR_OPEN = "/proc/sys/fs/nr_open"
"""What the kernel has for the most descriptors of a process: more than that is refused even to root."""

_LOCKS = 10  # RLIMIT_LOCKS, which Python has no name for: setrlimit(2)
_KINDS = ("soft", "hard")
_UNLIMITED = ("-1", "-", "unlimited", "infinity")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_RANGE = re.compile(r"([0-9]*):([0-9]*)")

_ITEMS: dict[str, tuple[int, int]] = {
    "cpu": (resource.RLIMIT_CPU, 60),
    **{
        item: (number, 1024)
        for item, number in (
            ("as", resource.RLIMIT_AS),
            ("core", resource.RLIMIT_CORE),
            ("data", resource.RLIMIT_DATA),
            ("fsize", resource.RLIMIT_FSIZE),
            ("memlock", resource.RLIMIT_MEMLOCK),
            ("rss", resource.RLIMIT_RSS),
            ("stack", resource.RLIMIT_STACK),
        )
    },
    "locks": (_LOCKS, 1),
    "msgqueue": (resource.RLIMIT_MSGQUEUE, 1),
    "nice": (resource.RLIMIT_NICE, 1),
    "nofile": (resource.RLIMIT_NOFILE, 1),
    "nproc": (resource.RLIMIT_NPROC, 1),
    "rtprio": (resource.RLIMIT_RTPRIO, 1),
    "rttime": (resource.RLIMIT_RTTIME, 1),
    "sigpending": (resource.RLIMIT_SIGPENDING, 1),
}
"""The items by their names, which are prlimit(1)'s too: the number of each for setrlimit(2), and its unit."""


class _Line(NamedTuple):
    """A line of four words: whom it is about, which of the two limits, of what, and how much."""

    domain: str
    kind: str
    item: str
    value: str


class _Source(IntEnum):
    """How particular a line is that is about a user."""

    USER = 0
    GROUP = 1
    DEFAULT = 2


class UserLimits:
    """Reads the files below ``directory`` again only when one has changed."""

    def __init__(
        self,
        directory: str = DIRECTORY,
        current: Callable[[int], tuple[int, int]] = resource.getrlimit,
        groups: Callable[[User], frozenset[int]] = groups_of,
        gid: Callable[[str], int | None] = group_id,
    ) -> None:
        self._directory = directory
        self._current = current
        self._groups = groups
        self._gid = gid
        self._read: tuple[object, ...] | None = None
        self._lines: list[_Line] = []

    def options(self, user: User) -> list[str]:
        """Return prlimit(1)'s options that set a user's limits, none where nothing is said; raises OSError.

        Where only one of the soft and the hard limit is set, the other is the daemon's own.
        """
        self._refresh()
        found: dict[tuple[str, str], tuple[_Source, int]] = {}
        groups: frozenset[int] | None = None
        for line in self._lines:
            if line.domain.startswith("@") and groups is None:
                groups = self._groups(user)
            source = self._source(line.domain, user, groups or frozenset())
            if source is None:
                continue
            if not line.item:
                return []
            value = _value(line.item, line.value)
            for kind in _KINDS if line.kind == "-" else (line.kind,):
                before = found.get((line.item, kind))
                if value is None or kind not in _KINDS or (before is not None and before[0] < source):
                    break  # as pam_limits does it: where the soft limit stands, so does the hard one
                found[line.item, kind] = source, value
        return [self._option(item, found) for item in sorted({item for item, _ in found})]

    def _option(self, item: str, found: dict[tuple[str, str], tuple[_Source, int]]) -> str:
        soft, hard = (
            found[item, kind][1] if (item, kind) in found else current
            for kind, current in zip(_KINDS, self._current(_ITEMS[item][0]), strict=True)
        )
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        return f"--{item}={_word(soft)}:{_word(hard)}"

    def _source(self, domain: str, user: User, groups: frozenset[int]) -> _Source | None:
        """Return how a line comes to be about a user, None if it is not."""
        if domain == user.name:
            return _Source.USER
        if domain == "*":
            return _Source.DEFAULT
        if domain.startswith("@"):
            form = _RANGE.fullmatch(domain, 1)
            if form is None:
                return _Source.GROUP if self._gid(domain[1:]) in groups else None
            if not form[1]:  # one group, which need not be the primary one
                return _Source.GROUP if form[2] and int(form[2]) in groups else None
            return _Source.GROUP if _is_within(form, user.gid) else None
        form = _RANGE.fullmatch(domain)
        return _Source.USER if form is not None and _is_within(form, user.uid) else None

    def _refresh(self) -> None:
        """Read the files if any has changed since they were read."""
        paths = list(self._paths())
        read = tuple((path, *_stamp(path)) for path in paths)
        if read != self._read:
            self._lines = [line for path in paths for line in _lines(path)]
            self._read = read

    def _paths(self) -> Iterator[str]:
        """Yield the files in the order in which they count."""
        first = os.path.join(self._directory, "limits.conf")
        if os.path.exists(first):
            yield first
        more = os.path.join(self._directory, "limits.d")
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = os.listdir(more)
        for name in sorted(names):
            if name.endswith(".conf") and not name.startswith("."):
                yield os.path.join(more, name)


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _lines(path: str) -> Iterator[_Line]:
    """Yield what a file says, in its order; raises OSError.

    A line without an item is one that leaves its domain without limits.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for text in file:
            words = text.partition("#")[0].split(maxsplit=4)
            if len(words) >= 4:
                domain, *others = words[:4]
                yield _Line(domain, *(word.lower() for word in others))
            elif len(words) == 2 and words[1].startswith("-") and words[0] != "*":
                yield _Line(words[0], "-", "", "")


def _is_within(form: "re.Match[str]", number: int) -> bool:
    """Whether a number is in a range ``<min>:<max>``, ``<min>:`` or ``:<exactly>``."""
    least, most = form.groups()
    if not least:
        return bool(most) and number == int(most)
    return int(least) <= number and (not most or number <= int(most))


def _value(item: str, text: str) -> int | None:
    """Return a limit as setrlimit(2) takes it; None where there is none, or not of what is limited here."""
    if item not in _ITEMS:
        return None
    number = _NUMBER.match(text)
    if item == "nice":
        return 20 - min(max(int(number[0]), -20), 19) if number else None
    if text in _UNLIMITED or (number and int(number[0]) < 0):
        return _most_descriptors() if item == "nofile" else resource.RLIM_INFINITY
    if number is None:
        return None
    value = int(number[0]) * _ITEMS[item][1]
    return value if value < 2**63 else resource.RLIM_INFINITY


def _most_descriptors() -> int:
    with suppress(OSError, ValueError), open(NR_OPEN, encoding="ascii") as file:
        return int(file.read())
    return resource.RLIM_INFINITY


def _word(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
