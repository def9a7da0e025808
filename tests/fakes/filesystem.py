"""A file system of which a test can make any call fail."""

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from taskqd.storage.filesystem import Filesystem
from tests.fakes.clocks import TURN_TIMEOUT

CHECKS = {"identity", "is_same_file", "is_linked", "linked_size", "modified_at"}
"""Calls that only examine names and open files; they are not recorded and do not fail."""
_CALLS = frozenset(name for name in vars(Filesystem) if not name.startswith("_")) - CHECKS


class FakeFilesystem(Filesystem):
    """The real file system, of which any call can be made to fail; ``calls`` has the names of the calls.

    Syncs do nothing, because they would take most of the tests' time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.descriptors: set[int] = set()
        self.identities: dict[str, str] = {}
        self._failures: dict[str, tuple[int, OSError, int]] = {}
        self._unblocked: threading.Event | None = None

    def block(self) -> None:
        """Block writes and syncs until `unblock`, as on a frozen file system."""
        self._unblocked = threading.Event()

    def unblock(self) -> None:
        """Let blocked and later calls continue."""
        if self._unblocked is not None:
            self._unblocked.set()
            self._unblocked = None

    def fail(self, name: str, after: int = 0, code: int = errno.ENOSPC, written: int = 0) -> None:
        """Make every call of ``name`` fail once ``after`` more have worked.

        A write that fails puts the first ``written`` bytes into the file all the same.
        """
        self._failures[name] = (after, OSError(code, os.strerror(code)), written)

    def clear_failures(self) -> None:
        """Let all calls succeed again."""
        self._failures.clear()

    def identity(self, path: str) -> str:
        """Return the identity of a path, from ``identities`` if it has one."""
        return self.identities.get(path) or super().identity(path)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._called, name, found) if name in _CALLS else found

    def _called(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.calls.append(name)
        if self._unblocked is not None and name in {"write", "write_at", "sync"}:
            assert self._unblocked.wait(TURN_TIMEOUT), "the test did not call unblock"
        left, error, written = self._failures.get(name, (1, None, 0))
        if error is not None and left > 0:
            self._failures[name] = (left - 1, error, written)
        elif error is not None:
            if name in {"write", "write_at"} and written:
                call(args[0], args[1][:written], *args[2:])
            if name == "close":  # Linux closes the descriptor nevertheless: close(2)
                call(*args)
                self.descriptors.discard(args[0])
            raise error
        before = set(self.descriptors)
        result: Any = None if name in {"sync", "sync_directory"} else call(*args)
        if name in {"read_file", "map_file"}:
            self.descriptors = before  # it has closed the file that it opened
        if name in {"create", "open"}:
            self.descriptors.add(result)
        if name == "close":
            self.descriptors.discard(args[0])
        return result
