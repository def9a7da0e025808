"""``taskq journal verify`` and ``taskq journal dump``: read a journal, whether its daemon runs or not.

The journal is only read, with the daemon's own code.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.sanitize import sanitize_output
from taskqd.errors import JournalDamaged
from taskqd.model.events import Compacted, JobEvent, Opened, Record, RecordPosition, Snapshot, Submitted
from taskqd.protocol.values import timestamp
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Layout, Segments, positions

PROGRESS_BAR_SIZE = 32 * 1024**2
"""Size from which on a progress bar is shown (bytes); smaller journals are read in about a second."""
MAX_READS = 10
"""Maximum number of times that a journal is read if a daemon changes it meanwhile."""

Result = TypeVar("Result")


class TornRecord(NamedTuple):
    """An incomplete record at the end of the last segment: its file, line and size in bytes."""

    path: str
    line: int
    size: int


class _SizeRecorder(Filesystem):
    """Records the size of a file when it is read, because its daemon may append to it meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def read_file(self, path: str, max_bytes: int | None = None) -> bytes:
        content = super().read_file(path, max_bytes)
        self.sizes[path] = len(content)
        return content


class JournalScan:
    """Reads the journal in a state ``directory`` once, from its beginning to its end.

    Raises JournalDamaged if the journal is damaged, and OSError; FileNotFoundError also means that the daemon
    has compacted the journal meanwhile.
    """

    def __init__(self, directory: str) -> None:
        self._filesystem = _SizeRecorder()
        self._replay = Replay()
        self.segments = Segments(os.path.join(directory, "journal"), self._filesystem)
        self.layout: Layout = self.segments.layout()
        self.files = [self.segments.path(-self.layout.snapshot)] if self.layout.snapshot else []
        self.files += map(self.segments.path, self.layout.segments)
        self._file = self._lines = 0
        self.size = sum(self._filesystem.size(path) or 0 for path in self.files)

    @property
    def sequence(self) -> int:
        """The number of the last record, after all have been read."""
        return self._replay.sequence

    def records(self, on_progress: Callable[[int], None]) -> Iterator[tuple[int, Record, RecordPosition]]:
        """Yield every valid record with its number and position.

        ``on_progress`` is called with the number of bytes that have been read.
        """
        before, end = 0, 0
        for number, batch in self.segments.batches(self.layout, self._replay):
            if number != self._file:
                before, self._file, self._lines = before + end, number, 0
            yield from zip(batch.sequences, batch.records, positions(number, batch), strict=True)
            end = batch.end
            self._lines += len(batch.records)
            on_progress(before + end)

    def torn_record(self) -> TornRecord | None:
        """Return the incomplete record at the end of the last segment, after all others have been read."""
        if not self.layout.segments:
            return None
        last = self.layout.segments[-1]
        path = self.segments.path(last)
        was_read = self._file == last
        lines, size = (
            (self._lines, self._replay.torn_bytes) if was_read else (0, self._filesystem.sizes[path])
        )
        return TornRecord(path, lines + 1, size) if size else None


def verify(session: Session, directory: str) -> int:
    """Read the journal as the daemon does when it starts; print a summary or the error."""
    try:
        facts, torn = _repeat_while_changing(partial(_survey, directory))
    except JournalDamaged as why:
        session.print_message(str(why))
        return REFUSED
    session.print_answer(_summary(facts), {**facts, "torn": torn._asdict() if torn else None})
    if torn:
        session.print_message(
            f"{torn.path}, line {torn.line} is incomplete ({torn.size} bytes): the daemon is writing it, "
            "or was when it stopped. It was not acknowledged; the daemon truncates it when it starts"
        )
    return 0


