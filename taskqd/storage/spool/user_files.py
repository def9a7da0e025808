"""Copies of files for attempts that run as other users: script, stdin, and a file to report progress to.

Other users cannot enter the state directory. These files are in a directory beside it that users can enter
but neither list nor change (mode 711). Each attempt has its files, which belong to its user and have names
that cannot be guessed, as they contain the random word of the attempt. The user can change their content,
lock them and open them to others, but only the daemon creates and removes names. So the daemon can open them
again by name, but must not block on them (a user may hold a lease, fcntl(2)), nor trust their content.
"""

import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from taskqd.errors import StartRefused

DIRECTORY_MODE = 0o711
PROGRESS = "progress"
"""The name of the file to which an attempt reports; the other files have the names of its blocks."""

RunningAttempt = tuple[int, int, str]
"""The job, the number and the word of an attempt."""

_NAME = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9a-f]{16})\.([a-z]+)")
_COPY_BYTES = 1024**2
"""Bytes per call of sendfile(2)."""


class ProvidedFiles(NamedTuple):
    """The files of an attempt, by kind: their names in the directory, and their paths."""

    names: Mapping[str, str]
    paths: Mapping[str, str]


class IUserFiles(Protocol):
    """The files of attempts that run as other users; UserFiles has the methods."""

    def open(self, running: Collection[RunningAttempt] = ()) -> int: ...

    def close(self) -> None: ...

    def provide(
        self, job_id: int, attempt: int, word: str, uid: int, gid: int, blocks: Mapping[str, str]
    ) -> Mapping[str, str]: ...

    def open_progress(self, job_id: int) -> int | None: ...

    def remove(self, job_id: int) -> None: ...


class UserFiles:
    """The files in ``directory`` (an absolute path) of the attempts that are running."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._provided: dict[int, ProvidedFiles] = {}

    def open(self, running: Collection[RunningAttempt] = ()) -> int:
        """Create or open the directory, and remove the files of attempts that do not run; return how many.

        The files of the attempts that are ``running`` are those that an earlier daemon provided. Raises
        StartRefused if other users can change the directory or cannot reach it, and OSError.
        """
        self._descriptor = open_directory(self._directory)
        return self._sweep(running)

    def close(self) -> None:
        """Close the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def provide(
        self, job_id: int, attempt: int, word: str, uid: int, gid: int, blocks: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Create the files of an attempt, private to one user, and return their paths by name.

        ``blocks`` has the paths of the files to copy, by name; the copy of an executable file is executable.
        An empty file for the progress is added. Files that an earlier daemon provided for the same attempt,
        which it did not start, are replaced. After an OSError none of the files exists.
        """
        names = {name: f"{job_id}.{attempt}.{word}.{name}" for name in (*blocks, PROGRESS)}
        paths = {name: os.path.join(self._directory, names[name]) for name in names}
        self.remove(job_id)
        try:
            create_file(self._descriptor, names[PROGRESS], uid, gid, 0o600)
            for name, path in blocks.items():
                self._copy(path, names[name], uid, gid)
        except BaseException:
            self._remove(names.values())
            raise
        self._provided[job_id] = ProvidedFiles(names, paths)
        return paths

    def open_progress(self, job_id: int) -> int | None:
        """Return a descriptor of the progress file of a job, None if it has none; raises OSError."""
        files = self._provided.get(job_id)
        if files is None or PROGRESS not in files.names:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        return os.open(files.names[PROGRESS], flags, dir_fd=self._descriptor)

    def remove(self, job_id: int) -> None:
        """Remove the files of a job's attempt, if it has any."""
        files = self._provided.pop(job_id, None)
        if files is not None:
            self._remove(files.names.values())

    def _copy(self, path: str, name: str, uid: int, gid: int) -> None:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            copy_file(self._descriptor, name, uid, gid, source)
        finally:
            os.close(source)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._descriptor)

    def _sweep(self, running: Collection[RunningAttempt]) -> int:
        """Remove the files of attempts that do not run; files with other names are not touched."""
        stray = []
        kept: dict[int, dict[str, str]] = {}
        for name in os.listdir(self._descriptor):
            parts = _NAME.fullmatch(name)
            if parts is None:
                continue
            job_id, kind = int(parts[1]), parts[4]
            if (job_id, int(parts[2]), parts[3]) in running:
                kept.setdefault(job_id, {})[kind] = name
            else:
                stray.append(name)
        self._remove(stray)
        for job_id, names in kept.items():
            paths = {kind: os.path.join(self._directory, name) for kind, name in names.items()}
            self._provided[job_id] = ProvidedFiles(names, paths)
        return len(stray)


def open_directory(directory: str) -> int:
    """Create or open a directory for files of other users, and return its descriptor.

    Raises StartRefused if other users can change the directory or cannot reach it, and OSError.
    """
    with suppress(FileExistsError):
        os.mkdir(directory, DIRECTORY_MODE)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory, flags)
    except OSError as error:
        raise StartRefused(
            f"{directory} cannot be opened: {error.strerror}; "
            "it must be a directory, for the files of jobs that run as other users"
        ) from None
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StartRefused(
            f"{directory} has files of jobs that run as other users, "
            f"but others than the daemon can change it: remove it, "
            f"or chown root and chmod {DIRECTORY_MODE:o} it"
        )
    if stat.S_IMODE(status.st_mode) != DIRECTORY_MODE:
        os.fchmod(descriptor, DIRECTORY_MODE)
    _check_parents(directory)
    return descriptor


def _check_parents(directory: str) -> None:
    """Raise StartRefused unless all users can enter the directories above."""
    parent = os.path.realpath(directory)
    while (above := os.path.dirname(parent)) != parent:
        parent = above
        if not os.stat(parent).st_mode & stat.S_IXOTH:
            raise StartRefused(
                f"users cannot enter {parent}, so their jobs cannot open files in {directory}: "
                f"chmod o+x {parent}, or choose another --state"
            )


def create_file(
    directory: int | None, name: str, uid: int, gid: int, mode: int, source: int | None = None
) -> None:
    """Create a file with the content of ``source``; it becomes the user's only when it is complete."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        if source is not None:
            _copy_content(source, descriptor)
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, uid, gid)
    finally:
        os.close(descriptor)


def _copy_content(source: int, descriptor: int) -> None:
    """Copy a file up to the size that it has now."""
    offset, size = 0, os.fstat(source).st_size
    while offset < size:
        count = os.sendfile(descriptor, source, offset, min(_COPY_BYTES, size - offset))
        if not count:
            break
        offset += count


def copy_file(directory: int | None, name: str, uid: int, gid: int, source: int) -> None:
    """Create a read-only copy of an open file; the copy of an executable file is executable."""
    is_program = os.fstat(source).st_mode & stat.S_IXUSR
    create_file(directory, name, uid, gid, 0o500 if is_program else 0o400, source)
