"""A file system of which a test makes any call fail."""

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from taskqd.storage.filesystem import Filesystem
from tests.fakes.clocks import TURN_TIMEOUT

LOOKS = {"identity", "is_same_file", "is_linked"}
"""The calls that only look at names and open files: they are not counted, and none is made to fail."""
_DISK_CALLS = frozenset(name for name in vars(Filesystem) if not name.startswith("_")) - LOOKS


class FakeFilesystem(Filesystem):
    """The real disk, of which any call can be made to fail; ``calls`` names those that were made.

    Nothing is synced in truth: no test cuts the power, and it would take most of their time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.descriptors: set[int] = set()
        self.identities: dict[str, str] = {}
        self._failures: dict[str, tuple[int, OSError, int]] = {}
        self._goes_on: threading.Event | None = None

    def block(self) -> None:
        """Have writes and syncs wait until the disk goes on: as on a file system that is frozen."""
        self._goes_on = threading.Event()

    def unblock(self) -> None:
        """Let those that wait go on, and all others."""
        if self._goes_on is not None:
            self._goes_on.set()
            self._goes_on = None

    def fail(self, name: str, after: int = 0, code: int = errno.ENOSPC, written: int = 0) -> None:
        """Make every call of ``name`` fail once ``after`` more have worked.

        A write that fails puts the first ``written`` bytes into the file all the same.
        """
        self._failures[name] = (after, OSError(code, os.strerror(code)), written)

    def clear_failures(self) -> None:
        """Let everything work again."""
        self._failures.clear()

    def identity(self, path: str) -> str:
        """Return a path's identity, that of ``identities`` where it has one."""
        return self.identities.get(path) or super().identity(path)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._called, name, found) if name in _DISK_CALLS else found

    def _called(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.calls.append(name)
        if self._goes_on is not None and name in {"write", "write_at", "sync"}:
            assert self._goes_on.wait(TURN_TIMEOUT), "nobody had the disk go on"
        left, error, written = self._failures.get(name, (1, None, 0))
        if error is not None and left > 0:
            self._failures[name] = (left - 1, error, written)
        elif error is not None:
            if name in {"write", "write_at"} and written:
                call(args[0], args[1][:written], *args[2:])
            if name == "close":  # Linux gives the descriptor back all the same: close(2)
                call(*args)
                self.descriptors.discard(args[0])
            raise error
        before = set(self.descriptors)
        result: Any = None if name in {"sync", "sync_directory"} else call(*args)
        if name == "read_file":
            self.descriptors = before  # it has closed by itself what it had opened
        if name in {"create", "open"}:
            self.descriptors.add(result)
        if name == "close":
            self.descriptors.discard(args[0])
        return result
