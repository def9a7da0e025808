"""Journals made for tests: a story of many jobs, its segments and snapshot, a disk that is only memory."""

import faulthandler
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from taskqd.model.events import (
    FORMAT,
    Cancelled,
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
"""CPU seconds of a sweep; the longest takes 25. How long that lasts on a busy machine says nothing."""
MAX_SWEEP_STILL = 120.0
"""A sweep that has used no CPU time for this many seconds hangs: even a busy machine gives it some."""
SWEEP_LOOK_INTERVAL = 5.0
"""A sweep's CPU time is looked at every this many seconds."""

ROOT = Path(__file__).parents[2]


def submitted(job_id: int, command: str = "true", **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=START + job_id, owner="ada", command=command, spec=Spec(**spec))


def ran(job_id: int, attempt: int = 1, **end: Any) -> list[Event]:
    """Return an attempt from its start to its end; COMPLETED unless said otherwise."""
    end.setdefault("status", Status.COMPLETED)
    return [
        Started(id=job_id, at=START, attempt=attempt),
        Spawned(id=job_id, at=START, pid=1000 + job_id, started=77),
        Ended(id=job_id, at=START + job_id, **end),
    ]


def removed(job_id: int) -> Removed:
    return Removed(id=job_id, at=START, by="retention")


def story(jobs: int) -> list[Event]:
    """Return what may happen to so many jobs, one after the other and a few beside each other."""
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
    """Write segments as the store does, each with its Opened."""
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


def portions(events: list[Event], count: int) -> list[list[Event]]:
    """Return the events in ``count`` parts of about the same length."""
    size = -(-len(events) // count)
    return [events[at : at + size] for at in range(0, len(events), size)]


def replay(directory: Path | str, filesystem: Filesystem | None = None) -> list[Event]:
    """Return all that counts in a journal; raises JournalDamaged."""
    segments = Segments(str(directory), filesystem or Filesystem())
    return [event for event, _ in segments.replay(segments.layout(), Replay())]


def fold(events: Iterable[Event]) -> QueueState:
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


class MemoryDisk(Filesystem):
    """The files of a directory, in memory and to be damaged."""

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
    """Run a sweep of the tests as a program, where nothing measures it, and return what it says."""
    return run_bounded([sys.executable, "-m", module, str(every)])


def run_bounded(
    line: list[str],
    cpu: int = MAX_SWEEP_CPU,
    still: float = MAX_SWEEP_STILL,
    look: float = SWEEP_LOOK_INTERVAL,
) -> str:
    """Run a program and return its stdout; fail if it fails, uses too much CPU time, or for long none at all.

    pytest's own limit, which is in seconds of the clock, is off until the next test.
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
                    said = process.communicate(timeout=look)[0]
                    break
                except subprocess.TimeoutExpired:
                    before, used = used, _cpu_ticks(process.pid)
                    used_at = used_at if used == before else time.monotonic()
                    assert time.monotonic() - used_at < still, f"{line} has used no CPU time for {still:g} s"
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, f"{line} ended with {process.returncode}: {said}"
    return said


def _cpu_ticks(pid: int) -> int:
    """Return how much CPU time a process has used, in clock ticks (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines of a file, each with its newline."""
    yield from content.splitlines(keepends=True)
