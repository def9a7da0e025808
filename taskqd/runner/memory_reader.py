"""Reads how much memory the processes of attempts use together, from /proc.

A page that several processes share counts once: Pss (proc(5)). To know that, the kernel walks over all pages,
up to 30 ms per GiB. So it is read only if an upper bound is not enough: the sum over the processes, which
costs 1.5 µs for each whose file stays open.

A process belongs to an attempt by its session or its mark, as in process_tree.py. One list of /proc serves
all attempts, and session and mark are read once per process.
"""

import os
import resource
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taskqd.execution import proc
from taskqd.execution.messages import AttemptKey
from taskqd.runner import process_memory
from taskqd.runner.process_memory import NO_EXTENT

FORGET_INTERVAL = 60.0
"""Seconds after which sessions and marks are read again: another process may have the pid."""
SHARED_TOLERANCE = 1024**2
"""Bytes by which the shared part of a process may change until its files are subtracted again."""
MAX_OPEN, OPEN_SHARE = 1024, 16
"""Files of processes that stay open: up to a number, and to a share of all descriptors."""


class Target(NamedTuple):
    """An attempt that is read: its first process, its mark, and the user that a process with it must have."""

    key: AttemptKey
    leader: int
    mark: str
    uid: int | None


class Sum(NamedTuple):
    """The sum of the memory of an attempt's processes in bytes, and their number."""

    size: int
    processes: int


class _Known(NamedTuple):
    """A process whose session and mark have been read; its mark is empty if it has none."""

    started: int
    session: int
    mark: str
    uid: int


class MemoryReader:
    """Reads the memory of attempts. Its methods block; they must be called one at a time.

    Processes have their names in /proc, which are their pids as text.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._by_session: dict[int, set[str]] = {}
        self._by_mark: dict[str, set[str]] = {}
        self._unidentified: set[str] = set()
        self._names: list[str] = []
        self._open: dict[str, int] = {}  # descriptors of process_memory.open_size
        self._max_open = min(MAX_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // OPEN_SHARE)
        self._shared: dict[str, tuple[int, int]] = {}  # all that is shared, and what of it are no files
        self._forgotten_at = 0.0

    def find(self, now: float) -> None:
        """Find the processes that there are now; raises OSError."""
        listed = os.listdir("/proc")
        if now >= self._forgotten_at + FORGET_INTERVAL:
            self._forgotten_at = now
            self.clear()
        if listed == self._names and not self._unidentified:
            return
        names = set(filter(str.isdigit, listed))
        for name in (self._known.keys() - names) | self._unidentified:
            self._forget(name)
        for name in names - self._known.keys():
            self._identify(name)
        self._names = listed

    def clear(self) -> None:
        """Forget all processes, and close their files."""
        for name in list(self._known):
            self._forget(name)

    def _identify(self, name: str) -> None:
        stat, environment = process_memory.stat(name), process_memory.environment(name)
        if stat is None or environment is None:
            return
        mark, uid = proc.find_mark(int(name), environment)
        self._known[name] = _Known(stat.started, stat.session, mark, uid)
        self._by_session.setdefault(stat.session, set()).add(name)
        if mark:
            self._by_mark.setdefault(mark, set()).add(name)
        elif not environment and stat.extent != NO_EXTENT:
            self._unidentified.add(name)  # it executes a program just now

    def _forget(self, name: str) -> None:
        self._names = []
        known = self._known.pop(name, None)
        self._shared.pop(name, None)
        self._unidentified.discard(name)
        if (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)
        if known is not None:
            _discard(self._by_session, known.session, name)
            _discard(self._by_mark, known.mark, name)

    def sums(self, targets: Iterable[Target]) -> Mapping[AttemptKey, Sum]:
        """Return upper bounds of what attempts use; raises OSError."""
        sums = {}
        for target in targets:
            sizes = list(map(self._size, self._members(target)))
            sums[target.key] = Sum(sum(sizes), len(sizes) - sizes.count(0))
        return sums

    def exact(self, target: Target) -> int:
        """Return how many bytes an attempt uses; raises OSError."""
        stats = {name: process_memory.stat(name) for name in self._members(target)}
        total = 0
        for name, stat in stats.items():
            known = self._known.get(name)
            if stat is None or (known is not None and known.started != stat.started):
                self._forget(name)  # another process may have the pid
                continue
            parent = stats.get(str(stat.parent))
            if parent is not None and parent.is_waiting and parent.extent == stat.extent:
                continue  # vfork(2): it uses the memory of its parent until it executes a program
            try:
                total += process_memory.proportional(name) or 0
            except PermissionError:
                total += self._size(name)
        return total

    def _members(self, target: Target) -> set[str]:
        """Return the processes of an attempt."""
        members = {str(target.leader)}
        members |= self._by_session.get(target.leader, members)
        if target.mark:
            marked = self._by_mark.get(target.mark, members)
            is_any = target.uid is None
            members |= marked if is_any else {each for each in marked if self._has_uid(each, target.uid)}
        return members

    def _has_uid(self, name: str, uid: int | None) -> bool:
        known = self._known.get(name)
        return known is not None and known.uid == uid

    def _size(self, name: str) -> int:
        """Return the anonymous and shared memory of a process in bytes, 0 if there is no such process."""
        sizes = self._read_size(name)
        if sizes is None:
            self._forget(name)
            return 0
        resident, shared = sizes
        at, counted = self._shared.get(name, (0, 0))
        if abs(shared - at) >= SHARED_TOLERANCE:
            counted = process_memory.shared_memory(name) or 0
            self._shared[name] = (shared, counted)
        return resident - shared + counted

    def _read_size(self, name: str) -> tuple[int, int] | None:
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = process_memory.open_size(name)
            if descriptor is None:
                return None
            if len(self._open) >= self._max_open or name not in self._known:
                try:
                    return process_memory.read_size(descriptor)
                finally:
                    os.close(descriptor)
            self._open[name] = descriptor
        return process_memory.read_size(descriptor)


def _discard(index: dict[Any, set[str]], key: object, name: str) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(name)
        if not members:
            del index[key]
