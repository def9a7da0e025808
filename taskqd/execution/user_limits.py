"""The limits of users: /etc/security/limits.conf and limits.d, as pam_limits(8) reads them.

Only items of setrlimit(2) are used, for a user, a group, ranges of uids and gids, or ``*``. A line for a user
overrides one for a group, and that overrides ``*``; of two equal ones the later counts. A line ``<domain> -``
exempts the domain from all limits. Items about logins, ``priority`` and ``nonewprivs`` are ignored: a job is
no login.
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
"""Has the maximum of RLIMIT_NOFILE that the kernel allows even to root."""

_LOCKS = 10  # RLIMIT_LOCKS of setrlimit(2), which Python lacks
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
"""The number for setrlimit(2) and the unit of each item, by its name, which prlimit(1) uses, too."""


class _Line(NamedTuple):
    """A line of limits.conf; ``kind`` is soft, hard, or - for both."""

    domain: str
    kind: str
    item: str
    value: str


class _Precedence(IntEnum):
    """The kind of domain that a line names; the lowest overrides the others."""

    USER = 0
    GROUP = 1
    DEFAULT = 2


class UserLimits:
    """Returns the limits of users; reads the files below ``directory`` only if one has changed."""

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
        self._stamps: tuple[object, ...] | None = None
        self._lines: list[_Line] = []

    def prlimit_options(self, user: User) -> list[str]:
        """Return options of prlimit(1) that set a user's limits, none if there are none; raises OSError.

        If only one of the soft and the hard limit is set, the other is the daemon's own.
        """
        self._refresh()
        found: dict[tuple[str, str], tuple[_Precedence, int]] = {}
        groups: frozenset[int] | None = None
        for line in self._lines:
            if line.domain.startswith("@") and groups is None:
                groups = self._groups(user)
            precedence = self._precedence(line.domain, user, groups or frozenset())
            if precedence is None:
                continue
            if not line.item:
                return []
            value = _value(line.item, line.value)
            for kind in _KINDS if line.kind == "-" else (line.kind,):
                before = found.get((line.item, kind))
                if value is None or kind not in _KINDS or (before is not None and before[0] < precedence):
                    break  # as in pam_limits: if the soft limit is overridden, so is the hard one
                found[line.item, kind] = precedence, value
        return [self._option(item, found) for item in sorted({item for item, _ in found})]

    def _option(self, item: str, found: dict[tuple[str, str], tuple[_Precedence, int]]) -> str:
        soft, hard = (
            found[item, kind][1] if (item, kind) in found else current
            for kind, current in zip(_KINDS, self._current(_ITEMS[item][0]), strict=True)
        )
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        return f"--{item}={_word(soft)}:{_word(hard)}"

    def _precedence(self, domain: str, user: User, groups: frozenset[int]) -> _Precedence | None:
        """Return the precedence of a domain for a user, None if the user is not in it."""
        if domain == user.name:
            return _Precedence.USER
        if domain == "*":
            return _Precedence.DEFAULT
        if domain.startswith("@"):
            form = _RANGE.fullmatch(domain, 1)
            if form is None:
                return _Precedence.GROUP if self._gid(domain[1:]) in groups else None
            if not form[1]:  # a single group, primary or not
                return _Precedence.GROUP if form[2] and int(form[2]) in groups else None
            return _Precedence.GROUP if _is_within(form, user.gid) else None
        form = _RANGE.fullmatch(domain)
        return _Precedence.USER if form is not None and _is_within(form, user.uid) else None

    def _refresh(self) -> None:
        """Read the files if any has changed since the last time."""
        paths = list(self._paths())
        stamps = tuple((path, *_stamp(path)) for path in paths)
        if stamps != self._stamps:
            self._lines = [line for path in paths for line in _lines(path)]
            self._stamps = stamps

    def _paths(self) -> Iterator[str]:
        """Yield the paths of the files in their order; later lines count."""
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
    """Yield the lines of a file; raises OSError. A line without an item exempts its domain from limits."""
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
    first, last = form.groups()
    if not first:
        return bool(last) and number == int(last)
    return int(first) <= number and (not last or number <= int(last))


def _value(item: str, text: str) -> int | None:
    """Return a limit for setrlimit(2), None if the text is no limit or the item is ignored."""
    if item not in _ITEMS:
        return None
    number = _NUMBER.match(text)
    if item == "nice":
        return 20 - min(max(int(number[0]), -20), 19) if number else None
    if text in _UNLIMITED or (number and int(number[0]) < 0):
        return _max_descriptors() if item == "nofile" else resource.RLIM_INFINITY
    if number is None:
        return None
    value = int(number[0]) * _ITEMS[item][1]
    return value if value < 2**63 else resource.RLIM_INFINITY


def _max_descriptors() -> int:
    with suppress(OSError, ValueError), open(NR_OPEN, encoding="ascii") as file:
        return int(file.read())
    return resource.RLIM_INFINITY


def _word(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
