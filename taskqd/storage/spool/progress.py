"""The progress that running jobs report by appending percentages to a file."""

import os
import re
from collections.abc import Callable
from contextlib import suppress

from taskqd.storage.filesystem import Filesystem

_REPORT = re.compile(rb"\s*([0-9]{1,3})(?:\.[0-9]*)?\s*%?\s*")
_TAIL_BYTES = 64
"""Bytes at the end of the file in which the last report is searched."""


class ProgressFiles:
    """Reads and removes the progress files of running jobs.

    ``open_user_progress(job_id)`` returns a descriptor of the file of a job that runs as another user, None
    for other jobs.
    """

    def __init__(self, filesystem: Filesystem, open_user_progress: Callable[[int], int | None]) -> None:
        self._filesystem = filesystem
        self._open_user_progress = open_user_progress
        self._reporting: set[int] = set()  # jobs that had a progress file when it was last read

    def read(self, job_id: int, path: str) -> int:
        """Return the percentage in the last complete line, from 0 to 100; 0 if that is not a number."""
        try:
            progress = self._read_last_report(job_id, path)
        except FileNotFoundError:
            self._reporting.discard(job_id)
            return 0
        except OSError:
            progress = 0
        self._reporting.add(job_id)
        return progress

    def remove(self, job_id: int, path: str) -> None:
        """Remove the file of a job, if it had one when it was last read; the next start removes others."""
        if job_id in self._reporting:
            self._reporting.discard(job_id)
            with suppress(OSError):
                self._filesystem.remove(path)

    def _read_last_report(self, job_id: int, path: str) -> int:
        descriptor = self._open(job_id, path)
        try:
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        finally:
            os.close(descriptor)
        lines = tail.rpartition(b"\n")[0].splitlines()
        report = _REPORT.fullmatch(lines[-1]) if lines else None
        return min(int(report[1]), 100) if report else 0

    def _open(self, job_id: int, path: str) -> int:
        descriptor = self._open_user_progress(job_id)
        if descriptor is not None:
            return descriptor
        if not os.access(path, os.F_OK, follow_symlinks=False):  # true of most jobs, and faster than open(2)
            raise FileNotFoundError(path)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
