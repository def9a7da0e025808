"""The segment that is written to: its durable records, and the blanks that are kept ahead of them.

A write that makes a file longer costs the file system a commit of its own at the sync. So while little is
written at a time, the segment is kept longer than its records, by blank lines that are on the disk already,
and records are written over them: a sync then takes two thirds of the time. How a start tells records, blanks
and what a crash left between them apart is ``taskqd.journal``'s; docs/decisions/0022 has the reasons.
"""

import errno
import os

from twisted.logger import Logger

from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.segments import JournalEnd, Segments

PREALLOCATION = 256 * 1024
"""So many bytes of blanks are written at a time, or a few more:"""
BLOCK_SIZE = 4096
"""they end where a block of the file system does, so that the last one is wholly blank or not there."""
MAX_SMALL_WRITE = 16 * 1024
"""What has more bytes than that is appended, to a segment without blanks: for it they would save little."""
PREALLOCATE_AFTER = 16
"""Blanks begin after so many small writes in a row: what a large one cuts off was worth its while by then."""
_NONE = -1
"""No descriptor: the system refuses whatever is done with it."""


class SegmentMoved(FileNotFoundError):
    """A segment or its directory is not where the daemon made it."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def __str__(self) -> str:
        return (
            f"{self.filename} is not there any more: it was removed or moved while the daemon ran; "
            "put it back, or stop the daemon"
        )


class SegmentWriter:
    """The end of the journal, for one writer.

    ``end`` is where the durable records end, ``created`` the number of the last segment that has a file.
    ``identity`` is that of the journal's directory when it was locked: nothing is written to another one.
    After an OSError of ``begin`` or ``write`` nothing of it counts, and nothing more is written to that
    segment: ``take_back`` and then the ``begin`` of another is all that may follow.
    """

    _log = Logger()

    def __init__(self, segments: Segments, filesystem: Filesystem) -> None:
        self._segments = segments
        self._filesystem = filesystem
        self.end = JournalEnd(0, 0, 0)
        self.last_created = 0
        self.identity = ""
        self._descriptor = _NONE
        self._length = 0
        self._small_writes = 0
        self._no_preallocation_until = 0

    def resume_at(self, end: JournalEnd) -> None:
        """Take note where the records end that were there before."""
        self.end = end
        self.last_created = end.segment

    def begin_segment(self, number: int) -> None:
        """Begin a segment; its name is durable when this returns."""
        descriptor = self.detach()
        if descriptor is not None:
            self._filesystem.close(descriptor)
        if self.end.size:  # else there is none that this one goes on after
            self.check_segment(self.end.segment)
        self._descriptor = self._filesystem.create(self._segments.path(number))
        self.last_created = number
        self._filesystem.sync_directory(self._segments.directory)
        self.end = JournalEnd(number, 0, self.end.sequence)
        self._length = self._small_writes = 0

    def check_segment(self, number: int) -> None:
        """Raise OSError unless a segment is in its place, in the directory that was locked; blocks."""
        for path, expected in ((self._segments.directory, self.identity), (self._segments.path(number), "")):
            try:
                found = self._filesystem.identity(path)
            except FileNotFoundError:
                raise SegmentMoved(path) from None
            if expected not in ("", found):
                raise SegmentMoved(path)

    def can_append(self, size: int) -> bool:
        """Whether so many bytes can be written at once, with nothing to be cut off or laid ahead first."""
        if size > MAX_SMALL_WRITE:
            return not self._has_preallocation
        if self._has_preallocation:
            return self.end.size + size < self._length  # one blank is left, to tell where they end
        return self._small_writes < PREALLOCATE_AFTER or self.end.segment <= self._no_preallocation_until

    def write(self, content: bytes, records: int) -> None:
        """Make the lines of so many records durable, all of them."""
        number, size, sequence = self.end
        path = self._segments.path(number)
        if not self._filesystem.is_same_file(self._descriptor, path):
            raise SegmentMoved(path)
        if not self.can_append(len(content)):
            self._prepare(len(content))
        self._filesystem.write_at(self._descriptor, content, size)
        self._filesystem.sync(self._descriptor)
        if not self._filesystem.is_linked(self._descriptor):  # it was removed while it was written
            raise SegmentMoved(path)
        self.end = JournalEnd(number, size + len(content), sequence + records)
        self._length = max(self._length, self.end.size)
        self._small_writes = self._small_writes + 1 if len(content) <= MAX_SMALL_WRITE else 0

    def discard_failed(self) -> None:
        """Cut off what could not be made durable, for a restart that comes before a new segment does."""
        self._try_truncate("refused")

    def detach(self) -> int | None:
        """Cut off the blanks, and return the descriptor of the segment, which is the caller's to close."""
        if self._descriptor == _NONE:
            return None
        if self._has_preallocation:
            self._try_truncate("blank")
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
        """Lay blanks ahead of so many bytes; where they cannot be written, the segment does without."""
        length = -(-(self.end.size + size + PREALLOCATION) // BLOCK_SIZE) * BLOCK_SIZE
        self._no_preallocation_until = (
            self.end.segment + 1
        )  # should this fail, the next one does without them, too
        try:
            self._filesystem.write_at(self._descriptor, b"\n" * (length - self._length), self._length)
        except OSError:  # no room for blanks is no reason to refuse a record
            self._truncate()
            return
        self._filesystem.sync(self._descriptor)
        self._length = length
        self._no_preallocation_until = 0

    def _truncate(self) -> None:
        """Cut off all but the records, durably: a crash must not leave blanks that more is appended to."""
        path = self._segments.path(self.end.segment)
        if not self._filesystem.is_same_file(self._descriptor, path):
            raise SegmentMoved(path)
        self._filesystem.truncate(path, self.end.size)
        self._length = self.end.size

    def _try_truncate(self, what: str) -> None:
        """Cut off what does no harm if it stays; it does not count, once another segment has begun."""
        try:
            self._truncate()
        except OSError as why:
            path = self._segments.path(self.end.segment)
            self._log.error(
                "the {what} end of {path} could not be cut off: {why}", what=what, path=path, why=why
            )
            self._length = self.end.size
