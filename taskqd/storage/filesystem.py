"""Every system call on files that the journal and the spool make, as a method that tests can make fail.

Files and directories are private to their owner. Every method raises OSError, unless it says otherwise.
"""

import errno
import os
from contextlib import suppress
from mmap import PROT_READ, mmap
from threading import RLock

from taskqd.storage.file_identity import identify

MAX_CREATIONS = 10
"""Attempts to create a file in a directory that another process removes each time."""


class Filesystem:
    """The real file system.

    Written data is durable once ``sync`` has returned, a name in a directory once ``sync_directory`` has.
    """

    def __init__(self) -> None:
        self._directories_lock = RLock()

    def create(self, path: str, mode: int = 0o600) -> int:
        """Create a file and open it for writing; an existing file of that name is removed first."""
        self.remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, mode)

    def open(self, path: str) -> int:
        """Open an existing file for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> None:
        """Append all of ``data``; after an error, part of it may be in the file."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``; after an error, part of it may be in the file."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest = rest[written:]
            offset += written

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end of the file."""
        pieces = []
        while length > 0:
            piece = os.pread(descriptor, length, offset)
            if not piece:
                break
            pieces.append(piece)
            length -= len(piece)
            offset += len(piece)
        return b"".join(pieces)

    def read_file(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return the content of a file, or its first ``max_bytes``."""
        descriptor = self.open(path)
        try:
            size = os.fstat(descriptor).st_size
            return self.read(descriptor, size if max_bytes is None else min(size, max_bytes), 0)
        finally:
            os.close(descriptor)

    def map_file(self, path: str) -> bytes | mmap:
        """Map a file into memory; it must never be truncated, because reading it would then crash."""
        descriptor = self.open(path)
        try:
            if os.fstat(descriptor).st_size == 0:
                return b""
            return mmap(descriptor, 0, prot=PROT_READ)
        finally:
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        """Make the content and the size of a file durable.

        After an error it is unknown what is durable, and a later sync that succeeds does not change that: the
        kernel may have dropped the pages that it could not write.
        """
        os.fdatasync(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """Truncate a file to ``size`` bytes, durably."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor; it is closed even if this raises."""
        os.close(descriptor)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if it does not exist."""
        with suppress(FileNotFoundError):
            return os.stat(path).st_size
        return None

    def modified_at(self, path: str) -> float | None:
        """Return the time of day when a file was last written, None if it does not exist."""
        with suppress(FileNotFoundError):
            return os.stat(path).st_mtime
        return None

    def linked_size(self, descriptor: int) -> int | None:
        """Return the size of an open file in bytes, None if it has no name any more."""
        status = os.fstat(descriptor)
        return status.st_size if status.st_nlink else None

    def identity(self, path: str) -> str:
        """Return ``<device>:<inode>`` of a path, which is unique until the machine is restarted."""
        status = os.stat(path)
        return f"{status.st_dev}:{status.st_ino}"

    def is_same_file(self, descriptor: int, path: str) -> bool:
        """Whether ``path`` leads to the file that is open as ``descriptor``."""
        try:
            return identify(descriptor).is_same_file(identify(path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_linked(self, descriptor: int) -> bool:
        """Whether an open file still has a name in some directory."""
        return identify(descriptor).links > 0

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))

    def create_with_parents(self, path: str, mode: int = 0o600) -> int:
        """Create a file as ``create`` does, and up to two missing directories above it.

        No more than two, so that a state directory that was moved away is not created again. If another
        process removes the directory before the file is in it, it is created again: the daemon removes empty
        directories of output, in which a runner may be about to create a file.
        """
        for _ in range(MAX_CREATIONS):
            with self._directories_lock:  # else another thread might remove the directory
                self.make_directory(os.path.dirname(path), 2)
                with suppress(FileNotFoundError):
                    return self.create(path, mode)
        return self.create(path, mode)

    def link_with_parents(self, path: str, new_path: str) -> None:
        """Give a file a second name, as ``create_with_parents`` would create it."""
        with self._directories_lock:
            self.make_directory(os.path.dirname(new_path), 2)
            self.remove(new_path)
            os.link(path, new_path)

    def remove_empty_directory(self, path: str) -> None:
        """Remove a directory if it is empty; otherwise do nothing."""
        with self._directories_lock:
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                    raise

    def make_directory(self, path: str, levels: int | None = None) -> None:
        """Create a directory and its missing parents, durably; do nothing if it exists.

        Up to ``levels`` directories are created, if that is given.
        """
        with self._directories_lock:  # a directory that another thread has created is durable once it is seen
            if os.path.isdir(path):
                return
            parent = os.path.dirname(path)
            if levels is None or levels > 1:
                self.make_directory(parent, levels and levels - 1)
            os.mkdir(path, 0o700)
            try:
                self.sync_directory(parent)
            except OSError:
                os.rmdir(path)  # else the next call would take it for durable
                raise

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: str, new_path: str) -> None:
        """Rename a file, durably; an existing file of that name is replaced.

        After an error either name may be there after a power failure.
        """
        os.rename(path, new_path)
        self.sync_directory(os.path.dirname(new_path))

    def remove(self, path: str) -> None:
        """Remove a file; do nothing if it does not exist."""
        with suppress(FileNotFoundError):
            os.unlink(path)
