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
from typing import NamedTuple

from taskqd.errors import StartRefused
from taskqd.model.events import FORMAT, Snapshot
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode, join_lines, pad
from taskqd.storage.journal.replay import Content, Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot_survey import Kind, SnapshotSurvey

SYNC_INTERVAL_BYTES = 8 * 1024**2
"""Bytes that are synced at a time; a larger sync would delay the journal's own syncs."""
NICENESS = 10
"""The nice value of the process: the daemon and jobs take precedence."""


MAX_RECORDS = 10**15
"""More records than a snapshot can have; the header is written before they are counted."""


class Line(NamedTuple):
    """A line that is written, with the newline.

    ``job_id`` is that of the ends of attempts in it, 0 if there are none; ``attempt`` is the one that ended,
    0 if there may be several.
    """

    text: bytes
    job_id: int = 0
    attempt: int = 0


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
        for kind, number, line in self._candidates():
            if kind == Kind.CLOCKED:
                latest, ahead = line.text, self._survey.clocks[number]
                continue
            if latest is not None and ahead != before:
                before = ahead
                yield Line(latest)
            yield line
        if latest is not None and ahead != before:
            yield Line(latest)

    def _candidates(self) -> Iterator[tuple[int, int, Line]]:
        """Yield the kind, the number and the line of each record that is kept, and of each Clocked."""
        survey = self._survey
        records = zip(survey.kinds, survey.job_ids, survey.numbers, survey.attempts, strict=True)
        for file, start, end in survey.pieces:
            for text in self._content(file)[start : end - 1].split(b"\n"):
                kind, job_id, number, attempt = next(records)
                if survey.is_joined(job_id):
                    if kind == Kind.SUBMITTED:
                        yield kind, number, self._joined(job_id)
                elif survey.is_kept(kind, job_id, number):
                    has_end = kind in (Kind.ENDED, Kind.COMPACTED)
                    yield kind, number, Line(text + b"\n", job_id if has_end else 0, attempt)

    def _joined(self, job_id: int) -> Line:
        """Return the line of a job that has ended."""
        lines, numbers = [], []
        for file, offset, length, number in self._survey.parts(job_id):
            lines.append(self._content(file)[offset : offset + length])
            numbers.append(number)
        return Line(join_lines(lines, numbers), job_id)

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
            snapshot.write(bytes(header_size))
            count = 0
            for text, job_id, attempt in self._kept_lines():
                if job_id:
                    moved.write(b"%d %d %d %d\n" % (job_id, attempt, snapshot.size, len(text) - 1))
                snapshot.write(text)
                count += 1
            moved.finish()
        finally:
            moved.close()
        return count


class _OutputFile:
    """A new file; ``size`` is that of what was written to it. It is durable after ``finish``."""

    def __init__(self, filesystem: Filesystem, path: str) -> None:
        self.size = 0
        self._filesystem = filesystem
        self._descriptor = filesystem.create(path)
        self._unwritten: list[bytes] = []
        self._unsynced = 0

    def write(self, text: bytes) -> None:
        self._unwritten.append(text)
        self.size += len(text)
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
