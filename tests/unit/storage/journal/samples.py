"""Helpers to read events from the files of a journal."""

from pathlib import Path

from taskqd.model.events import Event, JobEvent, Opened
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.job_event_reader import JobEventFinder
from taskqd.storage.journal.reader import SegmentReader
from taskqd.storage.journal.segments import JournalEnd, Segments
from tests.fakes.clocks import START

OPENED = Opened(at=START, format=1, store="s", boot="b", next_id=1)


def ids(events: list[Event]) -> list[int]:
    """Return the job of each event that has one."""
    return [event.id for event in events if isinstance(event, JobEvent)]


def upto(sequence: int) -> JournalEnd:
    """Return a journal end after a record."""
    return JournalEnd(99, 10**9, sequence)


def all_of(finding: JobEventFinder) -> list[tuple[int, Event]]:
    """Return all events that a finder returns."""
    found: list[tuple[int, Event]] = []
    while not finding.is_over:
        found += finding.read_batch()
    return found


def since(
    directory: Path, first: int, last: int, filesystem: Filesystem | None = None
) -> list[tuple[int, Event]]:
    """Return all events from ``first`` to ``last``, read in batches."""
    reading = SegmentReader(
        Segments(str(directory), filesystem or Filesystem()), filesystem or Filesystem(), first
    )
    found: list[tuple[int, Event]] = []
    while batch := reading.read_batch(last):
        found += batch
    assert reading.next_sequence == max(first, last + 1)
    return found
