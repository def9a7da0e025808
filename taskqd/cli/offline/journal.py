"""Looking into a journal without its daemon: ``taskq journal verify`` and ``taskq journal dump``.

Read-only, on the store of a daemon that runs as on that of one that doesn't. Lines are read by the daemon's
own code, which is slow to load: this module is imported by these two commands only, when they run.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.sanitize import sanitize_output
from taskqd.errors import JournalDamaged
from taskqd.model.events import JobEvent, Opened, Position, Record, Snapshot, Submitted
from taskqd.protocol.values import timestamp
from taskqd.state.queue_state import InvalidTransition, QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Layout, Segments, positions

LARGE = 32 * 1024**2
"""A journal of so many bytes is worth a bar that shows how far it is read."""
Found = TypeVar("Found")

TRIES = 10
"""How often the journal is read at most, where a daemon changes it meanwhile."""


class Torn(NamedTuple):
    """What is not whole at the end of the last segment: where it is, and how many bytes it has."""

    path: str
    line: int
    size: int


class _Measuring(Filesystem):
    """Keeps how many bytes of a file were there when it was read: its daemon may add to it meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def read_file(self, path: str, max_bytes: int | None = None) -> bytes:
        found = super().read_file(path, max_bytes)
        self.sizes[path] = len(found)
        return found


class Reading:
    """One reading of the journal in the state ``directory``, from its beginning to its end.

    Raises JournalDamaged where the journal cannot be trusted, and OSError: FileNotFoundError also where a
    daemon has condensed what was to be read.
    """

    def __init__(self, directory: str) -> None:
        self._disk = _Measuring()
        self._replay = Replay()
        self.segments = Segments(os.path.join(directory, "journal"), self._disk)
        self.layout: Layout = self.segments.layout()
        self.files = [self.segments.path(-self.layout.snapshot)] if self.layout.snapshot else []
        self.files += map(self.segments.path, self.layout.segments)
        self._file = self._lines = 0
        self.size = sum(self._disk.size(path) or 0 for path in self.files)

    @property
    def sequence(self) -> int:
        """The number of the last record, once all have been read."""
        return self._replay.sequence

    def records(self, moved: Callable[[int], None]) -> Iterator[tuple[int, Record, Position]]:
        """Yield every record that counts, with its number and where it stands.

        ``moved`` is told how many bytes are read.
        """
        before, end = 0, 0
        for number, portion in self.segments.batches(self.layout, self._replay):
            if number != self._file:
                before, self._file, self._lines = before + end, number, 0
            yield from zip(portion.sequences, portion.records, positions(number, portion), strict=True)
            end = portion.end
            self._lines += len(portion.records)
            moved(before + end)

    def torn(self) -> Torn | None:
        """Return what is not whole at the end of the last segment, once all before it has been read."""
        if not self.layout.segments:
            return None
        last = self.layout.segments[-1]
        path = self.segments.path(last)
        is_begun = self._file == last
        lines, size = (self._lines, self._replay.torn_bytes) if is_begun else (0, self._disk.sizes[path])
        return Torn(path, lines + 1, size) if size else None


def verify(session: Session, directory: str) -> int:
    """Read everything as a start of the daemon does, and say what there is or what is wrong."""
    try:
        facts, torn = _at_rest(partial(_survey, directory))
    except JournalDamaged as why:
        session.complain(str(why))
        return REFUSED
    session.say(_summary(facts), {**facts, "torn": torn._asdict() if torn else None})
    if torn:
        session.complain(
            f"{torn.path}, line {torn.line} is not finished ({torn.size} bytes): it is just being "
            "written, or was when the daemon stopped. Nobody was told of it; a start cuts it off"
        )
    return 0


def _at_rest(read: Callable[[], Found]) -> Found:
    """Return what ``read`` returns; it begins again where a daemon has changed something under it.

    A snapshot may have taken a file's place. And of two batches that are written meanwhile the later one may
    be seen without the earlier one, which looks like damage: damage is what is seen twice.
    """
    damage = ""
    for _ in range(TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
        except JournalDamaged as why:
            if str(why) == damage:
                raise
            damage = str(why)
    return read()


def _survey(directory: str) -> tuple[dict[str, Any], Torn | None]:
    reading = Reading(directory)
    queue_state = QueueState(is_open=False)
    count = 0
    with ExitStack() as stack:
        for _, record, position in reading.records(_bar(stack, reading.size, sys.stderr.isatty())):
            count += 1
            if isinstance(record, Opened | Snapshot):
                continue
            try:
                queue_state.apply(record, position)
            except InvalidTransition as why:
                where = reading.segments.locate(position)
                raise JournalDamaged(f"{where} cannot be right: {why}") from None
    jobs = {status.value.lower(): number for status, number in queue_state.counts.items()}
    facts = {
        "journal": reading.segments.directory,
        "files": len(reading.files),
        "bytes": reading.size,
        "records": count,
        "last": reading.sequence,
        "jobs": jobs,
    }
    return facts, reading.torn()


def _summary(facts: dict[str, Any]) -> str:
    jobs = ", ".join(f"{number} {status}" for status, number in facts["jobs"].items() if number)
    return (
        f"{facts['journal']}: all is well: {_count(facts['files'], 'file')}, "
        f"{_count(facts['records'], 'record')} up to number {facts['last']}, "
        f"{_count(sum(facts['jobs'].values()), 'job')}{f': {jobs}' if jobs else ''}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dump(session: Session, directory: str, job: int | None, since: float | None) -> int:
    """Print the records that count, from the oldest to the newest, as JSON."""
    encode = msgspec.json.Encoder().encode
    printed = 0

    def write() -> None:
        nonlocal printed
        reading = Reading(directory)
        is_terminal = sys.stdout.isatty()
        with ExitStack() as stack:
            is_shown = sys.stderr.isatty() and not is_terminal
            for sequence, record, _ in reading.records(_bar(stack, reading.size, is_shown)):
                if sequence <= printed or not _is_wanted(record, job, since):
                    continue
                printed = sequence
                line = encode({"seq": printed, **_shown(record)}) + b"\n"
                sys.stdout.buffer.write(sanitize_output(line, sys.stdout.encoding) if is_terminal else line)

    try:
        _at_rest(write)
    except JournalDamaged as why:
        session.complain(str(why))
        return REFUSED
    return 0


def _is_wanted(record: Record, job: int | None, since: float | None) -> bool:
    if job is not None and not _is_about(record, job):
        return False
    return since is None or record.at >= since


def _is_about(record: Record, job: int) -> bool:
    """Whether it happened to a job; a task of an array was submitted with all the others."""
    if isinstance(record, Submitted):
        return record.id <= job <= record.last_id
    return isinstance(record, JobEvent) and record.id == job


def _shown(record: Record) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(record)
    for name in {"at", "retry_at"} & shown.keys():
        shown[name] = timestamp(shown[name])
    return shown


def _ignore(_: int) -> None:
    """Show nothing."""


def _bar(stack: ExitStack, total: int, is_shown: bool) -> Callable[[int], None]:
    """Return what is told how many bytes of the total are done: a bar on stderr where it is worth one."""
    if not is_shown or total < LARGE:
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
