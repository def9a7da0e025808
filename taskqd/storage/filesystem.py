"""The file system as the store and the spool use it: a method for each call, so that tests can make any fail.

Paths are text, modes are for the owner alone. Every method raises OSError as the system gives it.
"""

import errno
import os
from contextlib import suppress
from mmap import PROT_READ, mmap
from threading import RLock


class Filesystem:
    """The real one. Whoever takes a Disk must hold no promise before ``sync`` has returned."""

    def __init__(self) -> None:
        self._making = RLock()

    def create(self, path: str, mode: int = 0o600) -> int:
        """Open a new file for writing; an older one of that name is replaced."""
        self.remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, mode)

    def open(self, path: str) -> int:
        """Open an existing file for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data`` behind what was written last, in as many pieces as the system likes."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` from ``offset`` on, over what is there and beyond it."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest = rest[written:]
            offset += written

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read at most ``length`` bytes from ``offset`` on; fewer only at the end of the file."""
        pieces = []
        while length > 0:
            piece = os.pread(descriptor, length, offset)
            if not piece:
                break
            pieces.append(piece)
            length -= len(piece)
            offset += len(piece)
        return b"".join(pieces)

    def read_file(self, path: str, most: int | None = None) -> bytes:
        """Return a whole file, or its first bytes."""
        descriptor = self.open(path)
        try:
            size = os.fstat(descriptor).st_size
            return self.read(descriptor, size if most is None else min(size, most), 0)
        finally:
            os.close(descriptor)

    def map_file(self, path: str) -> bytes | mmap:
        """Return a whole file, mapped rather than read: one that nobody will ever cut."""
        descriptor = self.open(path)
        try:
            if os.fstat(descriptor).st_size == 0:
                return b""
            return mmap(descriptor, 0, prot=PROT_READ)
        finally:
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes and its length would survive a power cut."""
        os.fdatasync(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to ``size`` bytes, durably."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def size(self, path: str) -> int | None:
        """Return a file's length in bytes, or None if there is no such file."""
        with suppress(FileNotFoundError):
            return os.stat(path).st_size
        return None

    def identity(self, path: str) -> str:
        """Return what tells a file or directory from all others in this boot: ``<device>:<inode>``."""
        found = os.stat(path)
        return f"{found.st_dev}:{found.st_ino}"

    def is_same_file(self, descriptor: int, path: str) -> bool:
        """Whether ``path`` leads to an open file."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_linked(self, descriptor: int) -> bool:
        """Whether an open file still has a name."""
        return os.fstat(descriptor).st_nlink > 0

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))

    def create_with_parents(self, path: str, mode: int = 0o600) -> int:
        """Open a new file as ``create`` does; its directory, and the one above that, are made if need be.

        The one above both is not: a state directory that was moved away is not to be begun anew.
        """
        with self._making:  # or the directory might be removed again before the file is in it
            self.make_directory(os.path.dirname(path), 2)
            return self.create(path, mode)

    def remove_empty_directory(self, path: str) -> None:
        """Remove a directory if nothing is in it; anything else is left as it is."""
        with self._making:
            try:
                os.rmdir(path)
            except OSError as why:
                if why.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                    raise

    def make_directory(self, path: str, levels: int | None = None) -> None:
        """Make a directory, and those above it, for the owner alone; an existing one is left as it is.

        Where there are ``levels``, no more directories than that are made.
        """
        with self._making:  # who finds a directory that another thread has made may rely on it
            if os.path.isdir(path):
                return
            parent = os.path.dirname(path)
            if levels is None or levels > 1:
                self.make_directory(parent, levels and levels - 1)
            os.mkdir(path, 0o700)
            try:
                self.sync_directory(parent)
            except OSError:
                os.rmdir(path)  # or the next one would find it, and rely on it
                raise

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory would survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: str, name: str) -> None:
        """Give a file another name, durably; a file that has that name already is replaced."""
        os.rename(path, name)
        self.sync_directory(os.path.dirname(name))

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is as good as removed."""
        with suppress(FileNotFoundError):
            os.unlink(path)
