"""One output stream of an attempt: its first bytes are kept in memory, the rest in a file.

A short output needs no file: it becomes part of the journal's record of the attempt's end. A file is synced
while the attempt runs, so that a large output does not delay the next sync of the journal.
"""

from collections.abc import Callable
from os import path
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from taskqd.errors import is_shortage
from taskqd.model.events import NOTHING, Output
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread

MAX_INLINE_BYTES = 4096
"""Bytes of a stream that fit into a record of the journal."""
SYNC_INTERVAL_BYTES = 8 * 1024**2
"""Bytes after which a file is synced: about 0.1 s of a slow disk."""
MAX_UNSYNCED = 32 * 1024**2
"""Bytes that may wait for a sync before the attempt's output is no longer read."""


class OutputStream:
    """One stream, which is written to the file at ``path`` if it needs one, or to the open ``file``.

    ``head`` has the bytes in memory; None once all are in the file. ``size`` is the number of bytes kept,
    ``dropped`` the number of those over ``limit``. ``lacks_descriptor`` tells that the file could not be
    opened because the machine lacks descriptors. ``on_synced(error)`` is called after each sync.
    """

    def __init__(
        self,
        path: str,
        filesystem: Filesystem,
        in_thread: InThread,
        limit: int,
        on_synced: Callable[[OSError | None], None],
        file: int | None = None,
    ) -> None:
        self.size = 0
        self.dropped = 0
        self.head: bytearray | None = bytearray()
        self.lacks_descriptor = False
        self._path = path
        self._filesystem = filesystem
        self._in_thread = in_thread
        self._limit = limit
        self._on_synced = on_synced
        self._file = file
        self._descriptor: int | None = None
        self._unsynced = 0
        self._sync_in_progress: Deferred[None] | None = None
        self._error: OSError | None = None
        self._is_complete = True

    @property
    def has_backlog(self) -> bool:
        """Whether too many bytes wait for a sync or for a descriptor."""
        return self._unsynced > MAX_UNSYNCED or self.lacks_descriptor

    @property
    def has_file(self) -> bool:
        """Whether the stream has a file."""
        return self._descriptor is not None

    def write(self, data: bytes) -> None:
        """Keep ``data`` up to the limit and count the rest.

        After an OSError, the bytes in the file are kept and the rest of ``data`` is lost.
        """
        kept = data[: max(0, self._limit - self.size)]
        self.dropped += len(data) - len(kept)
        self.size += len(kept)
        if self.head is not None and len(self.head) + len(kept) <= MAX_INLINE_BYTES:
            self.head += kept
        elif kept and self._open():
            self.flush()
            self.head = None
            self._write(kept)
        elif kept:
            self.head = (self.head or bytearray()) + kept
        if self._unsynced >= SYNC_INTERVAL_BYTES and not self._is_syncing():
            self._sync()

    def flush(self) -> None:
        """Write the bytes in memory to the file, if that can be opened now; raises OSError."""
        if self.head and self._open():
            self._write(bytes(self.head))
            self.head = None

    def count_dropped(self, data: bytes) -> None:
        """Count bytes that are not kept."""
        self.dropped += len(data)

    def inline_output(self) -> Output:
        """Return the output of a stream that has no file."""
        if not self.size and not self.dropped:
            return NOTHING
        head = bytes(self.head or b"")
        return Output.inline(head, self.dropped + self.size - len(head))

    def close_unused_file(self) -> None:
        """Close the open file, if the stream was given one and has not needed it."""
        if self._file is not None and self._descriptor is None:
            self._filesystem.close(self._file)
            self._file = None

    def close(self) -> "Deferred[Output]":
        """Return the output once it is durable.

        If it could not be written completely, the output is the part in the file. Fails with OSError if that
        cannot be made durable; then nothing of the stream is known to be durable.
        """
        try:
            if self.head and len(self.head) > MAX_INLINE_BYTES:
                self.flush()
                if self.lacks_descriptor:
                    raise OSError(f"{self._path} cannot be opened: the machine lacks descriptors")
        except OSError as error:
            return fail(error)
        descriptor = self._descriptor
        if descriptor is None:
            self.close_unused_file()
            return succeed(self.inline_output())
        synced = succeed(None) if self._sync_in_progress is None else self._sync_in_progress
        return synced.addCallback(lambda _: self._in_thread(self._finish, descriptor))

    def _open(self) -> bool:
        """Open the file if it is not open; return False if the machine lacks descriptors."""
        self.lacks_descriptor = False
        if self._descriptor is None and self._file is not None:
            self._descriptor = self._file
        elif self._descriptor is None:
            try:
                self._descriptor = self._filesystem.create_with_parents(self._path)
            except OSError as error:
                if not is_shortage(error):
                    raise
                self.lacks_descriptor = True
        return not self.lacks_descriptor

    def _write(self, data: bytes) -> None:
        try:
            self._filesystem.write(cast("int", self._descriptor), data)
        except OSError:
            self._is_complete = False
            raise
        self._unsynced += len(data)

    def _is_syncing(self) -> bool:
        return self._sync_in_progress is not None and not self._sync_in_progress.called

    def _sync(self) -> None:
        synced = self._in_thread(self._filesystem.sync, self._descriptor)
        self._sync_in_progress = synced.addBoth(self._handle_sync, self._unsynced)

    def _handle_sync(self, result: object, size: int) -> None:
        if isinstance(result, Failure):
            result.trap(OSError)
            self._error = self._error or OSError(str(result.value))
        self._unsynced -= size
        self._on_synced(self._error)

    def _finish(self, descriptor: int) -> Output:
        """Make the file durable and close it; runs in another thread."""
        try:
            if self._error is not None:
                raise self._error
            self._filesystem.sync(descriptor)
            if self._file is None:
                self._filesystem.sync_directory(path.dirname(self._path))
                size = self._filesystem.size(self._path)
            else:  # the process that has made the file syncs its name
                size = self._filesystem.linked_size(descriptor)
            if size is None:
                raise OSError(f"{self._path} was removed while the job ran")
            if self._is_complete and size < self.size:
                raise OSError(
                    f"{self._path} was truncated to {size} bytes while the job ran; "
                    f"the job had printed {self.size} bytes"
                )
            return Output(size, self.dropped + self.size - size)
        finally:
            self._filesystem.close(descriptor)
