"""The directory of root's runner, as the daemon of another user sees it: to be read, not changed."""

import os
import stat

from taskqd.execution.runner_directory import SHARED, RunnerDirectory

ROOT = 0


class PrivilegedRunnerDirectory(RunnerDirectory):
    """The files of root's runners in ``path``, which may be made after the daemon has started.

    Only ``names`` opens the directory. The files are removed and the runners signalled by root alone.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, SHARED)

    def open(self) -> None:
        """Do nothing: the directory is opened when it is read."""

    @property
    def command(self) -> str:
        return f"as root, taskqd-runner --daemon-user USER --directory {self.path} --stay"

    def names(self) -> list[str]:
        """Return the names of all runners that have a file, none if the directory is not there yet.

        Raises OSError, also if the directory is not root's.
        """
        try:
            if self._descriptor is None or not self._is_current(self._descriptor):
                self.close()
                self._descriptor = self._open_root_s()
            return super().names()
        except FileNotFoundError:
            return []

    def signal(self, name: str, number: int) -> bool:
        """Return whether a runner lives; root's runner takes no signal of this user."""
        return self.is_alive(name)

    def _is_current(self, descriptor: int) -> bool:
        return os.path.samestat(os.fstat(descriptor), os.stat(self.path))

    def _open_root_s(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if status.st_uid != ROOT or stat.S_IMODE(status.st_mode) & 0o022:
            os.close(descriptor)
            raise PermissionError(f"{self.path} is not a directory that only root can change")
        return descriptor