def _repeat_while_changing(read: Callable[[], Result]) -> Result:
    """Return the result of ``read``; call it again if a daemon has changed the journal meanwhile.

    A file may have been replaced by a snapshot. And of two batches that are being written, the later one
    may be visible without the earlier one, which looks like damage. So damage is reported only if it is
    seen twice.
    """
    damage = ""
    for _ in range(MAX_READS - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
        except JournalDamaged as why:
            if str(why) == damage:
                raise
            damage = str(why)
    return read()


def _survey(directory: str) -> tuple[dict[str, Any], TornRecord | None]:
    scan = JournalScan(directory)
    queue_state = QueueState(is_open=False)
    count = 0
    with ExitStack() as stack:
        for _, record, position in scan.records(_progress_callback(stack, scan.size, sys.stderr.isatty())):
            count += 1
            if isinstance(record, Opened | Snapshot):
                continue
            try:
                queue_state.apply(record, position)
            except InvalidTransition as why:
                where = scan.segments.locate(position)
                raise JournalDamaged(f"{where} is inconsistent: {why}") from None
    jobs = {status.value.lower(): number for status, number in queue_state.counts.items()}
    facts = {
        "journal": scan.segments.directory,
        "files": len(scan.files),
        "bytes": scan.size,
        "records": count,
        "last": scan.sequence,
        "jobs": jobs,
    }
    return facts, scan.torn_record()


def _summary(facts: dict[str, Any]) -> str:
    jobs = ", ".join(f"{number} {status}" for status, number in facts["jobs"].items() if number)
    return (
        f"{facts['journal']}: intact: {_count(facts['files'], 'file')}, "
        f"{_count(facts['records'], 'record')} up to number {facts['last']}, "
        f"{_count(sum(facts['jobs'].values()), 'job')}{f': {jobs}' if jobs else ''}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dump(session: Session, directory: str, job: int | None, since: float | None) -> int:
    """Print the valid records from the oldest to the newest as JSON."""
    encode = msgspec.json.Encoder().encode
    printed = 0

    def write() -> None:
        nonlocal printed
        scan = JournalScan(directory)
        is_terminal = sys.stdout.isatty()
        with ExitStack() as stack:
            is_shown = sys.stderr.isatty() and not is_terminal
            for sequence, record, _ in scan.records(_progress_callback(stack, scan.size, is_shown)):
                if sequence <= printed:
                    continue
                printed = sequence
                for number, each in _expanded(sequence, record):
                    if _matches(each, job, since):
                        line = encode({"seq": number, **_document(each)}) + b"\n"
                        sys.stdout.buffer.write(
                            sanitize_output(line, sys.stdout.encoding) if is_terminal else line
                        )

    try:
        _repeat_while_changing(write)
    except JournalDamaged as why:
        session.print_message(str(why))
        return REFUSED
    return 0


def _expanded(sequence: int, record: Record) -> Iterable[tuple[int, Record]]:
    """Return a record with its number; instead of a Compacted, its events."""
    return record.numbered(sequence) if isinstance(record, Compacted) else ((sequence, record),)


def _matches(record: Record, job: int | None, since: float | None) -> bool:
    if job is not None and not _is_about(record, job):
        return False
    return since is None or record.at >= since


def _is_about(record: Record, job: int) -> bool:
    """Whether a record concerns a job; the submission of an array concerns all its tasks."""
    if isinstance(record, Submitted):
        return record.id <= job <= record.last_id
    return isinstance(record, JobEvent) and record.id == job


def _document(record: Record) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(record)
    for name in {"at", "retry_at", "ended_at"} & document.keys():
        document[name] = timestamp(document[name])
    return document


def _ignore(_: int) -> None:
    """Ignore progress."""


def _progress_callback(stack: ExitStack, total: int, is_shown: bool) -> Callable[[int], None]:
    """Return a callback for the number of bytes read: it updates a progress bar, or does nothing."""
    if not is_shown or total < PROGRESS_BAR_SIZE:
        return _ignore
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    progress = stack.enter_context(
        Progress(
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
    )
    task = progress.add_task("", total=total)
    return lambda done: progress.update(task, completed=done)
