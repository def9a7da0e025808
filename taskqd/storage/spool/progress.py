"""The progress that running jobs report by appending lines to a file."""

import os
from collections.abc import Callable
from contextlib import suppress

from taskqd.model.progress import TAIL_BYTES, Progress, parse_reports
from taskqd.storage.filesystem import Filesystem

NO_PROGRESS = Progress()
"""The progress of a job that has reported none."""


class ProgressFiles:
    """Reads and removes the progress files of running jobs.

    ``open_user_progress(job_id)`` returns a descriptor of the file of a job that runs as another user, None
    for other jobs.
    """

    def __init__(self, filesystem: Filesystem, open_user_progress: Callable[[int], int | None]) -> None:
        self._filesystem = filesystem
        self._open_user_progress = open_user_progress
        self._reporting: set[int] = set()  # jobs that had a progress file when it was last read

    def read(self, job_id: int, path: str) -> Progress:
        """Return the progress in the last complete line; 0 % if that does not begin with a number."""
        try:
            progress = self._read_last_report(job_id, path)
        except FileNotFoundError:
            self._reporting.discard(job_id)
            return NO_PROGRESS
        except OSError:
            progress = NO_PROGRESS
        self._reporting.add(job_id)
        return progress

    def remove(self, job_id: int, path: str) -> None:
        """Remove the file of a job, if it had one when it was last read; the next start removes others."""
        if job_id in self._reporting:
            self._reporting.discard(job_id)
            with suppress(OSError):
                self._filesystem.remove(path)

    def _read_last_report(self, job_id: int, path: str) -> Progress:
        descriptor = self._open(job_id, path)
        try:
            size = os.fstat(descriptor).st_size
            return parse_reports(os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES)))
        finally:
            os.close(descriptor)

    def _open(self, job_id: int, path: str) -> int:
        descriptor = self._open_user_progress(job_id)
        if descriptor is not None:
            return descriptor
        if not os.access(path, os.F_OK, follow_symlinks=False):  # true of most jobs, and faster than open(2)
            raise FileNotFoundError(path)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
