"""Writes a state directory with many jobs, by the encoder of the product, without running them."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.place import Failed
from taskqd.model import events
from taskqd.model.job import Reason, Status
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import codec
from taskqd.storage.journal.journal import SEGMENT_BYTES

FIRST_AT = 1_795_519_396.5
"""When the first job was submitted."""
SECONDS_PER_JOB = 0.000977
"""Between two submissions."""
FAILED_EVERY = 50
"""Every so often a job fails."""


def write_store(directory: str, jobs: int) -> None:
    """Write segments with ``jobs`` jobs that have ended, as a daemon with one runner does."""
    write_records(directory, _ended_jobs(jobs))


def write_records(directory: str, records: Iterator[events.JobEvent]) -> None:
    """Write segments with the records of jobs, as a daemon does."""
    os.makedirs(os.path.join(directory, "journal"), mode=0o700)
    os.chmod(directory, 0o700)
    identity = Filesystem().identity(os.path.join(directory, "journal"))
    sequence, number, record = 0, 0, next(records, None)
    while record is not None:
        number += 1
        with open(os.path.join(directory, "journal", f"{number:08}.journal"), "wb") as file:
            sequence += 1
            opened = events.Opened(
                at=FIRST_AT,
                format=events.FORMAT,
                store="0123456789abcdef0123456789abcdef",
                boot="bench",
                next_id=1,
                identity=identity,
                boot_clock=1.0,
            )
            size = file.write(codec.encode(opened, sequence))
            while record is not None and size < SEGMENT_BYTES:
                sequence += 1
                size += file.write(codec.encode(record, sequence))
                record = next(records, None)


def write_snapshot(journal: Path) -> float:
    """Write a snapshot of all segments but the last, and return the seconds of CPU that it took."""
    number = max(int(path.stem) for path in journal.glob("*.journal")) - 1
    process = subprocess.Popen(
        [sys.executable, "-m", "taskqd.storage.journal.snapshot", str(journal), str(number)]
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"the snapshot of {journal} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def compact(state: Path) -> None:
    """Write the snapshot of a store that a daemon would make soon after its start, during a measurement."""
    journal = state / "journal"
    if len(list(journal.glob("*.journal"))) > 1:
        write_snapshot(journal)


def _ended_jobs(count: int) -> Iterator[events.JobEvent]:
    runner = secrets.token_hex(8)
    for number in range(1, count + 1):
        at = FIRST_AT + number * SECONDS_PER_JOB
        yield events.Submitted(
            id=number, at=at, owner="ana", command=f"echo hello world {number}", origin="pid 13043"
        )
        yield events.Started(id=number, at=at + 0.0012, attempt=1, word=secrets.token_hex(8), runner=runner)
        is_failed = number % FAILED_EVERY == 0
        yield events.Ended(
            id=number,
            at=at + 0.0034,
            status=Status.FAILED if is_failed else Status.COMPLETED,
            reason=Reason.EXIT if is_failed else None,
            exit_code=1 if is_failed else 0,
            usage=events.Usage(user=0.000631 + number % 7 * 1e-6, system=0.000442, memory=1_753_088),
            stdout=events.Output.inline(b"hello world %d\n" % number),
        )
