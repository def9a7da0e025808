"""Writes records to the current segment, and preallocates space for small writes.

A sync of a file that has grown also commits its new size, which takes the file system half as long again. So
while writes are small, the segment is preallocated: blank lines are written and synced ahead of the records,
and records overwrite them. How replay distinguishes records, blank lines and torn writes is described in
replay.py; docs/decisions/0022 has the measurements.
"""

import errno
import os

from twisted.logger import Logger

from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.segments import JournalEnd, Segments

PREALLOCATION = 256 * 1024
"""Bytes of blank lines written at a time, rounded up to whole blocks."""
BLOCK_SIZE = 4096
"""Bytes per block of the file system. Preallocation ends with a block, so a torn one has no partial block."""
MAX_SMALL_WRITE = 16 * 1024
"""Bytes. Larger writes are appended without preallocation, which would save little of their time."""
PREALLOCATE_AFTER = 16
"""Small writes in a row before preallocation starts; a large write truncates it, so it must have paid off."""
_NONE = -1
"""Stands for no descriptor; every system call refuses it with EBADF."""


class SegmentMoved(FileNotFoundError):
    """A segment or the journal's directory was moved or removed while the daemon ran."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def __str__(self) -> str:
        return f"{self.filename} was removed or moved while the daemon ran; put it back, or stop the daemon"


class SegmentWriter:
    """Writes to the last segment.

    ``end`` is the end of the durable records, ``last_created`` the number of the last segment that has a
    file. ``identity`` is the journal's directory as it was locked; nothing is written to another directory.

    Invariant: after an OSError of ``begin_segment`` or ``write``, no record of that call is in the journal,
    and nothing more is written to that segment. The caller calls ``discard_failed``, then begins another
    segment.
    """

    _log = Logger()

    def __init__(self, segments: Segments, filesystem: Filesystem) -> None:
        self._segments = segments
        self._filesystem = filesystem
        self.end = JournalEnd(0, 0, 0)
        self.last_created = 0
        self.identity = ""
        self._descriptor = _NONE
        self._path = ""
        self._length = 0
        self._small_writes = 0
        self._no_preallocation_until = 0

    def resume_at(self, end: JournalEnd) -> None:
        """Set the end of the records that are there at the start of the daemon."""
        self.end = end
        self.last_created = end.segment

    def begin_segment(self, number: int) -> None:
        """Create a segment; its name is durable when this returns."""
        descriptor = self.detach()
        if descriptor is not None:
            self._filesystem.close(descriptor)
        if self.end.size:  # else the journal is new
            self.check_segment(self.end.segment)
        self._path = self._segments.path(number)
        self._descriptor = self._filesystem.create(self._path)
        self.last_created = number
        self._filesystem.sync_directory(self._segments.directory)
        self.end = JournalEnd(number, 0, self.end.sequence)
        self._length = self._small_writes = 0

    def check_segment(self, number: int) -> None:
        """Raise OSError unless a segment is in the directory that was locked; blocks."""
        for path, expected in ((self._segments.directory, self.identity), (self._segments.path(number), "")):
            try:
                identity = self._filesystem.identity(path)
            except FileNotFoundError:
                raise SegmentMoved(path) from None
            if expected not in ("", identity):
                raise SegmentMoved(path)

    def can_append(self, size: int) -> bool:
        """Whether ``size`` bytes can be written without truncating or preallocating first."""
        if size > MAX_SMALL_WRITE:
            return not self._has_preallocation
        if self._has_preallocation:
            return self.end.size + size < self._length  # one blank line must remain to mark the end
        return self._small_writes < PREALLOCATE_AFTER or self.end.segment <= self._no_preallocation_until

    def write(self, content: bytes, records: int) -> None:
        """Write the lines of ``records`` records and make all of them durable."""
        number, size, sequence = self.end
        if not self._filesystem.is_same_file(self._descriptor, self._path):
            raise SegmentMoved(self._path)
        if not self.can_append(len(content)):
            self._prepare(len(content))
        self._filesystem.write_at(self._descriptor, content, size)
        self._filesystem.sync(self._descriptor)
        if not self._filesystem.is_linked(self._descriptor):  # removed during the write
            raise SegmentMoved(self._path)
        self.end = JournalEnd(number, size + len(content), sequence + records)
        self._length = max(self._length, self.end.size)
        self._small_writes = self._small_writes + 1 if len(content) <= MAX_SMALL_WRITE else 0

    def discard_failed(self) -> None:
        """Truncate the segment after a failed write, so that a restart does not find its records.

        Needed only if the daemon ends before it begins another segment, which also makes them invalid.
        """
        self._try_truncate("failed write")

    def detach(self) -> int | None:
        """Stop writing to the segment and return its descriptor, which the caller must close."""
        if self._descriptor == _NONE:
            return None
        if self._has_preallocation:
            self._try_truncate("preallocation")
        descriptor, self._descriptor = self._descriptor, _NONE
        return descriptor

    @property
    def _has_preallocation(self) -> bool:
        return self._length > self.end.size

    def _prepare(self, size: int) -> None:
        if size > MAX_SMALL_WRITE:
            self._truncate()
        else:
            self._preallocate(size)

    def _preallocate(self, size: int) -> None:
        """Preallocate space beyond ``size`` bytes; if that fails, continue without it."""
        length = -(-(self.end.size + size + PREALLOCATION) // BLOCK_SIZE) * BLOCK_SIZE
        self._no_preallocation_until = self.end.segment + 1  # if this fails: also not in the next segment
        try:
            self._filesystem.write_at(self._descriptor, b"\n" * (length - self._length), self._length)
        except OSError:  # records may still fit on the disk
            self._truncate()
            return
        self._filesystem.sync(self._descriptor)
        self._length = length
        self._no_preallocation_until = 0

    def _truncate(self) -> None:
        """Truncate the segment to its records, durably: blank lines must not remain between records."""
        path = self._segments.path(self.end.segment)
        if not self._filesystem.is_same_file(self._descriptor, path):
            raise SegmentMoved(path)
        self._filesystem.truncate(path, self.end.size)
        self._length = self.end.size

    def _try_truncate(self, rest: str) -> None:
        """Truncate the segment; log an error, as the rest is ignored once another segment has begun."""
        try:
            self._truncate()
        except OSError as error:
            path = self._segments.path(self.end.segment)
            self._log.error(
                "{path}: the {rest} at its end could not be truncated: {error}",
                path=path,
                rest=rest,
                error=error,
            )
            self._length = self.end.size
