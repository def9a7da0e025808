"""What an attempt of another user must be able to open: its script, its stdin, and where it reports progress.

The state directory is closed to everybody, so these lie in a directory beside it that users may pass through
but neither list nor write (mode 711). Each attempt has files of its own there, under names that cannot be
guessed, which belong to its user: who may fill, lock or open them to others, and that is all; a name there is
made and removed by us alone. So whoever opens one of them again finds a file that we made, and must not wait
for it (a user may hold a lease on a file of their own, fcntl(2)) nor believe what is in it.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from taskqd.errors import StartRefused

MODE = 0o711
PROGRESS = "progress"
"""The name of the file to which an attempt reports, beside those of the blocks that it is given."""

_NAME = re.compile(r"[0-9]+\.[0-9]+\.[0-9a-f]{16}\.[a-z]+")
_COPY_BYTES = 1024**2


class ProvidedFiles(NamedTuple):
    """The files of an attempt: their names in the directory by what they are, and their paths."""

    names: Mapping[str, str]
    paths: Mapping[str, str]


class UserFiles:
    """The files in ``directory``, an absolute path, while their attempts last."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._given: dict[int, ProvidedFiles] = {}

    def open(self) -> int:
        """Make the directory or take the one that is there, and remove what a crash has left.

        Returns how many files those were. Raises StartRefused if others could change what is in it, or could
        not reach it at all, and OSError.
        """
        with suppress(FileExistsError):
            os.mkdir(self._directory, MODE)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._directory, flags)
        except OSError as why:
            raise StartRefused(
                f"{self._directory} must be a directory, for what jobs of others are given: {why.strerror}"
            ) from None
        found = os.fstat(self._descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StartRefused(
                f"{self._directory} is for what jobs of other users are given, and others than the daemon "
                f"could change it: remove it, or chown root and chmod {MODE:o} it"
            )
        if stat.S_IMODE(found.st_mode) != MODE:
            os.fchmod(self._descriptor, MODE)
        self._check_way()
        return self._sweep()

    def close(self) -> None:
        """Give the directory back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def provide(
        self, job_id: int, attempt: int, uid: int, gid: int, blocks: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Make the files of an attempt, for one user alone, and return their paths by name.

        ``blocks`` are the paths of what is copied, by name; whoever may run a block may run its copy. Beside
        them there is an empty one for the progress. Raises OSError, and then there is nothing of it.
        """
        mark = secrets.token_hex(8)
        names = {name: f"{job_id}.{attempt}.{mark}.{name}" for name in (*blocks, PROGRESS)}
        paths = {name: os.path.join(self._directory, names[name]) for name in names}
        try:
            self._make(names[PROGRESS], uid, gid, 0o600)
            for name, path in blocks.items():
                self._copy(path, names[name], uid, gid)
        except BaseException:
            self._remove(names.values())
            raise
        self._given[job_id] = ProvidedFiles(names, paths)
        return paths

    def open_progress(self, job_id: int) -> int | None:
        """Return a descriptor for what an attempt reports, None if it was given no file; raises OSError."""
        given = self._given.get(job_id)
        if given is None:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        return os.open(given.names[PROGRESS], flags, dir_fd=self._descriptor)

    def remove(self, job_id: int) -> None:
        """Remove the files of a job's attempt, if it was given any."""
        given = self._given.pop(job_id, None)
        if given is not None:
            self._remove(given.names.values())

    def _make(self, name: str, uid: int, gid: int, mode: int, source: int | None = None) -> None:
        """Make a file, with what is in ``source``; it is the user's only once that is done."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            at = 0
            while source is not None and (count := os.sendfile(descriptor, source, at, _COPY_BYTES)):
                at += count
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, uid, gid)
        finally:
            os.close(descriptor)

    def _copy(self, path: str, name: str, uid: int, gid: int) -> None:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_program = os.fstat(source).st_mode & stat.S_IXUSR
            self._make(name, uid, gid, 0o500 if is_program else 0o400, source)
        finally:
            os.close(source)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._descriptor)

    def _check_way(self) -> None:
        """Raise StartRefused if some directory on the way cannot be passed through by everybody."""
        way = os.path.realpath(self._directory)
        while (above := os.path.dirname(way)) != way:
            way = above
            if not os.stat(way).st_mode & stat.S_IXOTH:
                raise StartRefused(
                    f"users may not pass through {way}, so their jobs could not reach what is for them in "
                    f"{self._directory}: chmod o+x {way}, or use another --state"
                )

    def _sweep(self) -> int:
        """Remove the files of attempts, of which there is none now; whatever else is there stays."""
        left = [name for name in os.listdir(self._descriptor) if _NAME.fullmatch(name)]
        self._remove(left)
        return len(left)
