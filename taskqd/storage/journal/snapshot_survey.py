"""Reads the records of sealed segments and decides which of them a snapshot keeps (docs/journal.md)."""

from array import array
from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from taskqd.model.events import (
    JOB_EVENTS,
    Cancelled,
    Clocked,
    Compacted,
    Ended,
    InSnapshot,
    JobEvent,
    Opened,
    QueueEvent,
    Record,
    Removed,
    Retried,
    Scheduled,
    Skipped,
    Snapshot,
    Spawned,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.spec import DEFAULT_SPEC
from taskqd.storage.journal.codec import has_old_command
from taskqd.storage.journal.replay import RecordBatch
from taskqd.storage.journal.superseded import Superseded


class Kind(IntEnum):
    """Which records of a type are kept."""

    NEVER = 0
    JOB_EVENT = 1
    """All of jobs that are kept."""
    SUBMITTED = 2
    """Like JOB_EVENT; the events of a job that has ended are joined here."""
    ENDED = 3
    """Like JOB_EVENT; it may have output, whose position is known."""
    SUPERSEDABLE = 4
    WHILE_RUNNING = 5
    COMPACTED = 6
    CLOCKED = 7
    QUEUE_EVENT = 8


_BY_RULE = {
    InSnapshot.ALWAYS: Kind.JOB_EVENT,
    InSnapshot.UNLESS_SUPERSEDED: Kind.SUPERSEDABLE,
    InSnapshot.WHILE_RUNNING: Kind.WHILE_RUNNING,
    InSnapshot.NEVER: Kind.NEVER,
}
_KINDS: dict[type, Kind] = {
    **{event: _BY_RULE[event.in_snapshot] for event in JOB_EVENTS},
    Submitted: Kind.SUBMITTED,
    Ended: Kind.ENDED,
    Compacted: Kind.COMPACTED,
    Clocked: Kind.CLOCKED,
    Opened: Kind.NEVER,
}
_PART = Struct("<iQIQ")
"""The place of a line and its number, as in ``Part``."""


Part = tuple[int, int, int, int]
"""A line of a job: its file, as in Segments, its offset and length in bytes, and its number."""


class Piece(NamedTuple):
    """Lines that follow each other in a file, from byte ``start`` to ``end``."""

    file: int
    start: int
    end: int


class SnapshotSurvey:
    """The records that ``add`` was called with, in order, as far as a snapshot depends on them.

    ``pieces`` are their lines. For each record, ``numbers``, ``kinds`` and ``job_ids`` have an entry (0 if it
    is not about a job), and ``attempts`` the attempt that ends by it. ``clocks`` has the ``ahead`` of each
    Clocked, by its number. The memory is 21 bytes per record, and about 170 per job with separate lines.
    """

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.numbers = array("q")
        self.kinds = bytearray()
        self.job_ids = array("q")
        self.attempts = array("I")
        self.clocks: dict[int, float] = {}
        self.opened: Opened | Snapshot | None = None
        self.last_id = 0
        self._removed: set[int] = set()
        self._running: dict[int, int] = {}  # jobs whose attempt has not ended, and its number
        self._tasks: dict[int, range] = {}
        self._superseded = Superseded()
        self._latest: dict[tuple[object, ...], int] = {}
        self._queue_events: list[tuple[int, QueueEvent]] = []
        self._kept_queue_events: set[int] = set()
        self._unscheduled: set[int] = set()
        self._last_schedule = 0
        self._ahead = 0.0
        self._dependencies: dict[int, tuple[int, ...]] = {}
        # The parts of jobs that were submitted here, packed; jobs that cannot be joined are in neither.
        self._unended: dict[int, bytes] = {}
        self._ended: dict[int, bytes] = {}

    def add(self, file: int, batch: RecordBatch) -> None:
        """Note records of a file."""
        self.pieces.append(Piece(file, batch.start, batch.end))
        self.numbers.extend(batch.sequences)
        self.kinds.extend([_KINDS.get(type(record), Kind.QUEUE_EVENT) for record in batch.records])
        running, unended, pack, may_supersede = self._running, self._unended, _PART.pack, self._superseded
        offset = batch.start
        for number, record, line in zip(batch.sequences, batch.records, batch.lines, strict=True):
            length = len(line)
            job_id = attempt = 0
            if type(record) is Started or type(record) is Ended:
                job_id = record.id
                if may_supersede.has_runs:
                    may_supersede.add(number, record)
                parts = unended.pop(job_id, None)
                if parts is not None:
                    parts += pack(file, offset, length, number)
                if type(record) is Started:
                    running[job_id] = record.attempt
                else:
                    attempt = running.pop(job_id, 0)
                if parts is not None:
                    has_ended = type(record) is Ended and record.status.is_final
                    (self._ended if has_ended else unended)[job_id] = parts
            elif isinstance(record, JobEvent):
                job_id = record.id
                self._note_job_event(record, number)
                self._join(record, line, pack(file, offset, length, number))
            elif isinstance(record, Compacted):
                job_id = record.id
                self._note_compacted(record, number)
            else:
                self._note_other(record, number)
            self.job_ids.append(job_id)
            self.attempts.append(attempt)
            offset += length + 1

    def _note_job_event(self, event: JobEvent, number: int) -> None:
        """Note an event of a job, which is neither a Started nor an Ended."""
        if isinstance(event, Submitted):
            self._note_submitted(event)
            if event.spec is DEFAULT_SPEC:
                return  # it supersedes nothing
        elif isinstance(event, Removed):
            self._removed.add(event.id)
            self._removed.update(self._tasks.pop(event.id, ()))
        self._superseded.add(number, event)

    def _note_submitted(self, event: Submitted) -> None:
        spec = event.spec
        if spec is DEFAULT_SPEC:
            self.last_id = max(self.last_id, event.id)
            return
        self.last_id = max(self.last_id, event.last_id)
        if spec.array is not None:
            self._tasks[event.id] = range(event.id + 1, event.last_id + 1)
        if spec.has_dependencies:
            self._dependencies[event.id] = (*spec.after, *spec.after_any, *spec.after_fail)

    def _note_compacted(self, record: Compacted, number: int) -> None:
        submitted = record.events[0]
        self.last_id = max(self.last_id, submitted.id)
        if isinstance(submitted, Submitted) and submitted.spec is not DEFAULT_SPEC:  # it may have times
            for each, event in record.numbered(number):
                self._superseded.add(each, event)

    def _note_other(self, record: Record, number: int) -> None:
        if isinstance(record, Opened | Snapshot):
            self.opened = record
        elif isinstance(record, Clocked):
            self.clocks[number] = record.ahead
            if record.ahead != self._ahead:
                self._ahead = record.ahead
                self._unended.clear()
        elif isinstance(record, QueueEvent):
            self._queue_events.append((number, record))
            self._latest[record.subject] = number
            if isinstance(record, Unscheduled):
                self._unscheduled.add(record.schedule)
            elif isinstance(record, Scheduled):
                self._last_schedule = max(self._last_schedule, record.schedule)

    def _join(self, event: JobEvent, line: bytes, part: bytes) -> None:
        """Add a line to those of its job that are written as one if the job has ended."""
        job_id = event.id
        if isinstance(event, Submitted):
            spec = event.spec
            if spec is DEFAULT_SPEC or (spec.array is None and not has_old_command(line)):
                self._unended[job_id] = part
            return
        if isinstance(event, Retried | Removed):
            self._ended.pop(job_id, None)
            return
        parts = self._unended.get(job_id)
        if parts is None or isinstance(event, Spawned):
            return
        if has_old_command(line):
            del self._unended[job_id]
        elif isinstance(event, Skipped) or (isinstance(event, Cancelled) and job_id not in self._running):
            del self._unended[job_id]
            self._ended[job_id] = parts + part
        else:
            self._unended[job_id] = parts + part

    def finish(self) -> None:
        """Decide; all records have been added."""
        waiting = [job_id for job_id in self._dependencies if job_id not in self._ended]
        for job_id in waiting:
            for needed in self._dependencies[job_id]:  # the order in which these ended may matter
                self._ended.pop(needed, None)
        self._dependencies.clear()
        self._unended.clear()
        self._kept_queue_events = {
            number for number, event in self._queue_events if self._is_latest(event, number)
        }

    def _is_latest(self, event: QueueEvent, number: int) -> bool:
        """Whether no later event has replaced this one; the last schedule is kept even if it ended."""
        schedule = getattr(event, "schedule", None)
        if schedule in self._unscheduled:
            return schedule == self._last_schedule and isinstance(event, Scheduled | Unscheduled)
        return self._latest[event.subject] == number

    def is_kept(self, kind: int, job_id: int, number: int) -> bool:
        """Whether a record of a job that is not in ``joined`` is kept, or one that is not about a job."""
        if kind == Kind.QUEUE_EVENT:
            return number in self._kept_queue_events
        if kind == Kind.NEVER or job_id in self._removed:
            return False
        if kind == Kind.SUPERSEDABLE:
            return number not in self._superseded.sequences
        return kind != Kind.WHILE_RUNNING or job_id in self._running

    @property
    def joined(self) -> Mapping[int, bytes]:
        """The lines of each job that become one, packed; see ``parts``."""
        return self._ended

    def parts(self, packed: bytes) -> list[Part]:
        """Return the lines that become one, in order."""
        parts: list[Part] = [*_PART.iter_unpack(packed)]
        superseded = self._superseded.sequences
        return [part for part in parts if part[3] not in superseded] if superseded else parts
