"""The file `tokens` of a state directory: it is read as a whole, and replaced as a whole under a lock.

The daemon reads it, and `taskq token` changes it, whether the daemon runs or not. A change writes a new file
and renames it, so a reader sees either the old or the new one; writers hold a lock (flock(2)) on the
directory. If root makes the change, the file is given to the owner of the directory.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from taskqd.auth import token_codec, tokens
from taskqd.auth.tokens import Entry
from taskqd.errors import StartRefused
from taskqd.model.roles import Role
from taskqd.storage.state_directory import read_private_file

_NAME = "tokens"
_NEW = "tokens.new"
_PLAIN = "token"
"""The file of taskqd 0.2 and older: one token in plain text."""
MAX_FILE_SIZE = 16 * 1024**2
"""Bytes of the file, which is read as a whole: tens of thousands of tokens."""

Randomness = Callable[[int], bytes]


class Stamp(NamedTuple):
    """The properties of a file that show that it was changed or replaced."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class TokenFile:
    """The tokens of a state `directory`. `random(count)` returns random bytes."""

    def __init__(self, directory: str, random: Randomness = os.urandom) -> None:
        self.path = os.path.join(directory, _NAME)
        self.plain_path = os.path.join(directory, _PLAIN)
        self._directory = directory
        self._random = random

    def stamp(self) -> Stamp | None:
        """Return the current stamp of the file, None if there is no file; raises OSError."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def read(self) -> list[Entry]:
        """Return the entries; an empty list if there is no file.

        Raises StartRefused if other users may read the file or a line is invalid, and OSError.
        """
        with self._open_directory() as directory:
            return self._read(directory)

    def add(
        self, name: str, role: Role, queue: str | None, now: float, expires_at: float | None
    ) -> tuple[Entry, str]:
        """Make a token; return its entry and its text once the entry is on disk.

        Raises BadRequest if no such token is allowed, and StartRefused and OSError as `read` does; then no
        token was made.
        """
        entry, text = tokens.make_token(name, role, queue, now, expires_at, self._random(tokens.RANDOMNESS))
        with self._lock() as directory:
            entries = self._read(directory)
            taken = {other.id for other in entries}
            while entry.id in taken:
                entry, text = tokens.make_token(
                    name, role, queue, now, expires_at, self._random(tokens.RANDOMNESS)
                )
            self._write(directory, tokens.add_entry(entries, entry))
        return entry, text

    def revoke(self, which: str) -> list[Entry]:
        """Remove the token with an id, or all tokens of a name; return their entries once that is on disk.

        The plain file of an older version is removed with its token, or else the next start would import it
        again. Raises BadRequest if there is no such token, and StartRefused and OSError as `read` does.
        """
        with self._lock() as directory:
            entries = self._read(directory)
            gone, left = tokens.split_entries(entries, which)
            if any(entry.is_bare for entry in gone):
                with suppress(FileNotFoundError):
                    os.unlink(_PLAIN, dir_fd=directory)
                os.fsync(directory)
            self._write(directory, left)
        return gone

    def import_plain_token(self, now: float) -> Entry | None:
        """Add the plain token of an older version and return its entry; None if there is nothing to do.

        The plain file stays, because clients may read it. If it has changed since it was imported, its token
        replaces the earlier one. Raises StartRefused if other users may read it or it is empty, and
        otherwise as `read` does.
        """
        with self._lock() as directory:
            text = self._read_plain(directory)
            if text is None:
                return None
            entries = self._read(directory)
            bare = next((entry for entry in entries if entry.is_bare), None)
            if bare is not None and tokens.matches(bare, text):
                return None
            taken = {other.id for other in entries}
            entry = tokens.make_bare_entry(text, now, self._random(tokens.RANDOMNESS))
            while entry.id in taken:
                entry = tokens.make_bare_entry(text, now, self._random(tokens.RANDOMNESS))
            self._write(directory, [*(other for other in entries if other is not bare), entry])
        return entry

    @contextmanager
    def _open_directory(self) -> Iterator[int]:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _lock(self) -> Iterator[int]:
        with self._open_directory() as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)  # released when the descriptor is closed
            yield directory

    def _read(self, directory: int) -> list[Entry]:
        try:
            text = read_private_file(directory, _NAME, self.path, MAX_FILE_SIZE)
        except FileNotFoundError:
            return []
        return token_codec.decode_entries(text, self.path)

    def _read_plain(self, directory: int) -> str | None:
        """Return the token of the plain file, None if there is no such file."""
        try:
            text = read_private_file(directory, _PLAIN, self.plain_path, MAX_FILE_SIZE)
            token = text.decode("utf-8").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise StartRefused(f"the token in {self.plain_path} cannot be read: {error}") from None
        if not token:
            raise StartRefused(f"{self.plain_path} is empty; remove it")
        return token

    def _write(self, directory: int, entries: Sequence[Entry]) -> None:
        """Replace the file by one with these entries, durably.

        After an OSError the old file is in place, unless syncing the directory failed.
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
                file.write(token_codec.encode_entries(entries))
                file.flush()
                os.fsync(file.fileno())
                os.rename(_NEW, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(_NEW, dir_fd=directory)
                raise
        os.fsync(directory)
