"""Replays journals that are truncated at every byte, torn, or have flipped bits.

Each time, replay must return a prefix of the events, or refuse the journal with the line of the damage.

``python -m tests.support.cuts`` truncates the last segment at every byte and flips every bit of all files,
which takes some minutes; with a number N, the bits of every N-th byte and of all newlines. It does the same
with a preallocated last segment, and tears its last batch: any of its sectors are written, the others blank.
"""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

from taskqd.errors import JournalDamaged
from taskqd.model.events import Event
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import decode, encode
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.support.journals import MemoryFilesystem, replay, split_events, story, write

JOBS = 100
LAST = "00000005.journal"
BATCH = 40
"""Records of the last batch in a preallocated segment, which takes about ten sectors."""
BLANKS = 3000
SECTOR = 512


def make(directory: Path) -> MemoryFilesystem:
    """Write a snapshot of two segments and three more segments; return the files in memory."""
    events = story(JOBS)
    whole = split_events(events, 4)
    write(directory, *whole, story(JOBS + 12)[len(events) :])
    SnapshotWriter(Segments(str(directory), Filesystem()), Filesystem(), 2).write()
    return MemoryFilesystem(directory)


def valid_files(filesystem: MemoryFilesystem) -> list[str]:
    """Return the names of the valid files."""
    layout = Segments("", filesystem).layout()
    return [
        Path(Segments("", filesystem).path(number)).name for number in (-layout.snapshot, *layout.segments)
    ]


def judge(filesystem: MemoryFilesystem, events: list[Event]) -> tuple[int | None, str]:
    """Return the number of events that replay returns, or None and the error."""
    try:
        found = replay("", filesystem)
    except JournalDamaged as why:
        return None, str(why)
    assert found == events[: len(found)], "the events are not a prefix"
    return len(found), ""


def cuts(filesystem: MemoryFilesystem) -> Counter[str]:
    """Truncate the last segment at every byte; return the counts of the outcomes."""
    counts: Counter[str] = Counter()
    events = replay("", filesystem)
    content = filesystem.files[LAST]
    before = len(events) - content.count(b"\n") + 1
    for cut in range(len(content) + 1):
        filesystem.files[LAST] = content[:cut]
        count, said = judge(filesystem, events)
        assert count is not None, said
        assert count == before + max(0, content[:cut].count(b"\n") - 1)
        counts["cuts"] += 1
    filesystem.files[LAST] = content
    return counts


def flips(filesystem: MemoryFilesystem, step: int) -> Counter[str]:
    """Flip every bit of every ``step``-th byte and of all newlines; return the counts of the outcomes."""
    counts: Counter[str] = Counter()
    events = replay("", filesystem)
    for name in valid_files(filesystem):
        content = filesystem.files[name]
        ends = {at for at, byte in enumerate(content) if byte == 10}
        for at in sorted(ends | set(range(0, len(content), step))):
            for bit in range(8):
                damaged = bytearray(content)
                damaged[at] ^= 1 << bit
                filesystem.files[name] = bytes(damaged)
                counts[_flipped(filesystem, events, name, at)] += 1
        filesystem.files[name] = content
    return counts


class PreallocatedSegment:
    """The last segment of a killed daemon: ``good`` lines, a last batch, and blanks."""

    def __init__(self, filesystem: MemoryFilesystem) -> None:
        self.filesystem = filesystem
        self.events = replay("", filesystem)
        records = [decode(line) for line in filesystem.files[LAST].splitlines()]
        self.good = b"".join(
            encode(record, number, continues_batch=at % 3 > 0)
            for at, (number, record) in enumerate(records[:-BATCH])
        )
        self.batch = b"".join(
            encode(record, number, continues_batch=at > 0)
            for at, (number, record) in enumerate(records[-BATCH:])
        )
        self.whole = self.good + self.batch + b"\n" * BLANKS
        self.before = len(self.events) - BATCH

    def judge(self, content: bytes) -> tuple[int | None, str]:
        """As `judge`, with ``content`` as the last segment."""
        self.filesystem.files[LAST] = content
        return judge(self.filesystem, self.events)

    def torn(self, blank: Iterable[int]) -> bytes:
        """Return the segment with some sectors of the last batch still blank."""
        content = bytearray(self.whole)
        for sector in blank:
            start, end = max(len(self.good), sector * SECTOR), (sector + 1) * SECTOR
            content[start:end] = b"\n" * (end - start)
        return bytes(content[: len(self.whole)])

    def patterns(self) -> Iterator[tuple[int, ...]]:
        """Yield each set of blank sectors."""
        sectors = range(len(self.good) // SECTOR, len(self.good + self.batch) // SECTOR + 1)
        for count in range(len(sectors) + 1):
            yield from combinations(sectors, count)


def tears(filesystem: MemoryFilesystem, step: int) -> Counter[str]:
    """Tear the last batch, and flip bits in the whole segment; return the counts of the outcomes."""
    counts: Counter[str] = Counter()
    content = filesystem.files[LAST]
    last = PreallocatedSegment(filesystem)
    for blank in last.patterns():
        torn = last.torn(blank)
        pairs = enumerate(zip(torn[len(last.good) :], last.batch, strict=False))
        whole = next((at for at, (found, written) in pairs if found != written), len(last.batch))
        count, said = last.judge(torn)
        assert count == last.before + last.batch.count(b"\n", 0, whole), said
        counts["tears"] += 1
    for at in range(0, len(last.whole), step):
        for bit in range(8):
            damaged = bytearray(last.whole)
            damaged[at] ^= 1 << bit
            count, said = last.judge(bytes(damaged))
            if at < len(last.good):
                assert count is None
                assert f"line {last.good.count(10, 0, at) + 1} cannot" in said
                counts["blank refusals"] += 1
            elif count is not None:  # this looks like a torn batch
                whole = last.batch.count(b"\n", 0, min(at - len(last.good), len(last.batch)))
                assert count == last.before + whole
                counts["blank prefixes"] += 1
            else:
                assert at >= len(last.whole) - 2, said
    filesystem.files[LAST] = content
    return counts


def _flipped(filesystem: MemoryFilesystem, events: list[Event], name: str, at: int) -> str:
    count, said = judge(filesystem, events)
    content = filesystem.files[name]
    if count is not None:
        # Without its last newline, a journal looks like one with an interrupted write.
        assert (name, at) == (LAST, len(content) - 1)
        assert count == len(events) - 1
        return "prefixes"
    form = re.match(r".*?([0-9]+\.\w+), line ([0-9]+) cannot be trusted: ", said)
    assert form, said
    assert form[1] == name, said
    assert int(form[2]) == content[:at].count(b"\n") + 1, said
    assert "\n" not in said
    return "refusals"


def main() -> None:
    """Run all sweeps and print the counts."""
    with tempfile.TemporaryDirectory() as directory:
        filesystem = make(Path(directory) / "journal")
        step = int(sys.argv[1]) if sys.argv[1:] else 1
        found = cuts(filesystem) + tears(filesystem, step) + flips(filesystem, step)
        size = sum(len(filesystem.files[name]) for name in valid_files(filesystem))
        print(f"{size} bytes, {len(replay('', filesystem))} records: {dict(found)}")


if __name__ == "__main__":
    main()
