"""The file ``tokens`` of a state directory: read as a whole, and changed as a whole under a lock.

The daemon reads it and ``taskq token`` changes it, while the daemon runs or not. A change is another file in
the place of the old one, so that a reader sees the one or the other; who changes it holds a lock (flock(2))
on the directory meanwhile. Where root makes the change, the file goes to the owner of the directory.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from taskqd.auth import tokens
from taskqd.auth.tokens import Entry
from taskqd.errors import StartRefused
from taskqd.model.roles import Role
from taskqd.storage.state_directory import read_private_file

_NAME = "tokens"
_NEW = "tokens.new"
_PLAIN = "token"
"""What 0.2 and older had: one token as it is."""
MOST_BYTES = 16 * 1024**2
"""The file is read whole, and has so many bytes at most: tens of thousands of tokens."""

Randomness = Callable[[int], bytes]


class Stamp(NamedTuple):
    """What tells that a file has changed, or was replaced."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class TokenFile:
    """The tokens of the state ``directory``; ``random`` returns so many random bytes."""

    def __init__(self, directory: str, random: Randomness = os.urandom) -> None:
        self.path = os.path.join(directory, _NAME)
        self.plain_path = os.path.join(directory, _PLAIN)
        self._directory = directory
        self._random = random

    def stamp(self) -> Stamp | None:
        """Return what tells the file as it is now from any other, None if there is none; raises OSError."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def read(self) -> list[Entry]:
        """Return the entries, none where there is no file.

        Raises StartRefused if the file may be read by others or a line of it cannot be right, and OSError.
        """
        with self._opened() as directory:
            return self._read(directory)

    def add(
        self, name: str, role: Role, queue: str | None, now: float, expires_at: float | None
    ) -> tuple[Entry, str]:
        """Make a token; return its entry and the token, once the entry is on disk.

        Raises BadRequest if there can be no such token, StartRefused and OSError as ``read`` does; no token
        was made then.
        """
        entry, text = tokens.made(name, role, queue, now, expires_at, self._random(tokens.RANDOMNESS))
        with self._changing() as directory:
            entries = self._read(directory)
            taken = {other.id for other in entries}
            while entry.id in taken:
                entry, text = tokens.made(name, role, queue, now, expires_at, self._random(tokens.RANDOMNESS))
            self._write(directory, tokens.joined(entries, entry))
        return entry, text

    def revoke(self, which: str) -> list[Entry]:
        """Take away the token of an id, or all of a name, and return their entries, once that is on disk.

        With the token of an older version goes the file that it stands in, or the next start would take it
        over again. Raises BadRequest if there is none, StartRefused and OSError as ``read`` does.
        """
        with self._changing() as directory:
            entries = self._read(directory)
            gone, left = tokens.parted(entries, which)
            if any(entry.is_bare for entry in gone):
                with suppress(FileNotFoundError):
                    os.unlink(_PLAIN, dir_fd=directory)
                os.fsync(directory)
            self._write(directory, left)
        return gone

    def adopt(self, now: float) -> Entry | None:
        """Take over the token that an older version kept as it is, unless that was done; return its entry.

        The plain file stays: its clients may read it. Where it has another token than the one that was taken
        over, that one takes the place of the other. Raises StartRefused if others may read it or it has no
        token, and otherwise as ``read`` does.
        """
        with self._changing() as directory:
            text = self._plain(directory)
            if text is None:
                return None
            entries = self._read(directory)
            bare = next((entry for entry in entries if entry.is_bare), None)
            if bare is not None and tokens.is_right(bare, text):
                return None
            taken = {other.id for other in entries}
            entry = tokens.adopted(text, now, self._random(tokens.RANDOMNESS))
            while entry.id in taken:
                entry = tokens.adopted(text, now, self._random(tokens.RANDOMNESS))
            self._write(directory, [*(other for other in entries if other is not bare), entry])
        return entry

    @contextmanager
    def _opened(self) -> Iterator[int]:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _changing(self) -> Iterator[int]:
        with self._opened() as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)  # let go of with the descriptor
            yield directory

    def _read(self, directory: int) -> list[Entry]:
        try:
            text = read_private_file(directory, _NAME, self.path, MOST_BYTES)
        except FileNotFoundError:
            return []
        return tokens.read(text, self.path)

    def _plain(self, directory: int) -> str | None:
        """Return the token that stands in the plain file, None if there is no such file."""
        try:
            text = read_private_file(directory, _PLAIN, self.plain_path, MOST_BYTES)
            token = text.decode("utf-8").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as why:
            raise StartRefused(f"the token in {self.plain_path} cannot be read: {why}") from None
        if not token:
            raise StartRefused(f"{self.plain_path} is empty: remove it")
        return token

    def _write(self, directory: int, entries: Sequence[Entry]) -> None:
        """Put a file with these entries in the place of the old one, durably.

        After an OSError the old one stands, unless it was the sync of the directory that failed.
        """
        with suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(_NEW, flags, 0o600, dir_fd=directory), "wb") as file:
            try:
                os.fchmod(file.fileno(), 0o600)
                if os.geteuid() == 0:
                    owner = os.fstat(directory)
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.write(tokens.write(entries))
                file.flush()
                os.fsync(file.fileno())
                os.rename(_NEW, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(_NEW, dir_fd=directory)
                raise
        os.fsync(directory)
