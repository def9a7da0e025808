"""Writes the notes of this runner: the ends that it can tell no daemon."""

import os
from collections.abc import Iterable
from contextlib import suppress

from taskqd.execution.messages import Ended, Gone
from taskqd.execution.notes import format_note


class NotesFile:
    """The notes at ``path``; the file exists only while there are any.

    A line is written again from its beginning if the last attempt to write it has failed, such as for lack
    of space: the file never has a damaged line before a good one.
    """

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self._path = path
        self._mode = mode
        self._size = 0

    def append(self, messages: Iterable[Ended | Gone]) -> None:
        """Add messages and make them durable; raises OSError, and then none of them counts.

        If the directory was removed, no daemon will read notes, so there is nothing to do.
        """
        data = b"".join(map(format_note, messages))
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, self._mode)
        except FileNotFoundError:
            return
        try:
            os.ftruncate(descriptor, self._size)
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], self._size + written)
            os.fdatasync(descriptor)
            if not self._size:
                _sync_directory(os.path.dirname(self._path))
        finally:
            os.close(descriptor)
        self._size += len(data)

    def remove(self) -> None:
        """Remove the notes: the journal has what they say."""
        if self._size:
            self._size = 0
            with suppress(FileNotFoundError):
                os.unlink(self._path)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
