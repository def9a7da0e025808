"""Writes a snapshot: the records of sealed segments without those that no longer matter (docs/journal.md).

Omitted are the records of removed jobs, all but the last record about each setting of a queue or schedule,
and holds, releases and changes that later ones supersede (snapshot_survey.py). The records of a job that has
ended become one line, in the place of its Submitted. The other lines are copied unchanged.

A separate process writes it, so that the reactor does not wait for it (compaction.py)::

    python -m taskqd.storage.journal.snapshot JOURNAL NUMBER

writes ``NUMBER.moved``, which has the new position of each ``ended`` record as a line ``<job> <attempt>
<offset> <length>``, with 0 for all attempts whose ends are in one line, and then ``NUMBER.snapshot``, which
replaces all segments up to NUMBER atomically: after an error the journal is as it was.
"""

import os
import sys
from collections.abc import Iterator
from itertools import islice

from taskqd.errors import StartRefused
from taskqd.model.events import FORMAT, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode, join_lines, pad
from taskqd.storage.journal.replay import Content, Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot_survey import Kind, SnapshotSurvey

SYNC_INTERVAL_BYTES = 8 * 1024**2
"""Bytes that are synced at a time; a larger sync would delay the journal's own syncs."""
LINES_PER_WRITE = 1000
"""Lines that are collected before they are written."""
NICENESS = 10
"""The nice value of the process: the daemon and jobs take precedence."""


MAX_RECORDS = 10**15
"""More records than a snapshot can have; the header is written before they are counted."""


Line = tuple[bytes, int, int]
"""A line with its newline; the job whose attempts end in it, 0 for none; the attempt, 0 for several."""


