"""The journal on disk: numbered segments, one writer, everything durable before anybody is told of it.

A start opens the store: it takes the lock, replays the segments, cuts off a torn last line and begins a new
segment. From then on ``append`` is the only way in. What holds after an error: a record whose Deferred failed
is not in the journal, and no later one is accepted, because the state of the file is not known any more.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from taskqd.backlog import Position
from taskqd.committer import Committer
from taskqd.disk import Disk
from taskqd.errors import JournalDamaged, StartRefused, StoreFailed
from taskqd.events import FORMAT, Event, Opened, Record, Submitted
from taskqd.interfaces import IStore
from taskqd.journal import Replay, decode, encode

SEGMENT_BYTES = 64 * 1024**2
"""A segment that has reached so many bytes is followed by the next one."""

_SEGMENT = re.compile(r"([0-9]{8})\.journal")


class _Entry(NamedTuple):
    """One line on its way to the disk."""

    line: bytes
    position: Position
    durable: "Deferred[Position]"
    begins_segment: bool


@implementer(IStore)
class Store:
    """The segments below ``directory``/journal, and the lock that keeps a second daemon out."""

    _log = Logger()

    def __init__(self, directory: str, reactor: Any, disk: Disk, boot: str, now: Callable[[], float]) -> None:
        self.directory = directory
        self.name = ""
        self.last_boot = ""
        self.failure: str | None = None
        self.synced_batches = 0
        self.segment_bytes = SEGMENT_BYTES
        self._journal = os.path.join(directory, "journal")
        self._disk = disk
        self._boot = boot
        self._now = now
        self._lock: int | None = None
        self._sequence = 0
        self._segment = 0
        self._size = 0
        self.next_id = 1
        self._descriptor: int | None = None
        self._durable = (0, 0)
        self._is_broken = False
        self._readers: dict[int, int] = {}
        self._committer = Committer[_Entry](reactor, self._commit, self._committed)

    def lock(self) -> None:
        """Make the directory ours; raises StartRefused if another daemon has it or it can't be used."""
        try:
            self._disk.make_directory(self._journal)
            self._lock = take_lock(self.directory)
        except OSError as why:
            raise StartRefused(f"the state directory {self.directory} cannot be used: {why}") from None

    def replay(self) -> Iterator[tuple[Event, Position]]:
        """Yield what the journal has, oldest first.

        Raises JournalDamaged where it cannot be trusted, StartRefused where it cannot be read or cut.
        """
        try:
            yield from self._replay()
        except OSError as why:
            raise StartRefused(f"the journal in {self._journal} cannot be read: {why}") from None

    def _replay(self) -> Iterator[tuple[Event, Position]]:
        reading = Replay()
        segments = self._segments()
        for number in segments:
            path = self._path(number)
            size = self._disk.size(path) or 0
            descriptor = self._disk.open(path)
            try:
                content = self._disk.read(descriptor, size, 0)
            finally:
                self._disk.close(descriptor)
            for record, offset, length in reading.read(path, content, number == segments[-1]):
                if isinstance(record, Opened):
                    self.name, self.last_boot = record.store, record.boot
                    self.next_id = max(self.next_id, record.next_id)
                else:
                    yield record, (number, offset, length)
            if reading.good_bytes < size:
                self._cut(path, reading.good_bytes, size)
            elif size == 0:
                self._disk.remove(path)
        self._sequence = reading.sequence
        self._segment = max(self._segments(), default=0)

    def locate(self, position: Position) -> str:
        """Return the file and the line of a position, for a person."""
        number, offset, _ = position
        descriptor = self._disk.open(self._path(number))
        try:
            line = self._disk.read(descriptor, offset, 0).count(b"\n") + 1
        finally:
            self._disk.close(descriptor)
        return f"{self._path(number)}, line {line}"

    def begin(self, last_id: int) -> None:
        """Begin the segment that this run of the daemon writes to; appending works from here on."""
        self.name = self.name or uuid4().hex
        self.next_id = max(self.next_id, last_id + 1)
        entry = self._begin_segment()
        try:
            self._commit([entry])
        except OSError as why:
            raise StartRefused(f"the journal in {self._journal} cannot be written: {why}") from None
        self._committer.start()

    def append(self, event: Event) -> "Deferred[Position]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        if self._size >= self.segment_bytes:
            self._committer.put(self._begin_segment())
        if isinstance(event, Submitted):
            self.next_id = max(self.next_id, event.id + 1)
        entry = self._entry(event)
        self._committer.put(entry)
        return entry.durable

    def append_now(self, events: list[Event]) -> list[Position]:
        """Append before the reactor runs, and return the positions when all are durable."""
        entries = [self._entry(event) for event in events]
        try:
            self._commit(entries)
        except OSError as why:
            raise StartRefused(f"the journal in {self._journal} cannot be written: {why}") from None
        return [entry.position for entry in entries]

    def read(self, position: Position) -> Record:
        number, offset, length = position
        try:
            if number not in self._readers:
                self._readers[number] = self._disk.open(self._path(number))
            return decode(self._disk.read(self._readers[number], length, offset))[1]
        except (OSError, JournalDamaged) as why:
            raise StoreFailed(f"{self._path(number)}, byte {offset} cannot be read back: {why}") from None

    def close(self) -> "Deferred[None]":
        def give_up(_: None) -> None:
            self.failure = self.failure or "the daemon is stopping"
            for descriptor in (self._descriptor, self._lock, *self._readers.values()):
                if descriptor is not None:
                    self._disk.close(descriptor)
            self._descriptor = self._lock = None
            self._readers.clear()

        return self._committer.stop().addCallback(give_up)

    def _segments(self) -> list[int]:
        found = sorted(
            int(form[1]) for name in self._disk.names(self._journal) if (form := _SEGMENT.fullmatch(name))
        )
        missing = set(range(1, len(found) + 1)) - set(found)
        if missing:
            raise JournalDamaged(f"{self._path(min(missing))} is missing, but a later segment is there")
        return found

    def _path(self, number: int) -> str:
        return os.path.join(self._journal, f"{number:08}.journal")

    def _cut(self, path: str, good: int, size: int) -> None:
        self._log.warn(
            "{path}: cut off {bytes} bytes of a last line that was not finished when the daemon stopped; "
            "nobody had been told of it",
            path=path,
            bytes=size - good,
        )
        if good:
            self._disk.truncate(path, good)
        else:
            self._disk.remove(path)

    def _begin_segment(self) -> _Entry:
        self._segment += 1
        self._size = 0
        opened = Opened(at=self._now(), format=FORMAT, store=self.name, boot=self._boot, next_id=self.next_id)
        return self._entry(opened, begins_segment=True)

    def _entry(self, record: Record, begins_segment: bool = False) -> _Entry:
        self._sequence += 1
        line = encode(record, self._sequence)
        position = (self._segment, self._size, len(line) - 1)
        self._size += len(line)
        return _Entry(line, position, Deferred(), begins_segment)

    def _commit(self, entries: list[_Entry]) -> None:
        """Make entries durable; runs in the committer's thread.

        On an error those before ``_durable`` are in the journal and the others are not; nor is any later one.
        """
        if self._is_broken:
            raise OSError("an earlier write failed")
        try:
            gathered: list[bytes] = []
            for entry in entries:
                if entry.begins_segment:
                    self._write(gathered)
                    gathered = []
                    self._switch(entry.position[0])
                gathered.append(entry.line)
            self._write(gathered)
        except Exception:
            self._is_broken = True
            self._take_back()
            raise

    def _switch(self, number: int) -> None:
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None
        self._descriptor = self._disk.create(self._path(number))
        self._durable = (number, 0)
        self._disk.sync_directory(self._journal)

    def _write(self, lines: list[bytes]) -> None:
        if lines and self._descriptor is not None:
            content = b"".join(lines)
            self._disk.write(self._descriptor, content)
            self._disk.sync(self._descriptor)
            number, size = self._durable
            self._durable = (number, size + len(content))

    def _take_back(self) -> None:
        """Cut off what could not be made durable, lest what was refused comes back at a restart."""
        number, size = self._durable
        try:
            self._disk.truncate(self._path(number), size)
        except OSError as why:
            self._log.error(
                "the refused end of {path} could not be cut off: {why}", path=self._path(number), why=why
            )

    def _committed(self, entries: list[_Entry], error: Exception | None) -> None:
        self.synced_batches += 1
        if error is not None and self.failure is None:
            self.failure = f"the journal in {self._journal} cannot be written: {error}"
            self._log.critical("{why}. Nothing new is accepted until a restart.", why=self.failure)
        for entry in entries:
            if error is None or entry.position[:2] < self._durable:
                entry.durable.callback(entry.position)
            elif not entry.begins_segment:
                entry.durable.errback(StoreFailed(self.failure))


def take_lock(directory: str) -> int:
    """Lock a state directory and return the descriptor that holds the lock until it is closed.

    Raises StartRefused, naming the pid, if another daemon has it, and OSError if the file cannot be opened.
    """
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StartRefused(
            f"another daemon, pid {holder}, already runs on the state directory {directory}"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
