"""The order in which the output of an attempt was read: an index of entries (docs/journal.md, "Spool").

An entry is a line ``<time> <stdout> <stderr>``: the bytes of each stream that were read from a time on. The
time of the first one is in milliseconds since the epoch, that of each other one relative to the entry before.
Within an entry stdout comes first. An entry has one stream; only when an index is long, its entries have
both, and cover a longer time.
"""

import time
from collections.abc import Callable
from os import path as os_path
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.errors import is_shortage
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread

ENTRY_SPAN = 0.1
"""Seconds of output of one stream that an entry covers."""
EXACT_BYTES = 32 * 1024
"""Bytes of an index from which on an entry has both streams."""
STEP_BYTES = 2 * 1024
"""Bytes after which the span of an entry is doubled again, so that an index lasts for days of output."""
MAX_BYTES = 64 * 1024
"""Bytes of an index; the order of what is read later is unknown."""
MAX_INLINE_BYTES = 1024
"""Bytes of an index in a record of the journal; entries are joined until it is shorter."""
WRITE_BYTES = 1024
"""Bytes of entries that are written to the file together."""
WRITE_INTERVAL = 1.0
"""Seconds after which fewer are written."""

_MAX_LINE = 56

_log = Logger()


class Entry(NamedTuple):
    """Output that was read from a time on, ``at``, in milliseconds since the epoch; sizes are in bytes."""

    at: int
    stdout: int
    stderr: int


class OrderParser:
    """Parses an index piece by piece, up to a line that was not completely written."""

    def __init__(self) -> None:
        self._at = 0
        self._incomplete = b""
        self._is_damaged = False

    def feed(self, data: bytes) -> list[Entry]:
        """Return the entries that ``data`` completes; none from a damaged line on."""
        *lines, self._incomplete = (self._incomplete + data).split(b"\n")
        entries: list[Entry] = []
        try:
            for line in lines if not self._is_damaged else ():
                time, stdout, stderr = map(int, line.split(b" "))
                if min(stdout, stderr) < 0 or len(line) > _MAX_LINE:
                    raise ValueError("not a line of an index")
                self._at += time
                entries.append(Entry(self._at, stdout, stderr))
        except ValueError:
            self._is_damaged = True
        self._is_damaged |= len(self._incomplete) > _MAX_LINE
        return entries


def join_entries(text: bytes, limit: int) -> bytes:
    """Join successive entries in pairs until the index has up to ``limit`` bytes."""
    entries = OrderParser().feed(text)
    while len(text) > limit and len(entries) > 1:
        pairs = zip(entries[::2], [*entries[1::2], Entry(0, 0, 0)], strict=False)
        entries = [Entry(a.at, a.stdout + b.stdout, a.stderr + b.stderr) for a, b in pairs]
        text = _format(entries)
    return text


def _format(entries: list[Entry]) -> bytes:
    lines, before = [], 0
    for entry in entries:
        lines.append(b"%d %d %d\n" % (entry.at - before, entry.stdout, entry.stderr))
        before = entry.at
    return b"".join(lines)


class OrderIndex:
    """Notes in which order an attempt's output is read, and writes that to the file at ``path``.

    Without a path it stays in memory, up to MAX_INLINE_BYTES. Of an attempt with one stream and one entry
    nothing is written. An error of the file does not affect the output: its order is then unknown.
    """

    def __init__(
        self,
        path: str | None,
        filesystem: Filesystem,
        clock: IReactorTime,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._filesystem = filesystem
        self._clock = clock
        self._now = now
        self._text = bytearray()  # of the entries that are not in the file
        self._written = 0
        self._written_at = 0.0
        self._before = 0  # the time of the entry before the open one
        self._stream = 0  # of the open entry, 0 if there is none
        self._at = 0
        self._opened_at = 0.0
        self._open_sizes = [0, 0]
        self._sizes = [0, 0]
        self._span = ENTRY_SPAN
        self._has_both = False  # in an entry
        self._is_over = False
        self._descriptor: int | None = None

    def add(self, stream: int, size: int) -> None:
        """Note that ``size`` bytes of a stream were read and kept."""
        now = self._clock.seconds()
        is_same = stream == self._stream or (self._has_both and self._stream != 0)
        if not is_same or now - self._opened_at >= self._span:
            if self._stream:
                self._end_entry()
            self._stream, self._opened_at = stream, now
            self._at = int(self._now() * 1000)
        self._open_sizes[stream - 1] += size

    def _end_entry(self) -> None:
        stdout, stderr = self._open_sizes
        self._open_sizes = [0, 0]
        self._sizes[0] += stdout
        self._sizes[1] += stderr
        if self._is_over:
            return
        self._text += b"%d %d %d\n" % (self._at - self._before, stdout, stderr)
        self._before = self._at
        size = self._written + len(self._text)
        if self._path is None:
            if size > MAX_INLINE_BYTES:
                self._text[:] = join_entries(bytes(self._text), MAX_INLINE_BYTES // 2)
                self._before = OrderParser().feed(bytes(self._text))[-1].at
                self._has_both, self._span = True, 2 * self._span
        elif size >= EXACT_BYTES:
            self._has_both, self._span = True, ENTRY_SPAN * 2 ** ((size - EXACT_BYTES) // STEP_BYTES)
            self._is_over = size > MAX_BYTES - _MAX_LINE

    @property
    def must_write(self) -> bool:
        """Whether entries must be written now, if the output has a file."""
        size = len(self._text)
        return bool(size) and (
            size >= WRITE_BYTES or self._clock.seconds() - self._written_at >= WRITE_INTERVAL
        )

    def write(self) -> None:
        """Write the entries that have ended to the file."""
        if self._path is None or not self._text:
            return
        self._written_at = self._clock.seconds()
        try:
            if self._descriptor is None:
                self._descriptor = self._filesystem.create_with_parents(self._path)
            self._filesystem.write(self._descriptor, bytes(self._text))
        except OSError as why:
            if self._descriptor is None and is_shortage(why):
                return  # of descriptors; it is tried again
            _log.warn("the order of the output in {path} is not kept: {why}", path=self._path, why=why)
            self._is_over = True
        self._written += len(self._text)
        self._text.clear()

    def close_inline(self) -> str | None:
        """Return the index of an attempt whose output has no file; None unless it has used both streams."""
        self._end_last_entry()
        return join_entries(bytes(self._text), MAX_INLINE_BYTES).decode("ascii") if all(self._sizes) else None

    def close(self, in_thread: InThread) -> "Deferred[str | None]":
        """Make the file durable, and return what is in no file, None if that is nothing."""
        self._end_last_entry()
        is_needed = self._written or all(self._sizes) or self._text.count(b"\n") > 1
        if self._path is None:
            return succeed(bytes(self._text).decode("ascii") if is_needed else None)
        if is_needed:
            self.write()
        return succeed(None) if self._descriptor is None else in_thread(self._finish, self._descriptor)

    def _end_last_entry(self) -> None:
        if self._stream:
            self._end_entry()
            self._stream = 0

    def _finish(self, descriptor: int) -> None:
        """Make the file durable and close it; runs in another thread."""
        try:
            self._filesystem.sync(descriptor)
            self._filesystem.sync_directory(os_path.dirname(self._path or ""))
        except OSError as why:
            _log.warn("the order of the output in {path} is not durable: {why}", path=self._path, why=why)
        finally:
            self._filesystem.close(descriptor)