class SnapshotWriter:
    """Writes the snapshot of all files up to segment ``number``; reads them twice, to decide and to copy.

    Segment ``number + 1`` must have been begun. Raises JournalDamaged, OSError, and StartRefused if segment
    ``number`` or the one after it is missing.
    """

    def __init__(self, segments: Segments, filesystem: Filesystem, number: int) -> None:
        self._segments = segments
        self._layout = segments.layout()  # once: both readings must read the same files
        self._filesystem = filesystem
        self._number = number
        self._survey = SnapshotSurvey()
        self._contents: dict[int, Content] = {}

    def write(self) -> int:
        """Write the snapshot and the list of new positions; return the number of records kept."""
        self._read_all()
        self._survey.finish()
        path, header_size = self._segments.path(-self._number), len(self._header(MAX_RECORDS))
        snapshot = _OutputFile(self._filesystem, path + ".new")
        try:
            count = self._write_lines(snapshot, header_size)
            snapshot.finish(pad(self._header(count), header_size))
        finally:
            snapshot.close()
        self._filesystem.rename(path + ".new", path)
        return count

    def _read_all(self) -> None:
        """Read all records and note what decides which of them are kept."""
        replay = Replay()
        for number, batch in self._segments.batches(self._layout, replay):
            if number > self._number:
                break
            self._survey.add(number, batch)
            self._survey.opened = replay.opened

    def _content(self, number: int) -> Content:
        if number not in self._contents:
            self._contents[number] = self._filesystem.map_file(self._segments.path(number))
        return self._contents[number]

    def _kept_lines(self) -> Iterator[Line]:
        """Yield the lines that are kept; a Clocked only if it changes the meaning of the records after it."""
        latest: bytes | None = None
        before = ahead = 0.0
        for number, text, job_id, attempt in self._candidates():
            if number in self._survey.clocks:
                latest, ahead = text, self._survey.clocks[number]
                continue
            if latest is not None and ahead != before:
                before = ahead
                yield latest, 0, 0
            yield text, job_id, attempt
        if latest is not None and ahead != before:
            yield latest, 0, 0

    def _candidates(self) -> Iterator[tuple[int, bytes, int, int]]:
        """Yield the number of each record that is kept and of each Clocked, and its line, as in ``Line``."""
        survey = self._survey
        joined, is_kept = survey.joined, survey.is_kept
        records = zip(survey.kinds, survey.job_ids, survey.numbers, survey.attempts, strict=True)
        for file, start, end in survey.pieces:
            texts = self._content(file)[start : end - 1].split(b"\n")
            for (kind, job_id, number, attempt), text in zip(islice(records, len(texts)), texts, strict=True):
                parts = joined.get(job_id)
                if parts is not None:
                    if kind == Kind.SUBMITTED:
                        yield number, self._joined(parts), job_id, 0
                elif is_kept(kind, job_id, number):
                    has_end = kind in (Kind.ENDED, Kind.COMPACTED)
                    yield number, text + b"\n", job_id if has_end else 0, attempt

    def _joined(self, parts: bytes) -> bytes:
        """Return the line of a job that has ended."""
        lines, numbers = [], []
        content: Content = b""
        current = 0
        for file, offset, length, number in self._survey.parts(parts):
            if file != current:
                content, current = self._content(file), file
            lines.append(content[offset : offset + length])
            numbers.append(number)
        return join_lines(lines, numbers)

    def _header(self, count: int) -> bytes:
        opened, following = self._survey.opened, self._segments.first_sequence(self._number + 1)
        if opened is None or following is None:
            raise StartRefused(
                f"no snapshot can be made up to segment {self._number}: it or the next segment is missing"
            )
        header = Snapshot(
            at=opened.at,
            format=FORMAT,
            store=opened.store,
            boot=opened.boot,
            next_id=max(opened.next_id, self._survey.last_id + 1),
            records=count,
            identity=opened.identity,
            boot_clock=opened.boot_clock,
            ahead=opened.ahead,
        )
        return encode(header, following - 1)

    def _write_lines(self, snapshot: "_OutputFile", header_size: int) -> int:
        """Write the lines that are kept, and the list of the positions of ends; return the count."""
        moved = _OutputFile(self._filesystem, self._segments.relocations_path(self._number))
        try:
            snapshot.write([bytes(header_size)])
            count, size = 0, header_size
            texts: list[bytes] = []
            positions: list[bytes] = []
            for text, job_id, attempt in self._kept_lines():
                length = len(text)
                if job_id:
                    positions.append(b"%d %d %d %d\n" % (job_id, attempt, size, length - 1))
                texts.append(text)
                size += length
                count += 1
                if len(texts) == LINES_PER_WRITE:
                    snapshot.write(texts)
                    moved.write(positions)
            snapshot.write(texts)
            moved.write(positions)
            moved.finish()
        finally:
            moved.close()
        return count


class _OutputFile:
    """A new file. What was written to it is durable after ``finish``."""

    def __init__(self, filesystem: Filesystem, path: str) -> None:
        self._filesystem = filesystem
        self._descriptor = filesystem.create(path)
        self._unwritten: list[bytes] = []
        self._unsynced = 0

    def write(self, texts: list[bytes]) -> None:
        """Write texts and clear the list."""
        text = b"".join(texts)
        texts.clear()
        self._unwritten.append(text)
        self._unsynced += len(text)
        if self._unsynced >= SYNC_INTERVAL_BYTES:
            self.finish()

    def finish(self, header: bytes = b"") -> None:
        """Write a header over the beginning of the file, and make all durable."""
        self._filesystem.write(self._descriptor, b"".join(self._unwritten))
        if header:
            self._filesystem.write_at(self._descriptor, header, 0)
        self._filesystem.sync(self._descriptor)
        self._unwritten.clear()
        self._unsynced = 0

    def close(self) -> None:
        self._filesystem.close(self._descriptor)


def main() -> None:
    """Write the snapshot given by the command line; print an error and exit with 1 if that fails."""
    directory, number = sys.argv[1:]
    os.nice(NICENESS)
    filesystem = Filesystem()
    try:
        SnapshotWriter(Segments(directory, filesystem), filesystem, int(number)).write()
    except (OSError, StartRefused) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
