"""Journals for tests: the events of many jobs, segments, and a file system in memory."""

import faulthandler
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from taskqd.model.events import (
    FORMAT,
    Cancelled,
    Compacted,
    Ended,
    Event,
    Opened,
    Output,
    Removed,
    Retried,
    Spawned,
    Started,
    Submitted,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Spec
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from tests.fakes.clocks import START

MAX_SWEEP_CPU = 180
"""CPU seconds of a sweep; the longest takes 25. Elapsed time depends on the load of the machine."""
SWEEP_IDLE_TIMEOUT = 120.0
"""Seconds without CPU time after which a sweep is considered hanging."""
SWEEP_CHECK_INTERVAL = 5.0
"""Seconds between two checks of a sweep's CPU time."""

ROOT = Path(__file__).parents[2]


def submitted(job_id: int, command: str = "true", **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=START + job_id, owner="ada", command=command, spec=Spec(**spec))


def ran(job_id: int, attempt: int = 1, **end: Any) -> list[Event]:
    """Return the events of an attempt; it is COMPLETED unless ``end`` says otherwise."""
    end.setdefault("status", Status.COMPLETED)
    return [
        Started(id=job_id, at=START, attempt=attempt),
        Spawned(id=job_id, at=START, pid=1000 + job_id, started=77),
        Ended(id=job_id, at=START + job_id, **end),
    ]


def removed(job_id: int) -> Removed:
    return Removed(id=job_id, at=START, by="retention")


def story(jobs: int) -> list[Event]:
    """Return the events of ``jobs`` jobs with different fates."""
    return [event for job_id in range(1, jobs + 1) for event in _life(job_id)]


def _life(job_id: int) -> list[Event]:
    lives: list[list[Event]] = [
        ran(job_id, stdout=Output.inline(b"hello %d\n" % job_id)),
        [
            *ran(job_id, status=Status.PENDING, reason=Reason.EXIT, exit_code=1, retry_at=START),
            *ran(job_id, 2, status=Status.FAILED, reason=Reason.EXIT, exit_code=1),
        ],
        [Cancelled(id=job_id, at=START, by="ada", signal=15)],
        [*ran(job_id, stderr=Output(9000)), Retried(id=job_id, at=START, by="ada"), *ran(job_id, 2)],
        [*ran(job_id), removed(job_id)],
        [],
        [*ran(job_id)[:2]],
    ]
    return [submitted(job_id, "echo é | tr a b", key=f"k{job_id}"), *lives[job_id % len(lives)]]


def write(directory: Path, *segments: Iterable[Event], next_id: int = 1, boot: str = "b") -> None:
    """Write segments as the journal does, each with its Opened record."""
    directory.mkdir(parents=True, exist_ok=True)
    sequence = 0
    for number, events in enumerate(segments, 1):
        lines = []
        at = START + number
        opened = Opened(at=at, format=FORMAT, store="s", boot=boot, next_id=next_id)
        for record in (opened, *events):
            sequence += 1
            lines.append(encode(record, sequence))
            if isinstance(record, Submitted):
                next_id = max(next_id, record.last_id + 1)
        (directory / f"{number:08}.journal").write_bytes(b"".join(lines))


def split_events(events: list[Event], count: int) -> list[list[Event]]:
    """Return the events in ``count`` parts of about the same length."""
    size = -(-len(events) // count)
    return [events[at : at + size] for at in range(0, len(events), size)]


def replay(directory: Path | str, filesystem: Filesystem | None = None) -> list[Event]:
    """Return all valid events of a journal; raises JournalDamaged."""
    segments = Segments(str(directory), filesystem or Filesystem())
    events: list[Event] = []
    for record, _ in chain.from_iterable(segments.replay(segments.layout(), Replay())):
        events += record.events if isinstance(record, Compacted) else [record]
    return events


def fold(events: Iterable[Event]) -> QueueState:
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


class MemoryFilesystem(Filesystem):
    """The files of a directory, in memory, where a test can damage them."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}

    def list_directory(self, path: str) -> list[str]:
        return sorted(self.files)

    def read_file(self, path: str, max_bytes: int | None = None) -> bytes:
        return self.files[os.path.basename(path)][:max_bytes]

    def map_file(self, path: str) -> bytes:
        return self.read_file(path)


def sweep(module: str, every: int) -> str:
    """Run a sweep as a program, without coverage, and return its output."""
    return run_bounded([sys.executable, "-m", module, str(every)])


def run_bounded(
    line: list[str],
    cpu: int = MAX_SWEEP_CPU,
    idle_timeout: float = SWEEP_IDLE_TIMEOUT,
    interval: float = SWEEP_CHECK_INTERVAL,
) -> str:
    """Run a program and return its stdout; fail if it fails, uses too much CPU time, or uses none for long.

    pytest's timeout, which is in elapsed seconds, is disabled until the next test.
    """
    faulthandler.cancel_dump_traceback_later()
    with subprocess.Popen(
        line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu))
        used, used_at, said = 0, time.monotonic(), ""
        try:
            while True:
                try:
                    said = process.communicate(timeout=interval)[0]
                    break
                except subprocess.TimeoutExpired:
                    before, used = used, _cpu_ticks(process.pid)
                    used_at = used_at if used == before else time.monotonic()
                    assert time.monotonic() - used_at < idle_timeout, (
                        f"{line} has used no CPU time for {idle_timeout:g} s"
                    )
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, f"{line} ended with {process.returncode}: {said}"
    return said


def _cpu_ticks(pid: int) -> int:
    """Return the CPU time of a process in clock ticks (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines of a file, each with its newline."""
    yield from content.splitlines(keepends=True)
