"""The files that root's runner makes for attempts, as the daemon sees them (runner/attempt_files.py)."""

import os
from collections.abc import Collection, Mapping

from taskqd.storage.spool.user_files import PROGRESS, RunningAttempt


class RunnerFiles:
    """Names the files in ``directory`` (an absolute path), which the runner makes and removes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._progress: dict[int, str] = {}

    def open(self, running: Collection[RunningAttempt] = ()) -> int:
        """Note the attempts that an earlier daemon has started; no file is removed."""
        for job_id, attempt, word in running:
            self._progress[job_id] = self._path(job_id, attempt, word, PROGRESS)
        return 0

    def close(self) -> None:
        """Do nothing: no directory is open."""

    def provide(
        self, job_id: int, attempt: int, word: str, uid: int, gid: int, blocks: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Return the paths that the files of an attempt will have, by name."""
        paths = {name: self._path(job_id, attempt, word, name) for name in (*blocks, PROGRESS)}
        self._progress[job_id] = paths[PROGRESS]
        return paths

    def open_progress(self, job_id: int) -> int | None:
        """Return a descriptor of the progress file of a job, None if it has none; raises OSError."""
        path = self._progress.get(job_id)
        if path is None:
            return None
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)

    def remove(self, job_id: int) -> None:
        """Forget the files of a job's attempt, which the runner removes."""
        self._progress.pop(job_id, None)

    def _path(self, job_id: int, attempt: int, word: str, name: str) -> str:
        return os.path.join(self._directory, f"{job_id}.{attempt}.{word}.{name}")
